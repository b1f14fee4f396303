"""Finished runs in small: artifact folders as the earlier stages write them, made with the stages' own writers and no model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from report.assessed import card, comparison_more, corpus_map, gate_systems, retention
from report.trained_on import SECOND_ROUND, write_made_queries, write_mined, write_usage
from shoptalk.beir import write_dataset, write_jsonl
from shoptalk.evaluation.comparison import Measured, compare_measured, outcomes, per_query_rows
from shoptalk.evaluation.verdict import RULE, judge
from shoptalk.records import Dataset, Delta, Passage, Qrels, Query, Ranking, ScoredPair
from shoptalk.retrieval.metrics import PRIMARY, SHOWN, mean, per_query
from shoptalk.retrieval.significance import correlation, spearman_delta
from shoptalk.retrieval.trec import write_trec
from shoptalk.settings import Settings, make_settings
from shoptalk.workspace import StageContext

HOSTILE = "</script><img src=x onerror=alert(1)> & \"quoted\" 'text' <!-- {{ 7 * 7 }} \u2028"
FINDING = {
    "name": "one-sided-bias",
    "severity": "warning",
    "evidence": "40 control queries moved toward the domain",
    "advice": "add examples from outside the domain",
}


@dataclass(frozen=True)
class Kind:
    """What a made run is like. ranks: where the right passage stands before and after, in turn, for one query after another."""

    ranks: tuple[tuple[int, int], ...] = ((1, 1), (4, 1), (9, 2), (2, 3), (25, 1), (30, 30))
    n_queries: int = 60
    origin: str = "human"
    query: str = "Who keeps the minutes of meeting {i}?"
    title: str = "Meetings > Minutes {i}"
    findings: tuple[dict[str, str], ...] = ()
    evaluations: int = 1
    term: str = "LLM"
    terms: int = 9
    trained_on: bool = True  # made queries, an LLM's usage, mined negatives, a second round, weak labels
    assessed: bool = (
        True  # the gate's systems, table, slices, holes, retention, frontier, map: False is a run of an earlier version
    )
    text: str = "Text of passage {i}. "
    candidate: str = "models/candidate"
    source: str = "doc"


def make_run(folder: Path, kind: Kind | None = None, settings: dict[str, Any] | None = None) -> StageContext:
    """A finished retrieval run in `folder`, ready for the report."""
    kind = kind or Kind()
    resolved = make_settings({"evaluate": {"resamples": 200}, "input": {"source": "docs"}} | (settings or {}))
    dataset = _dataset(kind)
    write_dataset(folder / "dataset", dataset)
    queries = {"train": 120, "dev": 20, "test": kind.n_queries}
    weak = {"weak_training_pairs": 30, "click_queries": {"train": 24, "dev": 0, "test": 0}} if kind.trained_on else {}
    audit = _audit("retrieval", queries, kind.origin) | {"rejected": {"empty": 2}}
    _json(folder / "dataset" / "audit.json", audit | weak)
    more = gate_systems(kind.candidate) if kind.assessed else {}
    _baseline(folder, "ndcg@10", {"bm25": {"ndcg@10": 0.41}, "bm25_ci95": [0.33, 0.49], **more})
    _candidates(folder, "ndcg@10", SECOND_ROUND if kind.trained_on else {})
    if kind.trained_on:
        write_made_queries(folder / "queries", kind.query, resolved)
        write_usage(folder / "queries", kind.term)
        write_mined(folder / "examples", make_settings({"negatives": {"mine": 4}}))
    _evaluation(folder / "evaluation", dataset, kind, resolved)
    stage = _stage(folder, resolved, kind)
    if kind.assessed:
        _json(folder / "model" / "shoptalk.json", card(resolved))
        _json(folder / "diagnosis" / "map.json", corpus_map(list(dataset.passages), kind.term, f"{kind.term} cluster"))
    return stage


def make_similarity_run(folder: Path, kind: Kind | None = None, n: int = 60) -> StageContext:
    """A finished run on scored pairs."""
    kind = kind or Kind()
    resolved = make_settings({"evaluate": {"resamples": 200}, "input": {"source": "pairs.jsonl"}})
    gold = [i % 6 / 5 for i in range(n)]
    before = [0.4 + 0.3 * ((i * 7) % 11) / 11 for i in range(n)]
    after = [0.1 + 0.7 * score + 0.2 * ((i * 5) % 7) / 7 for i, score in enumerate(gold)]
    first = kind.query.format(i=1)
    pairs = [ScoredPair(f"p{i}", f"{first} {i}", f"Sentence {i}", score) for i, score in enumerate(gold)]
    names = [pair.pair_id for pair in pairs]
    splits = {"train": [], "dev": [], "test": pairs}
    write_dataset(folder / "dataset", Dataset("similarity", pairs=splits, groups=dict(zip(names, names, strict=True))))
    audit = _audit("similarity", {"train": 300, "dev": 40, "test": n}, kind.origin)
    _json(folder / "dataset" / "audit.json", audit)
    _baseline(folder, "spearman", {})
    _candidates(folder, "spearman", {})
    rows = [
        {
            "query_id": pair.pair_id, "text": f"{pair.sentence1}  |  {pair.sentence2}", "kind": "pair", "language": "",
            "group": pair.pair_id, "score": pair.score, "base": {"cosine": before[i]}, "tuned": {"cosine": after[i]},
            "change": abs(gold[i] - before[i]) - abs(gold[i] - after[i]),
        }
        for i, pair in enumerate(pairs)
    ]  # fmt: skip
    delta = spearman_delta(gold, before, after, names, 200, 1)
    record: dict[str, Any] = {
        "base": {"spearman": correlation(_array(gold), _array(before))},
        "tuned": {"spearman": correlation(_array(gold), _array(after))},
    }
    if kind.assessed:
        record |= {"retention": retention(resolved)}
    _write_comparison(folder / "evaluation", record, {"spearman": delta}, rows, "spearman", kind, resolved)
    return _stage(folder, resolved, kind)


def _dataset(kind: Kind) -> Dataset:
    passages = {
        f"p{i}": Passage(f"p{i}", kind.text.format(i=i) * 20, kind.title.format(i=i), f"{kind.source}{i % 3}.md")
        for i in range(kind.n_queries)
    }
    queries = {f"q{i}": Query(f"q{i}", kind.query.format(i=i)) for i in range(kind.n_queries)}
    qrels: dict[str, Qrels] = {"train": {}, "dev": {}, "test": {f"q{i}": {f"p{i}": 1} for i in range(kind.n_queries)}}
    own = {name: name for name in queries}
    return Dataset("retrieval", passages, queries, qrels, {name: name for name in passages}, own)


def _ranking(dataset: Dataset, places: list[int]) -> Ranking:
    """Every query's right passage at its place; 30 or deeper is left out."""
    ranking: Ranking = {}
    for i, (query, place) in enumerate(zip(dataset.queries, places, strict=True)):
        names = [name for name in dataset.passages if name != f"p{i}"][: min(29, len(dataset.passages) - 1)]
        if place < 30:
            names.insert(place - 1, f"p{i}")
        ranking[query] = [(name, 1 - rank / 100) for rank, name in enumerate(names)]
    return ranking


