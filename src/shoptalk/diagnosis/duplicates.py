"""Many near-duplicate passages: whichever of them is found, another is judged to be the answer."""

from __future__ import annotations

from shoptalk.diagnosis.evidence import Evidence
from shoptalk.records import Finding


def find(evidence: Evidence) -> Finding | None:
    """Looks at the share of passages that have a near-duplicate."""
    n = evidence.audit["passages"]
    twins = evidence.audit.get("passages_in_near_duplicate_clusters", 0)
    if not n or twins / n < evidence.settings.diagnose.duplicate_share:
        return None
    return Finding(
        "duplicates",
        "warning",
        f"{twins:,} of {n:,} passages ({twins / n:.0%}) have a near-duplicate in the corpus",
        "remove copies before indexing, or judge all copies as relevant; metrics on such a corpus are too low for every model",
    )
