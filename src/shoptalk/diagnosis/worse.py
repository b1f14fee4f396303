"""The tuned model is worse than base, and why that is likely so."""

from __future__ import annotations

from shoptalk.diagnosis.causes import first_cause
from shoptalk.diagnosis.evidence import Evidence
from shoptalk.records import Finding
from shoptalk.retrieval.metrics import SHOWN


def find(evidence: Evidence) -> Finding | None:
    """High when the interval lies below zero; a warning when only the value, or the dev score, does."""
    metric = evidence.comparison["metric"]
    delta = evidence.comparison["delta"][metric]
    dev_fell = evidence.training["best_dev"] < evidence.training["base_dev"]
    if delta["value"] >= 0 and not dev_fell:
        return None
    sure = delta["ci95"][1] < 0
    cause = first_cause(evidence)
    return Finding(
        "worse-than-base",
        "high" if sure else "warning",
        f"{SHOWN[metric]} {delta['value']:+.4f} on test, 95% interval {delta['ci95'][0]:+.4f} to {delta['ci95'][1]:+.4f}; "
        f"on dev {evidence.training['base_dev']:.4f} before, {evidence.training['best_dev']:.4f} at the checkpoint kept; "
        + (
            f"the likely cause is {cause.name}: {cause.shown}"
            if cause
            else "of the usual causes (duplicates, contradictory or wrong positives, off-style queries, false negatives) none shows"
        ),
        f"{cause.advice}; then train again"
        if cause
        else "try a lower train.learning_rate or fewer epochs, and read a sample of the training pairs: it is almost always the data",
    )
