from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from shoptalk.beir import (
    read_dataset,
    read_jsonl,
    read_passages,
    write_dataset,
    write_jsonl,
    write_passages,
    write_queries,
)
from shoptalk.dataset import build_dataset
from shoptalk.dataset.building import build_retrieval, build_similarity, small_test_note
from shoptalk.errors import SourceError
from shoptalk.records import SPLITS, Judgement, Passage, Query, ScoredPair
from shoptalk.settings import make_settings

Judged = list[tuple[Judgement, str]]


def corpus(n: int) -> list[Passage]:
    return [Passage(f"p{i}", " ".join(f"w{i}x{j}" for j in range(12))) for i in range(n)]


def asked(n: int) -> dict[str, Query]:
    return {f"q{i}": Query(f"q{i}", f"question {i}") for i in range(n)}


def one_each(n: int, split: str = "") -> Judged:
    return [(Judgement(f"q{i}", f"p{i}"), split) for i in range(n)]


def build(passages, queries, judgements, negatives=None, seed: int = 1, **dataset):
    settings = make_settings({"dataset": dataset, "input": {"source": "docs"}})
    return build_retrieval(passages, queries, judgements, negatives or {}, settings, np.random.default_rng(seed))


def test_every_query_is_in_one_split_and_the_haystack_is_the_whole_corpus():
    dataset, notes, rejected = build(corpus(120), asked(100), one_each(100))
    assert sorted(q for split in SPLITS for q in dataset.qrels[split]) == sorted(asked(100))
    assert len(dataset.passages) == 120
    assert rejected == []
    assert notes["queries"] == {"train": 55, "dev": 15, "test": 30}
    assert notes["training_pairs"] == 55
    assert not any(count for counts in notes["shared_between_splits"].values() for count in counts.values())
    json.dumps(notes, allow_nan=False)


def test_the_same_seed_builds_the_same_dataset():
    first, again, other = (build(corpus(60), asked(60), one_each(60), seed=seed)[0] for seed in (1, 1, 2))
    assert first == again
    assert first.qrels != other.qrels


def test_queries_on_near_duplicate_passages_stay_together():
    passages = corpus(60)
    for i in range(0, 60, 2):
        passages[i + 1] = Passage(f"p{i + 1}", passages[i].text + " and")
    dataset, notes, _ = build(passages, asked(60), one_each(60))
    split = {query: name for name in SPLITS for query in dataset.qrels[name]}
    assert all(split[f"q{i}"] == split[f"q{i + 1}"] for i in range(0, 60, 2))
    assert dataset.groups["q0"] == dataset.groups["q1"] != dataset.groups["q2"]
    assert dataset.clusters["p1"] == "p0"
    assert notes["passages_in_near_duplicate_clusters"] == 60
    assert notes["near_duplicate_pairs_verified"] == 30


def test_a_given_test_split_is_kept_and_leaking_training_pairs_are_dropped_and_counted():
    passages = [*corpus(60), Passage("copy", corpus(60)[0].text.upper())]
    queries = asked(60) | {name: Query(name, f"about {name}") for name in ("same-passage", "near-duplicate")}
    queries["same-text"] = Query("same-text", "QUESTION 2")
    judgements = one_each(60)
    judgements[:20] = one_each(20, "test")
    leaks = [("same-passage", "p1"), ("near-duplicate", "copy"), ("same-text", "p59")]
    judgements += [(Judgement(query, passage), "") for query, passage in leaks]
    dataset, notes, rejected = build(passages, queries, judgements)

    assert dataset.qrels["test"] == {f"q{i}": {f"p{i}": 1} for i in range(20)}
    assert {entry.item for entry in rejected if entry.check == "leak"} == {name for name, _ in leaks} | {"q59"}
    assert notes["dropped_for_leakage"] == 4
    assert notes["test_given"]
    assert set(dataset.queries) == set(queries) - {name for name, _ in leaks} - {"q59"}


def test_what_a_training_file_says_of_a_test_query_does_not_change_the_test():
    judgements = [*one_each(60), (Judgement("q0", "p7", 2), "test"), (Judgement("q1", "p1", 1), "test")]
    dataset, _, rejected = build(corpus(60), asked(60), judgements)
    assert dataset.qrels["test"] == {"q0": {"p7": 2}, "q1": {"p1": 1}}
    assert [(entry.item, entry.check) for entry in rejected][:2] == [("q0 p0", "leak"), ("q1 p1", "leak")]


def test_a_given_dev_split_is_kept():
    judgements = one_each(60)
    judgements[:10] = one_each(10, "dev")
    dataset, notes, _ = build(corpus(60), asked(60), judgements)
    assert dataset.qrels["dev"].keys() == {f"q{i}" for i in range(10)}
    assert not notes["test_given"]


