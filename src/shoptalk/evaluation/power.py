"""How small a gain a test set can show, before anything is trained.

A paired test over groups (passage clusters) of queries sees a gain d when d is large against sd / sqrt(groups), sd being the spread
of the groups' paired differences. That of a tuned model against its base is not known yet; that of BM25 fused with the base against
the base is, on train and dev queries, and stands in for it: an approximation, and the words say so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

ALPHA = 0.05
POWER = 0.80
_FOR_GAIN = 0.02


def paired_spread(base: Mapping[str, float], other: Mapping[str, float], groups: Mapping[str, str]) -> float:
    """The standard deviation over groups of what each adds to the mean paired difference, so that the standard error of that mean
    is it over sqrt(groups). Groups may differ in size: the mean is a ratio, linearised (Cochran 1977, section 6.3). 0 where fewer
    than two groups are.

    base, other: query id -> value, same keys. groups: query id -> unit of chance; a query without one is its own.
    """
    by_group: dict[str, list[float]] = {}
    for query, before in base.items():
        by_group.setdefault(groups.get(query, query), []).append(other[query] - before)
    if len(by_group) < 2:
        return 0.0
    sums = np.array([sum(found) for found in by_group.values()])
    sizes = np.array([len(found) for found in by_group.values()])
    return float(np.std((sums - sums.sum() / sizes.sum() * sizes) / sizes.mean(), ddof=1))


def detectable(sd: float, n_groups: int) -> float:
    """The smallest gain that `n_groups` groups show with 80% power at a two-sided alpha of 0.05, by Student's t."""
    return _factor(n_groups) * sd / math.sqrt(n_groups)


def groups_needed(sd: float, gain: float) -> int:
    """The smallest number of groups, two or more, for which `detectable` is `gain` or less."""
    n = max(2, math.ceil((_factor(1_000_000) * sd / gain) ** 2))
    while detectable(sd, n) > gain:  # a few steps: Student's t is the normal's but for small n
        n += 1
    return n


def _factor(n_groups: int) -> float:
    freedom = max(1, n_groups - 1)
    return float(stats.t.ppf(1 - ALPHA / 2, freedom) + stats.t.ppf(POWER, freedom))


def power_of(sd: float, n_queries: int, n_groups: int, origin: str) -> dict[str, Any] | None:
    """gate.json's "power" for a test set of so many queries in so many groups; None where there is no spread to go by.

    origin: what was compared to get the spread, in words.
    """
    if sd <= 0 or n_queries < 2 or n_groups < 2:
        return None
    smallest = detectable(sd, n_groups)
    needed = math.ceil(groups_needed(sd, _FOR_GAIN) * n_queries / n_groups)
    more = max(0, needed - n_queries)
    enough = (
        f"for {_FOR_GAIN:+g} it would take about {more:,} more queries"
        if more
        else f"that is enough for {_FOR_GAIN:+g}"
    )
    return {
        "test_queries": n_queries,
        "groups": n_groups,
        "sd": sd,
        "detectable": smallest,
        "for_gain": _FOR_GAIN,
        "queries_needed": needed,
        "more_needed": more,
        "words": (
            f"a true gain of {smallest:+.3f} or more shows on this test set ({n_queries:,} queries in {n_groups:,} groups) in four of "
            f"five cases; {enough}. An approximation: the spread is that of {origin}, and a tuned model's may differ"
        ),
    }
