"""Hub passages: a few passages that are found for many queries which they do not answer.

In many dimensions some points are near to all others; training can make it worse. Measured by how often a passage is among the
ten best of queries that it does not answer (k-occurrence), and by the skewness of that. Source: Radovanović et al. 2010.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from scipy import stats

from shoptalk.diagnosis.evidence import DEPTH, Evidence
from shoptalk.records import Finding, Ranking

_FEWEST_QUERIES = 50
_ABOVE_MEAN = 8
_NAMED = 3
_WORSE = 1.5


def find(evidence: Evidence) -> Finding | None:
    """Looks at the ten best passages of train and dev queries before and after."""
    if not evidence.is_retrieval or sum(map(len, evidence.judged.qrels.values())) < _FEWEST_QUERIES:
        return None
    base, tuned = evidence.found
    before, after = _unasked(base, evidence), _unasked(tuned, evidence)
    n, n_passages = len(tuned), len(evidence.judged.passages)
    limit = n * max(evidence.settings.diagnose.hub_share, _ABOVE_MEAN * DEPTH / n_passages)
    hubs = [name for name, count in after.most_common() if count >= limit]
    if not hubs:
        return None
    skews = _skew(before, n_passages), _skew(after, n_passages)
    # A team's questions are often on few subjects, whose passages then come up together; a hub that training made also makes
    # the whole distribution more skewed.
    made = skews[1] > skews[0] and any(after[name] > _WORSE * before[name] for name in hubs)
    named = ", ".join(
        f"{_title(name, evidence)!r} ({before[name]} before, {after[name]} after)" for name in hubs[:_NAMED]
    )
    return Finding(
        "hub-passages",
        "warning" if made else "info",
        f"{len(hubs)} of {n_passages:,} passages are among the ten best of {limit / n:.0%} or more of {n:,} train and dev queries that "
        f"they do not answer: {named}; skewness of how often passages are found {skews[0]:.1f} before, "
        f"{skews[1]:.1f} after",
        "look at these passages: a page of headings, boilerplate or a glossary is better left out of the index or cut up; if training "
        "made them, add queries for which they are hard negatives (negatives.mine), or train with fewer epochs",
    )


def _unasked(ranking: Ranking, evidence: Evidence) -> Counter[str]:
    """How often every passage was found for queries that it does not answer."""
    judged = {query: found for split in evidence.judged.qrels.values() for query, found in split.items()}
    return Counter(
        passage
        for query, found in ranking.items()
        for passage, _ in found[:DEPTH]
        if judged[query].get(passage, 0) <= 0
    )


def _skew(counts: Counter[str], n_passages: int) -> float:
    values = np.zeros(n_passages)
    values[: len(counts)] = list(counts.values())
    return float(stats.skew(values)) if np.ptp(values) else 0.0


def _title(name: str, evidence: Evidence) -> str:
    passage = evidence.dataset.passages[name]
    return (passage.title or passage.text)[:60].strip()
