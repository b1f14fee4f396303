"""A learning curve before any training: how a quick adapter on the base model's cached vectors gains with more training data.

A linear query adapter (`shoptalk.models.query_adapter`) is fitted on growing parts of the training queries and scored on dev queries,
never on test. It can only turn what the base model already sees, so full training usually gains more: the curve is a lower bound in
practice, not a promise. Which epoch is kept is chosen on one half of the dev queries and scored on the other, both ways round, so that
a lucky epoch does not count as a gain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shoptalk.models.encoder import Encoder
from shoptalk.models.query_adapter import AdapterSettings, QueryAdapter, Vectors, fit_query_adapter
from shoptalk.records import Dataset, Qrels
from shoptalk.retrieval.metrics import PRIMARY, of_metric, per_query
from shoptalk.retrieval.topk import search

MIN_TRAIN, MIN_DEV = 20, 10
_MOST_TRAIN, _MOST_DEV = 1_500, 250  # queries: more cost time and move the curve little
_MOST_PASSAGES = 15_000
_PARTS = ((0.125, 3), (0.25, 2), (0.5, 2), (1.0, 1))  # of the training queries, and how often a part is drawn
_EPOCHS, _STEPS_AN_EPOCH = 8, 18  # as many steps for every part, else the curve would be one of steps
_PASSAGES_PER_STEP = 1_024
_AHEAD = (1, 2, 4)  # times the present training data
_RESAMPLES = 1_000
_BENDS = np.geomspace(1 / 32, 4, 22)  # of the largest part: where a curve may bend

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """What was measured. A row a fit: which part of the training queries it had, how many pairs these are, and `gains`
    (n_fits, n_dev), those of every dev query over its nDCG@10 with the base, whose mean is `base`.
    """

    parts: NDArray[np.int64]
    pairs: Floats
    gains: Floats
    groups: tuple[str, ...]
    base: float


def learning_curve(dataset: Dataset, base: Encoder, seed: int) -> Curve | None:
    """Fit the adapters on the vectors of `base`. None where there are too few queries: under 20 to train with, under 10 to score, or
    all of these in one group.
    """
    rng = np.random.default_rng(seed)
    train, dev = _drawn(dataset.qrels["train"], _MOST_TRAIN, rng), _drawn(dataset.qrels["dev"], _MOST_DEV, rng)
    groups = tuple(dataset.groups.get(query, query) for query in dev)
    if len(train) < MIN_TRAIN or len(dev) < MIN_DEV or len(set(groups)) < 2:
        return None
    dataset = _haystack(dataset, train, dev, rng)
    passages = base.encode_passages([passage.content for passage in dataset.passages.values()])
    asked = dict(zip(train, base.encode_queries([dataset.queries[query].text for query in train]), strict=True))
    names, answers = list(train), _answers(dataset, train)
    scorer = _Scorer(dev, base.encode_queries([dataset.queries[q].text for q in dev]), list(dataset.passages), passages)
    before = scorer.values(None)
    parts, pairs, gains = [], [], []
    for number, (share, draws) in enumerate(_PARTS):
        for _ in range(draws):
            part = [names[i] for i in rng.permutation(len(names))[: max(2, round(share * len(names)))]]
            vectors, positives = np.stack([asked[query] for query in part]), [answers[query] for query in part]
            kept = _fit(vectors, passages, positives, scorer, groups, int(rng.integers(1 << 31)))
            parts.append(number)
            pairs.append(sum(grade > 0 for query in part for grade in train[query].values()))
            gains.append(kept - before)
    return Curve(np.array(parts), np.array(pairs, float), np.array(gains), groups, float(before.mean()))


def predict(curve: Curve, n_pairs: int, seed: int) -> dict[str, Any]:
    """gate.json's "forecast": the points, and what so many training pairs, twice and four times as many would bring.

    Two shapes with two parameters each, one that saturates, a n / (n + b), and one that does not, a log(1 + n / b), are fitted by
    least squares to the points of resampled dev groups and resampled draws, half of the resamples each. The gain is their median,
    low and high the middle 95% of them.
    """
    rng = np.random.default_rng(seed)
    wanted = np.array([times * n_pairs for times in _AHEAD], float)
    predicted = np.array([_extrapolated(curve, wanted, rng, saturating=i % 2 == 0) for i in range(_RESAMPLES)])
    low, gain, high = np.quantile(predicted, [0.025, 0.5, 0.975], axis=0)
    rows = [
        {"pairs": int(pairs), "gain": float(g), "low": float(lo), "high": float(hi)}
        for pairs, g, lo, hi in zip(wanted, gain, low, high, strict=True)
    ]
    return {"points": _points(curve), "predicted": rows, "words": _words(rows)}


def _points(curve: Curve) -> list[dict[str, float]]:
    """The mean over the draws of every part."""
    points = []
    for part in np.unique(curve.parts):
        drawn = curve.parts == part
        gain = float(curve.gains[drawn].mean())
        points.append({"pairs": round(float(curve.pairs[drawn].mean())), PRIMARY: curve.base + gain, "gain": gain})
    return points


def _words(rows: Sequence[Mapping[str, float]]) -> str:
    now, later = rows[0], rows[-1]
    return (
        f"a quick adapter on cached vectors gains {now['gain']:+.3f} nDCG@10 on dev queries with the present {now['pairs']:,} training "
        f"pairs ({now['low']:+.3f} to {now['high']:+.3f}), and would gain {later['gain']:+.3f} ({later['low']:+.3f} to "
        f"{later['high']:+.3f}) with {_AHEAD[-1]} times as many. It only turns what the base model already sees: full training "
        "usually gains more, so take it as a lower bound in practice, not as a promise"
    )


@dataclass(frozen=True)
class _Scorer:
    """nDCG@10 of every dev query over the whole corpus, with its vector as it is or moved by an adapter."""

    qrels: Qrels
    queries: Vectors
    passage_ids: list[str]
    passages: Vectors

    def values(self, adapter: QueryAdapter | None) -> Floats:
        moved = self.queries if adapter is None else adapter(self.queries)
        ranking = search(list(self.qrels), moved, self.passage_ids, self.passages, 10)
        found = of_metric(per_query(self.qrels, ranking, [PRIMARY]), PRIMARY)
        return np.array([found.get(query, 0.0) for query in self.qrels])


def _fit(
    queries: Vectors,
    passages: Vectors,
    positives: Sequence[Sequence[int]],
    scorer: _Scorer,
    groups: Sequence[str],
    seed: int,
) -> Floats:
    """(n_dev,) nDCG@10 of the adapter, every dev query under the epoch that the other half of the dev groups chose."""
    seen: list[Floats] = []

    def score(adapter: QueryAdapter) -> float:
        seen.append(scorer.values(adapter))
        return float(seen[-1].mean())

    settings = AdapterSettings(
        epochs=_EPOCHS,
        patience=_EPOCHS,
        batch_size=max(2, math.ceil(len(queries) / _STEPS_AN_EPOCH)),
        passages_per_step=_PASSAGES_PER_STEP,
    )
    fit_query_adapter(
        queries, passages, positives, score, "linear", seed, settings, f"forecasting from {len(queries):,} queries"
    )
    by_epoch = np.stack(seen)
    first = _halves(groups, seed)
    kept = np.empty(len(groups))
    kept[first] = by_epoch[by_epoch[:, ~first].mean(axis=1).argmax()][first]
    kept[~first] = by_epoch[by_epoch[:, first].mean(axis=1).argmax()][~first]
    return kept


def _halves(groups: Sequence[str], seed: int) -> NDArray[np.bool_]:
    """Which dev queries are in the first half; a group is never cut in two. With one group all but nothing can be held apart."""
    names = list(dict.fromkeys(groups))
    order = np.random.default_rng(seed).permutation(len(names))
    first = {names[i] for i in order[: len(names) // 2]}
    return np.array([group in first for group in groups])


def _extrapolated(curve: Curve, wanted: Floats, rng: np.random.Generator, saturating: bool) -> Floats:
    """One resample's curve at the wanted numbers of pairs; never below zero, since the base is always there to be kept."""
    names, member = np.unique(curve.groups, return_inverse=True)
    times = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))[member]
    gains = curve.gains @ times / max(1, times.sum())
    fits = np.concatenate(
        [rng.choice(rows, len(rows)) for rows in map(np.flatnonzero, curve.parts == np.unique(curve.parts)[:, None])]
    )
    return np.minimum(_fitted(curve.pairs[fits], gains[fits], wanted, saturating), 1 - curve.base)


