"""The first screen's figures, which need no statistics to read: before and after, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shoptalk.report.artifacts import Artifacts
from shoptalk.report.charts import rank_places
from shoptalk.report.cost import Cost
from shoptalk.report.wording import plain, shown, signed


@dataclass(frozen=True)
class Fact:
    """A figure before and after. small: what it rests on."""

    name: str
    before: str
    after: str
    small: str


@dataclass(frozen=True)
class Price:
    """Something that the tuned model cost. tone: "bad" for what is over its limit."""

    name: str
    figure: str
    small: str
    tone: str = ""


def facts(run: Artifacts) -> list[Fact]:
    """The deciding metric before and after, and counts that need no metric to understand."""
    before, after = (run.comparison[system][run.metric] for system in ("base", "tuned"))
    bm25 = run.comparison.get("bm25", {}).get(run.metric)
    keywords = "" if bm25 is None else f"keyword search (BM25): {plain(bm25)}"
    found = [Fact(f"{shown(run.metric)}, before and after", plain(before), plain(after), keywords)]
    if run.is_similarity:
        return found
    places = rank_places(run)
    of = f"of {len(run.per_query):,} test queries"
    for name, upto in (("Right passage in first place", 1), ("Right passage in the first ten", 3)):
        first, then = (sum(places[model][:upto]) for model in ("before", "after"))
        found.append(Fact(name, f"{first:,}", f"{then:,}", of))
    return found


def prices(run: Artifacts, took: Cost | None) -> list[Price]:
    """Time, money, and what was lost elsewhere; what was not measured is left out."""
    found = []
    if took:
        found.append(Price("Time", took.total, took.longest))
        if took.money:
            found.append(Price("Language model", took.money, "in the currency of its prices"))
    retention = run.comparison.get("retention")
    if retention:
        found.append(_change("General text", retention["general"]))
        if (retention.get("cross_lingual") or {}).get("measured"):
            found.append(_change("Other languages", retention["cross_lingual"]))
    return found


def _change(name: str, side: Mapping[str, Any]) -> Price:
    small = f"nDCG@10, limit {signed(-side['limit'])}" if "limit" in side else "nDCG@10"
    return Price(name, signed(side["delta"]["value"]), small, "bad" if side.get("broken") else "")
