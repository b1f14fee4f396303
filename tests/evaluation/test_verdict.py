from __future__ import annotations

from typing import Any

import pytest

from shoptalk.evaluation.verdict import Verdict, judge
from shoptalk.records import Delta
from shoptalk.settings import BaselineSettings, EvaluateSettings


def verdict_on(
    value: float,
    low: float,
    high: float,
    *,
    n_test: int = 200,
    origin: str = "human",
    n_pairs: int = 1_000,
    metric: str = "ndcg@10",
    **evaluate: float,
) -> Verdict:
    return judge(
        {metric: Delta(value, (low, high), 0.01)},
        metric,
        n_test,
        origin,
        n_pairs,
        EvaluateSettings.model_validate(evaluate),
        BaselineSettings(),
    )


@pytest.mark.parametrize(
    ("value", "low", "high", "n_test", "origin", "word"),
    [
        # The gain and its interval.
        (0.03, 0.01, 0.05, 200, "human", "ship"),
        (0.010, 0.001, 0.02, 200, "human", "ship"),
        (0.0099, 0.001, 0.02, 200, "human", "inconclusive"),
        (0.03, 0.0, 0.06, 200, "human", "inconclusive"),
        (0.03, -0.001, 0.06, 200, "human", "inconclusive"),
        (0.0, 0.0, 0.0, 200, "human", "inconclusive"),
        (-0.03, -0.06, 0.0, 200, "human", "inconclusive"),
        (-0.03, -0.06, -0.001, 200, "human", "do-not-ship"),
        (-0.001, -0.002, -0.0001, 200, "human", "do-not-ship"),
        # The number of test queries counts for ship alone.
        (0.03, 0.01, 0.05, 50, "human", "ship"),
        (0.03, 0.01, 0.05, 49, "human", "inconclusive"),
        (-0.03, -0.06, -0.001, 49, "human", "do-not-ship"),
        # Where the test queries come from.
        (0.03, 0.01, 0.05, 200, "llm", "ship"),
        (-0.03, -0.06, -0.001, 200, "llm", "do-not-ship"),
        (0.03, 0.01, 0.05, 200, "offline", "inconclusive"),
        (0.30, 0.20, 0.40, 5_000, "offline", "inconclusive"),
        (-0.03, -0.06, -0.001, 200, "offline", "do-not-ship"),
    ],
)
def test_the_rule(value: float, low: float, high: float, n_test: int, origin: str, word: str) -> None:
    assert verdict_on(value, low, high, n_test=n_test, origin=origin).word == word


def test_the_gain_and_the_number_that_ship_needs_are_settings() -> None:
    assert verdict_on(0.03, 0.01, 0.05, min_gain=0.04).word == "inconclusive"
    assert verdict_on(0.001, 0.0005, 0.002, min_gain=0).word == "ship"
    assert verdict_on(0.03, 0.01, 0.05, n_test=200, min_test=201).word == "inconclusive"
    assert verdict_on(0.03, 0.01, 0.05, n_test=10, min_test=10).word == "ship"


def test_an_interval_above_zero_needs_a_p_value_that_agrees() -> None:
    unsure = {"ndcg@10": Delta(0.03, (0.001, 0.06), 0.05)}
    found = judge(unsure, "ndcg@10", 200, "human", 1_000, EvaluateSettings(), BaselineSettings())
    assert found.word == "inconclusive"
    assert found.reasons[0].startswith("no difference can be told from chance")


def test_only_the_deciding_metric_decides() -> None:
    deltas = {"ndcg@10": Delta(0.0, (-0.01, 0.01), 0.9), "recall@10": Delta(0.3, (0.2, 0.4), 0.001, 0.001)}
    assert judge(deltas, "ndcg@10", 200, "human", 1_000, EvaluateSettings(), BaselineSettings()).word == "inconclusive"


@pytest.mark.parametrize(
    ("value", "low", "high", "words"),
    [
        (
            0.03,
            0.01,
            0.05,
            "the tuned model is better: nDCG@10 +0.030 (95% interval +0.010 to +0.050, 200 test queries)",
        ),
        (
            -0.03,
            -0.06,
            -0.01,
            "the tuned model is worse: nDCG@10 -0.030 (95% interval -0.060 to -0.010, 200 test queries)",
        ),
        (0.005, 0.001, 0.01, "the gain is real but under 0.01, too small to matter: nDCG@10 +0.005"),
        (0.03, -0.01, 0.07, "no difference can be told from chance: nDCG@10 +0.030"),
    ],
)
def test_the_first_reason_says_what_was_measured(value: float, low: float, high: float, words: str) -> None:
    assert verdict_on(value, low, high).reasons[0].startswith(words)


