"""The verdict: one rule, written out. docs/design.md, "What may be read when"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from shoptalk.records import Delta
from shoptalk.retrieval.metrics import SHOWN
from shoptalk.settings import BaselineSettings, EvaluateSettings

_ALPHA = 0.05  # beside the interval, which alone says ship of nothing in 3.1% of cases: docs/experiments.md, null
Word = Literal["ship", "do-not-ship", "inconclusive"]
RULE = (
    "ship: {metric} up by at least {min_gain:g} with the 95% interval above zero and p under 0.05, on {min_test} test queries or more "
    "that were not made offline. do-not-ship: the interval lies below zero, or more than {limit:g} nDCG@10 is lost on general text, or "
    "on questions in other languages that the base model could answer, with an interval below zero. Otherwise inconclusive. {metric} "
    "alone decides; other metrics are shown with Holm's correction. The interval covers the choice of test queries, not the variance "
    "between training seeds."
)


@dataclass(frozen=True)
class Verdict:
    """The word and its reasons, the most important first."""

    word: Word
    reasons: tuple[str, ...]


def judge(
    deltas: Mapping[str, Delta],
    metric: str,
    n_test: int,
    test_origin: str,
    n_pairs: int,
    evaluate: EvaluateSettings,
    baseline: BaselineSettings,
    retention: Mapping[str, Any] | None = None,
) -> Verdict:
    """Apply the rule to a comparison of base and tuned. metric: the one that decides; retention: what was kept (retention.py)."""
    delta, name = deltas[metric], SHOWN[metric]
    unit = "test pairs" if metric == "spearman" else "test queries"
    low, high = delta.ci95
    shown = f"{name} {delta.value:+.3f} (95% interval {low:+.3f} to {high:+.3f}, {n_test} {unit})"
    caps: list[str] = []
    if test_origin == "offline":
        caps.append(
            "the test queries were made from the documents, not asked by people: the verdict is capped at inconclusive"
        )
    if n_test < evaluate.min_test:
        caps.append(f"{n_test} {unit}: under {evaluate.min_test} the interval is too unsure for a verdict")
    word: Word
    if high < 0:
        word = "do-not-ship"
        reasons = [f"the tuned model is worse: {shown}"]
    elif low > 0 and delta.p < _ALPHA and delta.value >= evaluate.min_gain:
        word = "ship"
        reasons = [f"the tuned model is better: {shown}"]
    elif low > 0 and delta.p < _ALPHA:
        word = "inconclusive"
        reasons = [f"the gain is real but under {evaluate.min_gain:g}, too small to matter: {shown}"]
    else:
        word = "inconclusive"
        reasons = [f"no difference can be told from chance: {shown}"]
    broken = [_lost(name, entry) for name, entry in _sides(retention) if entry["broken"]]
    if broken:
        word, reasons = "do-not-ship", [*broken, *reasons]
    if (
        caps and word != "do-not-ship"
    ):  # a cap keeps a verdict from being better than inconclusive, not from being worse
        word = "inconclusive"
        reasons = [*caps, *reasons]
    if test_origin == "llm":
        reasons.insert(0, "the test queries were written by an LLM, not asked by people")
    if 0 < delta.value < 0.02:
        reasons.append("under +0.02 the data is likely the bottleneck, not the training")
    elif delta.value >= 0.05 and low > 0:
        reasons.append("from +0.05 a gain is large in practice")
    if not broken:
        reasons += [_lost(name, entry) for name, entry in _sides(retention)]
    if n_pairs < baseline.too_few_pairs:
        reasons.append(f"trained on {n_pairs} pairs; fewer than {baseline.too_few_pairs} are too few to rely on")
    return Verdict(word, tuple(reasons))


def _sides(retention: Mapping[str, Any] | None) -> list[tuple[str, Mapping[str, Any]]]:
    """What was measured of general text and of other languages, with its name."""
    if retention is None:
        return []
    sides = [("general text", retention["general"])]
    if retention["cross_lingual"]["measured"]:
        sides.append(("questions in other languages", retention["cross_lingual"]))
    return sides


def _lost(name: str, entry: Mapping[str, Any]) -> str:
    delta, limit = entry["delta"], entry["limit"]
    low, high = delta["ci95"]
    shown = f"{delta['value']:+.3f} nDCG@10 (95% interval {low:+.3f} to {high:+.3f}, {entry['queries']} queries)"
    if entry["broken"]:
        return f"too much is lost on {name}: {shown}, and the limit is {-limit:+.3f}"
    return (
        f"on {name} {shown}: within the limit of {-limit:+.3f}"
        if delta["value"] >= -limit
        else f"on {name} {shown}: beyond the limit of {-limit:+.3f}, but not surely"
    )
