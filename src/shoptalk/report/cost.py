"""What a run took: time by stage, and money where a language model was paid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from shoptalk.report.artifacts import Artifacts
from shoptalk.report.wording import duration

_STAGES = {
    "ingest": "Reading the documents",
    "queries": "Making or mapping the queries",
    "dataset": "Checking and splitting",
    "baseline": "The gate",
    "negatives": "Mining negatives",
    "train": "Training",
    "select": "Choosing the point to ship",
    "evaluate": "The comparison",
    "diagnose": "Looking for what went wrong",
}
_NAMED = 2


@dataclass(frozen=True)
class StageTime:
    """A stage's time in words, and the length of its bar in percent of the longest."""

    name: str
    time: str
    size: float


@dataclass(frozen=True)
class Cost:
    """The time of all stages but the report, the longest of them named, and the money for a language
    model in the currency of its prices, "" where none was paid or it is not known."""

    total: str
    longest: str
    stages: tuple[StageTime, ...]
    money: str


def cost(run: Artifacts) -> Cost | None:
    """None for a run whose stages have no times."""
    if not run.seconds:
        return None
    most = max(run.seconds.values()) or 1.0
    longest = sorted(run.seconds.items(), key=lambda entry: -entry[1])[:_NAMED]
    return Cost(
        total=duration(sum(run.seconds.values())),
        longest=", ".join(f"{name} {duration(seconds)}" for name, seconds in longest),
        stages=tuple(
            StageTime(_STAGES.get(name, name), duration(seconds), round(100 * seconds / most, 2))
            for name, seconds in run.seconds.items()
        ),
        money=_money(run),
    )


def money(text: str) -> str:
    """Two digits after the point, or four under 1."""
    paid = Decimal(text)
    return f"{paid:,.2f}" if paid == 0 or paid >= 1 else f"{paid:.4f}"


def _money(run: Artifacts) -> str:
    """Of all runs of this folder, since an answer from the cache was paid by an earlier one."""
    usage, llm = run.usage, run.settings.llm
    known = usage["cost_known"] if usage else bool(llm.price_in or llm.price_out)
    judges = (run.yields.get("llm_judge"), run.mining.get("judge"), run.second_mining.get("judge"))
    paid = sum((_cost(side) for side in (usage.get("all_runs"), *judges)), Decimal(0))
    return money(str(paid)) if known and paid else ""


def _cost(side: Mapping[str, Any] | None) -> Decimal:
    """What one use of a language model took; a reranker that judges costs no money."""
    return Decimal(str(side.get("cost", 0))) if side else Decimal(0)