def _fitted(pairs: Floats, gains: Floats, wanted: Floats, saturating: bool) -> Floats:
    """The best curve of a shape through (pairs, gains), by least squares over a grid of bends, at `wanted`. A fit counts by its
    pairs: the curve is wanted where there are many.
    """
    bends = _BENDS[:, None] * pairs.max()

    def shape(n: Floats) -> Floats:
        rising: Floats = n / (n + bends) if saturating else np.log1p(n / bends)
        return rising

    rising = shape(pairs)
    height = np.maximum(0.0, rising @ (pairs * gains) / (rising**2 @ pairs))
    best = int(np.argmin((height[:, None] * rising - gains) ** 2 @ pairs))
    at: Floats = height[best] * shape(wanted)[best]
    return at


def _answers(dataset: Dataset, train: Qrels) -> dict[str, list[int]]:
    """Indices of the passages that answer each query; near-duplicates of an answer are answers."""
    alike: dict[str, list[int]] = {}
    for index, passage_id in enumerate(dataset.passages):
        alike.setdefault(dataset.clusters.get(passage_id, passage_id), []).append(index)
    return {
        query: [i for p, grade in judged.items() if grade > 0 for i in alike[dataset.clusters.get(p, p)]]
        for query, judged in train.items()
    }


def _haystack(dataset: Dataset, train: Qrels, dev: Qrels, rng: np.random.Generator) -> Dataset:
    """The dataset with a random part of a large corpus, and all that is judged, so that a forecast takes seconds."""
    if len(dataset.passages) <= _MOST_PASSAGES:
        return dataset
    ids = list(dataset.passages)
    judged = {passage_id for found in (*train.values(), *dev.values()) for passage_id in found}
    kept = judged | {ids[i] for i in rng.choice(len(ids), _MOST_PASSAGES, replace=False)}
    return replace(dataset, passages={i: passage for i, passage in dataset.passages.items() if i in kept})


def _drawn(qrels: Qrels, most: int, rng: np.random.Generator) -> Qrels:
    """At most so many of the queries that have an answer, in their order."""
    names = [query for query, judged in qrels.items() if any(grade > 0 for grade in judged.values())]
    if len(names) > most:
        names = [names[i] for i in sorted(rng.choice(len(names), most, replace=False))]
    return {query: qrels[query] for query in names}
