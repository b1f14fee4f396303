"""A second round through the real stage: kept where dev rises, refused where it does not, and unharmed by a kill."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from shoptalk.beir import read_jsonl
from shoptalk.errors import TrainingFailed
from shoptalk.progress import Task, reporting_to
from shoptalk.settings import Settings
from shoptalk.training import finetune, finetuning, second_round
from shoptalk.training.second_round import decide
from shoptalk.workspace import StageContext, list_files
from toy import stage_in, toy_retrieval, toy_settings, toy_similarity, train_toy, training_of

# The margin is of no use on a base that knows nothing; few epochs leave something for a second round to gain.
MINING = {"mine": 2, "margin": 1, "bm25_share": 0.25, "depth": 132}


def settings_for(base: Path, rounds: int = 2, **train: Any) -> Settings:
    values = {"epochs": 3, "hidden_dropout": 0.1, **train}
    return toy_settings(base, negatives={**MINING, "rounds": rounds}, train=values)


class Listener:
    """A Reporter that keeps what the stages say."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def stage(self, name: str, what: str) -> None:
        self.said.append(what)

    def start(self, label: str, total: int | None, done: int = 0) -> Task:
        return Quiet()

    def finish(self, task: Task) -> None: ...


class Quiet:
    def advance(self, n: int = 1) -> None: ...
    def note(self, text: str) -> None: ...


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Mapping[int, StageContext]:
    """The same training with one round and with two."""
    folder = tmp_path_factory.mktemp("rounds")
    return {n: train_toy(folder / str(n), toy_retrieval(), settings_for(tiny_bert, n)) for n in (1, 2)}


def weights_of(stage: StageContext) -> dict[str, Any]:
    return list_files(stage.out / "best")


def log_of(stage: StageContext, name: str = "log.jsonl") -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(stage.out / name)]


def test_one_round_says_nothing_of_a_second(both: Mapping[int, StageContext]) -> None:
    assert "second_round" not in training_of(both[1])
    assert not list(both[1].out.glob("*round*"))
    assert not (both[1].scratch / "round-2").exists()


def test_the_second_round_is_used_where_dev_rises(both: Mapping[int, StageContext]) -> None:
    first, second = training_of(both[1]), training_of(both[2])
    told = second["second_round"]
    assert told["used"]
    assert told["first_dev"] == first["best_dev"] < second["best_dev"] == told["second_dev"]
    assert f"is used: dev nDCG@10 rose from {told['first_dev']:.4f} to {told['second_dev']:.4f}" in told["words"]
    assert weights_of(both[2]) != weights_of(both[1])
    assert log_of(both[2], "log-round-1.jsonl") == log_of(both[1])[1:]
    assert max(row["dev"] for row in log_of(both[2]) if "dev" in row) >= told["second_dev"]


def test_the_tuned_model_mined_for_it(both: Mapping[int, StageContext]) -> None:
    rows = [row for _, row in read_jsonl(both[2].out / "round-2" / "mined.jsonl")]
    base = {(row["query_id"], row["passage_id"]) for _, row in read_jsonl(both[2].read("examples") / "mined.jsonl")}
    assert {row["source"] for row in rows} == {"tuned", "bm25"}
    assert {(row["query_id"], row["passage_id"]) for row in rows} != base
    assert {row["query_id"] for row in rows} <= set(toy_retrieval().qrels["train"])
    assert json.loads((both[2].out / "round-2" / "audit.json").read_text(encoding="utf-8"))["mined"] == len(rows)


