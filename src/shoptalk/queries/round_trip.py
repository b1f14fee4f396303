"""Round-trip consistency: a query is worth training on when someone could find its passage with it.

Source: Alberti et al. 2019, Synthetic QA corpora generation with roundtrip consistency; as a filter of generated queries Dai et al.
2022, Promptagator. Here either of two searches may find it: a base model that does not know a team's words would otherwise
throw out just the queries that teach them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shoptalk.models.encoder import Encoder
from shoptalk.queries.generators import Draft
from shoptalk.records import Passage, Ranking
from shoptalk.retrieval.bm25 import BM25
from shoptalk.retrieval.topk import search


@dataclass(frozen=True, slots=True)
class Trip:
    """Where a search found a draft's best passage: its rank (from 1; 0: not in the top k), and what share of its score the
    passage at rank k has (0 where fewer were found).
    """

    rank: int
    rival: float


def round_trips(
    drafts: Sequence[Draft], passages: Sequence[Passage], encoder: Encoder | None, k: int
) -> list[dict[str, Trip]]:
    """For each draft its trip by each search ("base", unless there is no encoder, and "bm25"), over all passages.

    passages: as they are searched, with what became queries cut out. Exact; memory does not grow with drafts times passages.
    """
    texts = [draft.text for draft in drafts]
    names = [str(row) for row in range(len(drafts))]
    ids = [passage.passage_id for passage in passages]
    contents = [passage.content for passage in passages]
    rankings: dict[str, Ranking] = {}
    if encoder is not None and drafts:
        vectors = encoder.encode_passages(contents)
        rankings["base"] = search(names, encoder.encode_queries(texts), ids, vectors, k)
    if drafts:
        rankings["bm25"] = BM25(ids, contents).search(names, texts, k)
    return [
        {engine: _trip(ranking[name], set(draft.passage_ids), k) for engine, ranking in rankings.items()}
        for name, draft in zip(names, drafts, strict=True)
    ]


def _trip(found: Sequence[tuple[str, float]], wanted: set[str], k: int) -> Trip:
    rank, score = next(((i, score) for i, (name, score) in enumerate(found, 1) if name in wanted), (0, 0.0))
    last = found[-1][1] if len(found) == k else 0.0
    return Trip(rank, last / score if rank and score > 0 else 0.0)


def lost(trips: dict[str, Trip], k: int) -> str:
    """Why a draft fails the round trip, or ""."""
    if any(trip.rank for trip in trips.values()):
        return ""
    return f"not among the first {k} that {' or '.join(_NAMES[name] for name in trips)} find"


def generic(trips: dict[str, Trip], share: float, k: int) -> str:
    """Why a draft matches too many passages, or "": to each search that finds its passage, that at rank k is nearly as good."""
    rivals = {name: trip.rival for name, trip in trips.items() if trip.rank}
    if share >= 1 or not rivals or min(rivals.values()) < share:
        return ""
    said = ", ".join(f"{rival:.2f} of its score by {_NAMES[name]}" for name, rival in rivals.items())
    return f"the passage at rank {k} has {said}"


_NAMES = {"base": "the base model", "bm25": "BM25"}