def test_grades_and_judged_zeros_stay_and_a_query_without_an_answer_goes():
    judgements = [
        *one_each(60),
        (Judgement("q0", "p5", 3), ""),
        (Judgement("q0", "p6", 0), ""),
        (Judgement("none", "p6", 0), ""),
    ]
    dataset, _, _ = build(corpus(60), asked(60) | {"none": Query("none", "nothing")}, judgements)
    everything = {q: found for split in SPLITS for q, found in dataset.qrels[split].items()}
    assert everything["q0"] == {"p0": 1, "p5": 3, "p6": 0}
    assert "none" not in everything
    assert "none" not in dataset.queries


def test_negatives_are_kept_once_and_for_training_queries_only():
    negatives = {f"q{i}": ["no", "never", "no"] for i in range(60)}
    dataset, _, _ = build(corpus(60), asked(60), one_each(60), negatives)
    assert dataset.negatives == dict.fromkeys(dataset.qrels["train"], ("no", "never"))


def test_what_fails_a_check_is_rejected_with_everything_that_hangs_on_it():
    passages = [*corpus(60), Passage("bad", "???")]
    queries = asked(60) | {"bad": Query("bad", "")}
    dataset, _, rejected = build(
        passages, queries, [*one_each(60), (Judgement("q0", "bad"), ""), (Judgement("bad", "p1"), "")]
    )
    assert [(entry.item, entry.check) for entry in rejected] == [
        ("bad", "non-text"), ("bad", "empty"), ("q0 bad", "orphan"), ("bad p1", "orphan"),
    ]  # fmt: skip
    assert "bad" not in dataset.passages


def test_the_origin_of_a_split_is_its_least_trustworthy():
    queries = asked(60) | {f"q{i}": Query(f"q{i}", f"question {i}", "offline", "faq") for i in range(30, 60)}
    judgements = one_each(60)
    judgements[:20] = one_each(20, "test")
    _, notes, _ = build(corpus(60), queries, judgements)
    assert (notes["test_origin"], notes["train_origin"]) == ("human", "offline")
    assert notes["query_kinds"] == {"labelled": 30, "faq": 30}
    assert build(corpus(60), queries, one_each(60))[1]["test_origin"] == "offline"


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_queries_for_three_splits_say_what_is_missing(n):
    with pytest.raises(
        SourceError, match=r"docs: no .*queries are left after the checks \(train \d, dev \d, test \d\)"
    ):
        build(corpus(n), asked(n), one_each(n))


def test_a_learning_curve_thins_out_train_and_nothing_else():
    whole, _, _ = build(corpus(100), asked(100), one_each(100))
    thin, notes, _ = build(corpus(100), asked(100), one_each(100), max_train=10)
    assert (thin.qrels["dev"], thin.qrels["test"]) == (whole.qrels["dev"], whole.qrels["test"])
    assert thin.qrels["train"].items() <= whole.qrels["train"].items()
    assert notes["queries"]["train"] == len(thin.qrels["train"]) == 10


def test_a_built_dataset_round_trips_and_who_reads_train_gets_no_test_query(tmp_path):
    dataset, _, _ = build(corpus(60), asked(60), one_each(60), {f"q{i}": ["no"] for i in range(60)})
    write_dataset(tmp_path, dataset)
    assert read_dataset(tmp_path, SPLITS) == dataset
    train = read_dataset(tmp_path, ["train"])
    assert train.queries.keys() == train.groups.keys() == dataset.qrels["train"].keys()


@pytest.mark.parametrize(("n", "note"), [(0, True), (13, True), (49, True), (50, False), (5_000, False)])
def test_a_test_split_too_small_for_a_verdict_says_so(n, note):
    assert bool(small_test_note(n)) == note
    if n:
        assert small_test_note(49).startswith("49 test queries: too few for a verdict")
    assert "0.16" in small_test_note(13)  # 1.96 x 0.3 / sqrt(13)


def scored(n: int) -> list[tuple[ScoredPair, str]]:
    return [(ScoredPair(f"s{i:03d}", f"left {i}", f"right {i}", i / n), "") for i in range(n)]


def similar(pairs: Sequence[tuple[ScoredPair, str]]):
    return build_similarity(list(pairs), make_settings({"input": {"source": "s.csv"}}), np.random.default_rng(1))


def test_pairs_that_share_a_sentence_are_one_group_and_in_one_split():
    pairs = scored(60)
    pairs += [(ScoredPair(f"t{i:03d}", f"LEFT  {i}", f"third {i}", 0.5), "") for i in range(60)]
    dataset, notes, rejected = similar(pairs)
    split = {pair.pair_id: name for name in SPLITS for pair in dataset.pairs[name]}
    assert len(split) == 120
    assert rejected == []
    assert all(split[f"s{i:03d}"] == split[f"t{i:03d}"] for i in range(60))
    assert dataset.groups["s003"] == dataset.groups["t003"] != dataset.groups["s004"]
    assert notes["shared_between_splits"] == {name: {"groups": 0} for name in ("train-dev", "train-test", "dev-test")}
    json.dumps(notes, allow_nan=False)


