"""The stage evaluate: base and tuned through the same code, on the same queries, over the whole corpus.

This is the only stage that opens the test split, for both models in one call.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shoptalk.beir import read_dataset, read_qrels, read_queries, write_jsonl, write_qrels
from shoptalk.evaluation.holes import DEPTH, count_holes, hole_rows, read_labels, with_labels, write_holes
from shoptalk.evaluation.nanobeir import with_nanobeir
from shoptalk.evaluation.retention import kept
from shoptalk.evaluation.scoring import Measured, compare_measured, delta_from_json, outcomes, per_query_rows
from shoptalk.evaluation.slices import Training, measure_slices, slice_names
from shoptalk.evaluation.systems import Bench, Named
from shoptalk.evaluation.verdict import RULE, judge
from shoptalk.models.encoder import CachedEncoder, Encoder
from shoptalk.models.finding import FoundModel, find_model
from shoptalk.records import Dataset
from shoptalk.retrieval.metrics import PRIMARY, SHOWN, of_metric
from shoptalk.retrieval.ranking import pair_cosines
from shoptalk.retrieval.significance import correlation, paired_delta, spearman_delta
from shoptalk.retrieval.trec import write_trec
from shoptalk.settings import EvaluateSettings, Settings
from shoptalk.workspace import StageContext


def compare(stage: StageContext) -> None:
    """Write evaluation/: comparison.json, per_query.jsonl, holes.csv and a ranking NAME.trec of base, tuned, bm25, fused (tuned and
    BM25) and base-fused.
    """
    settings = stage.settings
    folder = stage.read("dataset")
    audit = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    dataset = read_dataset(folder, ["test"])
    base, tuned = encoders(stage)
    if dataset.task == "similarity":
        record, rows = _compare_pairs(dataset, base, tuned, settings.evaluate, settings.seed)
        metric = "spearman"
    else:
        record, rows = _compare_rankings(stage, folder, dataset, base, tuned)
        metric = PRIMARY
    n_test = audit["queries"]["test"]
    record["retention"] = kept(base, tuned, settings)
    verdict = judge(
        {name: delta_from_json(entry) for name, entry in record["delta"].items()},
        metric, n_test, audit["test_origin"], audit["training_pairs"], settings.evaluate, settings.baseline,
        record["retention"],
    )  # fmt: skip
    record["retention"] = with_nanobeir(record["retention"], base, tuned, settings)
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


def _compare_rankings(
    stage: StageContext, folder: Path, dataset: Dataset, base: CachedEncoder, tuned: CachedEncoder
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    settings = stage.settings
    record: dict[str, Any] = {}
    if settings.evaluate.labels:
        labels = read_labels(Path(settings.evaluate.labels), dataset, "test")
        dataset = with_labels(dataset, labels, "test")
        record["labels"] = labels.record
        write_qrels(stage.out / "qrels.tsv", dataset.qrels["test"])
    bench = Bench(dataset, "test", settings)
    first, second = Named("base", "model", encoder=base), Named("tuned", "model", encoder=tuned)
    named = (
        first,
        second,
        Named("bm25", "bm25"),
        Named("fused", "fused", inner=second),
        Named("base-fused", "fused", inner=first),
    )
    systems = {one.name: bench.measure(one) for one in named}
    for name, system in systems.items():
        write_trec(stage.out / f"{name}.trec", system.ranking, name)
    deltas = compare_measured(systems["base"], systems["tuned"], dataset.groups, settings.evaluate, settings.seed)
    rows = per_query_rows(dataset, systems["base"], systems["tuned"])
    weight = {row["query_id"]: abs(row["change"]) for row in rows}
    unjudged = hole_rows({name: systems[name].ranking for name in ("base", "tuned")}, dataset, "test", weight)
    write_holes(stage.out / "holes.csv", unjudged)
    record |= {name: system.metrics for name, system in systems.items()}
    record |= {
        "delta": {name: delta.as_json() for name, delta in deltas.items()},
        "fusion": _fusion(systems, dataset, settings),
        "table": bench.table,
        "slices": slices_of(dataset, "test", systems["base"], systems["tuned"], _training(folder, dataset), settings),
        "holes": holes_of(systems, dataset, "test") | {"rows": len(unjudged)},
    }
    return record, rows


def slices_of(
    dataset: Dataset, split: str, base: Measured, tuned: Measured, training: Training | None, settings: Settings
) -> list[dict[str, Any]]:
    """The deciding metric by slice, those that got worse first."""
    before, after = (of_metric(system.per_query, PRIMARY) for system in (base, tuned))
    names = slice_names(dataset, split, training)
    return measure_slices(names, before, after, dataset.groups, settings.evaluate.resamples, settings.seed)


def holes_of(systems: Mapping[str, Measured], dataset: Dataset, split: str) -> dict[str, Any]:
    """How many of each system's first ten passages nobody judged."""
    judged = dataset.qrels[split]
    return {"depth": DEPTH, **{name: count_holes(system.ranking, judged) for name, system in systems.items()}}


def _fusion(systems: Mapping[str, Measured], dataset: Dataset, settings: Settings) -> dict[str, Any]:
    """What BM25 beside a model adds to that model, in the deciding metric."""

    def added(model: str, fused: str) -> dict[str, object]:
        before, after = (of_metric(systems[name].per_query, PRIMARY) for name in (model, fused))
        return paired_delta(before, after, dataset.groups, settings.evaluate.resamples, settings.seed).as_json()

    return {"base": added("base", "base-fused"), "tuned": added("tuned", "fused")}


def _training(folder: Path, dataset: Dataset) -> Training | None:
    """The words of the train split; the corpus is the one that is there."""
    qrels = read_qrels(folder / "qrels" / "train.tsv")
    return Training.of(Dataset("retrieval", dataset.passages, read_queries(folder / "queries.jsonl"), {"train": qrels}))


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
        "table": [],
        "slices": [],
    }
    return record, rows
