"""A part of the haystack that ranks models as all of it does: every dev positive, near distractors and a random sample.

It flatters every model alike, so it ranks the checkpoints and candidates of one run and is never reported as a result.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from shoptalk.models.encoder import Encoder
from shoptalk.records import Dataset
from shoptalk.retrieval.ranking import rank
from shoptalk.settings import TrainSettings

_NEAR = 10


def dev_part(dataset: Dataset, base: Encoder, settings: TrainSettings, seed: int) -> Dataset:
    """The dev queries and the part of the haystack that rank candidates; all of it when it is small enough.

    The same dataset, settings and seed give the same part. Near distractors are the first ten of `base` for every query.
    """
    rng = np.random.default_rng(seed)
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
