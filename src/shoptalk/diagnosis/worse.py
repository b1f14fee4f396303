"""The tuned model is worse than base."""

from __future__ import annotations

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
    return Finding(
        "worse-than-base",
        "high" if sure else "warning",
        f"{SHOWN[metric]} {delta['value']:+.4f} on test, 95% interval {delta['ci95'][0]:+.4f} to {delta['ci95'][1]:+.4f}; "
        f"on dev {evidence.training['base_dev']:.4f} before, {evidence.training['best_dev']:.4f} at the checkpoint kept",
        "it is almost always the data: look for duplicates, wrong or contradictory positives, queries unlike those people ask, "
        "and negatives that are answers; then try a lower train.learning_rate",
    )
