"""One system on the queries of a split, and two systems against each other: metrics, deltas, rows a query."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shoptalk.models.encoder import Encoder
from shoptalk.progress import task
from shoptalk.records import Dataset, Delta, Ranking
from shoptalk.retrieval.bm25 import BM25
from shoptalk.retrieval.metrics import METRICS, PRIMARY, PerQuery, mean, of_metric, per_query
from shoptalk.retrieval.ranking import rank
from shoptalk.retrieval.significance import holm, paired_delta
from shoptalk.settings import EvaluateSettings

_CHANGED = 1e-9


@dataclass(frozen=True)
class Measured:
    """One system on the queries of a split."""

    metrics: dict[str, float]
    per_query: PerQuery
    ranking: Ranking


def metric_names(settings: EvaluateSettings) -> tuple[str, ...]:
    """The standard metrics and those that are asked for beside them."""
    return tuple(dict.fromkeys((*METRICS, *settings.metrics)))


def scored(dataset: Dataset, ranking: Ranking, split: str = "test", metrics: Iterable[str] = METRICS) -> Measured:
    """A ranking against a split's judgements."""
    values = per_query(dataset.qrels[split], ranking, metrics)
    return Measured(mean(values), values, ranking)


def measure(encoder: Encoder, dataset: Dataset, depth: int, split: str = "test") -> Measured:
    """Rank the whole corpus for a split's queries and score it."""
    ranking = rank(encoder, dataset, list(dataset.qrels[split]), depth)
    return scored(dataset, ranking, split)


def measure_bm25(dataset: Dataset, depth: int, split: str = "test") -> Measured:
    """The same for BM25."""
    index = BM25(list(dataset.passages), [p.content for p in dataset.passages.values()])
    query_ids = list(dataset.qrels[split])
    return scored(dataset, index.search(query_ids, [dataset.queries[q].text for q in query_ids], depth), split)


def compare_measured(
    base: Measured, other: Measured, groups: Mapping[str, str], settings: EvaluateSettings, seed: int
) -> dict[str, Delta]:
    """Every metric's delta over the same queries. The primary metric decides; the others carry Holm's correction."""
    deltas: dict[str, Delta] = {}
    with task("intervals", len(base.metrics)) as bar:
        for metric in base.metrics:
            before, after = of_metric(base.per_query, metric), of_metric(other.per_query, metric)
            deltas[metric] = paired_delta(before, after, groups, settings.resamples, seed)
            bar.advance()
    corrected = holm({metric: delta.p for metric, delta in deltas.items() if metric != PRIMARY})
    return {
        metric: delta if metric == PRIMARY else Delta(delta.value, delta.ci95, delta.p, corrected[metric])
        for metric, delta in deltas.items()
    }


def per_query_rows(dataset: Dataset, base: Measured, tuned: Measured, split: str = "test") -> list[dict[str, Any]]:
    """One row a query: text, group, both systems' metrics, the change in the primary one, where the best answer stands."""
    rows = []
    for query_id, before in base.per_query.items():
        after = tuned.per_query[query_id]
        query = dataset.queries[query_id]
        relevant = {p for p, grade in dataset.qrels[split][query_id].items() if grade > 0}
        rows.append(
            {
                "query_id": query_id,
                "text": query.text,
                "kind": query.kind,
                "language": query.language,
                "group": dataset.groups.get(query_id, query_id),
                "base": before,
                "tuned": after,
                "change": after[PRIMARY] - before[PRIMARY],
                "rank_base": _first_rank(base.ranking[query_id], relevant),
                "rank_tuned": _first_rank(tuned.ranking[query_id], relevant),
            }
        )
    return rows


def outcomes(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Queries won, lost and unchanged, with the ten largest of each."""
    won = sorted((row for row in rows if row["change"] > _CHANGED), key=lambda row: (-row["change"], row["query_id"]))
    lost = sorted((row for row in rows if row["change"] < -_CHANGED), key=lambda row: (row["change"], row["query_id"]))
    return {
        "won": len(won),
        "lost": len(lost),
        "unchanged": len(rows) - len(won) - len(lost),
        "largest_won": [row["query_id"] for row in won[:10]],
        "largest_lost": [row["query_id"] for row in lost[:10]],
    }


def _first_rank(found: Sequence[tuple[str, float]], relevant: set[str]) -> int | None:
    return next((place for place, (passage_id, _) in enumerate(found, 1) if passage_id in relevant), None)


def delta_from_json(entry: Mapping[str, Any]) -> Delta:
    """The Delta that `Delta.as_json` wrote."""
    return Delta(entry["value"], (entry["ci95"][0], entry["ci95"][1]), entry["p"], entry.get("p_holm"))
