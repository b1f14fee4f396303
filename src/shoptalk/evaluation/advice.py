"""The gate's decision: one rule, written out, with its reasons in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from shoptalk.evaluation.measuring import FUSED, KEYWORDS, WITHOUT_PROMPTS, System
from shoptalk.retrieval.metrics import SHOWN
from shoptalk.settings import BaselineSettings

Decision = Literal["tune", "tune-with-caution", "collect-more-data", "use-something-simpler", "not-needed"]
CLOSED: tuple[Decision, ...] = ("collect-more-data", "use-something-simpler", "not-needed")
_ALIKE = 0.01  # nDCG@10 within which the cheaper of two systems is advised


@dataclass(frozen=True)
class Gate:
    """The advice, with its reasons in plain words."""

    decision: Decision
    reasons: tuple[str, ...]


def decide(
    score: float,
    ci95: tuple[float, float],
    metric: str,
    n_pairs: int,
    origin: str,
    settings: BaselineSettings,
    systems: Sequence[System] = (),
    forecast: Mapping[str, Any] | None = None,
) -> Gate:
    """Two thresholds on the base model's score, one on the number of training pairs, and `something_simpler`."""
    shown = f"the base model's {SHOWN[metric]} on train and dev queries is {score:.3f} (95% interval {ci95[0]:.3f} to {ci95[1]:.3f})"
    reasons: list[str] = []
    decision: Decision
    if score > settings.fine_above:
        decision = "not-needed"
        reasons.append(f"{shown}: above {settings.fine_above:g} a general model is probably fine")
    elif score < settings.tune_below:
        decision = "tune"
        reasons.append(f"{shown}: below {settings.tune_below:g} tuning will likely pay")
    else:
        decision = "tune-with-caution"
        reasons.append(
            f"{shown}: between {settings.tune_below:g} and {settings.fine_above:g}, where a gain is likely to be small"
        )
    reasons.append(_pairs_words(n_pairs, settings))
    if n_pairs < settings.too_few_pairs and decision != "not-needed":
        decision = "collect-more-data"
    if origin == "offline":
        reasons += _OFFLINE_WORDS
    simpler = None if decision == "not-needed" else something_simpler(systems, origin, forecast, settings)
    if simpler is not None:
        decision = "use-something-simpler"
        reasons.insert(0, _simpler_words(simpler, metric, forecast, settings))
    elif decision != "not-needed" and (better := _clearly_better(systems, origin, settings)):
        best = max(better, key=lambda system: system.score)
        if best.name != KEYWORDS:  # what BM25 alone is worth is said of it in any case
            reasons.append(f"{_with_figures(best, metric)}: worth having whether you tune or not")
    return Gate(decision, tuple(reasons))


def something_simpler(
    systems: Sequence[System], origin: str, forecast: Mapping[str, Any] | None, settings: BaselineSettings
) -> System | None:
    """What to use instead of tuning, if anything.

    A little better than the base is not enough: whatever helps the base will mostly help the tuned model too, and this answer stops
    a strict run. A system (the base without its prompts, BM25, both fused, a candidate) takes the place of tuning when it is

    1. clearly better than the base: by `simpler_gain` or more, the 95% interval of the paired difference above zero, and Holm's p
       over all systems under 0.05; BM25's part does not count on queries made from the documents, whose words it was handed; and
    2. either fine as it is, its score above `fine_above`; or it brings even at the low end of its interval what the forecast gives
       tuning at the high end of its own (with the present data), and its score is `tune_below` or more: under that so much is left
       to gain that tuning on top of it is the better advice.

    Of several the best is taken, or the cheapest within 0.01 of it, in the order in which they were measured.
    """
    tuning = None if forecast is None else float(forecast["predicted"][0]["high"])
    enough = [
        system
        for system in _clearly_better(systems, origin, settings)
        if system.score > settings.fine_above
        or (tuning is not None and _low(system) >= tuning and system.score >= settings.tune_below)
    ]
    best = max((system.score for system in enough), default=0.0)
    return next((system for system in enough if system.score >= best - _ALIKE), None)


def _clearly_better(systems: Sequence[System], origin: str, settings: BaselineSettings) -> list[System]:
    flattered = (KEYWORDS, FUSED) if origin == "offline" else ()
    return [
        system
        for system in systems
        if system.delta is not None
        and system.name not in flattered
        and system.delta.value >= settings.simpler_gain
        and _low(system) > 0
        and (system.delta.p if system.delta.p_holm is None else system.delta.p_holm) < 0.05
    ]


def _low(system: System) -> float:
    return system.delta.ci95[0] if system.delta is not None else 0.0


_OFFLINE_WORDS = (
    "the queries were made from the documents without labels: real users ask differently, so this score is a guess",
    "training on queries made by rules is unlikely to help with people's own: where it was measured, headings and "
    "definitions gave nothing (within 0.006 nDCG@10), cropped sentences and key phrases up to -0.021, while people's own queries gave "
    "+0.036 and +0.041; fifty questions that people asked are worth more",
)


def _pairs_words(n: int, settings: BaselineSettings) -> str:
    if n < settings.too_few_pairs:
        return f"{n} training pairs: fewer than {settings.too_few_pairs} are too few to rely on"
    if n < settings.sensible_pairs:
        return (
            f"{n} training pairs: {settings.sensible_pairs} is a sensible minimum, {settings.reliable_pairs:,} reliable"
        )
    if n < settings.reliable_pairs:
        return f"{n:,} training pairs: a sensible number; {settings.reliable_pairs:,} is reliable"
    return f"{n:,} training pairs: a reliable number"


_CALLED = {
    WITHOUT_PROMPTS: "the base model without its prompts",
    KEYWORDS: "BM25 alone",
    FUSED: "BM25 fused with the base model",
}


def _with_figures(system: System, metric: str) -> str:
    assert system.delta is not None
    low, high = system.delta.ci95
    return (
        f"{_CALLED.get(system.name, system.name)} reaches {SHOWN[metric]} {system.score:.3f} without any training, "
        f"{system.delta.value:+.3f} over the base model (95% interval {low:+.3f} to {high:+.3f})"
    )


def _simpler_words(system: System, metric: str, forecast: Mapping[str, Any] | None, settings: BaselineSettings) -> str:
    shown = _with_figures(system, metric)
    if system.score > settings.fine_above:
        return f"{shown}: above {settings.fine_above:g}, probably good enough as it is"
    high = 0.0 if forecast is None else forecast["predicted"][0]["high"]
    return f"{shown}: no less than tuning on the present data can be expected to bring ({high:+.3f} at best, by the forecast)"
