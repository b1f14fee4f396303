"""How sure a difference is: paired bootstrap interval and paired permutation p-value, both over groups of queries.

Queries on one passage rise and fall together, so the group (passage cluster), not the query, is drawn. Engine: scipy.
The percentile interval is widened as Hesterberg (2015, "What Teachers Should Know About the Bootstrap", section 3.4)
advises, because a bootstrap of n groups is too narrow by sqrt((n - 1) / n) and ignores that the spread is estimated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from shoptalk.records import Delta

Floats = NDArray[np.float64]
_BATCH = 500
_CLEARLY = 2.0


def mean_with_interval(values: Mapping[str, float], groups: Mapping[str, str], resamples: int, seed: int) -> Delta:
    """The mean of per-query values with its 95% interval; p is that of "the mean is zero" (sign flips by group)."""
    return paired_delta(dict.fromkeys(values, 0.0), values, groups, resamples, seed)


def paired_delta(
    base: Mapping[str, float],
    other: Mapping[str, float],
    groups: Mapping[str, str],
    resamples: int,
    seed: int,
) -> Delta:
    """other - base over the same queries. Two identical systems give a delta of exactly 0, interval [0, 0], p 1.

    base, other: query id -> value, same keys. groups: query id -> unit of chance; a query without one is its own.
    """
    if base.keys() != other.keys():
        raise ValueError("both systems must be measured on the same queries")
    if not base:
        return Delta(0.0, (0.0, 0.0), 1.0)
    sums, sizes = _by_group({q: other[q] - base[q] for q in base}, groups)
    value = float(sums.sum() / sizes.sum())
    if not np.any(sums):
        return Delta(value, (0.0, 0.0) if value == 0 else (value, value), 1.0)
    if len(sums) == 1:
        return Delta(value, (-1.0, 1.0), 1.0)  # one unit of chance says nothing about chance
    low, high = _interval((sums, sizes), _ratio, len(sums), resamples, seed)
    return Delta(value, (low, high), _sign_flip_p(sums, resamples, seed))


def clearly_higher(one: Mapping[str, float], two: Mapping[str, float], groups: Mapping[str, str]) -> bool:
    """Whether one is ahead of two by more than two standard errors: the rule by which dev chooses (docs/experiments.md,
    checkpoint-choice). Two, since what is asked about is usually the highest of several.
    """
    difference, error = paired_difference(one, two, groups)
    return difference > _CLEARLY * error


def paired_difference(
    one: Mapping[str, float], two: Mapping[str, float], groups: Mapping[str, str]
) -> tuple[float, float]:
    """The mean of one minus two over their queries, and its standard error with groups as the unit of chance.

    Source: the linearised variance of a mean over clusters, Cochran 1977, chapter 9. A single group has an infinite error.
    """
    differences = np.array([one[query] - two[query] for query in one])
    mean = float(differences.mean())
    names = {name: i for i, name in enumerate(dict.fromkeys(groups.get(query, query) for query in one))}
    if len(names) < 2:
        return mean, float("inf")
    sums = np.zeros(len(names))
    np.add.at(sums, [names[groups.get(query, query)] for query in one], differences - mean)
    variance = float((sums**2).sum()) * len(names) / (len(names) - 1)
    return mean, variance**0.5 / len(differences)


def spearman_delta(
    gold: Sequence[float],
    base: Sequence[float],
    other: Sequence[float],
    groups: Sequence[str],
    resamples: int,
    seed: int,
) -> Delta:
    """Spearman(gold, other) - Spearman(gold, base), groups of pairs resampled; p by swapping the systems within groups.

    gold, base, other, groups: one entry a pair.
    """
    g, b, o = (np.asarray(column, float) for column in (gold, base, other))
    value = correlation(g, o) - correlation(g, b)
    if np.array_equal(b, o):
        return Delta(0.0, (0.0, 0.0), 1.0)
    members = [np.flatnonzero(np.asarray(groups) == name) for name in dict.fromkeys(groups)]
    if len(members) == 1:
        return Delta(float(value), (-2.0, 2.0), 1.0)  # one unit of chance says nothing about chance
    rng = np.random.default_rng(seed)
    n = min(resamples, 2_000)
    drawn = np.empty(n)
    swapped = np.empty(n)
    for i in range(n):
        rows = np.concatenate([members[j] for j in rng.integers(0, len(members), len(members))])
        drawn[i] = correlation(g[rows], o[rows]) - correlation(g[rows], b[rows])
        flip = np.zeros(len(g), bool)
        for j in np.flatnonzero(rng.random(len(members)) < 0.5):
            flip[members[j]] = True
        swapped[i] = correlation(g, np.where(flip, b, o)) - correlation(g, np.where(flip, o, b))
    tail = _tail(len(members))
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    p = (1 + int(np.sum(np.abs(swapped) >= abs(value) - 1e-12))) / (n + 1)
    return Delta(float(value), (float(low), float(high)), float(p))


def correlation(left: Floats, right: Floats) -> float:
    """Spearman's rank correlation; 0 where one side is constant."""
    if len(left) < 2 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return 0.0
    ranks = np.corrcoef(stats.rankdata(left), stats.rankdata(right))
    return float(ranks[0, 1])


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction (1979): p-values that hold for all named tests together."""
    order = sorted(p_values, key=lambda name: p_values[name])
    corrected: dict[str, float] = {}
    running = 0.0
    for rank, name in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p_values[name]))
        corrected[name] = running
    return {name: corrected[name] for name in p_values}


def _by_group(values: Mapping[str, float], groups: Mapping[str, str]) -> tuple[Floats, Floats]:
    """Sum and number of the values in every group, in order of first appearance."""
    place: dict[str, int] = {}
    sums: list[float] = []
    sizes: list[float] = []
    for query, value in values.items():
        index = place.setdefault(groups.get(query, query), len(place))
        if index == len(sums):
            sums.append(0.0)
            sizes.append(0.0)
        sums[index] += value
        sizes[index] += 1
    return np.array(sums), np.array(sizes)


def _ratio(sums: Floats, sizes: Floats, axis: int = -1) -> Floats:
    ratio: Floats = sums.sum(axis=axis) / sizes.sum(axis=axis)
    return ratio


def _tail(n_groups: int) -> float:
    """The tail probability whose percentile interval has 95% coverage at n groups (Hesterberg's expansion)."""
    n = max(2, n_groups)
    return float(stats.norm.cdf(np.sqrt(n / (n - 1)) * stats.t.ppf(0.025, n - 1)))


def _interval(
    data: tuple[Floats, ...], statistic: Callable[..., Floats], n_groups: int, resamples: int, seed: int
) -> tuple[float, float]:
    found = stats.bootstrap(
        data,
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        batch=_BATCH,
        confidence_level=1 - 2 * _tail(n_groups),
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _sign_flip_p(sums: Floats, resamples: int, seed: int) -> float:
    """Two-sided, as scipy's permutation test of paired samples counts it, which takes the few groups: all their flips are looked at."""
    if 2 ** len(sums) <= resamples:
        return float(stats.permutation_test((sums,), _total, permutation_type="samples", vectorized=True).pvalue)
    # Many groups: the same count over random flips by a matrix product, ten times as fast as scipy's permuting of every row.
    rng, observed = np.random.default_rng(seed), float(sums.sum())
    near = 1e-14 * abs(observed)
    above = below = 0
    for start in range(0, resamples, _BATCH):
        flips = rng.integers(0, 2, (min(_BATCH, resamples - start), len(sums)), np.int8)
        drawn = (2.0 * flips - 1.0) @ sums
        above += int(np.count_nonzero(drawn >= observed - near))
        below += int(np.count_nonzero(drawn <= observed + near))
    return min(1.0, 2 * (min(above, below) + 1) / (resamples + 1))


def _total(sums: Floats, axis: int) -> Floats:
    total: Floats = np.sum(sums, axis=axis)
    return total
