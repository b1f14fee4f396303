"""Every method of the table through the real stage: it learns, a killed run goes on bit for bit, and the result is a plain model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoptalk.errors import MissingPart, TrainingFailed
from shoptalk.records import Dataset
from shoptalk.settings import Settings
from shoptalk.training import finetune, finetuning
from shoptalk.training.methods import METHODS, learning_rate
from shoptalk.training.objectives import OBJECTIVES
from shoptalk.workspace import StageContext, sha256_of
from toy import stage_in, toy_retrieval, toy_settings, toy_similarity, train_toy, training_of

FAST = {"lora": 1e-2, "static": 2e-2, "full": 5e-3}


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the steps that are timed beforehand, so that calls can be counted by step."""
    monkeypatch.setattr(finetuning, "time_steps", lambda *arguments: 0.0)


def settings_for(base: Path, name: str, **train: Any) -> Any:
    values = {
        "method": name,
        "batch_size": 16,
        "evaluations": 3,
        "threads": 1,
        "learning_rate": "auto",
        "epochs": "auto",
    }
    if name in FAST:
        # The toy's lower layers are random, and LoRA cannot move the embeddings below them.
        values |= {"learning_rate": FAST[name], "epochs": 50 if name == "lora" else 10}
    return toy_settings(base, train={**values, **train})


@pytest.mark.parametrize("name", list(METHODS))
def test_the_method_learns_and_leaves_a_plain_model(name: str, tiny_bert: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    stage = train_toy(tmp_path, toy_retrieval(), settings_for(tiny_bert, name))
    said = training_of(stage)
    assert said["method"] == name
    assert said["best_dev"] > said["base_dev"] + (0.1 if name.startswith("query") else 0.3)
    model = SentenceTransformer(str(stage.out / "best"), device="cpu")
    assert not [n for n, _ in model.named_parameters() if "lora" in n]
    vectors = model.encode_query(["what is the hotel room"]), model.encode_document(["what is the hotel room"])
    assert all(np.isfinite(found).all() and np.linalg.norm(found) > 0 for found in vectors)
    if name.startswith("query"):
        base = SentenceTransformer(str(tiny_bert), device="cpu")
        np.testing.assert_array_equal(
            base.encode_document(["on the price form"]), model.encode_document(["on the price form"])
        )


def assert_a_kill_changes_nothing(
    dataset: Dataset, settings: Settings, folder: Path, patch: pytest.MonkeyPatch
) -> None:
    """Train whole; train again, stopped at three quarters; go on; compare every file."""
    from shoptalk.training.trainer import Trainer

    whole = train_toy(folder / "whole", dataset, settings)
    step = Trainer.training_step

    def dies(self: Any, *arguments: Any, **named: Any) -> Any:
        if self.state.global_step == self.state.max_steps * 3 // 4:
            raise KeyboardInterrupt
        return step(self, *arguments, **named)

    with patch.context() as patched:
        patched.setattr(Trainer, "training_step", dies)
        with pytest.raises(KeyboardInterrupt):
            train_toy(folder / "cut", dataset, settings)
    cut = stage_in(folder / "cut" / "train", settings, **_artifacts(folder / "cut"))
    assert list(cut.scratch.glob("checkpoint-*"))
    finetune(cut)
    assert _weights(cut) == _weights(whole)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.on_vectors])
