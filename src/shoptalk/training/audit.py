"""How good mined negatives are: how many of them are likely to be answers, where they stood, how near to the answers they score.

The rate of false negatives is estimated from the labels themselves: an answer that is known is held back, and mining is asked
whether it would have taken it. That is done with other answers of a query and with near-duplicates of one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoptalk.records import Dataset
from shoptalk.settings import NegativeSettings
from shoptalk.training.mining import Candidate, KnownAnswers, Mined, Mining, Own, Searched, ceiling_under, mixed

MARGINS = (0.8, 0.9, 0.95, 0.98, 1.0)
"""Shares of the positive's score that are tried beside the one in the settings."""
_MOST_TRIALS = 2_000
_RANKS = (1, 3, 5, 10, 20, 50)
_SHARES = np.linspace(0, 1, 21)


@dataclass(frozen=True)
class _Trial:
    """A query with answers that mining is not told of: its candidates by the model and by BM25, whatever they score."""

    held_back: frozenset[str]
    lowest: float
    by_model: Sequence[Candidate]
    lexical: Sequence[Candidate]
    n_lexical: int


def audit(mining: Mining, dataset: Dataset, settings: NegativeSettings, rng: np.random.Generator) -> dict[str, Any]:
    """What examples/audit.json says of the mined negatives, with a sentence in plain words. `rng` draws the trials.

    A judge, where there was one, is not asked again: the estimate is that of the margin alone.
    """
    mined, searched = mining.mined, mining.searched
    known = KnownAnswers(dataset, settings)
    answers = _measured(_answers_held_back(searched, known, dataset, settings, rng), dataset, settings)
    copies = _measured(_copies_held_back(searched, known, dataset, settings, rng), dataset, settings)
    short = sum(count < settings.number for count in map(len, mining.by_query.values()))
    found: dict[str, Any] = {
        "settings": settings.model_dump(mode="json"),
        "queries": len(searched.query_ids),
        "mined": len(mined),
        "queries_with_fewer": short,
        "by_source": dict(Counter(negative.source for negative in mined)),
        "candidates_left_out": dict(sorted(mining.left_out.items())),
        "ranks": _ranks(mined),
        "shares": _shares(mined),
        "false_negatives": {"other_answers": answers, "near_duplicates": copies},
    }
    return found | {"sentence": _sentence(found, settings)}


def _answers_held_back(
    searched: Searched, known: KnownAnswers, dataset: Dataset, settings: NegativeSettings, rng: np.random.Generator
) -> Iterator[_Trial]:
    """Each answer of a query that has another one, which is no near-duplicate of it."""
    trials = []
    for row, positives in enumerate(searched.positives):
        clusters = Counter(dataset.clusters[name] for name in positives)
        if len(clusters) > 1:
            trials += [(row, name) for name in positives if clusters[dataset.clusters[name]] == 1]
    for row, name in _sample(trials, rng):
        lowest = min(score for other, score in searched.positives[row].items() if other != name)
        own = known.of(searched.query_ids[row], without=name)
        yield _trial(searched, row, own, frozenset({name}), lowest, settings, rng)


def _copies_held_back(
    searched: Searched, known: KnownAnswers, dataset: Dataset, settings: NegativeSettings, rng: np.random.Generator
) -> Iterator[_Trial]:
    """The near-duplicates, not judged themselves, of a query's answers; mining is not told which passages are copies."""
    members: dict[str, list[str]] = {}
    for name, cluster in dataset.clusters.items():
        members.setdefault(cluster, []).append(name)
    trials = []
    for row, positives in enumerate(searched.positives):
        clusters = dict.fromkeys(dataset.clusters[name] for name in positives)
        copies = {name for cluster in clusters for name in members[cluster]} - set(positives)
        if copies:
            trials.append((row, frozenset(copies)))
    for row, copies in _sample(trials, rng):
        own = known.of(searched.query_ids[row], copies_known=False)
        yield _trial(searched, row, own, frozenset(copies), min(searched.positives[row].values()), settings, rng)


def _sample(trials: list[Any], rng: np.random.Generator) -> list[Any]:
    if len(trials) <= _MOST_TRIALS:
        return trials
    return [trials[i] for i in sorted(rng.choice(len(trials), _MOST_TRIALS, replace=False))]


def _trial(
    searched: Searched,
    row: int,
    own: Own,
    held_back: frozenset[str],
    lowest: float,
    settings: NegativeSettings,
    rng: np.random.Generator,
) -> _Trial:
    rankings = [
        [candidate for candidate in own.sift(ranked, float("inf")) if not candidate.left_out]
        for ranked in (searched.by_model(row), searched.bm25[row])
    ]
    n_lexical = int(settings.number * settings.bm25_share + rng.random())
    return _Trial(held_back, lowest, rankings[0], rankings[1], n_lexical)


