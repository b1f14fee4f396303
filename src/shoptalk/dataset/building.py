"""The stage dataset: check, cluster, split, audit, write in BEIR layout."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from shoptalk.beir import read_jsonl, read_passages, read_queries, write_dataset, write_jsonl
from shoptalk.dataset.checks import check_judgements, check_pairs, check_passages, check_queries
from shoptalk.dataset.clusters import UnionFind, near_duplicate_clusters
from shoptalk.dataset.splitting import assign_splits, audit, group_queries
from shoptalk.dataset.weak import divide, weights_of, without_weak
from shoptalk.errors import SourceError
from shoptalk.records import SPLITS, Dataset, Judgement, Passage, Qrels, Query, Rejected, ScoredPair
from shoptalk.settings import Settings
from shoptalk.workspace import StageContext


def build_dataset(stage: StageContext) -> None:
    """Write the dataset artifact with audit.json and rejected.jsonl. Raises SourceError when a split would be empty."""
    passages, queries = stage.read("passages"), stage.read("queries")
    pairs = [(ScoredPair(**_without(row, "split")), row["split"]) for _, row in read_jsonl(queries / "pairs.jsonl")]
    rng = np.random.default_rng(stage.settings.seed)
    if pairs:
        dataset, notes, rejected = build_similarity(pairs, stage.settings, rng)
    else:
        dataset, notes, rejected = build_retrieval(
            _cut(read_passages(passages / "corpus.jsonl"), queries / "cuts.jsonl"),
            read_queries(queries / "queries.jsonl"),
            [
                (Judgement(**_without(row, "split")), row["split"])
                for _, row in read_jsonl(queries / "judgements.jsonl")
            ],
            {row["query_id"]: row["texts"] for _, row in read_jsonl(queries / "negatives.jsonl")},
            stage.settings,
            rng,
        )
    write_dataset(stage.out, dataset)
    write_jsonl(stage.out / "rejected.jsonl", map(asdict, rejected))
    before = Counter(row["check"] for _, row in read_jsonl(queries / "rejected.jsonl"))
    notes["rejected"] = dict(sorted((before + Counter(entry.check for entry in rejected)).items()))
    notes["skipped_files"] = sum(1 for _ in read_jsonl(passages / "skipped.jsonl"))
    (stage.out / "audit.json").write_text(json.dumps(notes, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def build_retrieval(
    passages: list[Passage],
    queries: Mapping[str, Query],
    judgements: list[tuple[Judgement, str]],
    negatives: dict[str, list[str]],
    settings: Settings,
    rng: np.random.Generator,
) -> tuple[Dataset, dict[str, Any], list[Rejected]]:
    """A checked and split retrieval dataset, the audit's notes and what was rejected. Raises SourceError."""
    kept_passages, rejected = check_passages(passages, settings.dataset)
    kept_queries, more = check_queries(queries.values(), settings.dataset)
    by_id = {p.passage_id: p for p in kept_passages}
    kept, orphans = check_judgements(judgements, kept_queries, by_id, negatives)
    rejected += more + orphans
    given = _given_splits(kept)
    judged: Qrels = {}
    strong, weak = divide(kept, settings.dataset)
    for judgement, split in [*weak, *strong]:  # of a pair that both judge, the strong judgement stays
        own = given[judgement.query_id]
        if own in ("test", "dev") and split != own:
            where = f"{judgement.query_id} {judgement.passage_id}"
            rejected.append(Rejected(where, "leak", f"its query is in the given {own} split, which is kept as it is"))
        else:
            judged.setdefault(judgement.query_id, {})[judgement.passage_id] = judgement.grade
    relevant = {q: hit for q, found in judged.items() if (hit := {p: g for p, g in found.items() if g > 0})}
    clusters, verified = near_duplicate_clusters(
        {p.passage_id: p.content for p in kept_passages}, settings.dataset.near_duplicate
    )
    groups = group_queries(relevant, clusters, {q: kept_queries[q].text for q in relevant})
    measuring = {one.query_id for one, _ in strong if one.grade > 0}
    weak_pairs = {(one.query_id, one.passage_id) for one, _ in weak} - {
        (one.query_id, one.passage_id) for one, _ in strong
    }
    chosen = assign_splits(groups, {q: given[q] for q in groups}, settings.dataset, rng, groups.keys() - measuring)
    rejected += chosen.dropped
    _thin_out(chosen.split, settings.dataset.max_train, rng)
    qrels: dict[str, Qrels] = {s: {q: judged[q] for q, own in chosen.split.items() if own == s} for s in SPLITS}
    qrels, taken = without_weak(qrels, weak_pairs, chosen.dev_is_weak)
    rejected += taken
    _refuse_empty({s: len(qrels[s]) for s in SPLITS}, settings.input.source, weak=len(weak))
    dataset = Dataset(
        "retrieval",
        by_id,
        {q: kept_queries[q] for q in chosen.split},
        qrels,
        clusters,
        {q: groups[q] for q in chosen.split},
        {q: tuple(dict.fromkeys(texts)) for q, texts in negatives.items() if chosen.split.get(q) == "train"},
        weights=weights_of(kept, qrels["train"]),
    )
    sizes = Counter(clusters.values())
    notes: dict[str, Any] = {
        "task": "retrieval",
        "shared_between_splits": audit(qrels, clusters, {q: query.text for q, query in kept_queries.items()}),
        "dropped_for_leakage": len(chosen.dropped),
        "passages": len(by_id),
        "passages_in_near_duplicate_clusters": sum(n for n in sizes.values() if n > 1),
        "near_duplicate_pairs_verified": verified,
        "queries": {s: len(qrels[s]) for s in SPLITS},
        "training_pairs": sum(1 for found in qrels["train"].values() for grade in found.values() if grade > 0),
        "groups": {s: len({groups[q] for q in qrels[s]}) for s in SPLITS},
        "test_given": any(split == "test" for split in given.values()),
        "test_origin": _origin(kept_queries[q] for q in qrels["test"]),
        "train_origin": _origin(kept_queries[q] for q in qrels["train"]),
        "query_kinds": dict(Counter(kept_queries[q].kind for q in chosen.split)),
        "test_size_note": small_test_note(len(qrels["test"])),
        "weak_training_pairs": sum(map(len, dataset.weights.values())),
        "click_queries": {s: sum(kept_queries[q].kind == "click" for q in qrels[s]) for s in SPLITS},
    }
    return dataset, notes, rejected


