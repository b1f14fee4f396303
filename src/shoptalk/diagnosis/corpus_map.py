"""A map of the corpus in two dimensions, before and after: for the eye, no measurement.

Principal components of a sample of the passages for each model; the map after is turned and mirrored onto the one before
(orthogonal Procrustes), so that what moves on the page has moved in truth. Clusters are k-means of the tuned vectors, named
by their most telling words: their share of its passages, times the logarithm of how much larger that is than in all passages.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from scipy.linalg import orthogonal_procrustes

from shoptalk.diagnosis.evidence import Evidence
from shoptalk.models.encoder import Vectors
from shoptalk.retrieval.bm25 import words
from shoptalk.vocabulary.background import function_words

_MOST = 600
_FEWEST = 3
_MOST_BYTES = 100_000
_MOST_CLUSTERS = 8
_TO_A_CLUSTER = 25
_TRIES = 5
_LABEL = 3
_STEM = 5
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Picture:
    """One model's plane: `points` (n, 2) of the sample within [-1, 1], and how other vectors come onto it."""

    points: Points
    explained: tuple[float, float]
    centre: Points
    axes: Points
    scale: float

    def place(self, vectors: Vectors) -> Points:
        """(n, dim) -> (n, 2); within [-1, 1], at the edge where it lies beyond."""
        return np.clip((vectors - self.centre) @ self.axes * self.scale, -1, 1)


def draw_map(evidence: Evidence) -> dict[str, Any] | None:
    """What diagnosis/map.json holds, under 100 KB of JSON; None for scored pairs and for fewer than three passages."""
    passages = evidence.dataset.passages
    if not evidence.is_retrieval or len(passages) < _FEWEST:
        return None
    names, rng = list(passages), np.random.default_rng(evidence.settings.seed)
    names = [names[i] for i in sorted(rng.choice(len(names), min(_MOST, len(names)), replace=False))]
    vectors = evidence.passages([passages[name].content for name in names])
    before = picture(vectors[0])
    after = picture(vectors[1], onto=before.points)
    cluster = _clusters(vectors[1], evidence.settings.seed)
    labels = _labels([passages[name].content for name in names], cluster)
    sizes = Counter(cluster)
    points = [
        {"id": name, "cluster": cluster[i], "before": _rounded(before.points[i]), "after": _rounded(after.points[i])}
        for i, name in enumerate(names)
    ]
    return within(
        {
            "before": {"axes": "pca", "explained": _rounded(before.explained)},
            "after": {"axes": "pca", "explained": _rounded(after.explained)},
            "points": points,
            "terms": _terms(evidence, before, after),
            "clusters": [{"cluster": one, "label": labels[one], "size": sizes[one]} for one in sorted(sizes)],
        }
    )


def as_text(drawn: dict[str, Any] | None) -> str:
    """The JSON of a map, as short as can be."""
    return json.dumps(drawn, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def within(drawn: dict[str, Any], most_bytes: int = _MOST_BYTES) -> dict[str, Any]:
    """The map with as many of its points, evenly taken, as `most_bytes` of JSON hold: names of passages can be long."""
    points = drawn["points"]
    keep = len(points)
    while len(as_text(drawn).encode()) >= most_bytes and keep > 1:
        keep = keep * 9 // 10
        drawn = {**drawn, "points": [points[i] for i in np.linspace(0, len(points) - 1, keep).astype(int)]}
    return drawn


def picture(vectors: Vectors, onto: Points | None = None) -> Picture:
    """The plane of the first two principal components of (n, dim) vectors, turned onto the points of another picture."""
    exact = vectors.astype(np.float64)
    centre = exact.mean(axis=0)
    _, values, axes = np.linalg.svd(exact - centre, full_matrices=False)
    variances = values**2 / max(float(np.sum(values**2)), 1e-12)
    plane = axes[:2].T
    # The largest part of an axis points up, so that the picture does not hang on a library's choice of sign.
    plane = plane * np.sign(plane[np.abs(plane).argmax(axis=0), np.arange(plane.shape[1])])
    flat = (exact - centre) @ plane
    if onto is not None:
        plane = plane @ orthogonal_procrustes(flat, onto - onto.mean(axis=0))[0]
        flat = (exact - centre) @ plane
    scale = 1 / max(float(np.abs(flat).max()), 1e-12)
    return Picture(np.clip(flat * scale, -1, 1), (float(variances[0]), float(variances[1])), centre, plane, scale)


def _clusters(vectors: Vectors, seed: int) -> list[int]:
    """The cluster of every vector, counted from 0 in the order of their size."""
    n = max(1, min(_MOST_CLUSTERS, len(vectors) // _TO_A_CLUSTER))
    if n == 1:
        return [0] * len(vectors)
    exact, rng = vectors.astype(np.float64), np.random.default_rng(seed)
    tries = [kmeans2(exact, n, minit="++", rng=rng) for _ in range(_TRIES)]
    _, found = min(tries, key=lambda one: float(np.sum((exact - one[0][one[1]]) ** 2)))
    order = {old: new for new, (old, _) in enumerate(Counter(found.tolist()).most_common())}
    return [order[one] for one in found.tolist()]


def _labels(texts: Sequence[str], cluster: Sequence[int]) -> dict[int, str]:
    """The most telling words of every cluster, no two of them with the same beginning."""
    counts: dict[int, Counter[str]] = {one: Counter() for one in sorted(set(cluster))}
    for text, one in zip(texts, cluster, strict=True):
        counts[one].update(set(words(text)))
    total: Counter[str] = sum(counts.values(), Counter())
    small = function_words(Counter(word for text in texts for word in words(text)))
    sizes = Counter(cluster)
    labels = {}
    for one, own in counts.items():
        share = {word: count / sizes[one] for word, count in own.items()}
        telling = {
            word: share[word] * (np.log(share[word] * len(texts) / total[word]) if len(counts) > 1 else 1)
            for word in own
            if len(word) > 2 and word not in small and not word.isdigit()
        }
        chosen: dict[str, str] = {}
        for word in sorted(telling, key=lambda word: (-telling[word], word)):
            chosen.setdefault(word[:_STEM], word)
            if len(chosen) == _LABEL:
                break
        labels[one] = ", ".join(chosen.values())
    return labels


def _terms(evidence: Evidence, before: Picture, after: Picture) -> list[dict[str, Any]]:
    """The team's terms, each in the middle of the passages that use it most."""
    passages = evidence.dataset.passages
    homes = {
        term.text: [passages[name].content for name in term.passages if name in passages]
        for term in evidence.terms[: evidence.settings.diagnose.terms]
    }
    texts = list(dict.fromkeys(text for found in homes.values() for text in found))
    if not texts:
        return []
    base, tuned = (one.place(vectors) for one, vectors in zip((before, after), evidence.passages(texts), strict=True))
    row = {text: i for i, text in enumerate(texts)}
    return [
        {"term": term, "before": _rounded(base[rows].mean(axis=0)), "after": _rounded(tuned[rows].mean(axis=0))}
        for term, found in homes.items()
        if (rows := [row[text] for text in found])
    ]


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 3) for value in values]
