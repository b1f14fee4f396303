"""The stage evaluate: base and tuned through the same code, on the same queries, over the whole corpus.

This is the only stage that opens the test split, for both models in one call.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoptalk.beir import read_dataset, write_jsonl
from shoptalk.evaluation.retention import kept
from shoptalk.evaluation.verdict import RULE, judge
from shoptalk.models.encoder import CachedEncoder, Encoder
from shoptalk.models.finding import FoundModel, find_model
from shoptalk.progress import task
from shoptalk.records import Dataset, Delta, Ranking
from shoptalk.retrieval.bm25 import BM25
from shoptalk.retrieval.metrics import PRIMARY, SHOWN, PerQuery, mean, of_metric, per_query
from shoptalk.retrieval.ranking import pair_cosines, rank
from shoptalk.retrieval.significance import correlation, holm, paired_delta, spearman_delta
from shoptalk.retrieval.trec import write_trec
from shoptalk.settings import EvaluateSettings
from shoptalk.workspace import StageContext

_CHANGED = 1e-9


@dataclass(frozen=True)
class Measured:
    """One system on the queries of a split."""

    metrics: dict[str, float]
    per_query: PerQuery
    ranking: Ranking


def compare(stage: StageContext) -> None:
    """Write evaluation/: comparison.json, per_query.jsonl and the rankings base.trec, tuned.trec, bm25.trec."""
    settings = stage.settings
    folder = stage.read("dataset")
    audit = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    dataset = read_dataset(folder, ["test"])
    base, tuned = encoders(stage)
    if dataset.task == "similarity":
        record, rows = _compare_pairs(dataset, base, tuned, settings.evaluate, settings.seed)
        metric = "spearman"
    else:
        systems = {
            "base": measure(base, dataset, settings.evaluate.depth),
            "tuned": measure(tuned, dataset, settings.evaluate.depth),
        }
        systems["bm25"] = measure_bm25(dataset, settings.evaluate.depth)
        record = {name: system.metrics for name, system in systems.items()}
        deltas = compare_measured(systems["base"], systems["tuned"], dataset.groups, settings.evaluate, settings.seed)
        record["delta"] = {name: delta.as_json() for name, delta in deltas.items()}
        rows = per_query_rows(dataset, systems["base"], systems["tuned"])
        for name, system in systems.items():
            write_trec(stage.out / f"{name}.trec", system.ranking, name)
        metric = PRIMARY
    n_test = audit["queries"]["test"]
    record["retention"] = kept(base, tuned, settings)
    verdict = judge(
        {name: delta_from_json(entry) for name, entry in record["delta"].items()},
        metric, n_test, audit["test_origin"], audit["training_pairs"], settings.evaluate, settings.baseline,
        record["retention"],
    )  # fmt: skip
    record |= {
        "verdict": verdict.word,
        "reasons": list(verdict.reasons),
        "rule": RULE.format(
            metric=SHOWN[metric],
            min_gain=settings.evaluate.min_gain,
            min_test=settings.evaluate.min_test,
            limit=settings.select.max_general_loss,
        ),
        "metric": metric,
        "queries": n_test,
        "groups": len({dataset.groups.get(row["query_id"], row["query_id"]) for row in rows}),
        **outcomes(rows),
    }
    write_jsonl(stage.out / "per_query.jsonl", rows)
    (stage.out / "comparison.json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def encoders(stage: StageContext) -> tuple[CachedEncoder, CachedEncoder]:
    """The base model and the selected model of a run, encoding in the same way."""
    settings = stage.settings
    tuned = find_model(str(stage.read("model")))
    return (
        CachedEncoder(find_model(settings.model.base), settings.model, stage.cache),
        CachedEncoder(
            FoundModel(settings.model.base, tuned.path, tuned.sha256, tuned.config),
            settings.model,
            stage.cache,
        ),
    )


def measure(encoder: Encoder, dataset: Dataset, depth: int, split: str = "test") -> Measured:
    """Rank the whole corpus for a split's queries and score it."""
    ranking = rank(encoder, dataset, list(dataset.qrels[split]), depth)
    return _measured(dataset, ranking, split)


def measure_bm25(dataset: Dataset, depth: int, split: str = "test") -> Measured:
    """The same for BM25."""
    index = BM25(list(dataset.passages), [p.content for p in dataset.passages.values()])
    query_ids = list(dataset.qrels[split])
    return _measured(dataset, index.search(query_ids, [dataset.queries[q].text for q in query_ids], depth), split)


def _measured(dataset: Dataset, ranking: Ranking, split: str) -> Measured:
    values = per_query(dataset.qrels[split], ranking)
    return Measured(mean(values), values, ranking)


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


def _compare_pairs(
    dataset: Dataset, base: Encoder, tuned: Encoder, settings: EvaluateSettings, seed: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    pairs = dataset.pairs["test"]
    gold = np.array([pair.score for pair in pairs])
    before, after = pair_cosines(base, pairs), pair_cosines(tuned, pairs)
    groups = [dataset.groups.get(pair.pair_id, pair.pair_id) for pair in pairs]
    delta = spearman_delta(list(gold), list(before), list(after), groups, settings.resamples, seed)
    span = float(np.ptp(gold)) or 1.0
    error = [np.abs((gold - gold.min()) / span - np.clip(cosines, 0, 1)) for cosines in (before, after)]
    rows = [
        {
            "query_id": pair.pair_id,
            "text": f"{pair.sentence1}  |  {pair.sentence2}",
            "kind": "pair",
            "language": "",
            "group": groups[i],
            "score": pair.score,
            "base": {"cosine": float(before[i])},
            "tuned": {"cosine": float(after[i])},
            "change": float(error[0][i] - error[1][i]),
        }
        for i, pair in enumerate(pairs)
    ]
    record = {
        "base": {"spearman": correlation(gold, before)},
        "tuned": {"spearman": correlation(gold, after)},
        "delta": {"spearman": delta.as_json()},
    }
    return record, rows


def delta_from_json(entry: Mapping[str, Any]) -> Delta:
    """The Delta that `Delta.as_json` wrote."""
    return Delta(entry["value"], (entry["ci95"][0], entry["ci95"][1]), entry["p"], entry.get("p_holm"))
