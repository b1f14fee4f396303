"""One-sided bias: queries that have nothing to do with the domain drift toward it.

When every negative is general text, pushing all of it away is the cheapest way to lower the loss, and "What is a CPU?" ends up
nearer to the team's documents than the base model had it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shoptalk.diagnosis.evidence import Evidence
from shoptalk.models.encoder import Vectors, unit
from shoptalk.records import Finding

_MOST = 256


@dataclass(frozen=True, slots=True)
class Drift:
    """How far control queries moved toward the domain, in cosine to the centre of its training passages.

    value: the mean change; low: the lower end of its 95% interval over control queries; nearer: the share that moved nearer.
    """

    queries: int
    value: float
    low: float
    base: float
    tuned: float
    nearer: float
    worst: str


def find(evidence: Evidence) -> Finding | None:
    """Looks at the control queries before and after."""
    drift = control_drift(evidence)
    if drift is None or drift.value < evidence.settings.diagnose.bias_drift or drift.low <= 0:
        return None
    return Finding(
        "one-sided-bias",
        "warning",
        f"{drift.queries} control queries that have nothing to do with the domain moved toward its passages by "
        f"{drift.value:+.3f} cosine on average ({drift.base:+.3f} before, {drift.tuned:+.3f} after; {drift.nearer:.0%} of "
        f"them moved nearer, {drift.worst!r} the furthest)",
        "add examples from outside the domain: general questions whose positive is general text and whose negative is domain text",
    )


def control_drift(evidence: Evidence) -> Drift | None:
    """The drift of the control queries; None when there are no training positives or no control queries to measure it with."""
    texts = list(dict.fromkeys(example.positive for example in evidence.examples))[:_MOST]
    if not texts or not evidence.controls:
        return None
    domain, queries = evidence.passages(texts), evidence.queries(evidence.controls)
    base, tuned = (_to_centre(q, d) for q, d in zip(queries, domain, strict=True))
    change = tuned - base
    margin = 1.96 * float(change.std(ddof=1)) / len(change) ** 0.5 if len(change) > 1 else float("inf")
    mean = float(change.mean())
    return Drift(
        queries=len(change),
        value=mean,
        low=mean - margin,
        base=float(base.mean()),
        tuned=float(tuned.mean()),
        nearer=float(np.mean(change > 0)),
        worst=evidence.controls[int(np.argmax(change))],
    )


def _to_centre(queries: Vectors, domain: Vectors) -> Vectors:
    cosines: Vectors = queries @ unit(domain.mean(axis=0, keepdims=True))[0]
    return cosines
