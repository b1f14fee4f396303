"""Won and lost queries with their rankings before and after, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shoptalk.records import Passage, Ranking
from shoptalk.report.artifacts import Artifacts
from shoptalk.retrieval.metrics import PRIMARY

SHOWN_PLACES = 5
_SNIPPET_CHARS = 180
_RELEVANT_CHARS = 360


@dataclass(frozen=True)
class Entry:
    """A place in a ranking. `there`: its place with the other model, None where that did not rank it.

    `moved`: places up (positive) or down from before to after. `gap`: whether places were left out above it.
    """

    rank: int
    title: str
    source: str
    snippet: str
    relevant: bool
    there: int | None
    moved: int | None
    gap: bool


@dataclass(frozen=True)
class Listing:
    """One model's ranking for one query. `missing`: relevant passages that are not in it at all."""

    entries: tuple[Entry, ...]
    missing: int
    depth: int


@dataclass(frozen=True)
class Shown:
    """A query that got better or worse."""

    text: str
    change: float
    before: float
    after: float
    rank_before: int | None
    rank_after: int | None
    base: Listing
    tuned: Listing


def won_and_lost(run: Artifacts) -> tuple[list[Shown], list[Shown]]:
    """The `report.examples` largest gains and losses. Empty for scored pairs, which have no rankings."""
    most = run.settings.report.examples
    won, lost = run.won[:most], run.lost[:most]
    wanted = {row["query_id"] for row in (*won, *lost)}
    if not wanted or run.is_similarity:
        return [], []
    rankings = {system: run.ranking(system, wanted) for system in ("base", "tuned")}
    places = {
        (system, query): _places(rankings[system].get(query, []), _relevant(run, query))
        for system in rankings
        for query in wanted
    }
    passages = run.passages({rankings[s][q][place][0] for (s, q), found in places.items() for place in found})

    def shown(row: Mapping[str, Any]) -> Shown:
        query = row["query_id"]
        base, tuned = (
            _listing(run, rankings, system, query, places[system, query], passages) for system in ("base", "tuned")
        )
        return Shown(
            row["text"], row["change"], row["base"][PRIMARY], row["tuned"][PRIMARY],
            row["rank_base"], row["rank_tuned"], base, tuned,
        )  # fmt: skip

    return [shown(row) for row in won], [shown(row) for row in lost]


def _relevant(run: Artifacts, query: str) -> set[str]:
    return {passage for passage, grade in run.relevant.get(query, {}).items() if grade > 0}


def _places(ranking: Sequence[tuple[str, float]], relevant: set[str]) -> list[int]:
    """Indices that are shown: the first few, and the next relevant passages however deep."""
    deeper = [i for i, (passage, _) in enumerate(ranking) if i >= SHOWN_PLACES and passage in relevant]
    return [*range(min(SHOWN_PLACES, len(ranking))), *deeper[:3]]


def _listing(
    run: Artifacts,
    rankings: Mapping[str, Ranking],
    system: str,
    query: str,
    shown: Sequence[int],
    passages: Mapping[str, Passage],
) -> Listing:
    own = rankings[system].get(query, [])
    other = rankings["tuned" if system == "base" else "base"].get(query, [])
    rank_there = {passage: rank for rank, (passage, _) in enumerate(other, 1)}
    relevant = _relevant(run, query)
    entries, last = [], 0
    for place in shown:
        passage_id, rank = own[place][0], place + 1
        there = rank_there.get(passage_id)
        moved = None if there is None else (there - rank if system == "tuned" else rank - there)
        hit = passage_id in relevant
        title, source, snippet = _texts(
            passage_id, passages.get(passage_id), _RELEVANT_CHARS if hit else _SNIPPET_CHARS
        )
        entries.append(Entry(rank, title, source, snippet, hit, there, moved, rank > last + 1))
        last = rank
    ranked = {passage for passage, _ in own}
    return Listing(tuple(entries), len(relevant - ranked), run.settings.evaluate.depth)


def _texts(passage_id: str, passage: Passage | None, most: int) -> tuple[str, str, str]:
    if passage is None:
        return passage_id, "", ""
    flat = " ".join(passage.text.split())
    snippet = flat if len(flat) <= most else f"{flat[:most].rsplit(' ', 1)[0]} \N{HORIZONTAL ELLIPSIS}"
    title = passage.title.replace(" > ", " \N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK} ")
    return title or passage.source or passage_id, passage.source if passage.title else "", snippet
