"""A test set too small to tell what was gained."""

from __future__ import annotations

import math

from shoptalk.diagnosis.evidence import Evidence
from shoptalk.records import Finding
from shoptalk.retrieval.metrics import SHOWN


def find(evidence: Evidence) -> Finding | None:
    """Looks at how wide the interval of the gain is, and at the number of test queries."""
    metric = evidence.comparison["metric"]
    delta = evidence.comparison["delta"][metric]
    low, high = delta["ci95"]
    n = int(evidence.comparison.get("queries", 0))
    half, allowed = (high - low) / 2, evidence.settings.diagnose.wide_interval
    fewest = evidence.settings.evaluate.min_test
    too_few, unsure = 0 < n < fewest, low <= 0 <= high
    if not too_few and (half <= allowed or not n):
        return None
    unit = "test pairs" if metric == "spearman" else "test queries"
    groups = evidence.comparison.get("groups", n)
    needed = math.ceil(max(n * (half / allowed) ** 2, fewest))
    return Finding(
        "small-test",
        "warning" if too_few or unsure else "info",
        f"{n} {unit} in {groups} groups: the 95% interval of the gain in {SHOWN[metric]} is {low:+.3f} to {high:+.3f}, {half:.3f} to "
        f"either side{'' if unsure else '; the gain is clear, how large it is is not'}",
        f"collect more {unit}, answered by passages that the others do not ask for: about {needed:,} would bring the interval to "
        f"{allowed:g} to either side",
    )
