from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from placed import dataset_with

from shoptalk.beir import read_jsonl
from shoptalk.cli.summary import stage_record
from shoptalk.errors import SettingsError
from shoptalk.settings import make_settings
from shoptalk.training.negatives import make_examples, mine_negatives, read_examples, with_number
from shoptalk.workspace import list_files
from toy import saved, stage_in, toy_retrieval, toy_settings, toy_similarity


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(12)


def test_every_query_and_answer_is_an_example(rng: np.random.Generator) -> None:
    examples = make_examples(dataset_with({"q1": ["a", "b"], "q2": ["c"]}, "abcd"), {}, rng)
    assert [(e.query_id, e.positive_id, e.anchor, e.positive) for e in examples] == [
        ("q1", "a", "q1?", "a"),
        ("q1", "b", "q1?", "b"),
        ("q2", "c", "q2?", "c"),
    ]
    assert all(e.negatives == () for e in examples)


def test_a_passage_judged_as_no_answer_is_no_positive(rng: np.random.Generator) -> None:
    dataset = dataset_with({"q1": ["a"]}, "ab")
    dataset.qrels["train"]["q1"]["b"] = 0
    assert [e.positive_id for e in make_examples(dataset, {}, rng)] == ["a"]


def test_all_examples_are_as_wide_as_the_widest(rng: np.random.Generator) -> None:
    negatives = {"q1": ("labelled one", "labelled two", "labelled three"), "q2": ("labelled four",)}
    dataset = dataset_with({"q1": ["a"], "q2": ["b"], "q3": ["c"]}, "abcdefgh", negatives=negatives)
    examples = {e.query_id: e for e in make_examples(dataset, {}, rng)}
    assert examples["q1"].negatives == negatives["q1"]
    assert examples["q2"].negatives[0] == "labelled four"
    assert {len(e.negatives) for e in examples.values()} == {3}
    assert all(len(set(e.negatives)) == 3 for e in examples.values())


def test_labelled_negatives_come_before_mined_ones(rng: np.random.Generator) -> None:
    dataset = dataset_with({"q1": ["a"]}, "abc", negatives={"q1": ("labelled",)})
    assert make_examples(dataset, {"q1": ["c", "b"]}, rng)[0].negatives == ("labelled", "c", "b")


def test_what_fills_up_is_never_an_answer_nor_a_near_duplicate_of_one(rng: np.random.Generator) -> None:
    clusters = dict.fromkeys("abcd", "twins of a")
    dataset = dataset_with({"q1": ["a"], "q2": ["e"]}, "abcdef", clusters, {"q2": ("x", "y")})
    for _ in range(20):
        first = next(e for e in make_examples(dataset, {}, rng) if e.query_id == "q1")
        assert set(first.negatives) == {"e", "f"}


def test_a_corpus_without_enough_others_still_gives_equal_columns(rng: np.random.Generator) -> None:
    dataset = dataset_with({"q1": ["a"], "q2": ["b"]}, "ab", negatives={"q1": ("x", "y", "z")})
    second = make_examples(dataset, {}, rng)[1]
    assert second.negatives == ("a", "a", "a")


def test_the_stage_mines_with_the_base_model_when_asked_to(tmp_path: Path, tiny_bert: Path) -> None:
    data = saved(tmp_path / "dataset", toy_retrieval())
    plain = stage_in(tmp_path / "plain", toy_settings(tiny_bert), dataset=data)
    mined = stage_in(
        tmp_path / "mined", toy_settings(tiny_bert, negatives={"mine": 2, "margin": 1, "depth": 132}), dataset=data
    )
    for stage in (plain, mined):
        mine_negatives(stage)
    assert {len(e.negatives) for e in read_examples(plain.out)} == {0}
    assert {len(e.negatives) for e in read_examples(mined.out)} == {2}
    assert all(e.positive not in e.negatives for e in read_examples(mined.out))
    assert sorted(list_files(plain.out)) == ["examples.jsonl"]


