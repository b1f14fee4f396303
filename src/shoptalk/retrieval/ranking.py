"""One way to rank a dataset with an encoder; the gate, the dev score and the comparison all go through it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shoptalk.models.encoder import Encoder
from shoptalk.records import Dataset, Ranking, ScoredPair
from shoptalk.retrieval.topk import search


def rank(encoder: Encoder, dataset: Dataset, query_ids: Sequence[str], depth: int) -> Ranking:
    """Exact rankings of the whole corpus, `depth` deep, for the named queries."""
    queries = encoder.encode_queries([dataset.queries[q].text for q in query_ids])
    passages = encoder.encode_passages([p.content for p in dataset.passages.values()])
    return search(query_ids, queries, list(dataset.passages), passages, depth)


def pair_cosines(encoder: Encoder, pairs: Sequence[ScoredPair]) -> NDArray[np.float64]:
    """(n_pairs,) float64: the cosine of the two sentences of every pair."""
    left = encoder.encode_queries([pair.sentence1 for pair in pairs])
    right = encoder.encode_queries([pair.sentence2 for pair in pairs])
    cosines: NDArray[np.float64] = np.sum(left.astype(np.float64) * right, axis=1)
    return cosines
