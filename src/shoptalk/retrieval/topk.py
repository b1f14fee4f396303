"""Exact search over unit vectors in blocks: memory does not grow with queries times passages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shoptalk.records import Ranking

_BLOCK_FLOATS = 16_000_000


def top_k(
    queries: NDArray[np.float32], passages: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k passages with the highest inner product for every query.

    queries: (n_queries, dim), passages: (n_passages, dim), float32. Returns (n_queries, k') indices and scores, best first,
    k' = min(k, n_passages). Equal scores are ordered by passage index, so the answer does not depend on the blocks.
    """
    n, k = len(passages), min(k, len(passages))
    indices = np.zeros((len(queries), k), np.int64)
    scores = np.zeros((len(queries), k), np.float32)
    rows = max(1, min(len(queries), _BLOCK_FLOATS // max(1, n)))
    for start in range(0, len(queries), rows):
        block = queries[start : start + rows] @ passages.T
        chosen = _best_columns(block, k)
        indices[start : start + rows] = chosen
        scores[start : start + rows] = np.take_along_axis(block, chosen, axis=1)
    return indices, scores


def _best_columns(block: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """(rows, k) column indices, highest first, ties by column: what a full stable sort would give."""
    if k == 0:
        return np.zeros((len(block), 0), np.int64)
    cut = -np.partition(-block, k - 1, axis=1)[:, k - 1]
    chosen = np.zeros((len(block), k), np.int64)
    for row, scores in enumerate(block):
        candidates = np.flatnonzero(scores >= cut[row])
        chosen[row] = candidates[np.argsort(-scores[candidates], kind="stable")[:k]]
    return chosen


def as_ranking(
    query_ids: Sequence[str],
    passage_ids: Sequence[str],
    indices: NDArray[np.int64],
    scores: NDArray[np.float32],
) -> Ranking:
    """Rankings by id. Scores are made strictly decreasing, so that no evaluation tool reorders ties by its own rule."""
    ranking: Ranking = {}
    for row, query_id in enumerate(query_ids):
        found: list[tuple[str, float]] = []
        last = float("inf")
        for index, score in zip(indices[row], scores[row], strict=True):
            last = min(float(score), float(np.nextafter(np.float32(last), np.float32("-inf"))))
            found.append((passage_ids[int(index)], last))
        ranking[query_id] = found
    return ranking


def search(
    query_ids: Sequence[str],
    query_vectors: NDArray[np.float32],
    passage_ids: Sequence[str],
    passage_vectors: NDArray[np.float32],
    k: int,
) -> Ranking:
    """Exact rankings of depth k; see `top_k` and `as_ranking`."""
    indices, scores = top_k(query_vectors, passage_vectors, k)
    return as_ranking(query_ids, passage_ids, indices, scores)
