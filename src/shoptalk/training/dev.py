"""The dev score that ranks checkpoints: nDCG@10 on a part of the haystack, or Spearman for scored pairs.

The part holds every dev positive, the nearest distractors of the base model and a random sample. It flatters every model
alike, so it ranks the checkpoints of one run and is never reported as a result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from sentence_transformers.base.evaluation import BaseEvaluator

from shoptalk.models.encoder import Encoder, TorchEncoder
from shoptalk.models.hardware import Hardware
from shoptalk.records import Dataset
from shoptalk.retrieval.metrics import PRIMARY, PerQuery, mean, per_query
from shoptalk.retrieval.ranking import pair_cosines, rank
from shoptalk.retrieval.significance import correlation
from shoptalk.settings import TrainSettings
from shoptalk.training.choosing import METRIC, write_scores

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Heard = Callable[[int, float, float], None]
"""Told of an evaluation during training: the step, the epochs done and the dev score."""
_NEAR = 10


def dev_part(dataset: Dataset, base: Encoder, settings: TrainSettings, rng: np.random.Generator) -> Dataset:
    """The dev queries and the part of the haystack that rank checkpoints; all of it when it is small enough."""
    qrels = dataset.qrels["dev"]
    if len(qrels) > settings.max_dev_queries:
        chosen = sorted(rng.choice(len(qrels), settings.max_dev_queries, replace=False))
        names = list(qrels)
        qrels = {names[i]: qrels[names[i]] for i in chosen}
    if len(dataset.passages) <= settings.dev_haystack:
        return replace(dataset, qrels={"dev": qrels})
    wanted = {p for judged in qrels.values() for p in judged}
    near = rank(base, dataset, list(qrels), _NEAR)
    for depth in range(_NEAR):  # the nearest of every query first, until the part is three quarters full
        for found in near.values():
            if len(wanted) < 0.75 * settings.dev_haystack and depth < len(found):
                wanted.add(found[depth][0])
    ids = list(dataset.passages)
    for index in rng.permutation(len(ids)):
        if len(wanted) >= settings.dev_haystack:
            break
        wanted.add(ids[int(index)])
    return replace(dataset, qrels={"dev": qrels}, passages={i: p for i, p in dataset.passages.items() if i in wanted})


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
