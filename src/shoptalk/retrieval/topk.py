"""Exact search over vectors in blocks of queries and passages: working memory does not grow with either.

Matrix products round differently for every block shape, so a product only proposes: what might be among the best, within the
product's own worst rounding error, is scored again pair by pair, and that score decides. The answer is the same for all blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import numpy as np
from numpy.typing import NDArray

from shoptalk.errors import ModelError
from shoptalk.progress import task
from shoptalk.records import Ranking

_BLOCK_QUERIES = 512
_BLOCK_PASSAGES = 16_384
_PAIR_FLOATS = 2_000_000  # of the texts that are scored pair by pair at a time
_CROWD = 4  # times k: a block that proposes more for a query is narrowed to its own best first

Best = tuple[NDArray[np.int64], NDArray[np.float32]]


def top_k(queries: NDArray[np.float32], passages: NDArray[np.float32], k: int, label: str = "") -> Best:
    """The k passages with the highest inner product for every query.

    queries: (n_queries, dim), passages: (n_passages, dim), float32; either may be memory-mapped. Returns (n_queries, k') indices
    and scores, best first, k' = min(k, n_passages); scores are as by `pair_scores`, equal ones in the order of the passages.
    Beside the answer it takes under 250 MB, however many queries and passages there are. `label` shows a progress bar.
    Raises ModelError for vectors that are not finite.
    """
    k = min(k, len(passages))
    indices = np.zeros((len(queries), k), np.int64)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    if not indices.size:
        return indices, scores
    lengths = np.concatenate([_lengths(block) for _, block in _blocks(queries, _BLOCK_QUERIES)])
    with task(label, len(passages)) if label else nullcontext() as bar:
        for at, block in _blocks(passages, _BLOCK_PASSAGES):
            longest = float(_lengths(block).max())
            for first, asked in _blocks(queries, _BLOCK_QUERIES):
                rows = slice(first, first + len(asked))
                error = _rounding(queries.shape[1]) * longest * lengths[rows]
                known = min(at, k)
                found = _improve(asked, block, error, indices[rows, :known], scores[rows, :known], at, k)
                indices[rows, : found[0].shape[1]], scores[rows, : found[1].shape[1]] = found
            if bar is not None:
                bar.advance(len(block))
    return indices, scores


def pair_scores(
    queries: NDArray[np.float32], rows: NDArray[np.int64], passages: NDArray[np.float32], columns: NDArray[np.int64]
) -> NDArray[np.float32]:
    """(n_pairs,) inner products of queries[rows] and passages[columns], summed in double precision and rounded once.

    Each depends on its two vectors alone: not on the other pairs, nor on where the pair stands.
    """
    scores = np.zeros(len(rows), np.float32)
    step = max(1, _PAIR_FLOATS // max(1, queries.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        left, right = queries[rows[part]].astype(np.float64), passages[columns[part]].astype(np.float64)
        scores[part] = np.multiply(left, right, out=left).sum(axis=1)
    return scores


def _improve(
    queries: NDArray[np.float32],
    block: NDArray[np.float32],
    error: NDArray[np.float64],
    indices: NDArray[np.int64],
    scores: NDArray[np.float32],
    at: int,
    k: int,
) -> Best:
    """The best k of what is known (n, known) and of a block of passages, the first of which is passage `at`."""
    products = queries @ block.T
    kth = scores[:, k - 1].astype(np.float64) if indices.shape[1] == k else np.full(len(queries), -np.inf)
    proposed = products >= _down(kth - error)[:, None]
    crowded = np.flatnonzero(np.count_nonzero(proposed, axis=1) > _CROWD * k)
    if len(crowded) and len(block) > k:
        # A score is at most one error from its product, so what is beaten by k products by more than two is beaten.
        busy = products[crowded]
        cut = np.partition(busy, len(block) - k, axis=1)[:, len(block) - k]
        proposed[crowded] &= busy >= _down(cut - 2 * error[crowded])[:, None]
    rows, columns = np.nonzero(proposed)
    return _merged(k, rows, columns + at, pair_scores(queries, rows, block, columns), indices, scores)


def _merged(
    k: int,
    rows: NDArray[np.int64],
    places: NDArray[np.int64],
    values: NDArray[np.float32],
    indices: NDArray[np.int64],
    scores: NDArray[np.float32],
) -> Best:
    """The best k for every row of what is known (n, known) and of new (row, place, value), highest first, ties by place."""
    n, known = indices.shape
    rows = np.concatenate([np.repeat(np.arange(n), known), rows])
    places = np.concatenate([indices.reshape(-1), places])
    values = np.concatenate([scores.reshape(-1), values])
    order = np.lexsort((places, -values, rows))
    counts = np.bincount(rows, minlength=n)
    starts = np.cumsum(counts) - counts
    chosen = order[starts[:, None] + np.arange(min(k, counts.min()))]
    return places[chosen], values[chosen]


def _blocks(vectors: NDArray[np.float32], size: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    for start in range(0, len(vectors), size):
        yield start, np.ascontiguousarray(vectors[start : start + size], np.float32)


def _lengths(block: NDArray[np.float32]) -> NDArray[np.float64]:
    lengths: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", block, block, dtype=np.float64))
    if not np.isfinite(lengths).all():
        raise ModelError(
            f"{np.sum(~np.isfinite(lengths)):,} of {len(block):,} vectors are not finite numbers, so nothing can be ranked by "
            "them; try model.precision=fp32, or check the model"
        )
    return lengths


def _rounding(dim: int) -> float:
    """The worst error of a product of unit vectors in single precision, in any order of summation, and of rounding the score.

    Source: Higham 2002, section 3.1.
    """
    return (dim + 4) * 2.0**-24


def _down(thresholds: NDArray[np.float64]) -> NDArray[np.float32]:
    lowered: NDArray[np.float32] = np.nextafter(thresholds.astype(np.float32), np.float32("-inf"))
    return lowered


def as_ranking(
    query_ids: Sequence[str],
    passage_ids: Sequence[str],
    indices: NDArray[np.int64],
    scores: NDArray[np.float32],
) -> Ranking:
    """Rankings by id. Scores are made strictly decreasing, so that no evaluation tool reorders ties by its own rule."""
    ranking: Ranking = {}
    falling: NDArray[np.bool_] = np.all(scores[:, 1:] < scores[:, :-1], axis=1)
    for row, query_id in enumerate(query_ids):
        if falling[row]:
            own = zip(indices[row].tolist(), scores[row].tolist(), strict=True)
            ranking[query_id] = [(passage_ids[index], score) for index, score in own]
            continue
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
