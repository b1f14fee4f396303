from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from shoptalk.retrieval.significance import correlation, holm, mean_with_interval, paired_delta, spearman_delta

Values = dict[str, float]


def named(values: np.ndarray) -> Values:
    return {f"q{i}": float(value) for i, value in enumerate(values)}


def zeros(values: Values) -> Values:
    return dict.fromkeys(values, 0.0)


def in_clusters(n_clusters: int, per_cluster: int) -> dict[str, str]:
    return {f"q{i}": f"c{i // per_cluster}" for i in range(n_clusters * per_cluster)}


# What a change of the model does to nDCG@10: nothing to most queries, much to a few.
def sparse(rng: np.random.Generator, n: int, gain: float = 0.05) -> np.ndarray:
    return (rng.random(n) < 0.3) * rng.normal(gain, 0.3, n)


def sparse_in_clusters(rng: np.random.Generator, n_clusters: int, per_cluster: int, gain: float = 0.05) -> np.ndarray:
    effect = (rng.random(n_clusters) < 0.5) * rng.normal(gain, 0.3, n_clusters)
    noise = rng.normal(0, 0.05, n_clusters * per_cluster)
    touched = rng.random(n_clusters * per_cluster) < 0.6
    return touched * (np.repeat(effect, per_cluster) + noise)


def test_two_identical_systems_differ_by_exactly_nothing_in_valid_json():
    values = named(np.random.default_rng(1).random(60))
    for groups in ({}, in_clusters(15, 4)):
        delta = paired_delta(values, dict(values), groups, 1_000, 1)
        assert (delta.value, delta.ci95, delta.p) == (0.0, (0.0, 0.0), 1.0)
        assert json.dumps(delta.as_json(), allow_nan=False) == '{"value": 0.0, "ci95": [0.0, 0.0], "p": 1.0}'


def test_the_value_is_the_mean_over_queries_not_over_groups():
    base, other = {"a": 0.5, "b": 0.5, "c": 0.5}, {"a": 1.0, "b": 1.0, "c": 0.5}
    delta = paired_delta(base, other, {"a": "g", "b": "g", "c": "h"}, 200, 1)
    assert delta.value == pytest.approx(1.0 / 3)


def test_the_sign_says_that_the_second_system_is_better():
    better = named(np.random.default_rng(2).normal(0.2, 0.1, 80))
    up, down = paired_delta(zeros(better), better, {}, 1_000, 1), paired_delta(better, zeros(better), {}, 1_000, 1)

    assert up.ci95[0] > 0
    assert up.p < 0.01
    assert down.value == -up.value
    assert down.ci95[1] < 0


def test_the_interval_holds_the_value_and_is_near_the_t_interval():
    values = named(np.random.default_rng(3).normal(0.1, 0.2, 200))
    delta = paired_delta(zeros(values), values, {}, 5_000, 1)
    expected = stats.t.interval(0.95, 199, np.mean([*values.values()]), stats.sem([*values.values()]))

    assert delta.ci95[0] < delta.value < delta.ci95[1]
    assert delta.ci95 == pytest.approx(expected, abs=0.004)


def test_at_few_groups_the_interval_is_wider_than_the_plain_percentile():
    """Hesterberg's correction: at 10 groups the plain percentile interval is too narrow by a sixth."""
    values = np.random.default_rng(4).normal(0, 1, 10)
    delta = paired_delta(zeros(named(values)), named(values), {}, 20_000, 1)
    draws = np.random.default_rng(5).choice(values, (20_000, 10)).mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    assert delta.ci95[1] - delta.ci95[0] > 1.1 * (high - low)


def test_p_is_exact_where_all_sign_flips_can_be_listed():
    # Of the 2^4 sign patterns of four equal gains, only all-plus and all-minus are as extreme.
    delta = paired_delta(dict.fromkeys("abcd", 0.0), dict.fromkeys("abcd", 0.25), {}, 1_000, 1)
    assert delta.p == pytest.approx(2 / 16)
    assert delta.ci95 == (0.25, 0.25)