def _evaluation(folder: Path, dataset: Dataset, kind: Kind, settings: Settings) -> None:
    folder.mkdir(parents=True)
    ranks = [kind.ranks[i % len(kind.ranks)] for i in range(kind.n_queries)]
    places = {"base": [b for b, _ in ranks], "tuned": [t for _, t in ranks], "bm25": [b + 1 for b, _ in ranks]}
    systems = {}
    for name, column in places.items():
        ranking = _ranking(dataset, column)
        values = per_query(dataset.qrels["test"], ranking)
        systems[name] = Measured(mean(values), values, ranking)
        write_trec(folder / f"{name}.trec", ranking, name)
    deltas = compare_measured(systems["base"], systems["tuned"], dataset.groups, settings.evaluate, 1)
    record: dict[str, Any] = {name: system.metrics for name, system in systems.items()}
    rows = per_query_rows(dataset, systems["base"], systems["tuned"])
    if kind.assessed:
        both = {name: systems[name].ranking for name in ("base", "tuned")}
        values = systems["base"].per_query, systems["tuned"].per_query
        record |= comparison_more(dataset, *values, both, settings, kind.source)
    _write_comparison(folder, record, deltas, rows, PRIMARY, kind, settings)


def _write_comparison(
    folder: Path,
    record: dict[str, Any],
    deltas: dict[str, Delta],
    rows: list[dict[str, Any]],
    metric: str,
    kind: Kind,
    settings: Settings,
) -> None:
    evaluate, kept = settings.evaluate, record.get("retention")
    verdict = judge(deltas, metric, len(rows), kind.origin, 120, evaluate, settings.baseline, kept)
    limit = settings.select.max_general_loss
    rule = RULE.format(metric=SHOWN[metric], min_gain=evaluate.min_gain, min_test=evaluate.min_test, limit=limit)
    record = record | {
        "delta": {name: delta.as_json() for name, delta in deltas.items()},
        "verdict": verdict.word, "reasons": list(verdict.reasons), "rule": rule, "metric": metric,
        "queries": len(rows), "groups": len(rows), **outcomes(rows),
    }  # fmt: skip
    write_jsonl(folder / "per_query.jsonl", rows)
    _json(folder / "comparison.json", record)


