from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shoptalk.evaluation.gate import CLOSED, assess, decide
from shoptalk.records import Dataset, Passage, Query
from shoptalk.settings import BaselineSettings, Settings
from toy import saved, sentence_pairs, stage_in, toy_retrieval, toy_settings, toy_similarity


def gate_of(score: float, n_pairs: int, origin: str = "human", **values: float) -> Any:
    interval = (score - 0.02, score + 0.02)
    return decide(score, interval, "ndcg@10", n_pairs, origin, BaselineSettings.model_validate(values))


@pytest.mark.parametrize(
    ("score", "n_pairs", "decision"),
    [
        (0.10, 2_000, "tune"),
        (0.699, 2_000, "tune"),
        (0.70, 2_000, "tune-with-caution"),
        (0.80, 2_000, "tune-with-caution"),
        (0.85, 2_000, "tune-with-caution"),
        (0.851, 2_000, "not-needed"),
        (1.00, 2_000, "not-needed"),
        (0.10, 99, "collect-more-data"),
        (0.80, 99, "collect-more-data"),
        (0.90, 99, "not-needed"),
        (0.10, 100, "tune"),
        (0.80, 100, "tune-with-caution"),
        (0.10, 0, "collect-more-data"),
    ],
)
def test_the_decision_follows_from_the_score_and_the_number_of_pairs(score: float, n_pairs: int, decision: str) -> None:
    assert gate_of(score, n_pairs).decision == decision


@pytest.mark.parametrize(
    ("n_pairs", "words"),
    [
        (0, "0 training pairs: fewer than 100 are too few to rely on"),
        (99, "99 training pairs: fewer than 100 are too few to rely on"),
        (100, "100 training pairs: 500 is a sensible minimum, 2,000 reliable"),
        (499, "499 training pairs: 500 is a sensible minimum, 2,000 reliable"),
        (500, "500 training pairs: a sensible number; 2,000 is reliable"),
        (1_999, "1,999 training pairs: a sensible number; 2,000 is reliable"),
        (2_000, "2,000 training pairs: a reliable number"),
    ],
)
def test_the_number_of_pairs_is_put_into_words(n_pairs: int, words: str) -> None:
    assert words in gate_of(0.5, n_pairs).reasons


def test_the_first_reason_holds_the_score_and_its_interval() -> None:
    assert (
        gate_of(0.5, 500)
        .reasons[0]
        .startswith("the base model's nDCG@10 on train and dev queries is 0.500 (95% interval 0.480 to 0.520)")
    )


@pytest.mark.parametrize(("origin", "said"), [("offline", True), ("human", False), ("llm", False)])
def test_offline_queries_make_the_score_a_guess(origin: str, said: bool) -> None:
    assert ("so this score is a guess" in " ".join(gate_of(0.5, 500, origin).reasons)) is said


def test_the_thresholds_are_settings() -> None:
    assert gate_of(0.5, 500, fine_above=0.4).decision == "not-needed"
    assert gate_of(0.5, 500, tune_below=0.4).decision == "tune-with-caution"
    assert gate_of(0.5, 500, too_few_pairs=501).decision == "collect-more-data"


def test_tuning_is_advised_by_the_open_decisions_alone() -> None:
    assert {"tune", "tune-with-caution"}.isdisjoint(CLOSED)


# The stage


def assessed(folder: Path, data: Path, settings: Settings) -> dict[str, Any]:
    """gate.json of the stage, read by a parser that takes no NaN."""
    stage = stage_in(folder, settings, dataset=data)
    assess(stage)
    text = (stage.out / "gate.json").read_text(encoding="utf-8")
    record: dict[str, Any] = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in gate.json"))
    return record


def test_the_stage_measures_train_and_dev_and_is_told_the_size_of_test(tmp_path: Path, tiny_bert: Path) -> None:
    record = assessed(tmp_path, saved(tmp_path / "dataset", toy_retrieval()), toy_settings(tiny_bert))
    assert record["queries"] == 92 + 20
    assert record["test_queries"] == 20
    assert record["training_pairs"] == 92
    assert record["metric"] == "ndcg@10"
    assert record["score"] == record["base"]["ndcg@10"]
    assert record["ci95"][0] < record["score"] < record["ci95"][1]
    assert record["decision"] == "collect-more-data"