def _given_splits(judgements: list[tuple[Judgement, str]]) -> dict[str, str]:
    """The split that was given for each query ("" for none); test before dev before train."""
    found: dict[str, set[str]] = {}
    for judgement, split in judgements:
        found.setdefault(judgement.query_id, set()).add(split)
    return {query: next((s for s in ("test", "dev", "train") if s in splits), "") for query, splits in found.items()}


def _thin_out(split: dict[str, str], most: int | None, rng: np.random.Generator) -> None:
    """Leave at most `most` items in train; for learning curves, where dev and test stay the same."""
    train = [item for item, own in split.items() if own == "train"]
    if most is not None and len(train) > most:
        kept = {train[i] for i in rng.permutation(len(train))[:most]}
        for item in train:
            if item not in kept:
                del split[item]


def build_similarity(
    pairs: list[tuple[ScoredPair, str]], settings: Settings, rng: np.random.Generator
) -> tuple[Dataset, dict[str, Any], list[Rejected]]:
    """The same for scored pairs; pairs that share a sentence are one group."""
    kept, rejected = check_pairs(pairs, settings.dataset)
    sets = UnionFind()
    for pair, _ in kept:
        for text in (pair.sentence1, pair.sentence2):
            sets.union(("pair", pair.pair_id), ("text", " ".join(text.casefold().split())))
    names: dict[object, str] = {}
    groups = {
        pair.pair_id: names.setdefault(sets.find(("pair", pair.pair_id)), f"g{len(names):05d}") for pair, _ in kept
    }
    chosen = assign_splits(groups, {pair.pair_id: split for pair, split in kept}, settings.dataset, rng)
    rejected += chosen.dropped
    _thin_out(chosen.split, settings.dataset.max_train, rng)
    by_split: dict[str, list[ScoredPair]] = {
        s: [pair for pair, _ in kept if chosen.split.get(pair.pair_id) == s] for s in SPLITS
    }
    _refuse_empty({s: len(found) for s, found in by_split.items()}, settings.input.source)
    in_split = {s: {groups[pair.pair_id] for pair in found} for s, found in by_split.items()}
    shared = {
        f"{a}-{b}": {"groups": len(in_split[a] & in_split[b])}
        for a, b in (("train", "dev"), ("train", "test"), ("dev", "test"))
    }
    notes: dict[str, Any] = {
        "task": "similarity",
        "shared_between_splits": shared,
        "dropped_for_leakage": len(chosen.dropped),
        "passages": len(
            {text for found in by_split.values() for pair in found for text in (pair.sentence1, pair.sentence2)}
        ),
        "queries": {s: len(found) for s, found in by_split.items()},
        "training_pairs": len(by_split["train"]),
        "groups": {s: len(found) for s, found in in_split.items()},
        "test_given": any(split == "test" for _, split in kept),
        "test_origin": "human",
        "train_origin": "human",
        "test_size_note": small_test_note(len(by_split["test"])),
    }
    return Dataset("similarity", pairs=by_split, groups={i: groups[i] for i in chosen.split}), notes, rejected


def small_test_note(n: int) -> str:
    """What a small test split means for the interval ("" when it is large enough). Coverage: docs/experiments.md."""
    if n >= 50:
        return ""
    return (
        f"{n} test queries: too few for a verdict. At this size a 95% interval is wide (differences under about "
        f"{1.96 * 0.3 / max(1, n) ** 0.5:.2f} nDCG@10 cannot be told from chance) and covers the truth less often than it says"
    )


def _refuse_empty(sizes: Mapping[str, int], source: str, weak: int = 0) -> None:
    empty = [name for name, n in sizes.items() if n == 0]
    if empty:
        have = ", ".join(f"{name} {n}" for name, n in sizes.items())
        raise SourceError(
            f"{source}: no {' and no '.join(empty)} queries are left after the checks ({have}); at least one in each split is needed. "
            "queries/rejected.jsonl and the reasons above say what was left out; give more labelled rows, or a file for that split"
            + _WEAK_ADVICE
            * bool(weak and not sizes["test"])
        )


_WEAK_ADVICE = (
    ". Clicks and made queries are trained with but do not measure: give --test-queries, or test on clicks as well with "
    "--set dataset.test_on_clicks=true"
)


def _origin(queries: Any) -> str:
    """The least trustworthy origin among the queries: offline, then llm, then human."""
    found = {query.origin for query in queries}
    return next((origin for origin in ("offline", "llm") if origin in found), "human")


def _cut(passages: list[Passage], cuts: Path) -> list[Passage]:
    """Take the texts that became queries out of their passages, from the title's last heading or from the text."""
    by_passage: dict[str, list[str]] = {}
    for _, row in read_jsonl(cuts):
        by_passage.setdefault(row["passage_id"], []).append(row["text"])
    return [p.without(by_passage.get(p.passage_id, ())) for p in passages]


def _without(row: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != key}
