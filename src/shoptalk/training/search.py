"""Hyperparameter search: `train.search` trainings with Optuna, judged on dev alone; the best of them is what the stage keeps.

The first trial is the run's own settings and is never pruned, so what the search returns is no worse on dev than they are. A
trial that falls behind the median of the finished ones at the same share of its training is pruned. Every trial draws with a
seed of its own number, so a trial depends on the settings and on the trials before it and on nothing else: a search that was
cut off goes on, inside the trial that was running, to the same result, and a search of 20 begins as the search of 10 did.

Hard negatives are those that the stage negatives left; the search chooses how many of them are used, it mines none.

Source: Akiba et al. 2019 (Optuna); Watanabe 2023 (its tree-structured Parzen estimator); Golovin et al. 2017 (the median rule).
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from shoptalk.beir import read_dataset, write_jsonl
from shoptalk.errors import SettingsError, TrainingFailed
from shoptalk.models.encoder import TorchEncoder
from shoptalk.models.finding import find_model
from shoptalk.models.hardware import choose_hardware
from shoptalk.models.loading import quiet_libraries
from shoptalk.progress import Reporter, reporter, reporting_to, task
from shoptalk.records import Dataset
from shoptalk.training.batches import Batches, Plan, plan_training, prepare_batches
from shoptalk.training.dev import Heard
from shoptalk.training.finetuning import look_ahead
from shoptalk.training.methods import METHODS
from shoptalk.training.negatives import read_examples
from shoptalk.training.search_space import Space, Values, search_space
from shoptalk.training.study import STORAGE, import_optuna, opened
from shoptalk.workspace import StageContext, digest_of, sha256_of

Train = Callable[[StageContext, Heard], None]
"""The training of a stage; tells of every dev evaluation, and lets through what the listener raises."""

FILE = "search.jsonl"
_STARTED = "started"
_RANDOM_TRIALS = 6
_PRUNED_FROM = 0.25  # of a training: before that the rate is warming up, and a low one is only later, not worse
_WHOLE = 1_000_000
_MOST_KILLS = 3
_TIMED_STEPS = 2
_TIMED_TEXTS = 64


def search(stage: StageContext, train: Train) -> StageContext:
    """The stage with the best settings found, in whose scratch they have been trained; writes candidates/search.jsonl.

    Trials are kept in search.db beside the cache and finished ones never repeated; other data or settings are another study.
    A trial that diverges is a failed trial with its reason. Raises MissingPart without optuna, SettingsError for a method that
    does not train batches, TrainingFailed when every trial failed, DamagedArtifact for a storage that cannot be read.
    """
    import torch

    optuna, settings = import_optuna(), stage.settings
    if METHODS[settings.train.method].on_vectors:
        raise SettingsError(
            f"train.search is {settings.train.search}, which train.method={settings.train.method} has no use for: it trains in "
            "seconds on vectors and has no batches of texts; set train.search=0"
        )
    if settings.train.threads:
        torch.set_num_threads(settings.train.threads)
    dataset = read_dataset(stage.read("dataset"), ["train", "dev"])
    examples = read_examples(stage.read("examples"))
    batches = prepare_batches(dataset, examples, settings, stage.cache)
    space = search_space(settings, examples, batches)
    with opened(optuna, stage.cache.with_name(STORAGE), _name(stage, space)) as study:
        searching = _Search(stage, train, space, optuna, study)
        left = settings.train.search - searching.n_finished
        if left > 0:
            lines, seconds = _forecast(stage, dataset, batches)
            for line in [*lines, _announced(settings.train.search, left, left * space.cost * seconds)]:
                reporter().stage("train", line)
        searching.run()
        trials = searching.trials
    shutil.rmtree(stage.scratch / _STARTED, ignore_errors=True)
    return _best_of(stage, trials)


def best_trial(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Of rows as in search.jsonl the complete one with the highest dev score, the earliest of equals."""
    complete = [row for row in rows if row["state"] == "complete"]
    return max(complete, key=lambda row: (row["dev"], -row["number"]), default=None)


def _best_of(stage: StageContext, rows: list[dict[str, Any]]) -> StageContext:
    best = best_trial(rows)
    write_jsonl(stage.out / FILE, rows)
    if best is None:
        raise TrainingFailed(
            f"all {len(rows)} trials of the search failed, the first because: {rows[0]['reason']}. Change the settings; "
            f"{stage.cache.with_name(STORAGE)} keeps the trials, so the same ones would not be tried again"
        )
    found = " ".join(f"train.{name}={value:.4g}" for name, value in best["values"].items())
    reporter().stage("train", f"search: best is trial {best['number']}, dev {best['dev']:.4f}: {found}")
    return _trial_stage(stage, best["number"], best["values"], stage.out)


