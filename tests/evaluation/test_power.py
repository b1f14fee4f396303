from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from shoptalk.evaluation.power import detectable, groups_needed, paired_spread, power_of
from shoptalk.retrieval.significance import paired_delta


def test_with_a_query_a_group_the_spread_is_the_standard_deviation_of_the_differences() -> None:
    base = {"a": 0.1, "b": 0.5, "c": 1.0, "d": 0.0}
    other = {"a": 0.4, "b": 0.5, "c": 0.6, "d": 0.3}
    assert paired_spread(base, other, {}) == pytest.approx(np.std([0.3, 0.0, -0.4, 0.3], ddof=1))


def test_queries_that_rise_and_fall_together_are_one() -> None:
    """Two groups of two: means 0.3 and -0.1, and nothing is gained by asking the same thing twice."""
    other = {"a": 0.3, "b": 0.3, "c": -0.1, "d": -0.1}
    groups = {"a": "x", "b": "x", "c": "y", "d": "y"}
    spread = paired_spread(dict.fromkeys(other, 0.0), other, groups)
    assert spread == pytest.approx(np.std([0.3, -0.1], ddof=1))


def test_the_spread_gives_the_standard_error_of_the_mean_over_groups_of_several_sizes() -> None:
    rng = np.random.default_rng(1)
    spreads, means = [], []
    for _ in range(400):
        other, groups = differences(80, 0.05, rng)
        spreads.append(paired_spread(dict.fromkeys(other, 0.0), other, groups) / np.sqrt(80))
        means.append(np.mean(list(other.values())))
    assert np.mean(spreads) == pytest.approx(np.std(means, ddof=1), rel=0.1)


def test_one_group_or_two_equal_systems_have_no_spread() -> None:
    values = {"a": 0.1, "b": 0.7}
    assert paired_spread(values, values, {}) == 0
    assert paired_spread(values, {"a": 0.3, "b": 0.1}, {"a": "x", "b": "x"}) == 0
    assert power_of(0.0, 100, 80, "x") is None
    assert power_of(0.3, 1, 1, "x") is None


@pytest.mark.parametrize("n", [8, 30, 200, 2_000])
def test_at_the_smallest_gain_students_test_rejects_in_four_of_five_cases(n: int) -> None:
    """The exact power is that of the non-central t distribution."""
    shift = detectable(0.3, n) / 0.3 * np.sqrt(n)
    critical = stats.t.ppf(0.975, n - 1)
    exact = 1 - stats.nct.cdf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)
    assert exact == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize(("sd", "gain"), [(0.3, 0.02), (0.1, 0.05), (0.05, 0.2), (0.4, 0.01)])
def test_the_number_of_groups_needed_is_the_smallest_that_shows_the_gain(sd: float, gain: float) -> None:
    n = groups_needed(sd, gain)
    assert detectable(sd, n) <= gain
    assert n == 2 or detectable(sd, n - 1) > gain


def test_what_is_missing_for_two_points_is_counted_in_queries() -> None:
    found = power_of(0.3, 120, 80, "BM25 against the base")
    assert found is not None
    needed = groups_needed(0.3, 0.02)
    assert found["queries_needed"] == pytest.approx(needed * 1.5, abs=1)
    assert found["more_needed"] == found["queries_needed"] - 120 > 0
    assert found["detectable"] == pytest.approx(detectable(0.3, 80))
    assert f"{found['more_needed']:,} more queries" in found["words"]
    assert "An approximation: the spread is that of BM25 against the base" in found["words"]


def test_a_test_set_that_is_large_enough_is_said_to_be() -> None:
    found = power_of(0.05, 600, 600, "x")
    assert found is not None
    assert found["detectable"] < 0.02
    assert (found["more_needed"], found["queries_needed"] < 600) == (0, True)
    assert "enough for +0.02" in found["words"]


# What is forecast is what happens


JUMPS = (-0.9, -0.5, 0.0, 0.5, 0.9)
ODDS = {"sparse": (0.05, 0.1, 0.7, 0.1, 0.05), "skewed": (0.0, 0.1, 0.7, 0.14, 0.06)}


def differences(
    n_groups: int, effect: float, rng: np.random.Generator, shape: str = "normal"
) -> tuple[dict[str, float], dict[str, str]]:
    """Paired differences of queries in groups of one to three that rise and fall together; sparse: most queries do not change,
    as in retrieval; skewed: and those that do gain more than they lose.
    """
    other: dict[str, float] = {}
    groups: dict[str, str] = {}
    odds = ODDS.get(shape)
    middle = 0.0 if odds is None else float(np.dot(JUMPS, odds))
    for group in range(n_groups):
        shared = 0.2 * rng.standard_normal() if odds is None else rng.choice(JUMPS, p=odds) - middle
        for _ in range(int(rng.integers(1, 4))):
            name = f"q{len(other)}"
            other[name] = effect + float(shared) + 0.1 * float(rng.standard_normal())
            groups[name] = f"g{group}"
    return other, groups


def share_rejected(n_groups: int, repeats: int, resamples: int, shape: str = "normal", times: float = 1.0) -> float:
    """How often the real test finds `times` the smallest detectable gain, the spread being known from very many groups."""
    rng = np.random.default_rng(n_groups)
    many, groups = differences(30_000, 0.0, rng, shape)
    known = paired_spread(dict.fromkeys(many, 0.0), many, groups)
    effect = times * detectable(known, n_groups)
    rejected = 0
    for repeat in range(repeats):
        other, groups = differences(n_groups, effect, rng, shape)
        low, high = paired_delta(dict.fromkeys(other, 0.0), other, groups, resamples, repeat).ci95
        rejected += low > 0 or high < 0
    return rejected / repeats


def test_the_real_test_rejects_in_80_percent_at_the_forecast_effect() -> None:
    assert share_rejected(60, 400, 199) == pytest.approx(0.80, abs=0.05)


def test_half_the_effect_is_found_much_less_often() -> None:
    assert share_rejected(60, 150, 199, times=0.5) < 0.45


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["normal", "sparse"])
@pytest.mark.parametrize("n_groups", [40, 100, 300])
def test_the_real_test_rejects_in_80_percent_whatever_the_size_and_shape(n_groups: int, shape: str) -> None:
    assert share_rejected(n_groups, 1_500, 1_000, shape) == pytest.approx(0.80, abs=0.05)


@pytest.mark.slow
def test_gains_that_are_skewed_are_found_a_little_more_often() -> None:
    """A percentile interval follows the skew, so its lower end is nearer: 85% were measured."""
    assert 0.75 < share_rejected(100, 1_500, 1_000, "skewed") < 0.88