def test_a_given_test_split_of_pairs_is_kept_and_training_pairs_with_its_sentences_are_dropped():
    pairs = scored(60)
    test = [(ScoredPair(f"t{i}", f"test {i}", f"right {i}" if i < 5 else f"new {i}", 0.5), "test") for i in range(20)]
    dataset, notes, rejected = similar([*pairs, *test])
    assert [pair.pair_id for pair in dataset.pairs["test"]] == [f"t{i}" for i in range(20)]
    assert [entry.item for entry in rejected] == [f"s{i:03d}" for i in range(5)]
    assert notes["dropped_for_leakage"] == 5


@pytest.fixture
def artifacts(tmp_path) -> dict[str, Path]:
    """What the stages before have written, with 40 labelled queries."""
    write_passages(tmp_path / "passages/corpus.jsonl", corpus(40))
    write_jsonl(tmp_path / "passages/skipped.jsonl", [{"item": "a.pptx", "check": "unreadable", "reason": "no reader"}])
    queries = tmp_path / "queries"
    write_queries(queries / "queries.jsonl", asked(40).values())
    write_jsonl(
        queries / "judgements.jsonl",
        ({"query_id": j.query_id, "passage_id": j.passage_id, "grade": 1, "split": split} for j, split in one_each(40)),
    )
    for name in ("negatives", "pairs", "cuts"):
        write_jsonl(queries / f"{name}.jsonl", [])
    write_jsonl(queries / "rejected.jsonl", [{"item": "x", "check": "maps-to-nothing", "reason": "y"}])
    return {"passages": tmp_path / "passages", "queries": queries}


def test_the_stage_writes_dataset_audit_and_rejections(make_stage, artifacts):
    write_jsonl(artifacts["queries"] / "judgements.jsonl", [
        {"query_id": f"q{i}", "passage_id": f"p{i}" if i else "gone", "grade": 1, "split": ""} for i in range(40)
    ])  # fmt: skip
    stage = make_stage(None, **artifacts)
    build_dataset(stage)

    audit = json.loads((stage.out / "audit.json").read_text())
    assert audit["rejected"] == {"maps-to-nothing": 1, "orphan": 1}
    assert audit["skipped_files"] == 1
    assert sum(audit["queries"].values()) == 39
    assert [row["item"] for _, row in read_jsonl(stage.out / "rejected.jsonl")] == ["q0 gone"]
    assert len(read_dataset(stage.out, SPLITS).queries) == 39


def test_the_stage_builds_pairs_where_there_are_pairs(make_stage, artifacts):
    rows = [
        {"pair_id": p.pair_id, "sentence1": p.sentence1, "sentence2": p.sentence2, "score": p.score, "split": ""}
        for p, _ in scored(40)
    ]
    write_jsonl(artifacts["queries"] / "pairs.jsonl", rows)
    stage = make_stage(None, **artifacts)
    build_dataset(stage)
    assert read_dataset(stage.out, ["train"]).task == "similarity"


@pytest.mark.parametrize(
    ("title", "text", "cut", "expected"),
    [
        ("Guide > How do I pay?", "By invoice.", "How do I pay?", ("Guide", "By invoice.")),
        ("Guide", "Intro.\nHow do I pay?\nBy invoice.", "How do I pay?", ("Guide", "Intro.\n\nBy invoice.")),
        ("Guide > Port > Rules", "A Portable Port.", "Port", ("Guide > Rules", "A Portable Port.")),
        ("Guide > Refunds", "Refunds take a week.", "Refunds", ("Guide", "Refunds take a week.")),
        ("Guide", "How do I pay?", "How do I pay?", ("Guide", "How do I pay?")),
        ("Guide", "By invoice.", "gone", ("Guide", "By invoice.")),
    ],
)
def test_text_that_became_a_query_is_cut_out_of_its_passage(make_stage, artifacts, title, text, cut, expected):
    write_passages(
        artifacts["passages"] / "corpus.jsonl", [*corpus(40), Passage("cut", text, title), Passage("not", text, title)]
    )
    write_jsonl(artifacts["queries"] / "cuts.jsonl", [{"passage_id": "cut", "text": cut}])
    stage = make_stage(None, **artifacts)
    build_dataset(stage)
    found = {p.passage_id: (p.title, p.text) for p in read_passages(stage.out / "corpus.jsonl")}
    assert found["cut"] == expected
    assert found["not"] == (title, text)
