"""The mined negatives as the page shows them: where they stood, how near to an answer they score, how many may be answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from shoptalk.report.artifacts import Artifacts
from shoptalk.report.drawing import Bar, Strip, bars, strips
from shoptalk.report.wording import count, spoken

_ADAPTER = "query-"
_SOURCES = {"base": "by the base model", "tuned": "by the tuned model", "bm25": "by keyword search (BM25)"}
_LEFT_OUT = {
    "judged": "judged for this query already",
    "margin": "scores too near to the answer",
    "near-duplicate": "near-duplicate of an answer",
    "same-section": "from the same section as an answer",
    "same-text": "same text as an answer",
    "labelled": "given as a negative already",
    "judge": "answers after all, says the reranker",
    "llm-judge": "answers after all, says the language model",
    "llm-unjudged": "the language model gave no usable judgement",
}
_HELD_BACK = {
    "other_answers": "Another known answer of a query",
    "near_duplicates": "A near-duplicate of an answer, which mining was not told of",
}


@dataclass(frozen=True)
class Tried:
    """A margin that was tried on what was held back. used: the one of the settings."""

    margin: str
    used: bool
    taken: str
    rate: str
    interval: str
    of_mined: str
    strip: Strip


@dataclass(frozen=True)
class HeldBack:
    """How often mining would have taken known answers for negatives, by margin."""

    what: str
    trials: int
    rows: tuple[Tried, ...]


@dataclass(frozen=True)
class HardNegatives:
    """What mining found. positions: by rank; shares: by score, in columns from 0 to the answer's own; margin: in percent of it."""

    words: str
    sources: str
    positions: tuple[Bar, ...]
    shares: tuple[Bar, ...]
    margin: float
    left_out: tuple[Bar, ...]
    held_back: tuple[HeldBack, ...]


def hard_negatives(run: Artifacts) -> HardNegatives:
    """What audit.json of the examples says; one line and no numbers where nothing was mined."""
    found = run.mining
    if not found:
        return HardNegatives(f"No hard negatives were mined. {_without(run)}", "", (), (), 0.0, (), ())
    left_out = sorted(found["candidates_left_out"].items(), key=lambda entry: (-entry[1], entry[0]))
    reasons = bars([(_LEFT_OUT.get(reason, spoken(reason)), n) for reason, n in left_out if n])
    if not found["mined"]:
        return HardNegatives(f"{found['sentence']} {_without(run)}", "", (), (), 0.0, reasons, ())
    margin = float(found["settings"]["margin"])
    tried = found["false_negatives"]
    return HardNegatives(
        words=found["sentence"],
        sources=_sources(found),
        positions=bars(_positions(found["ranks"]["counts"])),
        shares=_shares(found["shares"]),
        margin=round(100 * margin, 1),
        left_out=reasons,
        held_back=tuple(
            _held_back(_HELD_BACK[name], tried[name], margin) for name in _HELD_BACK if tried[name]["trials"]
        ),
    )


def _without(run: Artifacts) -> str:
    """What served as negatives instead."""
    given, method = run.training.get("negatives_per_example", 0), str(run.training.get("method", ""))
    if method.startswith(_ADAPTER):
        return "Each training query was held against all passages."
    if given:
        return f"The hard negatives are those that came with the queries, up to {given:,} a training pair."
    return "In-batch negatives alone were used: the answers of the other queries in each batch."


def _sources(found: Mapping[str, Any]) -> str:
    parts = [
        f"{n:,} were found {_SOURCES.get(source, spoken(source))}" for source, n in sorted(found["by_source"].items())
    ]
    short = found["queries_with_fewer"]
    fewer = f" {count(short, 'query has', 'queries have')} fewer than {found['settings']['mine']:,}." if short else ""
    return f"Of these, {' and '.join(parts)}.{fewer}"


def _positions(counts: Sequence[Mapping[str, int]]) -> list[tuple[str, int]]:
    rows, below = [], 0
    for row in counts:
        first, last = below + 1, row["up_to"]
        rows.append((f"{first:,}" if first == last else f"{first:,} to {last:,}", row["count"]))
        below = last
    return rows


def _shares(shares: Mapping[str, Any]) -> tuple[Bar, ...]:
    edges = shares["edges"]
    names = [f"{low:.0%} to {high:.0%}" for low, high in pairwise(edges)]
    return bars(list(zip(names, shares["counts"], strict=True))) if any(shares["counts"]) else ()


def _held_back(what: str, tried: Mapping[str, Any], margin: float) -> HeldBack:
    rows = [row | {"value": row["rate"]} for row in tried["by_margin"]]
    drawn = strips(rows, (), (0.0,), lambda row: f"{row['rate']:.1%}, 95% interval {_interval(row)}")
    return HeldBack(
        what,
        tried["trials"],
        tuple(
            Tried(
                "none" if row["margin"] is None else f"{100 * row['margin']:.4g}%",
                row["margin"] == margin,
                f"{row['taken']:,} of {tried['trials']:,}",
                f"{row['rate']:.1%}",
                _interval(row),
                f"{row['share_of_mined']:.1%}",
                strip,
            )
            for row, strip in zip(rows, drawn, strict=True)
        ),
    )


def _interval(row: Mapping[str, Any]) -> str:
    low, high = row["ci95"]
    return f"{low:.1%} to {high:.1%}"