def test_the_stage_never_opens_the_test_judgements(tmp_path: Path, tiny_bert: Path) -> None:
    data, settings = saved(tmp_path / "dataset", toy_retrieval()), toy_settings(tiny_bert)
    whole = assessed(tmp_path / "whole", data, settings)
    (data / "qrels" / "test.tsv").unlink()
    assert assessed(tmp_path / "without", data, settings) == whole


def test_the_stage_never_opens_the_test_pairs(tmp_path: Path, tiny_bert: Path) -> None:
    data, settings = saved(tmp_path / "dataset", toy_similarity()), toy_settings(tiny_bert)
    (data / "pairs" / "test.jsonl").unlink()
    record = assessed(tmp_path, data, settings)
    assert record["metric"] == "spearman"
    assert record["queries"] == 260 + 70
    assert record["score"] == record["base"]["spearman"]
    assert record["ci95"][0] < record["score"] < record["ci95"][1]
    assert "bm25" not in record
    assert "Spearman" in record["reasons"][0]


def test_no_more_queries_are_looked_at_than_asked_for_and_the_seed_says_which(tmp_path: Path, tiny_bert: Path) -> None:
    data = saved(tmp_path / "dataset", toy_retrieval())
    settings = toy_settings(tiny_bert, baseline={"max_queries": 40})
    first, again = (assessed(tmp_path / name, data, settings) for name in ("a", "b"))
    other = assessed(tmp_path / "c", data, settings.model_copy(update={"seed": 13}))
    assert first == again
    assert first["queries"] == 40
    assert first["bm25"] != other["bm25"]


def test_a_base_model_that_knows_the_task_needs_no_tuning(tmp_path: Path, taught_bert: Path) -> None:
    record = assessed(tmp_path, saved(tmp_path / "dataset", toy_retrieval()), toy_settings(taught_bert))
    assert record["decision"] == "not-needed"
    assert record["reasons"][-1].endswith("clearly below the base model")


def test_bm25_that_is_better_is_named_with_what_to_do(tmp_path: Path, tiny_bert: Path) -> None:
    answers = [f"{said} {'xyz'[i % 3]}{i} {i * 7}" for i, (_, said) in enumerate(sentence_pairs())]
    splits = {"train": range(100), "dev": range(100, 120), "test": range(120, 132)}
    ids = {f"p{i}": f"p{i}" for i in range(132)}
    dataset = Dataset(
        "retrieval",
        {f"p{i}": Passage(f"p{i}", text) for i, text in enumerate(answers)},
        {f"q{i}": Query(f"q{i}", " ".join(text.split()[-2:])) for i, text in enumerate(answers)},
        {name: {f"q{i}": {f"p{i}": 1} for i in rows} for name, rows in splits.items()},
        ids,
        {f"q{i}": f"q{i}" for i in range(132)},
    )
    record = assessed(tmp_path, saved(tmp_path / "dataset", dataset), toy_settings(tiny_bert))
    assert record["bm25"]["ndcg@10"] == pytest.approx(1.0)
    assert record["bm25_delta"]["ci95"][0] > 0
    assert "BM25 alone reaches 1.000, clearly better than the base model: fuse it" in record["reasons"][-1]


def test_bm25_that_is_no_better_is_said_to_be_so(tmp_path: Path, tiny_bert: Path) -> None:
    record = assessed(tmp_path, saved(tmp_path / "dataset", toy_retrieval()), toy_settings(tiny_bert))
    low, high = record["bm25_delta"]["ci95"]
    assert low <= 0 <= high
    assert record["reasons"][-1].endswith("which cannot be told from the base model")


def test_the_origin_of_the_training_queries_is_what_the_gate_names(tmp_path: Path, tiny_bert: Path) -> None:
    data = saved(tmp_path / "dataset", toy_retrieval(), train_origin="offline", test_origin="human")
    assert any("a guess" in reason for reason in assessed(tmp_path, data, toy_settings(tiny_bert))["reasons"])
