"""Vectors in fewer bytes: fewer dimensions, int8, one bit. Searched exactly, so that what is measured is the loss of the form alone.

    float32   4 bytes a dimension; what the model gives, or its first dimensions scaled to unit length again
    int8      1 byte a dimension: 256 steps between the smallest and the largest value that the corpus has in it
    binary    1 bit a dimension, its sign. Candidates by Hamming distance; optionally four times as many as asked for, which the
              query's own float32 vector then orders against the candidates' bits, at no further memory

The passages are shortened and rounded block by block as they are read, from memory or from a memory map: a few blocks are all that
this needs of memory, whatever the corpus. Ties stand in the order of the passages, as everywhere.
Sources: Kusupati et al. 2022 (Matryoshka); Yamada et al. 2021 (float query against bits).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from shoptalk.retrieval.topk import Best, top_k

Vectors = NDArray[np.float32]
Precision = Literal["float32", "int8", "binary"]
_SMALLEST = 32
_ROWS, _QUERIES = 16_384, 256
_CANDIDATES = 4
_STEPS = 255


@dataclass(frozen=True, slots=True)
class Form:
    """How vectors are kept: the first `dimensions` of them, in a precision. rescore: for binary, see above."""

    dimensions: int
    precision: Precision = "float32"
    rescore: bool = True

    @property
    def bytes_per_passage(self) -> int:
        """Of the vector alone, without ids and without an approximate index."""
        return {
            "float32": 4 * self.dimensions,
            "int8": self.dimensions,
            "binary": (self.dimensions + 7) // 8,
        }[self.precision]


def forms(
    full: int, dimensions: Literal["off", "halves"] | Sequence[int], precisions: Sequence[Precision]
) -> list[Form]:
    """All that is asked of a model of `full` dimensions: the full size in every precision, then the smaller sizes likewise.

    dimensions: "halves" are full/2, full/4, ... down to 32; sizes that the model does not have are left out.
    """
    if dimensions == "halves":
        smaller = [full >> shift for shift in range(1, full.bit_length()) if full >> shift >= _SMALLEST]
    else:
        smaller = [] if dimensions == "off" else sorted({size for size in dimensions if 0 < size < full}, reverse=True)
    return [Form(size, precision) for size in (full, *smaller) for precision in precisions]


def search_form(queries: Vectors, passages: Vectors, form: Form, k: int) -> Best:
    """The k best passages for every query when the passages are kept in a form.

    queries: (n_queries, dim), passages: (n_passages, dim), float32, unit length; the passages may be memory-mapped. Returns
    (n_queries, k') indices and scores, best first. The scores of binary vectors are inner products of signs (dim - 2 times the
    Hamming distance) or, rescored, of the query and signs: they order, and compare to nothing else.
    """
    asked = truncated(queries, form.dimensions)
    kept = _Rows(passages, lambda block: truncated(block, form.dimensions), form.dimensions)
    if form.precision == "float32":
        return top_k(asked, passages if form.dimensions == passages.shape[1] else kept.as_array, k)
    if form.precision == "int8":
        lowest, step = calibrated(kept.as_array)
        return top_k(asked, kept.then(lambda block: decoded(encoded(block, lowest, step), lowest, step)).as_array, k)
    bits = kept.then(signs).as_array
    if not form.rescore:
        return _nearest(signs(asked), bits, k)
    return _rescored(asked, bits, _nearest(signs(asked), bits, _CANDIDATES * k)[0], k)


def truncated(vectors: Vectors, dimensions: int) -> Vectors:
    """(n, dim) -> (n, dimensions): the first ones, at unit length again; all of them are left as they are."""
    if dimensions == vectors.shape[1]:
        return vectors
    first = np.ascontiguousarray(vectors[:, :dimensions], np.float32)
    lengths = np.linalg.norm(first, axis=1, keepdims=True)
    shorter: Vectors = (first / np.maximum(lengths, 1e-12)).astype(np.float32)
    return shorter


def calibrated(passages: Vectors) -> tuple[Vectors, Vectors]:
    """(dim,) smallest value and (dim,) step of int8 for every dimension, from the whole corpus, read in blocks."""
    dim = passages.shape[1]
    lowest, highest = np.full(dim, np.inf, np.float32), np.full(dim, -np.inf, np.float32)
    for start in range(0, len(passages), _ROWS):
        block = passages[start : start + _ROWS]
        np.minimum(lowest, block.min(axis=0), out=lowest)
        np.maximum(highest, block.max(axis=0), out=highest)
    return lowest, np.maximum((highest - lowest) / _STEPS, np.float32(1e-12))


def encoded(vectors: Vectors, lowest: Vectors, step: Vectors) -> NDArray[np.uint8]:
    """(n, dim) float32 -> (n, dim) steps from the lowest value; what lies outside of the range is put at its end."""
    codes: NDArray[np.uint8] = np.clip(np.rint((vectors - lowest) / step), 0, _STEPS).astype(np.uint8)
    return codes


def decoded(codes: NDArray[np.uint8], lowest: Vectors, step: Vectors) -> Vectors:
    """(n, dim) steps -> (n, dim) float32, each at most half a step from what was encoded."""
    values: Vectors = codes.astype(np.float32) * step + lowest
    return values


def signs(vectors: Vectors) -> Vectors:
    """(n, dim) float32 -> 1 where a value is above zero, else -1: a bit, in the form that a matrix product takes."""
    bits = (vectors > 0).astype(np.float32)
    bits *= 2
    bits -= 1
    return bits


def _nearest(queries: Vectors, bits: Vectors, k: int) -> Best:
    """The k rows of signs with the highest inner product, ties in the order of the rows. Products of signs are whole numbers, so
    score and place fit exactly into one double: the key by which blocks are cut and merged.
    """
    n, k = len(bits), min(k, len(bits))
    keys = np.full((len(queries), k), -np.inf)
    for at in range(0, n, _ROWS):
        block = bits[at : at + _ROWS]
        places = np.arange(at, at + len(block), dtype=np.float64)
        for first in range(0, len(queries), _QUERIES):
            rows = slice(first, first + _QUERIES)
            found = (queries[rows] @ block.T).astype(np.float64) * n - places
            both = np.concatenate([keys[rows], found], axis=1)
            keys[rows] = np.partition(both, both.shape[1] - k, axis=1)[:, both.shape[1] - k :]
    keys = -np.sort(-keys, axis=1)
    scores = np.ceil(keys / n)
    return (scores * n - keys).astype(np.int64), scores.astype(np.float32)


def _rescored(queries: Vectors, bits: Vectors, candidates: NDArray[np.int64], k: int) -> Best:
    scores = np.empty(candidates.shape, np.float32)
    for row, own in enumerate(candidates):
        scores[row] = np.einsum("d,kd->k", queries[row], bits[own])
    order = np.lexsort((candidates, -scores), axis=-1)[:, :k]
    return np.take_along_axis(candidates, order, 1), np.take_along_axis(scores, order, 1)


class _Rows:
    """Rows made of other rows when they are read: as much of a matrix as the search takes, and no more in memory than it asks for."""

    def __init__(self, rows: Any, change: Callable[[Vectors], Vectors], dim: int) -> None:
        self._rows, self._change = rows, change
        self.shape = (len(rows), dim)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: Any) -> Vectors:
        return self._change(np.asarray(self._rows[which], np.float32))

    def then(self, change: Callable[[Vectors], Vectors]) -> _Rows:
        """The same rows, changed further."""
        return _Rows(self, change, self.shape[1])

    @property
    def as_array(self) -> Vectors:
        """Itself, under the type that the search asks for."""
        return cast("Vectors", self)