def _measured(trials: Iterator[_Trial], dataset: Dataset, settings: NegativeSettings) -> dict[str, Any]:
    """How often what was held back is among what would be mined, by margin (None: no margin at all)."""
    margins: list[float | None] = [*sorted({*MARGINS, settings.margin}), None]
    n, taken, slots = 0, dict.fromkeys(margins, 0), dict.fromkeys(margins, 0)
    for trial in trials:
        n += 1
        for margin in margins:
            ceiling = float("inf") if margin is None else ceiling_under(trial.lowest, settings, margin)
            by_model = [one for one in trial.by_model if one.score < ceiling]
            lexical = [one for one in trial.lexical if one.score < ceiling]
            chosen = mixed(by_model, lexical, settings.number, trial.n_lexical, dataset)
            taken[margin] += any(candidate.passage_id in trial.held_back for candidate, _ in chosen)
            slots[margin] += len(chosen)
    return {
        "trials": n,
        "by_margin": [
            {"margin": margin, "taken": taken[margin], "mined": slots[margin]} | _rate(taken[margin], n, slots[margin])
            for margin in margins
        ]
        if n
        else [],
    }


def _rate(taken: int, trials: int, mined: int) -> dict[str, Any]:
    """`rate`: how often what was held back is taken, with Wilson's interval. `share_of_mined`: how many of the mined it is."""
    from scipy.stats import binomtest

    interval = binomtest(taken, trials).proportion_ci(method="wilson")
    return {
        "rate": taken / trials,
        "ci95": [float(interval.low), float(interval.high)],
        "share_of_mined": taken / mined if mined else 0.0,
    }


def _ranks(mined: Sequence[Mined]) -> dict[str, Any]:
    """Where mined negatives stood in the ranking they were found in: the median, and how many stood up to which rank."""
    ranks = np.array([negative.rank for negative in mined])
    if not len(ranks):
        return {"median": None, "counts": []}
    edges = [*(edge for edge in _RANKS if edge < ranks.max()), int(ranks.max())]
    counts = np.diff([0, *(np.count_nonzero(ranks <= edge) for edge in edges)])
    return {
        "median": float(np.median(ranks)),
        "counts": [{"up_to": edge, "count": int(count)} for edge, count in zip(edges, counts, strict=True)],
    }


def _shares(mined: Sequence[Mined]) -> dict[str, Any]:
    """Scores as shares of the lowest positive's, over the queries whose positives score above 0."""
    shares = np.array([negative.score / negative.positive_score for negative in mined if negative.positive_score > 0])
    counts, _ = np.histogram(np.clip(shares, 0, 1), _SHARES)
    return {
        "mean": float(shares.mean()) if len(shares) else None,
        "edges": [round(float(edge), 2) for edge in _SHARES],
        "counts": counts.tolist(),
    }


def _sentence(found: Mapping[str, Any], settings: NegativeSettings) -> str:
    if not found["mined"]:
        return (
            "No hard negative was found: every candidate was an answer, too much like one, or scored too near to one."
        )
    words = [f"{found['mined']:,} hard negatives for {found['queries']:,} queries"]
    words[0] += f", found at a median rank of {found['ranks']['median']:.0f}"
    if found["shares"]["mean"] is not None:
        words[0] += f", scoring {found['shares']['mean']:.0%} of their query's answer on average"
    tested = found["false_negatives"]
    answers = _in_words(tested["other_answers"], settings.margin, "another known answer of a query")
    copies = _in_words(tested["near_duplicates"], settings.margin, "the near-duplicates of an answer")
    if not answers:
        words.append(
            "No training query has two different answers, so labels cannot say how many of them are answers too"
        )
    return ". ".join([*words, *(text for text in (answers, copies) if text)]) + "."


def _in_words(tested: Mapping[str, Any], margin: float, what: str) -> str:
    if not tested["trials"]:
        return ""
    rows = {row["margin"]: row for row in tested["by_margin"]}
    at, free = rows[margin], rows[None]
    low, high = at["ci95"]
    return (
        f"With {what} held back {tested['trials']:,} times, mining would have taken it {at['taken']:,} times "
        f"({at['rate']:.1%}, 95% interval {low:.1%} to {high:.1%}; without the margin {free['rate']:.1%}), "
        f"which is {at['share_of_mined']:.1%} of what it would have mined"
    )
