"""All test queries with their rankings before and after, as the JSON that the page's explorer draws from.

Every passage's texts stand once and rankings point to them by number. What does not fit is cut in steps: shorter snippets first,
then fewer places, and last the rankings of the queries that changed least.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shoptalk.records import Passage, Ranking
from shoptalk.report.artifacts import Artifacts
from shoptalk.report.wording import excerpt
from shoptalk.retrieval.metrics import PRIMARY

MOST_BYTES = 5_000_000
"""Of the JSON: with the charts' engine (about 1 MB) and the rest of the page it stays well under 8 MB."""
_MOST_RANKED = 5_000
_DEEPER = 2
_PLACES, _FEWER_PLACES = 10, 5  # shown of each side
_SNIPPETS = (220, 160, 110, 70, 30, 0)  # characters
_TITLE_CHARS, _SOURCE_CHARS, _QUERY_CHARS = 120, 80, 400


@dataclass(frozen=True)
class Found:
    """What the queries' rankings are made of. ranked: rows with rankings, the most changed first."""

    rows: Sequence[Mapping[str, Any]]
    ranked: Sequence[str]
    rankings: Mapping[str, Ranking]
    relevant: Mapping[str, Mapping[str, int]]
    passages: Mapping[str, Passage]
    depth: int


def explorer(run: Artifacts, most_bytes: int = MOST_BYTES) -> dict[str, Any] | None:
    """{"places", "depth", "ranked", "sources": [...], "passages": [[title, source, snippet], ...], "queries": [{...}, ...]}; None for
    scored pairs, which have no rankings.

    A query: t text, c change, b and a the deciding metric before and after, rb and ra the first right passage's rank (0: not found).
    With rankings, B and A are flat lists of (place, passage, place on the other side, 0: not there),
    r the right passages shown, and mb and ma how many right ones are not found at all.
    """
    if run.is_similarity or not run.per_query:
        return None
    found = _read(run)
    for places in (_PLACES, _FEWER_PLACES):
        table = _Table(found.passages)
        rest = {
            "places": places, "depth": found.depth, "ranked": len(found.ranked), "queries": _queries(found, found.ranked, places, table)
        }  # fmt: skip
        size = _bytes(rest)
        for chars in _SNIPPETS if places == _PLACES else _SNIPPETS[-2:]:
            cut = table.cut(chars)
            if size + _bytes(cut) <= most_bytes:
                return rest | cut
    return _fewer(found, most_bytes)


def _fewer(found: Found, most_bytes: int) -> dict[str, Any]:
    """With the rankings of the most changed queries alone, half as many each time."""
    ranked = found.ranked
    while True:
        ranked, table = ranked[: len(ranked) // 2], _Table(found.passages)
        made = {
            "places": _FEWER_PLACES, "depth": found.depth, "ranked": len(ranked),
            "queries": _queries(found, ranked, _FEWER_PLACES, table), **table.cut(0),
        }  # fmt: skip
        if not ranked or _bytes(made) <= most_bytes:
            return made


def _read(run: Artifacts) -> Found:
    order = sorted(run.per_query, key=lambda row: (-abs(row["change"]), row["query_id"]))
    ranked = [row["query_id"] for row in order[:_MOST_RANKED]]
    rankings = {system: run.ranking(system, set(ranked)) for system in ("base", "tuned")}
    relevant = {query: run.relevant.get(query, {}) for query in ranked}
    shown = {
        ranking[query][place][0]
        for ranking in rankings.values()
        for query in ranked
        for place in _places(ranking.get(query, []), relevant[query], _PLACES)
    }
    return Found(run.per_query, ranked, rankings, relevant, run.passages(shown), run.settings.evaluate.depth)


def _queries(found: Found, ranked: Sequence[str], places: int, table: _Table) -> list[dict[str, Any]]:
    with_rankings = set(ranked)
    queries = []
    for row in found.rows:
        query: dict[str, Any] = {
            "t": excerpt(row["text"], _QUERY_CHARS),
            "c": round(row["change"], 4),
            "b": round(row["base"][PRIMARY], 4),
            "a": round(row["tuned"][PRIMARY], 4),
            "rb": row["rank_base"] or 0,
            "ra": row["rank_tuned"] or 0,
        }
        if row["query_id"] in with_rankings:
            query |= _sides(found, row["query_id"], places, table)
        queries.append(query)
    return queries


class _Table:
    """Passages by number, in the order in which they are first asked for."""

    def __init__(self, passages: Mapping[str, Passage]) -> None:
        self._passages = passages
        self._numbers: dict[str, int] = {}

    def number(self, passage_id: str) -> int:
        return self._numbers.setdefault(passage_id, len(self._numbers))

    def cut(self, chars: int) -> dict[str, Any]:
        """{"sources", "passages"} with snippets of at most so many characters."""
        sources = {"": 0}
        rows = []
        for passage_id in self._numbers:
            passage = self._passages.get(passage_id) or Passage(passage_id, "")
            title = passage.title.replace(" > ", " \N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK} ")
            source = excerpt(passage.source, _SOURCE_CHARS) if title else ""
            name = excerpt(title or passage.source or passage_id, _TITLE_CHARS)
            number = sources.setdefault(source, len(sources))
            rows.append([name, number, excerpt(passage.text, chars) if chars else ""])
        return {"sources": list(sources), "passages": rows}


def _sides(found: Found, query: str, places: int, table: _Table) -> dict[str, Any]:
    relevant = found.relevant[query]
    right = {passage for passage, grade in relevant.items() if grade > 0}
    sides: dict[str, Any] = {}
    shown: set[str] = set()
    for key, missing, system, other in (("B", "mb", "base", "tuned"), ("A", "ma", "tuned", "base")):
        own = found.rankings[system].get(query, [])
        there = {passage: rank for rank, (passage, _) in enumerate(found.rankings[other].get(query, []), 1)}
        flat: list[int] = []
        for place in _places(own, relevant, places):
            passage = own[place][0]
            shown.add(passage)
            flat += [place + 1, table.number(passage), there.get(passage, 0)]
        sides[key] = flat
        sides[missing] = len(right - {passage for passage, _ in own})
    return sides | {"r": sorted(table.number(passage) for passage in right & shown)}


def _places(ranking: Sequence[tuple[str, float]], relevant: Mapping[str, int], places: int) -> list[int]:
    """Indices that are shown: the first ones, and the next right passages however deep."""
    deeper = [i for i in range(places, len(ranking)) if relevant.get(ranking[i][0], 0) > 0]
    return [*range(min(places, len(ranking))), *deeper[:_DEEPER]]


def _bytes(made: Mapping[str, Any]) -> int:
    return len(json.dumps(made, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode())