def _trial_stage(stage: StageContext, number: int, values: Values, out: Path) -> StageContext:
    """The stage as an ordinary training with some settings, in a scratch of its own."""
    train = stage.settings.train.model_copy(update={**values, "search": 0})
    scratch = stage.scratch / f"trial-{number}"
    scratch.mkdir(parents=True, exist_ok=True)
    return replace(stage, settings=stage.settings.model_copy(update={"train": train}), out=out, scratch=scratch)


class _Search:
    """A study that is walked to its number of trials."""

    def __init__(self, stage: StageContext, train: Train, space: Space, optuna: Any, study: Any) -> None:
        self.stage, self.train, self.space, self.optuna, self.study = stage, train, space, optuna, study
        self.wanted = stage.settings.train.search

    @property
    def n_finished(self) -> int:
        """Trials that are done, however they ended."""
        return sum(trial.state.is_finished() for trial in self.study.trials)

    @property
    def trials(self) -> list[dict[str, Any]]:
        """The finished trials, as they are written; of a longer search that was done before, the first ones."""
        finished = [trial for trial in self.study.trials if trial.state.is_finished()]
        return [_row(trial, list(self.space.own)) for trial in finished[: self.wanted]]

    def run(self) -> None:
        """Train what is not trained yet. What a training raises on being cut off leaves its trial to go on with."""
        done = self.n_finished
        with task("search", self.wanted, min(done, self.wanted)) as bar:
            for number in range(done, self.wanted):
                self._train(number)
                self._clear()
                best = best_trial(self.trials)
                bar.note(f"best dev {best['dev']:.4f}" if best else "")
                bar.advance()
                reporter().stage("train", _told(self.trials[-1], self.wanted, best))

    def _train(self, number: int) -> None:
        trial, states = self._begin(number), self.optuna.trial.TrialState
        values = self.space.draw(trial)
        begun, heard = trial.user_attrs.get("begun", []), len(trial.user_attrs.get("steps", []))
        if begun.count(heard) == _MOST_KILLS:  # for want of memory, say; it must not hold up the search for ever
            trial.set_user_attr("reason", f"killed {_MOST_KILLS} times at the same place; memory may not suffice")
            self.study.tell(trial, state=states.FAIL)
            return
        trial.set_user_attr("begun", [*begun, heard])
        out = self._folder(number) / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        try:
            with reporting_to(_BarsOf(reporter())):
                self.train(_trial_stage(self.stage, number, values, out), self._listener(trial))
        except self.optuna.TrialPruned:
            self.study.tell(trial, state=states.PRUNED)
        except TrainingFailed as error:
            trial.set_user_attr("reason", _without_paths(str(error), self.stage.scratch))
            self.study.tell(trial, state=states.FAIL)
        except BaseException:
            trial.set_user_attr("begun", begun)
            raise
        else:
            summary = json.loads((out / "training.json").read_text(encoding="utf-8"))
            trial.set_user_attr("steps_done", summary["steps_done"])
            self.study.tell(trial, summary["best_dev"])

    def _folder(self, number: int) -> Path:
        """The trial's folder; a new one begins with what the method made of the base model, which is the same for all trials."""
        folder, unfinished = self.stage.scratch / f"trial-{number}", self.stage.scratch / "trial.new"
        if not folder.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
            shutil.copytree(self.stage.scratch / _STARTED, unfinished)
            unfinished.replace(folder)
        return folder

    def _begin(self, number: int) -> Any:
        """The trial that was cut off, with the values it had; else a new one."""
        seed = int(np.random.SeedSequence([self.stage.settings.seed, number]).generate_state(1)[0])
        self.study.sampler = self.optuna.samplers.TPESampler(seed=seed, n_startup_trials=_RANDOM_TRIALS)
        trials = self.study.trials
        if not trials:
            self.study.enqueue_trial(dict(self.space.own))
        running = [trial for trial in trials if trial.state == self.optuna.trial.TrialState.RUNNING]
        return self.optuna.trial.Trial(self.study, running[0]._trial_id) if running else self.study.ask()

    def _listener(self, trial: Any) -> Heard:
        """Trainings differ in their number of steps, so they are compared at the same share of them."""
        shares = Plan(_WHOLE, 1).evaluations(self.stage.settings.train.evaluations)

        def heard(step: int, epoch: float, score: float) -> None:
            share = round(_WHOLE * epoch / trial.params["epochs"]) + 1  # as the evaluations' shares are rounded up
            steps = trial.user_attrs.get("steps", [])
            if step not in steps:  # one that goes on from a checkpoint comes by the evaluation it was cut off at again
                trial.report(score, max(0, bisect_right(shares, share) - 1))
                trial.set_user_attr("steps", [*steps, step])
            if _PRUNED_FROM * _WHOLE <= share < _WHOLE and trial.should_prune():
                raise self.optuna.TrialPruned

        return heard

    def _clear(self) -> None:
        """Leave of the trials on disk the checkpoints of the best alone, which the stage takes up at the end."""
        best = best_trial(self.trials)
        for folder in self.stage.scratch.glob("trial-*"):
            if best is None or folder.name != f"trial-{best['number']}":
                shutil.rmtree(folder)