def _audit(task: str, queries: dict[str, int], origin: str) -> dict[str, Any]:
    shared = {"passages": 0, "clusters": 0, "query_texts": 0} if task == "retrieval" else {"groups": 0}
    twins = (
        {"passages_in_near_duplicate_clusters": 4, "near_duplicate_pairs_verified": 2} if task == "retrieval" else {}
    )
    return {
        "task": task, "shared_between_splits": dict.fromkeys(("train-dev", "train-test", "dev-test"), shared),
        "dropped_for_leakage": 3, "passages": 60, **twins, "queries": queries, "training_pairs": 120, "groups": queries,
        "test_given": True, "test_origin": origin, "train_origin": "human", "test_size_note": "", "rejected": {}, "skipped_files": 0,
    }  # fmt: skip


def _baseline(folder: Path, metric: str, more: dict[str, Any]) -> None:
    gate = {
        "decision": "tune", "reasons": ["120 training pairs: 500 is a sensible minimum"], "metric": metric, "score": 0.5,
        "ci95": [0.42, 0.58], "queries": 140, "base": {metric: 0.5}, "training_pairs": 120, "test_queries": 60, **more,
    }  # fmt: skip
    _json(folder / "baseline" / "gate.json", gate)


def _candidates(folder: Path, metric: str, more: dict[str, Any]) -> None:
    log: list[dict[str, Any]] = [{"step": 0, "dev": 0.5}]
    for step in range(1, 13):
        log.append({"step": step, "epoch": step / 4, "loss": 3 / step, "learning_rate": 3e-5})
        if step % 4 == 0:
            log.append({"step": step, "epoch": step / 4, "dev": 0.5 + step / 50})
    write_jsonl(folder / "candidates" / "log.jsonl", log)
    training = {
        "base_dev": 0.5, "best_dev": 0.74, "highest_dev": 0.74, "best_step": 12, "steps": 12, "steps_done": 12, "epochs": 3,
        "examples": 120, "learning_rate": 4e-5,
        "negatives_per_example": 1, "precision": "fp32", "precision_why": "", "device": "cpu", "dev_passages": 60, "metric": metric,
        "method": "full", **more,
    }  # fmt: skip
    _json(folder / "candidates" / "training.json", training)


def _vocabulary(kind: Kind, settings: Settings) -> dict[str, Any]:
    """Terms with a smaller and smaller change, every third of them away from its own passages; none for scored pairs."""
    if settings.input.source == "pairs.jsonl":
        return {"found": 0, "asked": 0, "terms": [], "uncovered": []}
    title = f"Guide > {kind.title.format(i=1)}"
    terms = []
    for i in range(kind.terms):
        change = (-1 if i % 3 == 2 else 1) * 0.2 / (i + 1)
        hits = [{"passage_id": f"p{i}", "title": title, "own": own} for own in (False, True)]
        meaning = {"text": f"{kind.term} meaning {i}", "defined": 0, "uses": 9, "positives": 4}
        terms.append(
            {
                "text": f"{kind.term} {i}",
                "kind": "acronym",
                "count": 12,
                "documents": 5,
                "meanings": [meaning] if i % 2 == 0 else [],
                "coverage": {"queries": 5, "positives": 1},
                "labelled": 5 if i % 2 == 0 else 0,
                "meant": meaning["text"] if i % 2 == 0 else "",
                "hears": [f"{kind.term} heard", "piano", "airport"],
                "before": {"near": -0.05, "place": 15, "found": hits},
                "after": {"near": change - 0.05, "place": 16 if change < 0 else 2, "found": hits[::-1]},
                "change": change,
            }
        )
    return {
        "found": kind.terms + 5,
        "asked": kind.terms,
        "terms": terms,
        "uncovered": [f"{kind.term} unseen {i}" for i in range(3)],
    }


def _stage(folder: Path, settings: Settings, kind: Kind) -> StageContext:
    controls = {
        "queries": 40,
        "value": 0.012,
        "low": 0.004,
        "base": 0.03,
        "tuned": 0.042,
        "nearer": 0.6,
        "worst": "What is a CPU?",
    }
    _json(folder / "diagnosis" / "findings.json", list(kind.findings))
    _json(folder / "diagnosis" / "controls.json", controls)
    _json(folder / "diagnosis" / "vocabulary.json", _vocabulary(kind, settings))
    out = folder / "out"
    out.mkdir()
    (folder / "model").mkdir()
    return StageContext(
        settings=settings, read=lambda name: folder / name, out=out, scratch=folder, cache=folder,
        seconds={"dataset": 0.4, "train": 12.25, "report": 9.9}, evaluations=kind.evaluations,
    )  # fmt: skip


def _array(values: list[float]) -> Any:
    import numpy as np

    return np.asarray(values, float)


def _json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
