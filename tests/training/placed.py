"""A corpus whose passages stand where a test puts them, so that what is mined can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shoptalk.records import Dataset, Passage, Query


class PlacedEncoder:
    """An Encoder whose texts stand where the test puts them: text -> cosine to the first axis (queries stand on it)."""

    digest = "placed"

    def __init__(self, cosine: dict[str, float]) -> None:
        self.cosine = cosine

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        return self._vectors([1.0] * len(texts))

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        return self._vectors([self.cosine[text] for text in texts])

    def _vectors(self, cosines: list[float]) -> np.ndarray:
        return np.array([[c, np.sqrt(1 - c * c)] for c in cosines], np.float32)


def dataset_with(
    answers: dict[str, list[str]],
    passages: Sequence[str | Passage],
    clusters: dict[str, str] | None = None,
    negatives: dict[str, tuple[str, ...]] | None = None,
) -> Dataset:
    """Passages whose id is their text, unless given whole; queries by id with the passages that answer them."""
    whole = [passage if isinstance(passage, Passage) else Passage(passage, passage) for passage in passages]
    return Dataset(
        "retrieval",
        {passage.passage_id: passage for passage in whole},
        {q: Query(q, f"{q}?") for q in answers},
        {"train": {q: dict.fromkeys(found, 1) for q, found in answers.items()}},
        {passage.passage_id: (clusters or {}).get(passage.passage_id, passage.passage_id) for passage in whole},
        negatives=negatives or {},
    )
