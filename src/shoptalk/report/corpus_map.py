"""The map of the corpus before and after, laid out as drawings of 420 by 420 with the team's terms as labels, and as tables."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shoptalk.report.artifacts import Artifacts
from shoptalk.report.wording import excerpt

SIZE = 420.0
_MARGIN = 18.0
_LABEL_PX, _WIDE_PX, _LINE_PX = 6.7, 12.5, 15.0
_TERM_CHARS, _NAME_CHARS = 24, 110
COLOURS = 8


@dataclass(frozen=True)
class Dot:
    """A passage: its place, its cluster and its number among the names."""

    x: float
    y: float
    cluster: int
    number: int


@dataclass(frozen=True)
class Term:
    """A term's place; the label's place and anchor, None where there is no room for it; where it was before, on the map after."""

    text: str
    x: float
    y: float
    label: tuple[float, float, str] | None
    was: tuple[float, float] | None
    number: int


@dataclass(frozen=True)
class Side:
    """One map. centres: (x, y, cluster) for the clusters' numbers; explained: the share of the variance in the two axes."""

    name: str
    dots: tuple[Dot, ...]
    terms: tuple[Term, ...]
    centres: tuple[tuple[float, float, int], ...]
    explained: float
    alternative: str


@dataclass(frozen=True)
class Cluster:
    """A cluster with its most telling words, its share of the points in percent, and which of eight colours it has."""

    number: int
    label: str
    size: int
    share: float
    colour: int


@dataclass(frozen=True)
class MovedTerm:
    """How far a term moved, as a share of the map's width, and whose middle is nearest to it before and after."""

    term: str
    distance: float
    before: str
    after: str


@dataclass(frozen=True)
class CorpusMap:
    """The section. names: of the passages by number; box: the part of the drawings that holds everything, the same for both."""

    sides: tuple[Side, Side]
    box: str
    clusters: tuple[Cluster, ...]
    moves: tuple[MovedTerm, ...]
    names: tuple[str, ...]


def corpus_map(run: Artifacts) -> CorpusMap | None:
    """What diagnosis/map.json says; None where there is none."""
    drawn = run.corpus_map
    if not drawn.get("points"):
        return None
    clusters = _clusters(drawn)
    centres = {side: _centres(drawn["points"], side) for side in ("before", "after")}
    sides = _side(drawn, "before", clusters, centres), _side(drawn, "after", clusters, centres)
    return CorpusMap(
        sides=sides,
        box=_box(sides),
        clusters=clusters,
        moves=tuple(_moves(drawn["terms"], centres, clusters)),
        names=tuple(_names(run, [point["id"] for point in drawn["points"]])),
    )


def _box(sides: Sequence[Side]) -> str:
    """The whole width, and as much of the height as there is something in."""
    heights = [dot.y for side in sides for dot in side.dots] + [term.y for side in sides for term in side.terms]
    heights += [term.label[1] for side in sides for term in side.terms if term.label]
    top, bottom = max(0.0, min(heights) - _MARGIN), min(SIZE, max(heights) + _MARGIN)
    return f"0 {top:.1f} {SIZE:.0f} {bottom - top:.1f}"


def _names(run: Artifacts, ids: Sequence[str]) -> list[str]:
    passages = run.passages(set(ids))
    return [
        excerpt((passage.title.replace(" > ", " \N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK} ") or passage.text), _NAME_CHARS)
        if (passage := passages.get(one)) is not None
        else excerpt(one, _NAME_CHARS)
        for one in ids
    ]  # fmt: skip


def _clusters(drawn: Mapping[str, Any]) -> tuple[Cluster, ...]:
    total = sum(row["size"] for row in drawn["clusters"]) or 1
    return tuple(
        Cluster(row["cluster"], row["label"], row["size"], round(100 * row["size"] / total, 1), row["cluster"] % COLOURS)
        for row in drawn["clusters"]
    )  # fmt: skip


