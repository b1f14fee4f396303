from __future__ import annotations

import errno
import json
import math
import shutil
import sqlite3
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from shoptalk.beir import read_jsonl
from shoptalk.errors import DamagedArtifact, MissingPart, SettingsError, TrainingFailed
from shoptalk.models.finding import find_model
from shoptalk.models.loading import load_model
from shoptalk.progress import Task, reporter, reporting_to
from shoptalk.records import Dataset
from shoptalk.settings import TrainSettings
from shoptalk.training import finetune, mine_negatives
from shoptalk.training.batches import Plan, prepare_batches
from shoptalk.training.dev import Heard
from shoptalk.training.methods import METHODS
from shoptalk.training.negatives import read_examples
from shoptalk.training.objectives import OBJECTIVES, ObjectiveContext
from shoptalk.training.search import best_trial, search
from shoptalk.training.search_space import WITHOUT_TEMPERATURE, search_space
from shoptalk.training.study import storage_errors
from shoptalk.workspace import StageContext, sha256_of
from toy import saved, stage_in, toy_retrieval, toy_settings, toy_similarity, train_toy, training_of

EVALUATIONS = 4
SHARES = (1 / 8, 1 / 4, 1 / 2, 1)  # where four evaluations lie; test_the_shares_are_those_of_a_training
Ready = Callable[..., StageContext]


@pytest.fixture
def ready(tmp_path: Path, tiny_bert: Path) -> Ready:
    """A stage that is ready to search: ready(trials, DATASET, folder="a", seed=1, learning_rate=1e-4, ...). The same folder
    again is the same run folder, as after a kill."""

    def make(
        trials: int, dataset: Dataset | None = None, folder: str = "run", seed: int = 12, **train: Any
    ) -> StageContext:
        own = {"search": trials, "evaluations": EVALUATIONS, "learning_rate": "auto", **train}
        settings = toy_settings(tiny_bert, train=own).model_copy(update={"seed": seed})
        dataset, data = dataset or toy_retrieval(), tmp_path / "data" / f"{folder}-{id(dataset)}"
        examples = stage_in(data / "examples", settings, dataset=saved(data / "dataset", dataset))
        mine_negatives(examples)
        return stage_in(tmp_path / folder, settings, dataset=data / "dataset", examples=examples.out)

    return make


class CutOff(Exception):
    """Stands for whatever ends a process."""


@dataclass
class Landscape:
    """A training whose dev score follows from the learning rate alone, best at `peak`, and rises from evaluation to evaluation.

    It takes `steps` steps, writes what a training writes, and is cut off in training `cut_off_in` (counted from 0) after its
    second evaluation, having done `before_that`.
    """

    peak: float = 1e-4
    diverges_above: float = math.inf
    cut_off_in: int | None = None
    before_that: Callable[[], Any] = lambda: None
    steps: int = 40
    begun: list[TrainSettings] = field(default_factory=list)
    evaluated: list[int] = field(default_factory=list)

    def __call__(self, stage: StageContext, heard: Heard) -> None:
        train = stage.settings.train
        self.begun.append(train)
        self.evaluated.append(0)
        (stage.scratch / "checkpoint-1").mkdir(exist_ok=True)
        assert isinstance(train.learning_rate, float)
        assert isinstance(train.epochs, int)
        if train.learning_rate > self.diverges_above:
            note = stage.scratch / "not-finite.json"
            raise TrainingFailed(f"loss is inf at step 3; lower train.learning_rate (the batch: {note})")
        score = 1 - abs(math.log10(train.learning_rate / self.peak)) / 4
        for n, share in enumerate(SHARES, 1):
            if len(self.begun) - 1 == self.cut_off_in and n == 3:
                self.before_that()
                raise CutOff
            self.evaluated[-1] += 1
            step = math.ceil(share * self.steps)
            heard(step, train.epochs * step / self.steps, score * share)
        summary = {"best_dev": score, "steps_done": self.steps}
        (stage.out / "training.json").write_text(json.dumps(summary), encoding="utf-8")

    @property
    def values(self) -> list[dict[str, Any]]:
        """What the trainings were begun with."""
        names = ("learning_rate", "batch_size", "epochs", "temperature")
        return [{name: getattr(train, name) for name in names} for train in self.begun]