def test_a_killed_run_ends_in_the_same_weights(
    name: str, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(tiny_bert, name, hidden_dropout=0.1)
    assert_a_kill_changes_nothing(toy_retrieval(), settings, tmp_path, monkeypatch)


@pytest.mark.parametrize("loss", list(OBJECTIVES))
def test_a_killed_run_ends_in_the_same_weights_with_every_loss(
    loss: str, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = OBJECTIVES[loss]
    dataset = toy_similarity() if objective.task == "similarity" else toy_retrieval(negatives=True)
    teacher = {"teacher": str(tiny_bert)} if "teacher" in objective.needs else {}
    common = {"epochs": 2, "hidden_dropout": 0.1, "chunk_tokens": 64, "matryoshka": "halves", **teacher}
    settings = settings_for(tiny_bert, "full", loss=loss, **common)
    assert_a_kill_changes_nothing(dataset, settings, tmp_path, monkeypatch)


def _artifacts(folder: Path) -> dict[str, Path]:
    return {"dataset": folder / "dataset", "examples": folder / "examples" / "out"}


def _weights(stage: StageContext) -> dict[str, str]:
    return {
        path.relative_to(stage.out).as_posix(): sha256_of(path)
        for path in sorted(stage.out.rglob("*"))
        if path.is_file()
    }


def test_the_automatic_learning_rate_is_the_methods_own(tiny_bert: Path) -> None:
    assert learning_rate(toy_settings(tiny_bert, train={"method": "lora", "learning_rate": "auto"})) == 3e-4
    assert learning_rate(toy_settings(tiny_bert, train={"method": "lora", "learning_rate": 1e-4})) == 1e-4


def test_running_out_of_gpu_memory_halves_the_chunk_and_keeps_the_result(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is torch's own class, raised where a GPU raises it; the step is repeated with the same dropout."""
    import torch

    from shoptalk.training.engine import Engine

    settings = settings_for(tiny_bert, "full", hidden_dropout=0.1, chunk_tokens=2_048)
    whole = train_toy(tmp_path / "whole", toy_retrieval(), settings)
    embed, calls = Engine.embed, []

    def short_of_memory(self: Any, *arguments: Any) -> Any:
        calls.append(self.chunk_tokens)
        if len(calls) == 40:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return embed(self, *arguments)

    monkeypatch.setattr(Engine, "embed", short_of_memory)
    cut = train_toy(tmp_path / "cut", toy_retrieval(), settings)
    assert set(calls) - {1 << 30} == {2_048, 1_024}  # the measurement before step 1 is one chunk
    assert training_of(cut)["chunk_tokens"] == 1_024
    ours, theirs = (
        json.loads(line) for line in ((s.out / "log.jsonl").read_text().splitlines()[-2] for s in (cut, whole))
    )
    assert ours.get("loss", ours.get("dev")) == pytest.approx(theirs.get("loss", theirs.get("dev")), abs=1e-3)


@pytest.mark.usefixtures("untimed")
def test_a_single_text_that_does_not_fit_is_an_error(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from shoptalk.training.engine import Engine

    embed = Engine.embed

    def short_of_memory(self: Any, *arguments: Any) -> Any:
        if self.chunk_tokens > 1 << 20:  # the measurement before step 1
            return embed(self, *arguments)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Engine, "embed", short_of_memory)
    with pytest.raises(TrainingFailed, match=r"model\.max_tokens"):
        train_toy(tmp_path, toy_retrieval(), settings_for(tiny_bert, "full"))


@pytest.mark.usefixtures("untimed")
def test_a_loss_that_is_not_a_number_stops_with_the_batch_on_disk(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shoptalk.training.infonce import InfoNCE

    loss, calls = InfoNCE.loss, []

    def poisoned(self: Any, *arguments: Any) -> Any:
        calls.append(1)
        return loss(self, *arguments) * (float("nan") if len(calls) == 7 else 1.0)

    monkeypatch.setattr(InfoNCE, "loss", poisoned)
    with pytest.raises(TrainingFailed, match=r"loss is nan at step 7; lower train\.learning_rate"):
        train_toy(tmp_path, toy_retrieval(), settings_for(tiny_bert, "full"))
    note = json.loads((tmp_path / "train" / "scratch" / "not-finite.json").read_text(encoding="utf-8"))
    assert note["step"] == 7
    assert len(note["batch"]["anchor"]) == len(note["batch"]["positive"]) == 16
    assert all(text.startswith("what is the") for text in note["batch"]["anchor"])


@pytest.mark.usefixtures("untimed")
def test_a_loss_that_explodes_stops(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from shoptalk.training.infonce import InfoNCE

    loss, calls = InfoNCE.loss, []

    def exploding(self: Any, *arguments: Any) -> Any:
        calls.append(1)
        return loss(self, *arguments) * (1_000.0 if len(calls) > 20 else 1.0)

    monkeypatch.setattr(InfoNCE, "loss", exploding)
    with pytest.raises(TrainingFailed, match=r"loss is \d+.* at step 21"):
        train_toy(tmp_path, toy_retrieval(), settings_for(tiny_bert, "full"))


def test_tensorboard_follows_a_training(tiny_bert: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    stage = train_toy(tmp_path, toy_retrieval(), settings_for(tiny_bert, "full", report_to=["tensorboard"]))
    events = EventAccumulator(str(stage.cache.with_name("tensorboard")))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert "train/loss" in tags
    scores = [round(event.value, 4) for event in events.Scalars("eval/dev")]
    assert max(scores) == pytest.approx(training_of(stage)["best_dev"], abs=1e-4)


def test_a_tracker_that_is_not_installed_is_named_before_training(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingPart, match="pip install wandb"):
        train_toy(tmp_path, toy_retrieval(), settings_for(tiny_bert, "full", report_to=["wandb"]))


def test_a_training_can_be_followed_by_a_file(tiny_bert: Path, tmp_path: Path) -> None:
    stage = train_toy(tmp_path, toy_retrieval(), settings_for(tiny_bert, "full"))
    rows = [json.loads(line) for line in stage.cache.with_name("live.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows[-1]["step"] == rows[-1]["of"] == training_of(stage)["steps"]
    assert rows[-1]["seconds_left"] == 0
    assert all(row["examples_per_s"] > 0 and row["tokens_per_s"] > row["examples_per_s"] for row in rows)
    assert {"loss", "dev"} <= rows[-1].keys()


def test_gradient_checkpointing_computes_layers_twice_and_changes_no_result(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.bert.modeling_bert import BertIntermediate

    forward, calls, weights, counts = BertIntermediate.forward, [0], [], []

    def counted(self: Any, *arguments: Any, **named: Any) -> Any:
        calls[0] += self.training
        return forward(self, *arguments, **named)

    monkeypatch.setattr(BertIntermediate, "forward", counted)
    for checkpointing in (False, True):
        calls[0] = 0
        settings = settings_for(tiny_bert, "full", epochs=2, hidden_dropout=0.1, gradient_checkpointing=checkpointing)
        stage = train_toy(tmp_path / str(checkpointing), toy_retrieval(), settings)
        weights.append(sha256_of(stage.out / "best" / "model.safetensors"))
        counts.append(calls[0])
    assert weights[0] == weights[1]
    assert counts[1] > 1.5 * counts[0]


def test_two_runs_with_one_seed_give_equal_weights_and_another_seed_gives_others(
    tiny_bert: Path, tmp_path: Path
) -> None:
    def trained(name: str, seed: int) -> dict[str, str]:
        settings = settings_for(tiny_bert, "full", epochs=2, hidden_dropout=0.1).model_copy(update={"seed": seed})
        return _weights(train_toy(tmp_path / name, toy_retrieval(), settings))

    first = trained("first", 1)
    assert trained("again", 1) == first
    assert trained("other", 2) != first
