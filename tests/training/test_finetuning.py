from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoptalk.beir import read_jsonl
from shoptalk.errors import SourceError, TrainingFailed
from shoptalk.models.encoder import TorchEncoder
from shoptalk.models.finding import find_model
from shoptalk.models.hardware import Hardware, choose_hardware
from shoptalk.models.loading import load_model
from shoptalk.progress import Task, reporting_to
from shoptalk.retrieval.ranking import rank
from shoptalk.settings import TrainSettings
from shoptalk.training import finetune, finetuning
from shoptalk.training.batches import Plan, plan_training
from shoptalk.training.dev import DevScore
from shoptalk.training.finetuning import _assert_score, build_loss
from shoptalk.training.methods import _reload
from shoptalk.workspace import StageContext, sha256_of
from toy import QUICK, stage_in, toy_retrieval, toy_settings, toy_similarity, train_toy, training_of

PROMPTS = {"query_prompt": "travel: ", "passage_prompt": "report: "}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> StageContext:
    """A finished training on pairs, with prompts and with hidden dropout, so that chance is part of it."""
    settings = toy_settings(tiny_bert, model=PROMPTS, train={"hidden_dropout": 0.1})
    return train_toy(tmp_path_factory.mktemp("trained"), toy_retrieval(), settings)


def weights_of(stage: StageContext) -> str:
    return sha256_of(stage.out / "best" / "model.safetensors")


def log_of(stage: StageContext) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(stage.out / "log.jsonl")]


class Spy:
    """A Reporter that counts training steps and, if asked, interrupts after some."""

    def __init__(self, interrupt_after: int | None = None) -> None:
        self.steps = 0
        self.begun_at: int | None = None
        self.notes: list[str] = []
        self.most = interrupt_after

    def stage(self, name: str, what: str) -> None: ...

    def start(self, label: str, total: int | None, done: int = 0) -> Task:
        if label != "training":
            return Ignored()
        self.begun_at = done
        return self

    def finish(self, task: Task) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)

    def advance(self, n: int = 1) -> None:
        self.steps += n
        if self.steps == self.most:
            raise KeyboardInterrupt


class Ignored:
    def advance(self, n: int = 1) -> None: ...
    def note(self, text: str) -> None: ...


# What is learned


@pytest.mark.parametrize("negatives", [False, True], ids=["pairs", "triplets"])
def test_retrieval_is_learned(tmp_path: Path, tiny_bert: Path, negatives: bool) -> None:
    stage = train_toy(tmp_path, toy_retrieval(negatives), toy_settings(tiny_bert))
    summary = training_of(stage)
    assert summary["base_dev"] < 0.3
    assert summary["best_dev"] > 0.8
    assert summary["negatives_per_example"] == (1 if negatives else 0)
    assert summary["metric"] == "ndcg@10"
    losses = [row["loss"] for row in log_of(stage) if "loss" in row]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


def test_labelled_negatives_reach_the_loss(tmp_path: Path, tiny_bert: Path) -> None:
    first = [
        next(row["loss"] for row in log_of(train_toy(tmp_path / str(n), toy_retrieval(n), settings)) if "loss" in row)
        for n in (False, True)
        for settings in [toy_settings(tiny_bert, train={"epochs": 1})]
    ]
    assert first[1] > first[0] + 0.3  # twice as many texts to choose from


def test_scored_pairs_are_learned(tmp_path: Path, tiny_bert: Path) -> None:
    stage = train_toy(tmp_path, toy_similarity(), toy_settings(tiny_bert, train={"epochs": 6}))
    summary = training_of(stage)
    assert summary["base_dev"] < 0.3
    assert summary["best_dev"] > 0.7
    assert summary["metric"] == "spearman"


def test_training_and_reloading_agree_in_the_precision_of_this_machine(tmp_path: Path, tiny_bert: Path) -> None:
    settings = toy_settings(tiny_bert, model={"precision": "auto"})
    summary = training_of(train_toy(tmp_path, toy_retrieval(), settings))
    assert summary["precision"] == choose_hardware(settings.model).precision
    assert summary["best_dev"] > 0.8


def test_the_scale_of_the_scores_changes_nothing(tmp_path: Path, tiny_bert: Path) -> None:
    plain = toy_similarity()
    percent = replace(
        plain,
        pairs={s: [replace(pair, score=100 * pair.score - 7) for pair in pairs] for s, pairs in plain.pairs.items()},
    )
    settings = toy_settings(tiny_bert, train={"epochs": 1})
    first, second = (train_toy(tmp_path / name, data, settings) for name, data in (("a", plain), ("b", percent)))
    assert weights_of(first) == weights_of(second)