def rows_of(stage: StageContext) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(stage.out / "search.jsonl")]


def bytes_of(stage: StageContext) -> bytes:
    return (stage.out / "search.jsonl").read_bytes()


# Real trainings


SHORT = {"epochs": 4, "evaluations": 3}


class Interrupts:
    """A Reporter that interrupts the training after so many steps, counting those of all trials."""

    def __init__(self, after: int | None = None) -> None:
        self.after, self.steps = after, 0

    def stage(self, name: str, what: str) -> None: ...
    def finish(self, task: Task) -> None: ...
    def note(self, text: str) -> None: ...

    def start(self, label: str, total: int | None, done: int = 0) -> Task:
        return self if label == "training" else Interrupts()

    def advance(self, n: int = 1) -> None:
        self.steps += n
        if self.steps == self.after:
            raise KeyboardInterrupt


@contextmanager
def rates_of_tiny_bert() -> Iterator[list[weakref.ref[Any]]]:
    """Lets a search look where a random BERT of 32 dimensions learns something; all models that are loaded for training."""
    loaded: list[weakref.ref[Any]] = []

    def start(*arguments: Any) -> Any:
        model = full.start(*arguments)
        loaded.append(weakref.ref(model))
        return model

    full = METHODS["full"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "full", replace(full, learning_rate=2e-3, start=start))
        yield loaded


