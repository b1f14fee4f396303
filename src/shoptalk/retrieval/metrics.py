"""Retrieval metrics per query, by ir_measures with trec_eval's semantics. Source of nDCG: Järvelin and Kekäläinen 2002.

Names follow the field, at any k: nDCG (graded), MRR, Recall, MAP, Precision, Hit (whether any is found). A query without any
relevant passage is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from shoptalk.records import Qrels, Ranking

METRICS = ("ndcg@10", "mrr@10", "recall@1", "recall@5", "recall@10", "recall@100", "map@100")
PRIMARY = "ndcg@10"
_KINDS = {
    "ndcg": "nDCG",
    "mrr": "MRR",
    "recall": "Recall",
    "map": "MAP",
    "precision": "Precision",
    "hit": "Hit",
    "spearman": "Spearman",
    "pearson": "Pearson",
}


class _Shown(dict[str, str]):
    """The names of metrics as people write them, whatever their k."""

    def __missing__(self, metric: str) -> str:
        kind, at, k = metric.partition("@")
        return _KINDS[kind] + at + k


SHOWN = _Shown({name: _Shown()[name] for name in (*METRICS, "spearman", "pearson")})

PerQuery = dict[str, dict[str, float]]
"""query id -> metric name -> value."""


def per_query(qrels: Qrels, ranking: Ranking, metrics: Iterable[str] = METRICS) -> PerQuery:
    """Every metric for every judged query that has a relevant passage; one without results gets 0."""
    import ir_measures

    metrics = tuple(metrics)
    judged = {q: found for q, found in qrels.items() if any(grade > 0 for grade in found.values())}
    values: PerQuery = {query: dict.fromkeys(metrics, 0.0) for query in judged}
    for depth, measures in _by_depth(metrics).items():
        run = {q: dict(ranking.get(q, [])[:depth]) for q in judged}
        run = {q: found for q, found in run.items() if found}
        if not run:
            continue
        for result in ir_measures.pytrec_eval.iter_calc(list(measures), judged, run):
            values[result.query_id][measures[result.measure]] = float(result.value)
    return values


def _by_depth(metrics: Iterable[str]) -> dict[int, dict[object, str]]:
    """Measures by how deep the ranking may be: pytrec_eval has no cut-off for reciprocal rank, so the ranking gets it."""
    import ir_measures

    by_depth: dict[int, dict[object, str]] = {}
    for metric in metrics:
        name, _, cutoff = metric.partition("@")
        k = int(cutoff)
        measures = {
            "ndcg": ir_measures.nDCG @ k,
            "mrr": ir_measures.RR,
            "recall": ir_measures.R @ k,
            "map": ir_measures.AP @ k,
            "precision": ir_measures.P @ k,
            "hit": ir_measures.Success @ k,
        }
        by_depth.setdefault(k if name == "mrr" else 1_000_000, {})[measures[name]] = metric
    return by_depth


def mean(values: PerQuery) -> dict[str, float]:
    """The mean of every metric over queries; 0 where there is none."""
    names = next(iter(values.values()), dict.fromkeys(METRICS, 0.0))
    return {name: float(np.mean([found[name] for found in values.values()])) if values else 0.0 for name in names}


def of_metric(values: Mapping[str, Mapping[str, float]], metric: str) -> dict[str, float]:
    """One metric by query."""
    return {query: found[metric] for query, found in values.items()}