def test_the_second_round_is_refused_where_dev_does_not_rise(
    both: Mapping[int, StageContext], tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negatives of the second round are the answers themselves, which no training gets better by."""
    write = second_round.write_examples

    def poisoned(folder: Path, *arguments: Any) -> None:
        write(folder, *arguments)
        rows = [row for _, row in read_jsonl(folder / "examples.jsonl")]
        for row in rows:
            row["positive"], row["negatives"] = row["negatives"][0], [row["positive"], row["negatives"][1]]
        (folder / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    monkeypatch.setattr(second_round, "write_examples", poisoned)
    listener = Listener()
    with reporting_to(listener):
        stage = train_toy(tmp_path, toy_retrieval(), settings_for(tiny_bert))
    told, first = training_of(stage)["second_round"], training_of(both[1])
    assert not told["used"]
    assert told["second_dev"] <= told["first_dev"] == first["best_dev"]
    assert {name: value for name, value in training_of(stage).items() if name != "second_round"} == first
    assert weights_of(stage) == weights_of(both[1])
    assert log_of(stage) == log_of(both[1])
    assert log_of(stage, "log-round-2.jsonl")
    assert told["words"] in listener.said
    assert "not used" in told["words"]


@pytest.mark.parametrize("killed_in", [1, 2])
def test_a_kill_in_either_round_changes_nothing(
    killed_in: int, both: Mapping[int, StageContext], tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shoptalk.training.trainer import Trainer

    step, settings = Trainer.training_step, settings_for(tiny_bert)
    mined: list[str] = []
    mine = second_round.mine

    def dies(self: Any, *arguments: Any, **named: Any) -> Any:
        in_second = self.args.output_dir.endswith("round-2")
        if in_second == (killed_in == 2) and self.state.global_step == self.state.max_steps * 3 // 4:
            raise KeyboardInterrupt
        return step(self, *arguments, **named)

    def counted(*arguments: Any) -> Any:
        mined.append("once")
        return mine(*arguments)

    monkeypatch.setattr(second_round, "mine", counted)
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "training_step", dies)
        with pytest.raises(KeyboardInterrupt):
            train_toy(tmp_path, toy_retrieval(), settings)
    artifacts = {"dataset": tmp_path / "dataset", "examples": tmp_path / "examples" / "out"}
    cut = stage_in(tmp_path / "train", settings, **artifacts)
    finetune(cut)
    assert mined == ["once"]
    assert list_files(cut.out) == list_files(both[2].out)


def test_a_second_training_that_fails_leaves_the_first(
    both: Mapping[int, StageContext], tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = finetuning._with_the_trainer

    def fails(found: Any, dataset: Any, dev: Any, stage: StageContext) -> Any:
        if stage.scratch.name == "round-2":
            raise TrainingFailed("loss is nan at step 3")
        return train(found, dataset, dev, stage)

    monkeypatch.setattr(finetuning, "_with_the_trainer", fails)
    stage = train_toy(tmp_path, toy_retrieval(), settings_for(tiny_bert))
    assert not training_of(stage)["second_round"]["used"]
    assert "its training failed (loss is nan at step 3)" in training_of(stage)["second_round"]["words"]
    assert weights_of(stage) == weights_of(both[1])


@pytest.mark.parametrize(
    ("dataset", "train", "negatives", "reason"),
    [
        (toy_similarity(), {"epochs": 1}, {}, "scored pairs have no hard negatives"),
        (
            toy_retrieval(),
            {"method": "query-linear", "learning_rate": "auto"},
            {},
            "train.method=query-linear holds every",
        ),
        (toy_retrieval(), {"epochs": 1}, {"absolute_margin": 2.0}, "the tuned model found no hard negative"),
    ],
    ids=["scored pairs", "on vectors", "nothing found"],
)
def test_where_there_is_nothing_to_mine_the_first_round_stays_and_says_why(
    dataset: Any, train: dict[str, Any], negatives: dict[str, Any], reason: str, tmp_path: Path, tiny_bert: Path
) -> None:
    settings = toy_settings(tiny_bert, negatives={**MINING, **negatives, "rounds": 2}, train=train)
    told = training_of(train_toy(tmp_path, dataset, settings))["second_round"]
    assert (told["used"], told["second_dev"]) == (False, None)
    assert reason in told["words"]


def test_a_trial_of_a_search_has_no_second_round(
    tmp_path: Path, tiny_bert: Path, both: Mapping[int, StageContext]
) -> None:
    stage = stage_in(
        tmp_path, settings_for(tiny_bert, epochs=1), dataset=both[2].read("dataset"), examples=both[2].read("examples")
    )
    finetune(stage, heard=lambda step, epoch, score: None)
    assert "second_round" not in training_of(stage)


def test_an_equal_score_is_no_rise() -> None:
    assert not decide({"best_dev": 0.5}, {"best_dev": 0.5})["used"]
    assert decide({"best_dev": 0.5}, {"best_dev": 0.5001})["used"]