@pytest.fixture(scope="module")
def from_bad_default(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> tuple[StageContext, int, list[int]]:
    """A search that begins with a learning rate at which nothing is learned, the training steps it took, and how many models
    were in memory when each training began its steps.
    """
    alive: list[int] = []

    class Counting(Interrupts):
        def start(self, label: str, total: int | None, done: int = 0) -> Task:
            if label == "training":
                alive.append(sum(model() is not None for model in loaded))
            return super().start(label, total, done)

    settings = toy_settings(tiny_bert, train={**SHORT, "learning_rate": 1e-7, "search": 6})
    settings = settings.model_copy(update={"seed": 2})  # which draws what is pruned among the six
    with rates_of_tiny_bert() as loaded, reporting_to(counted := Counting()):
        stage = train_toy(tmp_path_factory.mktemp("search"), toy_retrieval(), settings)
    return stage, counted.steps, alive


def test_a_search_finds_better_settings_than_a_bad_default_and_trains_with_them(
    from_bad_default: tuple[StageContext, int, list[int]], tmp_path: Path, tiny_bert: Path
) -> None:
    stage, _, _ = from_bad_default
    rows, summary = rows_of(stage), training_of(stage)
    best = best_trial(rows)
    assert best is not None
    assert rows[0]["values"]["learning_rate"] == 1e-7
    assert best["dev"] > rows[0]["dev"] + 0.2
    assert (summary["best_dev"], summary["steps_done"]) == (best["dev"], best["steps"])

    alone = toy_settings(tiny_bert, train={**SHORT, **best["values"]}).model_copy(update={"seed": 2})
    again = train_toy(tmp_path / "alone", toy_retrieval(), alone)
    assert training_of(again) == summary
    assert sha256_of(again.out / "best" / "model.safetensors") == sha256_of(stage.out / "best" / "model.safetensors")


def test_a_pruned_training_ends_at_its_evaluation_and_the_best_is_not_trained_twice(
    from_bad_default: tuple[StageContext, int, list[int]],
) -> None:
    stage, steps, _ = from_bad_default
    rows = rows_of(stage)
    assert {row["state"] for row in rows} == {"complete", "pruned"}
    assert steps == sum(row["steps"] for row in rows)


def test_a_training_is_out_of_memory_when_the_next_begins(
    from_bad_default: tuple[StageContext, int, list[int]],
) -> None:
    assert from_bad_default[2] == [1] * 6


def test_a_search_that_was_cut_off_inside_a_trial_goes_on_there_to_the_same_model(
    tmp_path: Path, tiny_bert: Path
) -> None:
    settings = toy_settings(tiny_bert, train={**SHORT, "hidden_dropout": 0.1, "search": 3})
    undisturbed = Interrupts()
    with reporting_to(undisturbed):
        whole = train_toy(tmp_path / "whole", toy_retrieval(), settings)
    rows = rows_of(whole)
    every = -(-rows[0]["steps"] // SHORT["evaluations"])
    before = rows[0]["steps"] + every + 2
    with pytest.raises(KeyboardInterrupt), reporting_to(Interrupts(after=before)):
        train_toy(tmp_path / "cut", toy_retrieval(), settings)
    cut = stage_in(
        tmp_path / "cut" / "train",
        settings,
        dataset=tmp_path / "cut" / "dataset",
        examples=tmp_path / "cut" / "examples" / "out",
    )
    shutil.rmtree(cut.out)
    cut.out.mkdir()
    goes_on = Interrupts()
    with reporting_to(goes_on):
        finetune(cut)
    assert bytes_of(cut) == bytes_of(whole)
    assert training_of(cut) == training_of(whole)
    assert sha256_of(cut.out / "best" / "model.safetensors") == sha256_of(whole.out / "best" / "model.safetensors")
    assert before < undisturbed.steps
    assert undisturbed.steps - before < goes_on.steps < undisturbed.steps - rows[0]["steps"]


# What is tried


def test_the_first_trial_is_the_runs_own_settings(ready: Ready) -> None:
    stage, training = (
        ready(1, learning_rate=0.0123, batch_size=24, temperature=0.2, epochs="auto", weight_decay=0.3),
        Landscape(),
    )
    search(stage, training)
    own = stage.settings.train.model_dump() | {"search": 0, "epochs": 10}
    assert [train.model_dump() for train in training.begun] == [own]


def test_automatic_settings_are_written_as_the_numbers_they_are(ready: Ready) -> None:
    stage, rate = ready(1, epochs="auto", learning_rate="auto", batch_size=32), METHODS["full"].learning_rate
    search(stage, Landscape(peak=rate))
    values = {"learning_rate": rate, "batch_size": 32, "epochs": 10, "temperature": 0.05}
    assert rows_of(stage) == [{"number": 0, "state": "complete", "values": values, "dev": 1.0, "steps": 40}]


@pytest.mark.parametrize("own", [1e-4, 3e-5])
def test_what_is_returned_is_the_best_on_dev_and_never_worse_than_the_default(ready: Ready, own: float) -> None:
    stage, training = ready(6, learning_rate=own), Landscape(peak=1e-4)
    found = search(stage, training)
    rows = rows_of(stage)
    best = max((row for row in rows if row["state"] == "complete"), key=lambda row: row["dev"])
    assert (best["number"] == 0) is (own == 1e-4)
    assert found.settings.train.model_dump() == training.begun[best["number"]].model_dump()
    assert found.settings.train.search == 0
    assert best["dev"] >= rows[0]["dev"]
    assert (found.out, found.scratch) == (stage.out, stage.scratch / f"trial-{best['number']}")


def test_of_equal_trials_the_earliest_is_the_best() -> None:
    rows = [
        {"number": 0, "state": "pruned", "dev": 0.9},
        {"number": 1, "state": "complete", "dev": 0.5},
        {"number": 2, "state": "complete", "dev": 0.5},
        {"number": 3, "state": "failed", "dev": None},
    ]
    assert best_trial(rows) == rows[1]
    assert best_trial([rows[0], rows[3]]) is None


def space_of(stage: StageContext) -> Any:
    from shoptalk.beir import read_dataset

    dataset, examples = read_dataset(stage.read("dataset"), ["train", "dev"]), read_examples(stage.read("examples"))
    return search_space(stage.settings, examples, prepare_batches(dataset, examples, stage.settings, stage.cache))


def three_negatives() -> Dataset:
    toy = toy_retrieval(negatives=True)
    return replace(toy, negatives={q: (*n, "on the price form", "on the team lunch") for q, n in toy.negatives.items()})


def around(method: str) -> Any:
    rate = METHODS[method].learning_rate
    return pytest.approx((rate / 6, rate * 20 / 3))


def test_the_space_lies_around_the_methods_rate_and_the_planned_epochs(ready: Ready) -> None:
    space = space_of(ready(1, epochs=10, batch_size=16))
    assert space.learning_rate == around("full")
    assert (space.epochs, space.temperature, space.negatives) == ((5, 20), (0.02, 0.1), None)
    assert space_of(ready(1, folder="b", epochs=1)).epochs == (1, 2)
    assert space_of(ready(1, folder="c", method="lora")).learning_rate == around("lora")


def test_ranges_are_widened_to_hold_what_is_set(ready: Ready) -> None:
    space = space_of(ready(1, learning_rate=1e-7, temperature=0.5, batch_size=24))
    assert space.learning_rate == (1e-7, METHODS["full"].learning_rate * 20 / 3)
    assert space_of(ready(1, folder="b", learning_rate=0.5)).learning_rate[1] == 0.5
    assert space.temperature == (0.02, 0.5)
    assert space.batch_size == (16, 24, 32, 64)


def test_batches_lie_within_the_rows_that_there_are(ready: Ready) -> None:
    assert space_of(ready(1, batch_size=16)).batch_size == (16, 32, 64)  # of 92
    assert space_of(ready(1, toy_similarity(), folder="b", batch_size=16)).batch_size == (16, 32, 64, 128)  # of 260


def test_negatives_are_searched_up_to_those_that_are_there(ready: Ready) -> None:
    assert space_of(ready(1, three_negatives())).negatives == (0, 3)
    assert space_of(ready(1, three_negatives(), folder="b", loss="triplet")).negatives == (1, 3)
    assert space_of(ready(1, toy_retrieval(True), folder="c", loss="triplet")).negatives is None
    limited = space_of(ready(1, three_negatives(), folder="d", negatives=1))
    assert (limited.negatives, limited.own["negatives"]) == ((0, 3), 1)


@pytest.mark.parametrize("n", [0, 2])
def test_the_number_of_negatives_reaches_the_batches(ready: Ready, n: int) -> None:
    stage = ready(1, three_negatives(), negatives=n)
    examples = read_examples(stage.read("examples"))
    batches = prepare_batches(toy_retrieval(), examples, stage.settings, stage.cache)
    assert batches.n_negatives == n
    assert [row[2:] for row in batches.texts] == [example.negatives[:n] for example in examples]


def test_trials_draw_from_the_whole_space_and_nothing_else(ready: Ready) -> None:
    stage = ready(9, three_negatives(), epochs=4)
    search(stage, Landscape())
    space, rows = space_of(stage), rows_of(stage)
    drawn: dict[str, set[float]] = {name: {row["values"][name] for row in rows} for name in space.own}
    assert drawn.keys() == {"learning_rate", "batch_size", "epochs", "temperature", "negatives"}
    for name in ("learning_rate", "epochs", "temperature", "negatives"):
        low, high = getattr(space, name)
        assert low <= min(drawn[name]) < max(drawn[name]) <= high
    assert len(drawn["batch_size"]) > 1
    assert drawn["batch_size"] <= set(space.batch_size)
    assert len(drawn["learning_rate"]) == 9


def test_scored_pairs_are_searched_without_negatives(ready: Ready) -> None:
    stage = ready(3, toy_similarity())
    search(stage, Landscape())
    assert [[*row["values"]] for row in rows_of(stage)] == [
        ["learning_rate", "batch_size", "epochs", "temperature"]
    ] * 3


def test_a_trial_costs_the_mean_of_epochs_and_columns(ready: Ready) -> None:
    space = space_of(ready(1, three_negatives(), epochs=4))
    assert (space.epochs, space.own["negatives"]) == ((2, 8), 3)
    assert space.cost == pytest.approx((5 / 4) * (3.5 / 5))
    assert replace(space, negatives=None).cost == pytest.approx(5 / 4)


def test_the_losses_without_temperature_are_those_it_does_nothing_to(tiny_bert: Path) -> None:
    settings = toy_settings(tiny_bert)
    model = load_model(find_model(str(tiny_bert)), settings.model, "cpu").eval()
    texts = [["hotel room", "train plane"], ["price form", "budget team"], ["claim lunch", "project dinner"]]
    without = set()
    for objective in OBJECTIVES.values():
        losses = []
        for temperature in (0.02, 0.1):
            changed = settings.model_copy(
                update={"train": settings.train.model_copy(update={"temperature": temperature})}
            )
            scored, taught = objective.task == "similarity", "teacher" in objective.needs
            columns = [model.preprocess(column) for column in texts[: 2 if scored else 3]]
            labels = torch.tensor([0.1, 0.9]) if scored or taught else torch.tensor([0, 1])
            known = None
            if objective.name == "info-nce":
                from shoptalk.training.infonce import Known

                known = Known((0, 1), (frozenset({0}), frozenset({1})), ((-1,), (-1,)), (1.0, 1.0))
            if objective.name == "distill-kl":
                labels = torch.tensor([[0.1, 0.9], [0.4, 0.2]])
            with torch.no_grad():
                losses.append(float(objective.build(model, ObjectiveContext(changed, known=known))(columns, labels)))
        if losses[0] == losses[1]:
            without.add(objective.name)
    assert without == WITHOUT_TEMPERATURE


# Pruning


def test_the_shares_are_those_of_a_training() -> None:
    assert Plan(10, 4).evaluations(EVALUATIONS) == [math.ceil(40 * share) for share in SHARES]


def test_what_falls_behind_the_median_is_pruned_after_four_trials(ready: Ready) -> None:
    stage, training = ready(10), Landscape()
    search(stage, training)
    rows = rows_of(stage)
    pruned = [row for row in rows if row["state"] == "pruned"]
    assert all(row["state"] == "complete" for row in rows[:4])
    assert 2 <= len(pruned) < 6
    assert [row["state"] == "pruned" for row in rows] == [n < EVALUATIONS for n in training.evaluated]
    for row in pruned:
        assert row["steps"] == 10  # of 40: behind already at the first evaluation, but then the rate is only warming up
        final = 4 * row["dev"]
        before = [r["dev"] for r in rows[: row["number"]] if r["state"] == "complete"]
        assert final < sorted(before)[len(before) // 2]


def test_trainings_of_different_length_are_compared_at_the_same_share_of_them(ready: Ready) -> None:
    """Four steps have three evaluations of a longer training's four; the score is the share that is done, so none is behind."""
    stage = ready(9)
    seen: list[list[float]] = []

    def training(trial: StageContext, heard: Heard) -> None:
        epochs = trial.settings.train.epochs
        assert isinstance(epochs, int)
        plan = Plan(1 if len(seen) % 2 else 25, 4)
        seen.append([])
        for step in plan.evaluations(EVALUATIONS):
            seen[-1].append(step / plan.steps)
            heard(step, epochs * step / plan.steps, step / plan.steps)
        (trial.out / "training.json").write_text(
            json.dumps({"best_dev": 1.0, "steps_done": plan.steps}), encoding="utf-8"
        )

    search(stage, training)
    assert [row["state"] for row in rows_of(stage)] == ["complete"] * 9
    assert seen[:2] == [[0.13, 0.25, 0.5, 1], [0.25, 0.5, 1]]


def test_what_starts_slowly_is_not_pruned_while_the_rate_warms_up_nor_at_the_end(ready: Ready) -> None:
    scores = {4: (0, 0.9, 0.9, 0.9), 5: (0.9, 0.9, 0.9, 0.1), 6: (0.1, 0.1, 0.9, 0.9), 7: (0.5, 0.5, 0.1, 0.9)}
    stage, done = ready(8), Landscape()

    def training(trial: StageContext, heard: Heard) -> None:
        epochs = trial.settings.train.epochs
        assert isinstance(epochs, int)
        own = scores.get(len(done.begun), (0.5, 0.5, 0.5, 0.5))
        done.begun.append(trial.settings.train)
        for share, score in zip(SHARES, own, strict=True):
            heard(int(40 * share), epochs * share, score)
        (trial.out / "training.json").write_text(json.dumps({"best_dev": 0.5, "steps_done": 40}), encoding="utf-8")

    search(stage, training)
    found = {row["number"]: (row["state"], row["steps"]) for row in rows_of(stage)}
    assert {number: found[number] for number in scores} == {
        4: ("complete", 40),
        5: ("complete", 40),
        6: ("pruned", 10),
        7: ("complete", 40),
    }


# What fails


def test_a_trial_that_diverges_is_a_failed_one_with_its_reason_and_the_search_goes_on(ready: Ready) -> None:
    stage = ready(8)
    search(stage, Landscape(diverges_above=5e-5))
    rows = rows_of(stage)
    failed = [row for row in rows if row["state"] == "failed"]
    assert 0 < len(failed) < 8
    assert {row["number"] for row in failed} == {
        n for n, row in enumerate(rows) if row["values"]["learning_rate"] > 5e-5
    }
    for row in failed:
        assert row["reason"] == "loss is inf at step 3; lower train.learning_rate"
        assert (row["dev"], row["steps"]) == (None, 0)
    assert all("reason" not in row for row in rows if row not in failed)


def test_a_checkpoint_that_cannot_be_trusted_is_told_without_its_path(ready: Ready) -> None:
    stage = ready(1)

    def untrustworthy(trial: StageContext, heard: Heard) -> None:
        raise TrainingFailed(
            f"{trial.scratch / 'checkpoint-7'}: scored 0.5 on dev; the checkpoint is not what was trained"
        )

    with pytest.raises(
        TrainingFailed, match=r"^all 1 trials of the search failed, the first because: scored 0\.5 on dev"
    ):
        search(stage, untrustworthy)


def test_when_all_trials_fail_training_has_failed_and_the_trials_are_still_told(ready: Ready) -> None:
    stage = ready(3)
    with pytest.raises(
        TrainingFailed, match="all 3 trials of the search failed, the first because: loss is inf at step 3"
    ):
        search(stage, Landscape(diverges_above=0))
    assert [row["state"] for row in rows_of(stage)] == ["failed"] * 3


def test_without_optuna_it_says_what_to_install(ready: Ready, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    training = Landscape()
    with pytest.raises(MissingPart, match=r"^train\.search needs optuna: pip install 'shoptalk\[search\]'$"):
        search(ready(2), training)
    assert training.begun == []


def test_optuna_is_only_needed_to_search(tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    stage = train_toy(tmp_path, toy_retrieval(), toy_settings(tiny_bert, train={"epochs": 1}))
    assert not (stage.out / "search.jsonl").exists()
    assert not stage.cache.with_name("search.db").exists()


def test_a_method_on_vectors_is_refused(ready: Ready) -> None:
    with pytest.raises(SettingsError, match=r"train\.method=query-linear has no use for.*set train\.search=0"):
        search(ready(2, method="query-linear"), Landscape())


def test_a_damaged_storage_is_named(ready: Ready) -> None:
    stage = ready(2)
    stage.cache.with_name("search.db").write_bytes(b"no database at all" * 500)
    with pytest.raises(DamagedArtifact, match=r"search\.db: file is not a database; remove the file"):
        search(stage, Landscape())


def test_a_full_disk_is_told_as_one(tmp_path: Path) -> None:
    from sqlalchemy.exc import OperationalError

    wrapped = optuna.exceptions.StorageInternalError("An exception is raised during the commit.")
    wrapped.__cause__ = OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))
    with pytest.raises(OSError, match="No space left") as told, storage_errors(tmp_path / "search.db"):
        raise wrapped
    assert told.value.errno == errno.ENOSPC
    with pytest.raises(CutOff), storage_errors(tmp_path / "search.db"):
        raise CutOff


# Going on


def test_a_search_that_was_cut_off_repeats_no_finished_trial_and_ends_the_same(ready: Ready) -> None:
    whole = Landscape()
    search(ready(6, folder="whole"), whole)
    stage, first, second = ready(6), Landscape(cut_off_in=2), Landscape()
    with pytest.raises(CutOff):
        search(stage, first)
    assert not (stage.out / "search.jsonl").exists()
    search(stage, second)
    assert (len(first.begun), len(second.begun)) == (3, 4)
    assert second.values[0] == first.values[2]
    assert [*first.values[:2], *second.values] == whole.values
    assert bytes_of(stage) == bytes_of(ready(6, folder="whole"))


def test_a_finished_search_trains_nothing_again(ready: Ready) -> None:
    stage, again = ready(3), Landscape()
    found = search(stage, Landscape())
    before = bytes_of(stage)
    (stage.out / "search.jsonl").unlink()
    assert search(stage, again) == found
    assert again.begun == []
    assert bytes_of(stage) == before


def test_a_trial_that_is_killed_again_and_again_is_given_up(ready: Ready) -> None:
    """A kill leaves the storage as it was at that moment; an exception or Ctrl-C, however often, is no kill."""
    stage = ready(3)
    storage = stage.cache.with_name("search.db")
    snapshot = storage.with_suffix(".snapshot")
    for attempt in range(4):
        with pytest.raises(CutOff):
            search(stage, Landscape(cut_off_in=1 if attempt == 0 else 0))
    for _ in range(3):
        with pytest.raises(CutOff):
            search(stage, Landscape(cut_off_in=0, before_that=lambda: shutil.copy(storage, snapshot)))
        shutil.copy(snapshot, storage)
    training = Landscape()
    search(stage, training)
    row = rows_of(stage)[1]
    assert row["state"] == "failed"
    assert row["reason"] == "killed 3 times at the same place; memory may not suffice"
    assert row["steps"] == 10
    assert len(training.begun) == 1


def test_a_longer_search_begins_as_the_shorter_one_did_and_goes_on_from_it(ready: Ready) -> None:
    short, goes_on = ready(4), Landscape()
    search(short, Landscape())
    first = rows_of(short)
    long = ready(7)
    search(long, goes_on)
    assert rows_of(long)[:4] == first
    assert len(goes_on.begun) == 3
    whole = ready(7, folder="whole")
    search(whole, Landscape())
    assert bytes_of(long) == bytes_of(whole)
    nothing = Landscape()
    search(ready(4), nothing)
    assert nothing.begun == []
    assert rows_of(short) == first


@pytest.mark.parametrize(
    "other",
    [{"dataset": toy_retrieval(n_dev=15)}, {"dataset": toy_retrieval(True)}, {"weight_decay": 0.5}, {"seed": 13}],
    ids=["dev", "negatives", "setting", "seed"],
)
def test_other_data_or_settings_are_another_study(ready: Ready, other: dict[str, Any]) -> None:
    first, different, back = Landscape(), Landscape(), Landscape()
    search(ready(2), first)
    search(ready(2, **other), different)
    search(ready(2), back)
    assert (len(first.begun), len(different.begun), len(back.begun)) == (2, 2, 0)


def test_another_base_model_is_another_study(ready: Ready, tmp_path: Path, make_tiny_bert: Callable[..., Path]) -> None:
    stage, different = ready(1), Landscape()
    search(stage, Landscape())
    base = str(make_tiny_bert(tmp_path / "other-bert", seed=8))
    model = stage.settings.model.model_copy(update={"base": base})
    search(replace(stage, settings=stage.settings.model_copy(update={"model": model})), different)
    assert len(different.begun) == 1


def test_nothing_opens_the_test_split(ready: Ready) -> None:
    stage, again = ready(2), Landscape()
    search(stage, Landscape())
    (stage.read("dataset") / "qrels" / "test.tsv").unlink()
    search(stage, again)
    assert again.begun == []


def test_the_same_search_gives_the_same_bytes_and_another_seed_others(ready: Ready) -> None:
    stages = [ready(5, folder=name, seed=seed) for name, seed in (("a", 12), ("b {1} 50% ?#", 12), ("c", 13))]
    for stage in stages:
        search(stage, Landscape())
    assert stages[1].cache.with_name("search.db").is_file()
    assert bytes_of(stages[0]) == bytes_of(stages[1])
    assert [row["values"] for row in rows_of(stages[2])] != [row["values"] for row in rows_of(stages[0])]
    assert rows_of(stages[2])[0]["values"] == rows_of(stages[0])[0]["values"]


def test_the_checkpoints_of_the_best_trial_are_all_that_is_left_on_disk(ready: Ready) -> None:
    stage = ready(8)
    found = search(stage, Landscape(diverges_above=1.5e-4))
    assert {row["state"] for row in rows_of(stage)} == {"complete", "pruned", "failed"}
    assert list(stage.scratch.iterdir()) == [found.scratch]
    assert (found.scratch / "checkpoint-1").is_dir()


def test_what_a_method_makes_of_the_base_model_is_made_once(ready: Ready, monkeypatch: pytest.MonkeyPatch) -> None:
    full, made = METHODS["full"], []

    def start(found: Any, settings: Any, device: str, scratch: Path, texts: list[str]) -> Any:
        made.append(texts)
        (scratch / "distilled").write_text(str(len(made)), encoding="ascii")
        return full.start(found, settings, device, scratch, texts)

    def training(trial: StageContext, heard: Heard) -> None:
        assert (trial.scratch / "distilled").read_text(encoding="ascii") == "1"
        Landscape()(trial, heard)

    monkeypatch.setitem(METHODS, "full", replace(full, start=start))
    found = search(ready(3), training)
    assert made == [[passage.content for passage in toy_retrieval().passages.values()]]
    assert (found.scratch / "distilled").is_file()


# What is said


class Said:
    """A Reporter that keeps what is said in a line of its own."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def stage(self, name: str, what: str) -> None:
        assert name == "train"
        self.lines.append(what)

    def start(self, label: str, total: int | None, done: int = 0) -> Task:
        return self

    def finish(self, task: Task) -> None: ...
    def advance(self, n: int = 1) -> None: ...
    def note(self, text: str) -> None: ...


def test_the_cost_is_told_before_the_first_trial_and_each_trial_when_it_is_done(ready: Ready) -> None:
    said = Said()
    announced: list[list[str]] = []

    def training(trial: StageContext, heard: Heard) -> None:
        announced.append(list(said.lines))
        reporter().stage("train", "what every training says of itself")
        Landscape()(trial, heard)

    with reporting_to(said):
        search(ready(2, learning_rate=1e-4), training)
    own, *_, estimate = announced[0]
    assert own.startswith("60 steps of 15 pairs in 10 epochs")
    assert estimate.startswith("search: 2 trials, about ")
    assert estimate.endswith(" seconds here, less what is pruned or stops early; judged on dev alone")
    assert len(announced[1]) == len(announced[0]) + 1
    first, second, best = said.lines[len(announced[0]) :]
    assert first == "search: trial 0, 1 to go: complete, dev 1.0000; best 1.0000 (trial 0)"
    assert second.startswith("search: trial 1, 0 to go: complete, dev 0.")
    assert best.startswith(
        "search: best is trial 0, dev 1.0000: train.learning_rate=0.0001 train.batch_size=16 train.epochs=10"
    )

    with reporting_to(again := Said()):
        search(ready(3, learning_rate=1e-4), Landscape())
    (estimate,) = (line for line in again.lines if "about" in line and "search" in line)
    assert estimate.startswith("search: 3 trials, 2 of them done, about ")
    with reporting_to(finished := Said()):
        search(ready(3, learning_rate=1e-4), Landscape())
    assert [line.partition(" is")[0] for line in finished.lines] == ["search: best"]


def test_optuna_says_nothing_itself_and_is_left_as_loud_as_it_was(
    ready: Ready, capfd: pytest.CaptureFixture[str]
) -> None:
    before = optuna.logging.get_verbosity()
    search(ready(3), Landscape())
    assert optuna.logging.get_verbosity() == before
    captured = capfd.readouterr()
    assert "rial" not in captured.out + captured.err
    assert "stud" not in captured.out + captured.err