# What is kept


def test_the_checkpoint_that_is_kept_is_what_is_written(trained: StageContext) -> None:
    summary, log = training_of(trained), log_of(trained)
    scores = {row["step"]: row["dev"] for row in log if "dev" in row}
    assert summary["best_dev"] == scores[summary["best_step"]]
    assert summary["highest_dev"] == max(scores.values())
    assert summary["base_dev"] == scores[0]
    kept = load_model(find_model(str(trained.out / "best")), trained.settings.model, "cpu")
    assert DevScore(toy_retrieval(), Hardware("cpu", "fp32", ""))(kept)["dev"] == pytest.approx(summary["best_dev"])


def test_the_log_holds_nothing_that_depends_on_the_clock(trained: StageContext) -> None:
    assert {key for row in log_of(trained) for key in row} <= {"step", "epoch", "loss", "learning_rate", "dev"}


def test_the_saved_model_is_a_plain_sentence_transformer_with_its_prompts(trained: StageContext) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(trained.out / "best"), device="cpu")
    assert model.prompts["query"] == "travel: "
    assert model.prompts["document"] == "report: "
    assert model.max_seq_length == 64
    query, passage = model.encode_query("what is the hotel room"), model.encode_document("what is the hotel room")
    assert query.shape == (32,)
    assert np.linalg.norm(query) == pytest.approx(1, abs=1e-5)
    assert not np.allclose(query, passage, atol=1e-3)


def test_the_saved_model_holds_no_pickle_and_no_card(trained: StageContext) -> None:
    names = {path.name for path in (trained.out / "best").rglob("*")}
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl")) or name == "README.md"]


def test_the_saved_configuration_keeps_the_models_own_dropout(trained: StageContext) -> None:
    config = json.loads((trained.out / "best" / "config.json").read_text(encoding="utf-8"))
    assert config["attention_probs_dropout_prob"] == config["hidden_dropout_prob"] == 0.1