class _BarsOf:
    """A reporter without the lines that a training says of itself, which twenty times over nobody reads."""

    def __init__(self, shown: Reporter) -> None:
        self.start, self.finish = shown.start, shown.finish

    def stage(self, name: str, what: str) -> None:
        """Say nothing."""


def _row(trial: Any, names: Sequence[str]) -> dict[str, Any]:
    """A finished trial without anything that depends on the clock; `names` of its values."""
    scores, told = list(trial.intermediate_values.values()), trial.user_attrs
    row: dict[str, Any] = {
        "number": trial.number,
        "state": {"COMPLETE": "complete", "PRUNED": "pruned"}.get(trial.state.name, "failed"),
        "values": {name: trial.params[name] for name in names},
        "dev": trial.value if trial.state.name == "COMPLETE" else max(scores, default=None),
        "steps": told.get("steps_done") or max(told.get("steps", []), default=0),
    }
    return row | ({"reason": told.get("reason", "")} if row["state"] == "failed" else {})


def _told(row: Mapping[str, Any], wanted: int, best: Mapping[str, Any] | None) -> str:
    score = "" if row["dev"] is None else f", dev {row['dev']:.4f}"
    so_far = "" if best is None else f"; best {best['dev']:.4f} (trial {best['number']})"
    reason = f" ({row['reason']})" if "reason" in row else ""
    return f"search: trial {row['number']}, {wanted - 1 - row['number']} to go: {row['state']}{score}{so_far}{reason}"


def _without_paths(reason: str, scratch: Path) -> str:
    """A message without the files that it points at: they go with the trial, and lie elsewhere on another machine."""
    place = re.escape(str(scratch))
    return re.sub(rf"{place}/\S*?: ", "", re.sub(rf" \([^()]*: {place}[^()]*\)", "", reason))


# What it will take


def _forecast(stage: StageContext, dataset: Dataset, batches: Batches) -> tuple[list[str], float]:
    """Of a training with the run's own settings: what it takes in words, and its seconds with evaluations, from a few real
    steps and a few texts.
    """
    from shoptalk.training.engine import Engine

    settings, plan = stage.settings, plan_training(batches.per_epoch, stage.settings.train)
    found = find_model(settings.model.base)
    hardware = choose_hardware(settings.model, found.model_type)
    texts = [passage.content for passage in dataset.passages.values()]
    (stage.scratch / _STARTED).mkdir(parents=True, exist_ok=True)
    with quiet_libraries():
        start = METHODS[settings.train.method].start
        model = start(found, settings, hardware.device, stage.scratch / _STARTED, texts or batches.unique_texts)
        engine = Engine.on(hardware, settings.train.chunk_tokens)
        ahead = look_ahead(model, batches, plan, engine, settings, _TIMED_STEPS)
    n_texts = min(len(texts), settings.train.dev_haystack)
    if dataset.task == "similarity":
        texts = [text for pair in dataset.pairs["dev"] for text in (pair.sentence1, pair.sentence2)]
        n_texts = len(texts)
    sample = texts[:: max(1, len(texts) // _TIMED_TEXTS)][:_TIMED_TEXTS]
    encoder = TorchEncoder(model, hardware, digest="")
    started = time.monotonic()
    encoder.encode_passages(sample)
    a_text = (time.monotonic() - started) / max(1, len(sample))
    return ahead.lines(), ahead.seconds + (settings.train.evaluations + 2) * n_texts * a_text


def _announced(wanted: int, left: int, seconds: float) -> str:
    done = f", {wanted - left} of them done" if left < wanted else ""
    minutes = f"about {seconds / 60:.0f} minutes" if seconds >= 90 else f"about {max(1, seconds):.0f} seconds"
    return f"search: {wanted} trials{done}, {minutes} here, less what is pruned or stops early; judged on dev alone"


# Where it is kept


def _name(stage: StageContext, space: Space) -> str:
    """The study's name: a digest of all that a trial depends on, without how many there are to be."""
    settings = stage.settings
    read = {
        f"{name}/{path.relative_to(stage.read(name)).as_posix()}": sha256_of(path)
        for name in ("dataset", "examples")
        for path in stage.read(name).rglob("*")
        if path.is_file() and path.stem != "test"
    }
    model, train = settings.model.model_dump(mode="json"), settings.train.model_dump(mode="json")
    del model["base"], train["search"]
    base, version = find_model(settings.model.base).sha256, importlib.metadata.version("shoptalk")
    return digest_of([version, base, read, model, train, settings.seed, asdict(space)])[:32]
