"""Collapse and anisotropy: vectors that crowd into a cone or into few dimensions, so that everything looks alike.

Measured by the mean cosine of random pairs and by the effective rank, which is the exponential of the entropy of the singular
values. Source: Ethayarajh 2019 (anisotropy); Roy and Vetterli 2007 (effective rank); Jing et al. 2022 (dimensional collapse).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shoptalk.diagnosis.evidence import Evidence
from shoptalk.models.encoder import Vectors
from shoptalk.records import Finding

_MOST = 512
_FEWEST = 20
_COLLAPSED = 0.9


@dataclass(frozen=True, slots=True)
class Spread:
    """cosine: the mean over all pairs of different texts; rank: how many dimensions the vectors in effect fill."""

    cosine: float
    rank: float


def spread(vectors: Vectors) -> Spread:
    """vectors: (n, dim), unit length, n of 2 or more."""
    exact = vectors.astype(np.float64)
    total = exact.sum(axis=0)
    cosine = (total @ total - np.sum(exact * exact)) / (len(exact) * (len(exact) - 1))
    values = np.linalg.svd(exact - exact.mean(axis=0), compute_uv=False)
    shares = values / max(values.sum(), 1e-12)
    shares = shares[shares > 1e-12]
    return Spread(float(cosine), float(np.exp(-np.sum(shares * np.log(shares)))) if len(shares) else 1.0)


def find(evidence: Evidence) -> Finding | None:
    """Looks at a sample of the corpus, and at training queries, whose vectors an adapter may move alone."""
    found = []
    for what, texts in (("passages", evidence.sample), ("queries", evidence.asked[:_MOST])):
        if len(set(texts)) < _FEWEST:
            continue
        unique = list(dict.fromkeys(texts))
        vectors = evidence.passages(unique) if what == "passages" else evidence.queries(unique)
        before, after = (spread(one) for one in vectors)
        if (severity := _severity(before, after, evidence)) is not None:
            found.append((severity, _words(what, len(unique), before, after)))
    if not found:
        return None
    return Finding(
        "collapse",
        "high" if any(severity == "high" for severity, _ in found) else "warning",
        "; ".join(words for _, words in found),
        "the model tells texts apart less well than before: lower train.learning_rate or train.epochs, use a contrastive loss with "
        "more different examples in a batch (train.batch_size), and look for one text that stands in most training examples",
    )


def _severity(before: Spread, after: Spread, evidence: Evidence) -> str | None:
    settings = evidence.settings.diagnose
    # Of what was left to 1, since many base models begin high.
    crowded = after.cosine - before.cosine >= settings.crowding * (1 - before.cosine)
    flat = after.rank < settings.rank_left * before.rank
    if (crowded and after.cosine >= _COLLAPSED) or after.rank < settings.rank_left / 2 * before.rank:
        return "high"
    return "warning" if crowded or flat else None


def _words(what: str, n: int, before: Spread, after: Spread) -> str:
    return (
        f"the mean cosine of two random {what} (of {n}) went from {before.cosine:+.3f} to {after.cosine:+.3f}, their effective rank "
        f"from {before.rank:.0f} to {after.rank:.0f} dimensions"
    )
