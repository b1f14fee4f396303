"""One-sided bias: queries that have nothing to do with the domain drift toward it.

When every negative is general text, pushing all of it away is the cheapest way to lower the loss, and "What is a CPU?" ends up
nearer to the team's documents than the base model had it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from shoptalk.diagnosis.controls import made_controls
from shoptalk.diagnosis.evidence import Evidence
from shoptalk.models.encoder import Vectors, unit
from shoptalk.records import Finding
from shoptalk.retrieval.bm25 import words

_MOST = 256
_FEWEST_MADE = 5


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
    """Looks at the control queries before and after: the user's or the shipped ones, and those made for this corpus."""
    drifts = {"": control_drift(evidence), " made for this corpus": made_drift(evidence)}
    limit = evidence.settings.diagnose.bias_drift
    found = {kind: drift for kind, drift in drifts.items() if drift and drift.value >= limit and drift.low > 0}
    if not found:
        return None
    return Finding(
        "one-sided-bias",
        "warning",
        "; ".join(_words(kind, drift) for kind, drift in found.items()),
        "add examples from outside the domain: general questions whose positive is general text and whose negative is domain text",
    )


def _words(kind: str, drift: Drift) -> str:
    return (
        f"{drift.queries} control queries{kind} that have nothing to do with the domain moved toward its passages by "
        f"{drift.value:+.3f} cosine on average ({drift.base:+.3f} before, {drift.tuned:+.3f} after; {drift.nearer:.0%} of "
        f"them moved nearer, {drift.worst!r} the furthest)"
    )


def control_drift(evidence: Evidence) -> Drift | None:
    """The drift of the control queries; None when there are no training positives or no control queries to measure it with."""
    return _drift(evidence, evidence.controls)


def made_drift(evidence: Evidence) -> Drift | None:
    """The same for questions about general words that stand in none of the corpus's texts that are looked at."""
    n = evidence.settings.diagnose.made_controls
    if not n or not evidence.examples or evidence.background is None:
        return None
    texts = [*evidence.sample, *evidence.asked[:_MOST], *_positives(evidence)]
    known = {word for text in texts for word in words(text)}
    languages = Counter(passage.language for passage in evidence.dataset.passages.values() if passage.language)
    english = not languages or languages.most_common(1)[0][0] == "en"
    rng = np.random.default_rng(evidence.settings.seed)
    made = made_controls(evidence.background, known, n, rng, english)
    return _drift(evidence, made) if len(made) >= _FEWEST_MADE else None


def _positives(evidence: Evidence) -> list[str]:
    return list(dict.fromkeys(example.positive for example in evidence.examples))[:_MOST]


def _drift(evidence: Evidence, controls: list[str]) -> Drift | None:
    texts = _positives(evidence)
    if not texts or not controls:
        return None
    domain, queries = evidence.passages(texts), evidence.queries(controls)
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
        worst=controls[int(np.argmax(change))],
    )


def _to_centre(queries: Vectors, domain: Vectors) -> Vectors:
    cosines: Vectors = queries @ unit(domain.mean(axis=0, keepdims=True))[0]
    return cosines
