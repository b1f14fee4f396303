from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from shoptalk.records import Dataset, Passage, Query
from shoptalk.settings import NegativeSettings
from shoptalk.training.negatives import make_examples, mine, mine_negatives, read_examples
from toy import saved, stage_in, toy_retrieval, toy_settings, toy_similarity


class PlacedEncoder:
    """An Encoder whose texts stand where the test puts them: text -> cosine to the first axis (queries stand on it)."""

    digest = "placed"

    def __init__(self, cosine: dict[str, float]) -> None:
        self.cosine = cosine

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        return self._vectors([1.0] * len(texts))

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        return self._vectors([self.cosine[text] for text in texts])

    def _vectors(self, cosines: list[float]) -> np.ndarray:
        return np.array([[c, np.sqrt(1 - c * c)] for c in cosines], np.float32)


def dataset_with(
    answers: dict[str, list[str]],
    passages: Sequence[str],
    clusters: dict[str, str] | None = None,
    negatives: dict[str, tuple[str, ...]] | None = None,
) -> Dataset:
    """Passages whose id is their text; queries by id with the passages that answer them."""
    return Dataset(
        "retrieval",
        {name: Passage(name, name) for name in passages},
        {q: Query(q, f"{q}?") for q in answers},
        {"train": {q: dict.fromkeys(found, 1) for q, found in answers.items()}},
        {name: (clusters or {}).get(name, name) for name in passages},
        negatives=negatives or {},
    )


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


def test_mined_negatives_score_under_the_margin_and_come_hardest_first() -> None:
    encoder = PlacedEncoder({"answer": 0.80, "above": 0.90, "close": 0.77, "hard": 0.75, "soft": 0.40})
    dataset = dataset_with({"q1": ["answer"]}, ["soft", "answer", "above", "hard", "close"])
    assert mine(dataset, encoder, NegativeSettings(mine=5, margin=0.95)) == {"q1": ["hard", "soft"]}


def test_the_margin_counts_from_the_lowest_answer() -> None:
    encoder = PlacedEncoder({"answer": 0.90, "other answer": 0.50, "hard": 0.80, "soft": 0.40})
    dataset = dataset_with({"q1": ["answer", "other answer"]}, list(encoder.cosine))
    assert mine(dataset, encoder, NegativeSettings(mine=5, margin=0.95)) == {"q1": ["soft"]}


def test_answers_and_their_near_duplicates_are_never_mined() -> None:
    encoder = PlacedEncoder({"answer": 0.90, "twin": 0.5, "low answer": 0.88, "hard": 0.6})
    clusters = {"answer": "c", "twin": "c"}
    dataset = dataset_with({"q1": ["answer", "low answer"]}, list(encoder.cosine), clusters)
    assert mine(dataset, encoder, NegativeSettings(mine=5, margin=1.0)) == {"q1": ["hard"]}


def test_no_more_are_mined_than_asked_for_and_none_from_below_the_depth() -> None:
    cosine = {"answer": 0.9} | {f"p{i}": 0.8 - i / 100 for i in range(20)}
    dataset = dataset_with({"q1": ["answer"]}, list(cosine))
    encoder = PlacedEncoder(cosine)
    assert mine(dataset, encoder, NegativeSettings(mine=3)) == {"q1": ["p0", "p1", "p2"]}
    assert mine(dataset, encoder, NegativeSettings(mine=15, depth=4)) == {"q1": ["p0", "p1", "p2"]}


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


def test_for_scored_pairs_there_is_nothing_to_mine(tmp_path: Path, tiny_bert: Path) -> None:
    data = saved(tmp_path / "dataset", toy_similarity())
    stage = stage_in(tmp_path / "examples", toy_settings(tiny_bert, negatives={"mine": 2}), dataset=data)
    mine_negatives(stage)
    assert read_examples(stage.out) == []
