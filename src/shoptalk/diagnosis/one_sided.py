"""One-sided bias: queries that have nothing to do with the domain drift toward it.

When every negative is general text, pushing all of it away is the cheapest way to lower the loss, and "What is a CPU?" ends up
nearer to the team's documents than the base model had it.
"""

from __future__ import annotations

import numpy as np

from shoptalk.diagnosis.evidence import Evidence
from shoptalk.models.encoder import Vectors, unit
from shoptalk.records import Finding

_MOST = 256


def find(evidence: Evidence) -> Finding | None:
    """Looks at control queries: their mean cosine to the domain's training passages, before and after."""
    drift = control_drift(evidence)
    if drift is None or drift["value"] < evidence.settings.diagnose.bias_drift or drift["low"] <= 0:
        return None
    return Finding(
        "one-sided-bias",
        "warning",
        f"{drift['queries']} control queries that have nothing to do with the domain moved toward its passages by "
        f"{drift['value']:+.3f} cosine on average ({drift['base']:+.3f} before, {drift['tuned']:+.3f} after; {drift['nearer']:.0%} of them "
        f"moved nearer; the furthest: {drift['worst']!r})",
        "add examples from outside the domain: general questions whose positive is general text and whose negative is domain text",
    )


def control_drift(evidence: Evidence) -> dict[str, object] | None:
    """How far the control queries moved toward the domain; None when there is nothing to compare with.

    The domain is the distinct training positives. value: mean change in cosine to their centre; low: lower end of its 95%
    interval over control queries.
    """
    texts = list(dict.fromkeys(example.positive for example in evidence.examples))[:_MOST]
    if not texts or not evidence.controls:
        return None
    domain, queries = evidence.passages(texts), evidence.queries(evidence.controls)
    base, tuned = (_to_centre(q, d) for q, d in zip(queries, domain, strict=True))
    change = tuned - base
    margin = 1.96 * float(change.std(ddof=1)) / len(change) ** 0.5 if len(change) > 1 else float("inf")
    return {
        "queries": len(change),
        "value": float(change.mean()),
        "low": float(change.mean()) - margin,
        "base": float(base.mean()),
        "tuned": float(tuned.mean()),
        "nearer": float(np.mean(change > 0)),
        "worst": evidence.controls[int(np.argmax(change))],
    }


def _to_centre(queries: Vectors, domain: Vectors) -> Vectors:
    cosines: Vectors = queries @ unit(domain.mean(axis=0, keepdims=True))[0]
    return cosines