def test_copies_of_a_query_in_one_group_do_not_narrow_the_interval():
    values = np.random.default_rng(6).normal(0.02, 0.3, 60)
    unique, copies = named(values), named(np.repeat(values, 4))

    one = paired_delta(zeros(unique), unique, {}, 2_000, 1)
    four = paired_delta(zeros(copies), copies, in_clusters(60, 4), 2_000, 1)
    naive = paired_delta(zeros(copies), copies, {}, 2_000, 1)

    assert (four.value, *four.ci95, four.p) == pytest.approx((one.value, *one.ci95, one.p))
    assert naive.ci95[1] - naive.ci95[0] < 0.6 * (one.ci95[1] - one.ci95[0])  # what resampling queries would claim


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    values = named(np.random.default_rng(7).normal(0, 1, 50))
    first, again, other = (paired_delta(zeros(values), values, {}, 500, seed) for seed in (1, 1, 2))
    assert first == again
    assert first.ci95 != other.ci95


def test_one_group_alone_says_nothing_about_chance():
    delta = paired_delta({"a": 0.0, "b": 0.0}, {"a": 1.0, "b": 0.5}, {"a": "g", "b": "g"}, 500, 1)
    assert (delta.value, delta.ci95, delta.p) == (0.75, (-1.0, 1.0), 1.0)


def test_no_queries_is_no_difference():
    assert paired_delta({}, {}, {}, 500, 1).as_json() == {"value": 0.0, "ci95": [0.0, 0.0], "p": 1.0}


def test_systems_measured_on_different_queries_cannot_be_compared():
    with pytest.raises(ValueError, match="same queries"):
        paired_delta({"a": 1.0}, {"b": 1.0}, {}, 500, 1)


def test_a_mean_has_an_interval_of_its_own():
    found = mean_with_interval({"a": 1.0, "b": 0.5, "c": 0.0, "d": 0.5}, {}, 1_000, 1)
    assert found.value == 0.5
    assert 0.0 <= found.ci95[0] < 0.5 < found.ci95[1] <= 1.0


def coverage(draw: Callable[[np.random.Generator], np.ndarray], groups: dict[str, str], mean: float, n: int) -> float:
    """How often the 95% interval of `n` simulated comparisons holds the true mean."""
    rng, hits = np.random.default_rng(20), 0
    for trial in range(n):
        values = named(draw(rng))
        low, high = paired_delta(zeros(values), values, groups, 1_000, trial).ci95
        hits += low <= mean <= high
    return hits / n


def test_the_interval_covers_the_truth_for_200_independent_queries():
    assert 0.91 <= coverage(lambda rng: sparse(rng, 200), {}, 0.3 * 0.05, 300) <= 0.985


def test_the_interval_covers_the_truth_for_400_queries_in_100_clusters():
    groups = in_clusters(100, 4)
    assert 0.91 <= coverage(lambda rng: sparse_in_clusters(rng, 100, 4), groups, 0.3 * 0.05, 300) <= 0.985


def test_resampling_queries_of_clusters_would_not_cover_it():
    """The control of the test above: without the groups the same simulation is caught."""
    assert coverage(lambda rng: sparse_in_clusters(rng, 100, 4), {}, 0.3 * 0.05, 100) < 0.90


@pytest.mark.slow
@pytest.mark.parametrize("clusters", [None, (100, 4), (50, 4)])
def test_the_interval_covers_the_truth_in_2000_comparisons(clusters):
    if clusters is None:
        found = coverage(lambda rng: sparse(rng, 200), {}, 0.3 * 0.05, 2_000)
    else:
        found = coverage(lambda rng: sparse_in_clusters(rng, *clusters), in_clusters(*clusters), 0.3 * 0.05, 2_000)
    assert 0.93 <= found <= 0.97