def test_the_metric_is_named_as_the_field_writes_it() -> None:
    assert "Spearman +0.030" in verdict_on(0.03, 0.01, 0.05, metric="spearman").reasons[0]


def test_too_few_test_queries_are_named_before_the_numbers() -> None:
    reasons = verdict_on(0.03, 0.01, 0.05, n_test=49).reasons
    assert reasons[0].startswith("49 test queries: under 50")
    assert "nDCG@10 +0.030" in reasons[1]


def test_offline_queries_are_named_before_the_numbers() -> None:
    reasons = verdict_on(0.03, 0.01, 0.05, origin="offline").reasons
    assert "made from the documents, not asked by people" in reasons[0]
    assert "capped at inconclusive" in reasons[0]


@pytest.mark.parametrize("n_test", [20, 200])
def test_an_llms_queries_are_named_in_the_first_line(n_test: int) -> None:
    for value, low, high in ((0.03, 0.01, 0.05), (0.0, -0.01, 0.01), (-0.03, -0.05, -0.01)):
        reasons = verdict_on(value, low, high, n_test=n_test, origin="llm").reasons
        assert reasons[0] == "the test queries were written by an LLM, not asked by people"


@pytest.mark.parametrize(
    ("value", "low", "bottleneck", "large"),
    [
        (0.0001, -0.01, True, False),
        (0.0199, 0.01, True, False),
        (0.02, 0.01, False, False),
        (0.0499, 0.01, False, False),
        (0.05, 0.01, False, True),
        (0.05, -0.01, False, False),
        (0.0, -0.01, False, False),
        (-0.01, -0.02, False, False),
    ],
)
def test_small_and_large_gains_are_put_into_words(value: float, low: float, bottleneck: bool, large: bool) -> None:
    text = " ".join(verdict_on(value, low, 0.3).reasons)
    assert ("data is likely the bottleneck" in text) is bottleneck
    assert ("gain is large in practice" in text) is large


@pytest.mark.parametrize(("n_pairs", "said"), [(99, True), (100, False)])
def test_too_few_training_pairs_are_said(n_pairs: int, said: bool) -> None:
    text = " ".join(verdict_on(0.03, 0.01, 0.05, n_pairs=n_pairs).reasons)
    assert (f"trained on {n_pairs} pairs" in text) is said


# Retention


def retention(value: float, low: float, high: float, broken: bool, languages: bool = False) -> dict[str, Any]:
    delta = {"value": value, "ci95": [low, high], "p": 0.01}
    entry = {"queries": 200, "base": 0.7, "tuned": 0.7 + value, "delta": delta, "limit": 0.02, "broken": broken}
    unbroken = {**entry, "broken": False}
    return {
        "general": unbroken if languages else entry,
        "cross_lingual": {**entry, "measured": True} if languages else {"queries": 0, "measured": False},
    }


@pytest.mark.parametrize("languages", [False, True])
def test_a_broken_rule_keeps_a_better_model_from_being_shipped(languages: bool) -> None:
    deltas = {"ndcg@10": Delta(0.1, (0.05, 0.15), 0.001)}
    lost = retention(-0.08, -0.1, -0.05, broken=True, languages=languages)
    found = judge(deltas, "ndcg@10", 200, "human", 1_000, EvaluateSettings(), BaselineSettings(), lost)
    assert found.word == "do-not-ship"
    what = "questions in other languages" if languages else "general text"
    assert found.reasons[0].startswith(f"too much is lost on {what}: -0.080 nDCG@10 (95% interval -0.100 to -0.050")
    assert found.reasons[1].startswith("the tuned model is better")


def test_what_is_kept_is_among_the_reasons() -> None:
    deltas = {"ndcg@10": Delta(0.1, (0.05, 0.15), 0.001)}
    kept = retention(-0.01, -0.03, 0.01, broken=False)
    found = judge(deltas, "ndcg@10", 200, "human", 1_000, EvaluateSettings(), BaselineSettings(), kept)
    assert found.word == "ship"
    assert any(reason.startswith("on general text -0.010 nDCG@10") for reason in found.reasons)
    assert not any("other languages" in reason for reason in found.reasons)


def test_a_loss_beyond_the_limit_that_may_be_chance_is_said_and_does_not_decide() -> None:
    deltas = {"ndcg@10": Delta(0.1, (0.05, 0.15), 0.001)}
    kept = retention(-0.03, -0.07, 0.01, broken=False)
    found = judge(deltas, "ndcg@10", 200, "human", 1_000, EvaluateSettings(), BaselineSettings(), kept)
    assert found.word == "ship"
    assert any(reason.endswith("beyond the limit of -0.020, but not surely") for reason in found.reasons)
