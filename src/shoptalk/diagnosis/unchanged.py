"""Embeddings that did not move: nothing was trained, or something else than the trained model was evaluated."""

from __future__ import annotations

import numpy as np

from shoptalk.diagnosis.evidence import Evidence
from shoptalk.records import Finding

_QUERIES = 200


def find(evidence: Evidence) -> Finding | None:
    """Looks at the mean cosine of base to tuned over a sample of the corpus, and over training queries: a query-side adapter
    moves nothing else.
    """
    base, tuned = evidence.passages(evidence.sample)
    if base.shape != tuned.shape:
        return None
    cosine = float(np.mean(np.sum(base * tuned, axis=1)))
    if evidence.examples:
        before, after = evidence.queries([example.anchor for example in evidence.examples[:_QUERIES]])
        cosine = min(cosine, float(np.mean(np.sum(before * after, axis=1))))
    if cosine < evidence.settings.diagnose.unchanged_cosine:
        return None
    return Finding(
        "unchanged-embeddings",
        "high",
        f"the mean cosine between base and tuned embeddings of {len(base)} texts is {cosine:.5f}",
        "the learning rate is too low, there were too few steps, or the wrong checkpoint was loaded; raise train.learning_rate "
        "or train.epochs",
    )