def test_a_checkpoint_that_is_not_what_was_trained_is_refused(trained: StageContext, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    checkpoint = trained.scratch / f"checkpoint-{training_of(trained)['best_step']}"
    state = sorted(trained.scratch.glob("checkpoint-*"), key=lambda path: path.stat().st_mtime)[-1]
    history = json.loads((state / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    model = load_model(find_model(trained.settings.model.base), trained.settings.model, "cpu")
    dev = DevScore(toy_retrieval(), Hardware("cpu", "fp32", ""))
    intact, edited = tmp_path / "intact" / checkpoint.name, tmp_path / "edited" / checkpoint.name
    for copy in (intact, edited):
        shutil.copytree(checkpoint, copy)
    weights = load_file(edited / "model.safetensors")
    embeddings = next(name for name in weights if name.endswith("word_embeddings.weight"))
    weights[embeddings] = weights[embeddings][::-1].copy()
    save_file(weights, edited / "model.safetensors", metadata={"format": "pt"})

    said = _assert_score(_reload(model, intact), intact, dev, history)
    assert said == training_of(trained)["best_dev"]
    with pytest.raises(TrainingFailed, match="not what was trained"):
        _assert_score(_reload(model, edited), edited, dev, history)


# What reaches the loss


@contextmanager
def recorded_losses(monkeypatch: pytest.MonkeyPatch, record: Callable[[Any, Any], None]) -> Iterator[None]:
    """The loss as it is, with `record(model, features)` called before every forward pass."""

    def recording(model: Any, *arguments: Any) -> Any:
        loss = build_loss(model, *arguments)
        loss.register_forward_pre_hook(lambda _, inputs: record(model, inputs[0]))
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "build_loss", recording)
        patch.setattr(finetuning, "time_steps", lambda *arguments: 0.0)  # the steps timed beforehand are no training
        yield


def test_prompts_reach_training(tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[str], list[str]]] = []

    def record(model: Any, features: Any) -> None:
        asked, said = (model.tokenizer.batch_decode(f["input_ids"], skip_special_tokens=True) for f in features)
        seen.append((asked, said))

    settings = toy_settings(tiny_bert, model=PROMPTS, train={"epochs": 1})
    with recorded_losses(monkeypatch, record):
        train_toy(tmp_path, toy_retrieval(), settings)
    asked, said = ([text for batch in seen for text in batch[i]] for i in (0, 1))
    assert len(asked) == len(said) == 92
    assert all(text.startswith("travel : what is the") for text in asked)
    assert all(text.startswith("report : on the") for text in said)


def test_prompts_reach_the_negatives_too(tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def record(model: Any, features: Any) -> None:
        seen.extend(model.tokenizer.batch_decode(features[2]["input_ids"], skip_special_tokens=True))

    with recorded_losses(monkeypatch, record):
        train_toy(tmp_path, toy_retrieval(negatives=True), toy_settings(tiny_bert, model=PROMPTS, train={"epochs": 1}))
    assert len(seen) == 92
    assert all(text.startswith("report : on the") for text in seen)


def test_without_prompts_other_weights_come_out(tmp_path: Path, tiny_bert: Path) -> None:
    plain, prompted = (
        train_toy(tmp_path / name, toy_retrieval(), toy_settings(tiny_bert, model=model, train={"epochs": 1}))
        for name, model in (("plain", {}), ("prompted", PROMPTS))
    )
    assert weights_of(plain) != weights_of(prompted)


def test_attention_dropout_is_off_on_a_cpu_while_training_and_restored_after(
    tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, attention, hidden, training = [], set(), set(), set()

    def record(model: Any, _: Any) -> None:
        models.append(model)
        attention.update(dropouts(model, attention=True))
        hidden.update(dropouts(model, attention=False))
        training.add(model.training)

    with recorded_losses(monkeypatch, record):
        settings = toy_settings(tiny_bert, train={"epochs": 1, "hidden_dropout": 0.25})
        train_toy(tmp_path, toy_retrieval(), settings)
    assert (attention, hidden, training) == ({0.0}, {0.25}, {True})
    assert dropouts(models[0], attention=True) == dropouts(models[0], attention=False) == {0.1}


def dropouts(model: Any, attention: bool) -> set[float]:
    """The dropout of BERT's attention probabilities, or of everything else."""
    return {
        module.p
        for name, module in model.named_modules()
        if type(module).__name__ == "Dropout" and name.endswith("attention.self.dropout") is attention
    }


# The same again, and going on


def test_two_undisturbed_runs_give_the_same_weights_byte_for_byte(trained: StageContext, tmp_path: Path) -> None:
    again = train_toy(tmp_path, toy_retrieval(), trained.settings)
    assert weights_of(again) == weights_of(trained)
    assert log_of(again) == log_of(trained)


def test_another_seed_gives_other_weights(trained: StageContext, tmp_path: Path) -> None:
    other = train_toy(tmp_path, toy_retrieval(), trained.settings.model_copy(update={"seed": 13}))
    assert weights_of(other) != weights_of(trained)


def test_a_run_that_was_cut_off_goes_on_from_its_checkpoint_to_the_same_weights(
    trained: StageContext, tmp_path: Path
) -> None:
    total = training_of(trained)["steps"]
    first = Plan(total, 1).evaluations(QUICK["evaluations"])[0]
    with pytest.raises(KeyboardInterrupt), reporting_to(Spy(interrupt_after=first + 3)):
        train_toy(tmp_path, toy_retrieval(), trained.settings)
    goes_on = Spy()
    with reporting_to(goes_on):
        stage = stage_in(
            tmp_path / "train", trained.settings, dataset=tmp_path / "dataset", examples=tmp_path / "examples" / "out"
        )
        finetune(stage)
    assert (goes_on.begun_at, goes_on.steps) == (first, total - first)
    assert weights_of(stage) == weights_of(trained)
    assert training_of(stage) == training_of(trained)
    assert log_of(stage) == log_of(trained)


@pytest.fixture
def stopped_early(tmp_path: Path, tiny_bert: Path) -> StageContext:
    """A training away from dev, whose judgements are what the base model ranks first, so that an early evaluation stays the best."""
    settings = toy_settings(tiny_bert, train={"epochs": 20, "evaluations": 20, "patience": 2})
    toy, base = toy_retrieval(), load_model(find_model(str(tiny_bert)), settings.model, "cpu")
    first = rank(TorchEncoder(base, Hardware("cpu", "fp32", ""), ""), toy, list(toy.qrels["dev"]), 1)
    agreeing = {query: {found[0][0]: 1} for query, found in first.items()}
    return train_toy(tmp_path, replace(toy, qrels={**toy.qrels, "dev": agreeing}), settings)


def test_training_stops_when_dev_falls(stopped_early: StageContext) -> None:
    summary = training_of(stopped_early)
    scores = [row["dev"] for row in log_of(stopped_early) if "dev" in row]
    assert scores[0] == 1.0
    assert summary["steps_done"] < summary["steps"]
    assert summary["best_dev"] == summary["highest_dev"] > max(scores[-2:])
    assert summary["best_step"] < summary["steps_done"]


def test_a_run_that_stopped_early_does_not_train_on_when_it_is_begun_again(
    stopped_early: StageContext, tmp_path: Path
) -> None:
    summary, weights = training_of(stopped_early), weights_of(stopped_early)
    shutil.rmtree(stopped_early.out)
    stopped_early.out.mkdir()
    spy = Spy()
    with reporting_to(spy):
        finetune(stopped_early)
    assert spy.steps == 0
    assert training_of(stopped_early) == summary
    assert weights_of(stopped_early) == weights


def test_progress_shows_the_loss_and_the_dev_score(tmp_path: Path, tiny_bert: Path) -> None:
    spy = Spy()
    with reporting_to(spy):
        stage = train_toy(tmp_path, toy_retrieval(), toy_settings(tiny_bert, train={"epochs": 2}))
    assert spy.steps == training_of(stage)["steps"]
    assert "loss" in spy.notes[-1]
    assert "dev" in spy.notes[-1]


# What goes wrong


def test_a_loss_that_is_no_number_ends_training_with_a_note_on_disk(tmp_path: Path, tiny_bert: Path) -> None:
    settings = toy_settings(tiny_bert, train={"learning_rate": 1e30, "warmup_share": 0.0})
    with pytest.raises(TrainingFailed, match=r"lower train\.learning_rate") as failed:
        train_toy(tmp_path, toy_retrieval(), settings)
    note = json.loads((tmp_path / "train" / "scratch" / "not-finite.json").read_text(encoding="utf-8"))
    assert {"step", "log"} <= note.keys()
    assert f"at step {note['step']}" in str(failed.value)
    assert not (tmp_path / "train" / "out" / "best").exists()


def test_fewer_than_two_pairs_cannot_be_trained_on(tmp_path: Path, tiny_bert: Path) -> None:
    with pytest.raises(SourceError, match=r"1 training pairs; at least 2"):
        train_toy(tmp_path, toy_retrieval(n_train=1), toy_settings(tiny_bert))


def test_two_pairs_are_trained_on(tmp_path: Path, tiny_bert: Path) -> None:
    stage = train_toy(tmp_path, toy_retrieval(n_train=2), toy_settings(tiny_bert, train={"epochs": 2}))
    assert training_of(stage)["steps_done"] == 2


def test_the_base_folder_is_left_as_it_was(trained: StageContext, tiny_bert: Path) -> None:
    assert not {path.name for path in tiny_bert.rglob("*")} & {"trainer_state.json", "sealed.json"}
    assert sha256_of(tiny_bert / "model.safetensors") != weights_of(trained)


# The plan


@pytest.mark.parametrize(
    ("steps_per_epoch", "values", "epochs"),
    [
        (1, {}, 10),
        (10, {}, 10),
        (12, {}, 9),
        (33, {}, 4),
        (34, {}, 3),
        (5_000, {}, 3),
        (50, {"min_steps": 500}, 10),
        (50, {"min_steps": 1}, 3),
        (5_000, {"epochs": 1}, 1),
        (1, {"epochs": 40}, 40),
    ],
)
def test_epochs_make_at_least_min_steps_within_3_and_10_unless_they_are_named(
    steps_per_epoch: int, values: dict[str, int], epochs: int
) -> None:
    plan = plan_training(steps_per_epoch, TrainSettings.model_validate(values))
    assert plan.epochs == epochs
    assert plan.steps == steps_per_epoch * epochs


def test_the_trainer_takes_the_planned_steps(trained: StageContext) -> None:
    summary = training_of(trained)
    assert summary["steps_done"] == summary["steps"] == 10 * -(-92 // 16)


def test_dev_is_looked_at_more_often_early_and_always_at_the_end() -> None:
    assert Plan(100, 1).evaluations(6) == [5, 9, 17, 34, 67, 100]
    assert Plan(100, 1).evaluations(1) == [100]
    assert Plan(2, 1).evaluations(6) == [1, 2]
