"""The comparison as the page shows it: every metric, quality against size and speed, slices, and how much nobody judged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from shoptalk.report.artifacts import Artifacts
from shoptalk.report.drawing import Strip, interval, strips
from shoptalk.report.retention import language
from shoptalk.report.wording import count, plain, shown, signed, size, speed
from shoptalk.retrieval.metrics import PRIMARY

_NONE = "\N{EM DASH}"
_SYSTEMS = {
    "base": "Base model",
    "tuned": "Tuned model",
    "bm25": "BM25",
    "fused": "Tuned model and BM25, fused",
    "base-fused": "Base model and BM25, fused",
}


@dataclass(frozen=True)
class MetricRow:
    """A metric before and after. bm25: None where it was not measured (scored pairs)."""

    name: str
    decides: bool
    base: float
    bm25: float | None
    tuned: float
    delta: Mapping[str, Any]
    strip: Strip


@dataclass(frozen=True)
class Choice:
    """A system at a dimension and a precision: what it finds and what it takes. bar: its nDCG@10 in percent of the drawing."""

    name: str
    vectors: str
    quality: float
    bar: float
    recall: str
    size: str
    seconds: str
    ships: bool


@dataclass(frozen=True)
class Slice:
    """A part of the test queries."""

    name: str
    queries: int
    base: float
    tuned: float
    delta: Mapping[str, Any]
    strip: Strip
    worse: bool


@dataclass(frozen=True)
class Slices:
    """All slices by what they cut by, and the names of those that got worse."""

    kinds: tuple[tuple[str, tuple[Slice, ...]], ...]
    worse: tuple[str, ...]


@dataclass(frozen=True)
class Compared:
    """The section. Its parts are empty where a run of an earlier version, or one on scored pairs, did not measure them."""

    metrics: tuple[MetricRow, ...]
    table: tuple[Choice, ...]
    fusion: str
    slices: Slices | None
    holes: str


def compared(run: Artifacts) -> Compared:
    """What comparison.json says."""
    found = run.comparison
    return Compared(
        metrics=tuple(_metrics(run)),
        table=tuple(_table(found.get("table") or ())),
        fusion=_fusion(found["fusion"], shown(run.metric)) if found.get("fusion") else "",
        slices=_slices(found["slices"]) if found.get("slices") else None,
        holes=_holes(found["holes"], found.get("labels")) if found.get("holes") else "",
    )


def _metrics(run: Artifacts) -> list[MetricRow]:
    found = run.comparison
    drawn = strips(list(found["delta"].values()), (), (0.0,), interval)
    return [
        MetricRow(
            shown(name), name == run.metric, found["base"][name], found.get("bm25", {}).get(name), found["tuned"][name], delta, strip
        )
        for (name, delta), strip in zip(found["delta"].items(), drawn, strict=True)
    ]  # fmt: skip


def _table(rows: Sequence[Mapping[str, Any]]) -> list[Choice]:
    most = max((row["dimensions"] or 0 for row in rows if row["system"] == "tuned"), default=0)
    choices = []
    for row in rows:
        dimensions, precision = row.get("dimensions"), row.get("precision") or ""
        full = dimensions == most and precision in ("", "float32")
        recall, n_bytes, seconds = (row.get(key) for key in ("recall@100", "bytes_per_passage", "seconds_per_1000"))
        choices.append(
            Choice(
                name=_SYSTEMS.get(row["system"], row["system"]),
                vectors=" ".join(
                    filter(
                        None,
                        (f"{dimensions:,}" if dimensions else "", precision, "rescored" if row.get("rescored") else ""),
                    )
                )
                or _NONE,
                quality=row[PRIMARY],
                bar=round(100 * max(0.0, row[PRIMARY]), 2),
                recall=_NONE if recall is None else plain(recall),
                size=_NONE if n_bytes is None else size(n_bytes),
                seconds=_NONE if seconds is None else speed(seconds),
                ships=row["system"] == "tuned" and full,
            )
        )
    return choices


def _fusion(fusion: Mapping[str, Any], metric: str) -> str:
    """What keywords beside a model add to it, and whether that is sure."""
    words = []
    for model, delta in ((name, fusion[name]) for name in ("base", "tuned") if fusion.get(name)):
        low, high = delta["ci95"]
        sure = "" if low > 0 or high < 0 else ", which may be chance"
        words.append(f"{signed(delta['value'])} to the {model} model ({signed(low)} to {signed(high)}{sure})")
    return f"BM25 fused with a model adds in {metric} {' and '.join(words)}."


def _slices(rows: Sequence[Mapping[str, Any]]) -> Slices:
    drawn = strips([row["delta"] for row in rows], (), (0.0,), interval)
    made = [(row["by"], _slice(row, strip)) for row, strip in zip(rows, drawn, strict=True)]
    order = list(dict.fromkeys(sorted((by for by, _ in made), key=_place)))
    made.sort(key=lambda one: order.index(one[0]))
    kinds = [(by, tuple(one for _, one in group)) for by, group in groupby(made, key=lambda one: one[0])]
    return Slices(
        tuple((by, tuple(_worst_first(group))) for by, group in kinds),
        tuple(f"{one.name} ({by})" for by, group in kinds for one in group if one.worse),
    )


def _place(by: str) -> int:
    known = ("query length", "query language", "passage language", "query kind", "passage type", "rare words", "source")
    return known.index(by) if by in known else len(known)


def _worst_first(group: Iterable[Slice]) -> list[Slice]:
    return sorted(group, key=lambda one: (not one.worse, one.delta["value"] if one.worse else 0))


def _slice(row: Mapping[str, Any], strip: Strip) -> Slice:
    name = language(row["name"]) if row["by"].endswith("language") else row["name"]
    return Slice(name, row["queries"], row["base"], row["tuned"], row["delta"], strip, row["worse"])


def _holes(holes: Mapping[str, Any], labels: Mapping[str, Any] | None) -> str:
    sides = [(name, holes[side]) for side, name in (("base", "base"), ("tuned", "tuned")) if holes.get(side)]
    shares = " and ".join(f"{side['judged_share']:.0%} for the {name} model" for name, side in sides)
    left = " and ".join(f"{side['unjudged']:,}" for _, side in sides)
    return (
        f"Somebody judged {shares} of the first {holes['depth']} passages of all test queries. {left} places hold a passage that "
        "nobody judged; it counts as wrong, and may be right. Where the shares differ much, the comparison may be unfair."
        + (f" {count(labels['judgements'], 'judgement')} labelled since are counted." if labels else "")
    )
