from __future__ import annotations

from typing import Any

import pytest

from shoptalk.evaluation.advice import Gate, decide, something_simpler
from shoptalk.evaluation.measuring import System
from shoptalk.records import Delta
from shoptalk.settings import BaselineSettings

SETTINGS = BaselineSettings()


def system(name: str, score: float, gain: float, width: float = 0.02, p: float = 0.001) -> System:
    delta = Delta(gain, (gain - width, gain + width), p, p)
    return System(name, name, "", score, (score - 0.02, score + 0.02), {"ndcg@10": score}, delta)


def base(score: float) -> System:
    return System("base", "Base model", "", score, (score - 0.02, score + 0.02), {"ndcg@10": score})


def forecast(high: float) -> dict[str, Any]:
    return {"predicted": [{"pairs": 500, "gain": high / 2, "low": 0.0, "high": high}]}


def chosen(*systems: System, high: float | None = 0.05, origin: str = "human", **values: float) -> str | None:
    settings = BaselineSettings.model_validate(values)
    found = something_simpler(systems, origin, None if high is None else forecast(high), settings)
    return found and found.name


def gate(score: float, *systems: System, high: float | None = 0.05, n_pairs: int = 600, origin: str = "human") -> Gate:
    said = None if high is None else forecast(high)
    return decide(
        score, (score - 0.02, score + 0.02), "ndcg@10", n_pairs, origin, SETTINGS, [base(score), *systems], said
    )


def test_a_little_better_is_no_reason_not_to_tune() -> None:
    assert chosen(system("fused", 0.78, 0.03)) is None
    found = gate(0.75, system("fused", 0.78, 0.03))
    assert found.decision == "tune-with-caution"
    assert found.reasons[-1] == (
        "BM25 fused with the base model reaches nDCG@10 0.780 without any training, +0.030 over the base model "
        "(95% interval +0.010 to +0.050): worth having whether you tune or not"
    )


def test_what_makes_it_fine_as_it_is_takes_tunings_place() -> None:
    found = gate(0.80, system("fused", 0.86, 0.06), high=0.30)
    assert found.decision == "use-something-simpler"
    assert found.reasons[0].startswith(
        "BM25 fused with the base model reaches nDCG@10 0.860 without any training, +0.060"
    )
    assert found.reasons[0].endswith("above 0.85, probably good enough as it is")
    assert found.reasons[1].startswith("the base model's nDCG@10")
    assert "worth having" not in " ".join(found.reasons)


@pytest.mark.parametrize(("high", "expected"), [(0.039, "fused"), (0.041, None), (None, None)])
def test_the_low_end_of_its_gain_is_held_against_the_high_end_of_the_forecast(
    high: float | None, expected: str | None
) -> None:
    assert chosen(system("fused", 0.80, 0.06, width=0.02), high=high) == expected


def test_the_forecast_it_was_held_against_is_named() -> None:
    found = gate(0.74, system("fused", 0.80, 0.06), high=0.03)
    assert found.decision == "use-something-simpler"
    assert (
        "no less than tuning on the present data can be expected to bring (+0.030 at best, by the forecast)"
        in found.reasons[0]
    )


def test_where_much_is_left_to_gain_it_goes_beside_tuning() -> None:
    """0.45 to 0.60 with keywords is much, and 0.40 are left."""
    assert chosen(system("fused", 0.60, 0.15), high=0.03) is None
    assert gate(0.45, system("fused", 0.60, 0.15), high=0.03).decision == "tune"


@pytest.mark.parametrize(
    "unsure",
    [
        system("fused", 0.90, 0.05, width=0.06),  # the interval holds zero
        system("fused", 0.90, 0.05, p=0.06),  # of several systems one will look better
        system("fused", 0.90, 0.015, width=0.005),  # clearly better, and next to nothing
        system("fused", 0.90, -0.10),
    ],
)
def test_what_is_not_clearly_better_is_not_advised(unsure: System) -> None:
    assert chosen(unsure) is None
    assert gate(0.80, unsure).decision == "tune-with-caution"


def test_the_gain_that_it_takes_is_a_setting() -> None:
    assert chosen(system("fused", 0.90, 0.015, width=0.005), simpler_gain=0.01) == "fused"
    assert chosen(system("fused", 0.90, 0.06), simpler_gain=0.07) is None


def test_the_best_is_taken_unless_something_cheaper_is_as_good() -> None:
    cheap, dear = system("base-without-prompts", 0.88, 0.08), system("large-model", 0.885, 0.085)
    assert chosen(cheap, dear) == "base-without-prompts"
    assert chosen(cheap, system("large-model", 0.92, 0.12)) == "large-model"


def test_queries_made_from_the_documents_say_nothing_for_keywords() -> None:
    assert chosen(system("bm25", 0.95, 0.15), system("fused", 0.95, 0.15), origin="offline") is None
    assert chosen(system("fused", 0.95, 0.15), origin="llm") == "fused"
    assert chosen(system("large-model", 0.95, 0.15), origin="offline") == "large-model"
    offline = gate(0.80, system("fused", 0.95, 0.15), origin="offline")
    assert offline.decision == "tune-with-caution"
    assert "fused" not in " ".join(offline.reasons)


def test_a_base_that_is_fine_needs_nothing_simpler() -> None:
    found = gate(0.90, system("fused", 0.95, 0.05))
    assert found.decision == "not-needed"
    assert "fused" not in " ".join(found.reasons)


def test_with_too_few_pairs_something_simpler_is_the_better_advice() -> None:
    found = gate(0.80, system("large-model", 0.90, 0.10), n_pairs=40, high=None)
    assert found.decision == "use-something-simpler"
    assert found.reasons[0].startswith("large-model reaches nDCG@10 0.900")
    assert "40 training pairs: fewer than 100 are too few to rely on" in found.reasons
    assert gate(0.80, system("large-model", 0.83, 0.03), n_pairs=40, high=None).decision == "collect-more-data"
