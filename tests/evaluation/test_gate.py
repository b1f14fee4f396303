from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shoptalk.errors import ModelError
from shoptalk.evaluation.advice import CLOSED, decide
from shoptalk.evaluation.gate import assess
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
    """gate.json of the stage, read by a parser that takes no NaN; without the clock."""
    stage = stage_in(folder, settings, dataset=data)
    assess(stage)
    text = (stage.out / "gate.json").read_text(encoding="utf-8")
    record: dict[str, Any] = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in gate.json"))
    for system in record["systems"]:
        assert system.pop("seconds_per_1000") > 0
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


# What else gate.json holds


def judged(record: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(system for system in record["systems"] if system["name"] == name)
    return found


def test_every_system_is_there_with_its_interval_and_its_difference_to_the_base(
    tmp_path: Path, tiny_bert: Path
) -> None:
    record = assessed(tmp_path, saved(tmp_path / "dataset", toy_retrieval()), toy_settings(tiny_bert))
    assert [system["name"] for system in record["systems"]] == ["base", "bm25", "fused"]
    base, keywords = judged(record, "base"), judged(record, "bm25")
    assert (base["ndcg@10"], base["ci95"], base["delta"]) == (record["score"], record["ci95"], None)
    assert (keywords["metrics"], keywords["ci95"]) == (record["bm25"], record["bm25_ci95"])
    assert keywords["delta"] == record["bm25_delta"]
    assert all(system["label"] and system["detail"] and system["index_bytes"] > 0 for system in record["systems"])


def test_candidates_are_measured_with_their_own_prompts_and_length(
    tmp_path: Path, tiny_bert: Path, taught_bert: Path
) -> None:
    data = saved(tmp_path / "dataset", toy_retrieval())
    own = {"base": str(tiny_bert), "query_prompt": "travel: ", "max_tokens": 12}
    settings = toy_settings(tiny_bert, model=own, baseline={"candidates": [str(taught_bert)]})
    record = assessed(tmp_path, data, settings)
    assert [s["name"] for s in record["systems"]] == ["base", "base-without-prompts", "bm25", "fused", str(taught_bert)]
    assert "up to 12 tokens, query prompt" in judged(record, "base")["detail"]
    assert judged(record, str(taught_bert))["detail"].endswith("up to 64 tokens, no prompts")
    alone = assessed(tmp_path / "alone", data, toy_settings(taught_bert))
    assert judged(record, str(taught_bert))["metrics"] == alone["base"]


def test_a_better_general_model_is_what_the_gate_advises(tmp_path: Path, tiny_bert: Path, taught_bert: Path) -> None:
    settings = toy_settings(tiny_bert, baseline={"candidates": [str(taught_bert)], "too_few_pairs": 10})
    record = assessed(tmp_path, saved(tmp_path / "dataset", toy_retrieval()), settings)
    assert record["decision"] == "use-something-simpler"
    assert record["reasons"][0].startswith(f"{taught_bert} reaches nDCG@10")


def test_a_candidate_that_is_not_there_is_named_before_anything_is_encoded(tmp_path: Path, tiny_bert: Path) -> None:
    settings = toy_settings(tiny_bert, baseline={"candidates": ["./no-such-model"]})
    with pytest.raises(ModelError, match=r"\./no-such-model: no such folder"):
        assessed(tmp_path, saved(tmp_path / "dataset", toy_retrieval()), settings)
    assert not (tmp_path / "cache").exists()


def test_power_is_that_of_the_test_sets_groups_and_asks_for_more_queries(tmp_path: Path, tiny_bert: Path) -> None:
    data = saved(tmp_path / "dataset", toy_retrieval(), groups={"train": 92, "dev": 20, "test": 10})
    power = assessed(tmp_path, data, toy_settings(tiny_bert))["power"]
    assert (power["test_queries"], power["groups"]) == (20, 10)
    assert power["sd"] > 0
    assert power["detectable"] > 0.02
    assert power["more_needed"] == power["queries_needed"] - 20 > 0
    assert "BM25 fused with the base against the base on train and dev queries" in power["words"]


def test_a_forecast_is_made_from_train_and_dev_or_its_absence_explained(tmp_path: Path, tiny_bert: Path) -> None:
    settings = toy_settings(tiny_bert)
    record = assessed(tmp_path / "a", saved(tmp_path / "whole", toy_retrieval()), settings)
    assert [point["pairs"] for point in record["forecast"]["points"]] == [12, 23, 46, 92]
    assert [row["pairs"] for row in record["forecast"]["predicted"]] == [92, 184, 368]
    assert record["no_forecast"] == ""
    few = assessed(tmp_path / "b", saved(tmp_path / "few", toy_retrieval(n_train=19)), settings)
    assert few["forecast"] is None
    assert "there are 19 and 20" in few["no_forecast"]
    off = toy_settings(tiny_bert, baseline={"forecast": False})
    assert assessed(tmp_path / "c", tmp_path / "whole", off)["forecast"] is None


def test_headroom_and_the_rules_of_thumb_stand_beside_the_score(tmp_path: Path, tiny_bert: Path) -> None:
    settings = toy_settings(tiny_bert, baseline={"good": {"recall@10": 0.0, "map@100": 1.0}})
    record = assessed(tmp_path, saved(tmp_path / "dataset", toy_retrieval()), settings)
    room = record["headroom"]
    assert room["ndcg@10"] + room["reranker"] + room["embedding"] == pytest.approx(1)
    assert room["recall@100"] == record["base"]["recall@100"] == pytest.approx(room["ndcg@10"] + room["reranker"])
    assert [(rule["metric"], rule["reached"]) for rule in record["good"]] == [("recall@10", True), ("map@100", False)]
    assert record["good"][0]["value"] == record["base"]["recall@10"]


@pytest.mark.parametrize(("n_pairs", "reached"), [(99, 0), (100, 1), (250, 2), (999, 3), (1_000, 4), (2_000, 5)])
def test_the_ladder_of_training_pairs(n_pairs: int, reached: int, tmp_path: Path, tiny_bert: Path) -> None:
    data = saved(tmp_path / "dataset", toy_similarity(), training_pairs=n_pairs)
    steps = assessed(tmp_path, data, toy_settings(tiny_bert))["data"]
    assert [step["pairs"] for step in steps] == [100, 200, 500, 1_000, 2_000]
    assert [step["reached"] for step in steps] == [True] * reached + [False] * (5 - reached)


def test_scored_pairs_have_no_power_headroom_or_forecast(tmp_path: Path, tiny_bert: Path) -> None:
    record = assessed(tmp_path, saved(tmp_path / "dataset", toy_similarity()), toy_settings(tiny_bert))
    assert [record[name] for name in ("power", "headroom", "forecast")] == [None, None, None]
    assert "scored pairs" in record["no_forecast"]
    assert [system["name"] for system in record["systems"]] == ["base"]
    assert record["systems"][0]["spearman"] == record["score"]