def test_what_was_mined_is_kept_with_its_scores_and_an_audit(tmp_path: Path, tiny_bert: Path) -> None:
    data = saved(tmp_path / "dataset", toy_retrieval())
    settings = toy_settings(tiny_bert, negatives={"mine": 4, "margin": 1, "bm25_share": 0.5})
    stage = stage_in(tmp_path / "mined", settings, dataset=data)
    mine_negatives(stage)
    examples = {example.query_id: example for example in read_examples(stage.out)}
    rows = [row for _, row in read_jsonl(stage.out / "mined.jsonl")]
    assert set(rows[0]) == {"query_id", "passage_id", "rank", "score", "positive_score", "source"}
    assert {row["source"] for row in rows} == {"base", "bm25"}
    assert all(row["score"] < row["positive_score"] for row in rows)
    contents = {p.passage_id: p.content for p in toy_retrieval().passages.values()}
    for query_id, example in examples.items():
        own = [row for row in rows if row["query_id"] == query_id]
        assert [contents[row["passage_id"]] for row in own] == list(example.negatives)[: len(own)]
        assert [row["score"] for row in own] == sorted((row["score"] for row in own), reverse=True)
    audit = json.loads((stage.out / "audit.json").read_text(encoding="utf-8"))
    assert audit["mined"] == len(rows)
    assert audit["settings"]["mine"] == 4
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "examples").symlink_to(stage.out)
    record = stage_record(tmp_path / "run", "negatives")  # what the command prints
    assert record == {"examples": 92, "negatives each": 4, "mined": audit["sentence"]}


def test_the_same_seed_mines_the_same(tmp_path: Path, tiny_bert: Path) -> None:
    data = saved(tmp_path / "dataset", toy_retrieval())
    settings = toy_settings(tiny_bert, negatives={"mine": 1, "margin": 1, "bm25_share": 0.5})
    files = []
    for name, seed in (("one", 12), ("two", 12), ("three", 13)):
        stage = stage_in(tmp_path / name, settings.model_copy(update={"seed": seed}), dataset=data)
        mine_negatives(stage)
        files.append(list_files(stage.out))
    assert files[0] == files[1]
    assert files[0]["mined.jsonl"] != files[2]["mined.jsonl"]


def test_the_weight_of_a_judgement_goes_into_its_example(rng: np.random.Generator) -> None:
    dataset = replace(dataset_with({"q1": ["a", "b"], "q2": ["c"]}, "abc"), weights={"q1": {"b": 0.25}})
    assert [example.weight for example in make_examples(dataset, {}, rng)] == [1.0, 0.25, 1.0]


def test_a_second_round_needs_something_to_mine(tiny_bert: Path) -> None:
    with pytest.raises(SettingsError, match=r"negatives\.rounds is 2, but negatives\.mine is 0"):
        toy_settings(tiny_bert, negatives={"rounds": 2})


def test_for_scored_pairs_there_is_nothing_to_mine(tmp_path: Path, tiny_bert: Path) -> None:
    data = saved(tmp_path / "dataset", toy_similarity())
    stage = stage_in(tmp_path / "examples", toy_settings(tiny_bert, negatives={"mine": 2}), dataset=data)
    mine_negatives(stage)
    assert read_examples(stage.out) == []


@pytest.mark.parametrize(
    ("origin", "negatives", "mine", "number"),
    [
        ("human", False, "auto", 1),
        ("human", True, "auto", 0),
        ("offline", False, "auto", 0),
        ("llm", False, "auto", 0),
        ("offline", False, 2, 2),
        ("human", False, 0, 0),
    ],
)
def test_auto_mines_for_peoples_queries_without_negatives(
    origin: str, negatives: bool, mine: int | str, number: int
) -> None:
    dataset = toy_retrieval(negatives=negatives)
    dataset = replace(dataset, queries={name: replace(q, origin=origin) for name, q in dataset.queries.items()})
    settings = make_settings({"negatives": {"mine": mine}})
    assert with_number(settings, dataset).negatives.number == number


def test_auto_is_no_number_before_the_data_is_known() -> None:
    with pytest.raises(ValueError, match="depends on the data"):
        _ = make_settings({}).negatives.number