@pytest.mark.parametrize("groups", [{}, in_clusters(40, 3)])
def test_p_is_uniform_where_nothing_differs(groups):
    rng, found = np.random.default_rng(21), []
    for trial in range(200):
        values = named(sparse_in_clusters(rng, 40, 3, gain=0.0) if groups else sparse(rng, 120, gain=0.0))
        found.append(paired_delta(zeros(values), values, groups, 200, trial).p)
    assert stats.kstest(found, "uniform").pvalue > 0.01
    assert np.mean(np.array(found) < 0.05) < 0.10
    assert min(found) > 0


def test_holm_worked_by_hand():
    # Sorted: .01 x 4, .02 x 3, .03 x 2, .04 x 1; then never smaller than the one before.
    found = holm({"a": 0.04, "b": 0.01, "c": 0.03, "d": 0.02})
    assert found == pytest.approx({"a": 0.06, "b": 0.04, "c": 0.06, "d": 0.06})
    assert list(found) == ["a", "b", "c", "d"]


def test_holm_never_exceeds_one_and_leaves_a_single_test_alone():
    assert holm({"a": 0.4, "b": 0.9, "c": 0.8}) == {"a": 1.0, "b": 1.0, "c": 1.0}
    assert holm({"only": 0.03}) == {"only": 0.03}
    assert holm({}) == {}


def scored(n: int = 120) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gold scores with ties, a weak and a better system."""
    rng = np.random.default_rng(8)
    gold = rng.integers(0, 6, n).astype(float)
    return gold, gold + rng.normal(0, 4, n), gold + rng.normal(0, 1, n)


def test_the_correlation_is_scipys_spearman_with_ties():
    gold, weak, good = scored()
    for system in (weak, good, np.round(good)):
        assert correlation(gold, system) == pytest.approx(stats.spearmanr(gold, system).statistic)
    assert correlation(gold, np.ones(len(gold))) == 0.0
    assert correlation(gold[:1], good[:1]) == 0.0


def test_the_spearman_delta_is_the_difference_with_an_interval_and_a_p():
    gold, weak, good = scored()
    groups = [f"g{i}" for i in range(len(gold))]
    delta = spearman_delta(gold, weak, good, groups, 400, 1)

    expected = stats.spearmanr(gold, good).statistic - stats.spearmanr(gold, weak).statistic
    assert delta.value == pytest.approx(expected)
    assert 0 < delta.ci95[0] < delta.value < delta.ci95[1]
    assert delta.p < 0.02
    back = spearman_delta(gold, good, weak, groups, 400, 1)
    assert (back.value, back.ci95[1] < 0) == (pytest.approx(-delta.value), True)


def test_copies_of_pairs_in_one_group_do_not_narrow_the_spearman_interval():
    gold, weak, good = scored(60)
    one = spearman_delta(gold, weak, good, [f"g{i}" for i in range(60)], 500, 1)
    copies = [np.repeat(column, 4) for column in (gold, weak, good)]
    four = spearman_delta(*copies, [f"g{i // 4}" for i in range(240)], 500, 1)
    naive = spearman_delta(*copies, [f"g{i}" for i in range(240)], 500, 1)

    assert np.ptp(four.ci95) == pytest.approx(np.ptp(one.ci95), rel=0.1)
    assert np.ptp(naive.ci95) < 0.7 * np.ptp(one.ci95)


def test_identical_systems_have_a_spearman_delta_of_exactly_nothing():
    gold, weak, _ = scored()
    delta = spearman_delta(gold, weak, weak.copy(), ["g"] * len(gold), 400, 1)
    assert (delta.value, delta.ci95, delta.p) == (0.0, (0.0, 0.0), 1.0)


def test_one_group_of_pairs_says_nothing_about_chance():
    gold, weak, good = scored()
    delta = spearman_delta(gold, weak, good, ["g"] * len(gold), 400, 1)
    assert (delta.ci95, delta.p) == ((-2.0, 2.0), 1.0)


def test_a_constant_system_gives_valid_json():
    gold, _, good = scored()
    delta = spearman_delta(gold, np.ones(len(gold)), good, [f"g{i}" for i in range(len(gold))], 200, 1)
    json.dumps(delta.as_json(), allow_nan=False)
    assert delta.value == pytest.approx(stats.spearmanr(gold, good).statistic)
