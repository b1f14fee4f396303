"""Several rankings as one, by the ranks alone: no score of one system has to be comparable to another's.

Source: Cormack, Clarke and Büttcher 2009, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shoptalk.records import Ranking
from shoptalk.retrieval.topk import as_ranking


def reciprocal_rank(rankings: Sequence[Ranking], k: int = 60, depth: int | None = None) -> Ranking:
    """Every passage scores the sum over the rankings that hold it of 1 / (k + its rank), ranks counted from 1.

    Queries are those of all rankings, in order of first appearance. Passages that score the same stand in the order in which the
    rankings name them, the first ranking first. k: 60 is the source's; larger lets low ranks count more. depth: how many passages
    of each fused ranking are kept; None keeps all.
    """
    return {
        query_id: _fused([found.get(query_id, []) for found in rankings], query_id, k, depth)
        for query_id in dict.fromkeys(query_id for found in rankings for query_id in found)
    }


def _fused(
    found: Sequence[Sequence[tuple[str, float]]], query_id: str, k: int, depth: int | None
) -> list[tuple[str, float]]:
    scores: dict[str, float] = {}
    for ranking in found:
        for rank, (passage_id, _) in enumerate(ranking, 1):
            scores[passage_id] = scores.get(passage_id, 0.0) + 1 / (k + rank)
    best = sorted(scores, key=lambda passage_id: -scores[passage_id])[:depth]
    values = np.array([[scores[passage_id] for passage_id in best]], np.float32)
    return as_ranking([query_id], best, np.arange(len(best))[None, :], values)[query_id]
