"""The dev score that ranks checkpoints: nDCG@10 on a part of the haystack (`retrieval.haystack`), or Spearman for scored pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from sentence_transformers.base.evaluation import BaseEvaluator

from shoptalk.models.encoder import Encoder, TorchEncoder
from shoptalk.models.hardware import Hardware
from shoptalk.records import Dataset
from shoptalk.retrieval.metrics import PRIMARY, PerQuery, mean, per_query
from shoptalk.retrieval.ranking import pair_cosines, rank
from shoptalk.retrieval.significance import correlation
from shoptalk.training.choosing import METRIC, write_scores

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Heard = Callable[[int, float, float], None]
"""Told of an evaluation during training: the step, the epochs done and the dev score."""


class DevScore(BaseEvaluator):  # type: ignore[misc]  # untyped base class
    """Called by the trainer at every evaluation, of which `heard` is told, and by shoptalk on the reloaded checkpoint."""

    def __init__(self, dataset: Dataset, hardware: Hardware, heard: Heard | None = None) -> None:
        super().__init__()
        self.heard = heard
        self.dataset = dataset
        self.hardware = hardware
        self.primary_metric = METRIC

    def __call__(
        self, model: SentenceTransformer, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float]:
        """{"dev": score}: deterministic for the same weights."""
        encoder = TorchEncoder(model, self.hardware, digest="")
        if self.dataset.task == "similarity":
            score = self.score(encoder)
        else:
            values = self.of_queries(encoder)
            score = mean(values)[PRIMARY]
            if output_path is not None and steps >= 0:
                write_scores(output_path, steps, {query: found[PRIMARY] for query, found in values.items()})
        if self.heard is not None and steps >= 0:
            self.heard(steps, epoch, score)
        return {METRIC: score}

    def score(self, encoder: Encoder) -> float:
        """The dev score of any encoder."""
        if self.dataset.task == "similarity":
            pairs = self.dataset.pairs["dev"]
            return correlation(np.array([pair.score for pair in pairs]), pair_cosines(encoder, pairs))
        return mean(self.of_queries(encoder))[PRIMARY]

    def of_queries(self, encoder: Encoder) -> PerQuery:
        """nDCG@10 of every dev query."""
        qrels = self.dataset.qrels["dev"]
        return per_query(qrels, rank(encoder, self.dataset, list(qrels), 10), [PRIMARY])