def _side(
    drawn: Mapping[str, Any], side: str, clusters: Sequence[Cluster], centres: Mapping[str, Mapping[int, tuple[float, float]]]
) -> Side:  # fmt: skip
    colours = {cluster.number: cluster.colour for cluster in clusters}
    dots = tuple(
        Dot(*_at(point[side]), colours[point["cluster"]], i) for i, point in enumerate(drawn["points"])
    )  # fmt: skip
    middles = tuple((*_at(centre), number) for number, centre in centres[side].items())
    explained = sum(drawn[side]["explained"])
    name = "Before" if side == "before" else "After"
    return Side(
        name, dots, tuple(_terms(drawn["terms"], side, middles)), middles, explained,
        f"{name}: {len(dots)} passages in two dimensions, in {len(clusters)} clusters, with {len(drawn['terms'])} terms; the tables "
        "below say the same in words",
    )  # fmt: skip


def _at(point: Sequence[float]) -> tuple[float, float]:
    """[-1, 1] twice, up is more, to the drawing, where down is more."""
    half = SIZE / 2 - _MARGIN
    return round(SIZE / 2 + half * point[0], 1), round(SIZE / 2 - half * point[1], 1)


def _centres(points: Sequence[Mapping[str, Any]], side: str) -> dict[int, tuple[float, float]]:
    """The middle of every cluster: the median on each axis, which a few far points do not move."""
    by_cluster: dict[int, list[Sequence[float]]] = {}
    for point in points:
        by_cluster.setdefault(point["cluster"], []).append(point[side])
    return {
        number: (_median([x for x, _ in own]), _median([y for _, y in own]))
        for number, own in sorted(by_cluster.items())
    }


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


Box = tuple[float, float, float, float]


def _terms(terms: Sequence[Mapping[str, Any]], side: str, middles: Sequence[tuple[float, float, int]]) -> list[Term]:
    """Every term with its label where that has room: those that moved farthest first, so that both maps name the same ones."""
    taken: list[Box] = [(x - 9, y - 9, x + 9, y + 9) for x, y, _ in middles]
    order = sorted(range(len(terms)), key=lambda i: (-math.dist(terms[i]["before"], terms[i]["after"]), i))
    placed = {}
    for i in order:
        x, y = _at(terms[i][side])
        taken.append((x - 3, y - 3, x + 3, y + 3))
        placed[i] = (x, y)
    labels = {i: _label(excerpt(terms[i]["term"], _TERM_CHARS), *placed[i], taken) for i in order}
    return [
        Term(
            excerpt(row["term"], _TERM_CHARS),
            *placed[i],
            labels[i],
            _at(row["before"]) if side == "after" else None,
            i,
        )
        for i, row in enumerate(terms)
    ]


def _label(text: str, x: float, y: float, taken: list[Box]) -> tuple[float, float, str] | None:
    """Right, left, above or below of the point, the first that touches nothing; its room is taken from then on."""
    width = sum(_WIDE_PX if unicodedata.east_asian_width(c) in "WF" else _LABEL_PX for c in text)
    for left, base, anchor in (
        (x + 7, y + 4, "start"), (x - 7 - width, y + 4, "end"), (x - width / 2, y - 7, "middle"), (x - width / 2, y + 16, "middle"),
    ):  # fmt: skip
        box = (left, base - _LINE_PX + 4, left + width, base + 3)
        inside = box[0] >= 2 and box[2] <= SIZE - 2 and box[1] >= 2 and box[3] <= SIZE - 2
        if inside and not any(_touch(box, other) for other in taken):
            taken.append(box)
            at = {"start": left, "end": left + width, "middle": left + width / 2}[anchor]
            return round(at, 1), round(base, 1), anchor
    return None


def _touch(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _moves(
    terms: Sequence[Mapping[str, Any]], centres: Mapping[str, Mapping[int, tuple[float, float]]], clusters: Sequence[Cluster]
) -> list[MovedTerm]:  # fmt: skip
    names = {cluster.number: f"{cluster.number + 1}: {cluster.label}" for cluster in clusters}

    def nearest(row: Mapping[str, Any], side: str) -> str:
        return names[min(centres[side], key=lambda one: math.dist(centres[side][one], row[side]))]

    moves = [
        MovedTerm(row["term"], math.dist(row["before"], row["after"]) / 2, nearest(row, "before"), nearest(row, "after"))
        for row in terms
    ]  # fmt: skip
    return sorted(moves, key=lambda one: -one.distance)
