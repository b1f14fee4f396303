"""Any number of systems on a BEIR folder, side by side; what `shoptalk compare` and `shoptalk.compare_models` call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shoptalk.beir import looks_like_beir, read_passages, read_qrels, read_queries
from shoptalk.dataset.clusters import near_duplicate_clusters
from shoptalk.dataset.splitting import group_queries
from shoptalk.errors import SourceError
from shoptalk.evaluation.comparison import Measured, compare_measured, measure, measure_bm25, outcomes, per_query_rows
from shoptalk.evaluation.verdict import judge
from shoptalk.models.encoder import load_encoder
from shoptalk.models.finding import find_model
from shoptalk.records import Dataset
from shoptalk.retrieval.metrics import PRIMARY
from shoptalk.settings import Settings


def compare_models(
    models: Sequence[str], data: str | Path, *, split: str = "test", settings: Settings | None = None
) -> dict[str, Any]:
    """Systems in the order given, the first as the base. The record has result.json's shape, with "systems" and "deltas".

    models: two or more folders, Hub ids, "builtin:NAME" or "bm25"; data: a BEIR folder. Raises SourceError, ModelError,
    before anything is encoded.
    """
    folder, settings = Path(data), settings or Settings()
    names = list(dict.fromkeys(models))
    if len(names) < 2:
        names = list(models)[:2]  # a model against itself is a fair question: the answer is exactly 0
    for name in names:
        if name != "bm25":
            find_model(name)
    dataset = read_split(folder, split, settings)
    found: dict[str, Measured] = {}
    for name in dict.fromkeys(names):
        found[name] = (
            measure_bm25(dataset, settings.evaluate.depth, split)
            if name == "bm25"
            else _measure(name, dataset, split, settings)
        )
    base = found[names[0]]
    deltas = {n: compare_measured(base, found[n], dataset.groups, settings.evaluate, settings.seed) for n in names[1:]}
    as_json = {name: {metric: delta.as_json() for metric, delta in own.items()} for name, own in deltas.items()}
    record: dict[str, Any] = {
        "base": base.metrics,
        "systems": {name: system.metrics for name, system in found.items()},
        "deltas": as_json,
        "dataset": {"passages": len(dataset.passages), "queries": {split: len(base.per_query)}, "name": folder.name},
        "findings": [],
        "base_model": {"name": names[0], "sha256": "" if names[0] == "bm25" else find_model(names[0]).weights_sha256},
    }
    if len(names) == 2:
        other = names[1]
        n_test = len(base.per_query)
        verdict = judge(
            deltas[other],
            PRIMARY,
            n_test,
            "human",
            settings.baseline.reliable_pairs,
            settings.evaluate,
            settings.baseline,
        )
        rows = per_query_rows(dataset, base, found[other], split)
        record |= {
            "tuned": found[other].metrics, "delta": as_json[other], "verdict": verdict.word, "reasons": list(verdict.reasons),
            "model": other, **outcomes(rows),
        }  # fmt: skip
    return record


def _measure(name: str, dataset: Dataset, split: str, settings: Settings) -> Measured:
    return measure(load_encoder(name, settings.model), dataset, settings.evaluate.depth, split)


def read_split(folder: Path, split: str, settings: Settings) -> Dataset:
    """One split of a BEIR folder, with its near-duplicate clusters. Raises SourceError."""
    if not looks_like_beir(folder):
        raise SourceError(f"{folder}: not a BEIR folder; it needs corpus.jsonl, queries.jsonl and qrels/{split}.tsv")
    path = folder / "qrels" / f"{split}.tsv"
    if not path.is_file():
        have = ", ".join(sorted(p.stem for p in (folder / "qrels").glob("*.tsv"))) or "none"
        raise SourceError(f"{path}: no such file; the splits of {folder} are: {have}")
    passages = {p.passage_id: p for p in read_passages(folder / "corpus.jsonl")}
    queries, qrels = read_queries(folder / "queries.jsonl"), read_qrels(path)
    missing = [f"{q} {p}" for q, judged in qrels.items() for p in judged if p not in passages or q not in queries]
    if missing:
        raise SourceError(
            f"{path}: {len(missing)} judgements name a query or passage that does not exist; the first: {missing[0]}"
        )
    relevant = {
        q: hit for q, judged in qrels.items() if (hit := {p: grade for p, grade in judged.items() if grade > 0})
    }
    if not relevant:
        raise SourceError(f"{path}: holds no relevant passage")
    clusters, _ = near_duplicate_clusters({i: p.content for i, p in passages.items()}, settings.dataset.near_duplicate)
    groups = group_queries(relevant, clusters, {q: queries[q].text for q in relevant})
    return Dataset(
        "retrieval",
        passages,
        {q: queries[q] for q in relevant},
        {split: {q: qrels[q] for q in relevant}},
        clusters,
        groups,
    )
