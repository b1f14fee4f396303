"""Crash safety and skipping, on real small runs in real processes."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shoptalk import pipeline
from shoptalk.errors import DamagedArtifact, InputError
from shoptalk.progress import reporting_to
from shoptalk.settings import make_settings
from toy import sentence_pairs, write_pairs

# What a run depends on, without the clock: everything else must be the same after any number of kills.
_CLOCK = {"report.html", "manifest.json", "live.jsonl"}
_KEPT_APART = {"cache", ".work"}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs.jsonl")


@pytest.fixture
def settings(tiny_bert: Path) -> dict[str, Any]:
    return {
        "model": {"base": str(tiny_bert), "precision": "fp32"},
        "train": {"epochs": 4, "batch_size": 8, "learning_rate": 1e-3, "evaluations": 6, "patience": 9, "threads": 1},
        "evaluate": {"resamples": 300},
        "negatives": {"mine": 0},
        "select": {"retention": "off"},
    }


def run(pairs: Path, out: Path, settings: dict[str, Any], **options: Any) -> pipeline.RunResult:
    return pipeline.run(pairs, out, settings=make_settings(settings), **options)


class Stages:
    """A reporter that remembers which stages ran, since it was last asked."""

    def __init__(self) -> None:
        self._ran: list[str] = []

    def stage(self, name: str, what: str) -> None:
        if what.startswith("done"):
            self._ran.append(name)

    def start(self, label: str, total: int | None, done: int = 0) -> Stages:
        return self

    def finish(self, task: object) -> None: ...
    def advance(self, n: int = 1) -> None: ...
    def note(self, text: str) -> None: ...

    def ran(self) -> list[str]:
        ran, self._ran = self._ran, []
        return ran


@pytest.fixture
def stages() -> Iterator[Stages]:
    seen = Stages()
    with reporting_to(seen):
        yield seen


def finished(out: Path) -> list[str]:
    return list(json.loads((out / "manifest.json").read_text())["stages"])


def contents(out: Path) -> dict[str, str]:
    """Every file of a run by its digest, without what the clock said; report.html follows from the others (tests/report)."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        apart = path.name in _CLOCK or _KEPT_APART & set(path.relative_to(out).parts) or path.name[0] == "."
        if not path.is_file() or apart:
            continue
        timed = name in ("result.json", "baseline/gate.json", "evaluation/comparison.json")
        content = (
            json.dumps(_untimed(json.loads(path.read_text())), sort_keys=True).encode() if timed else path.read_bytes()
        )
        found[name] = hashlib.sha256(content).hexdigest()
    return found


def _untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _untimed(entry) for name, entry in value.items() if name not in ("seconds", "seconds_per_1000")}
    return [_untimed(entry) for entry in value] if isinstance(value, list) else value


def test_a_second_run_does_nothing_and_a_changed_setting_runs_from_its_stage_on(
    pairs: Path, tmp_path: Path, settings: dict[str, Any], stages: Stages
) -> None:
    out = tmp_path / "run"
    first = run(pairs, out, settings)
    assert first.verdict == json.loads((out / "result.json").read_text())["verdict"]
    assert stages.ran() == list(pipeline.NAMES)

    assert run(pairs, out, settings).result == first.result
    assert stages.ran() == []

    changed = settings | {"evaluate": {"resamples": 400}}
    run(pairs, out, changed)
    ran = stages.ran()
    assert {"baseline", "evaluate", "diagnose", "report"} <= set(ran)
    assert not {"ingest", "queries", "dataset", "negatives", "train", "select"} & set(ran)
    assert json.loads((out / "result.json").read_text())["test_evaluations"] == 2


def test_a_changed_source_runs_again_what_depends_on_it(
    pairs: Path, tmp_path: Path, settings: dict[str, Any], stages: Stages
) -> None:
    out = tmp_path / "run"
    run(pairs, out, settings, until="dataset")
    stages.ran()
    with pairs.open("a") as rows:
        rows.write(json.dumps({"query": "what is a lunch", "positive": "a meal in the middle of the day"}) + "\n")
    run(pairs, out, settings, until="dataset")
    assert stages.ran() == ["ingest", "queries", "dataset"]


def test_from_runs_a_stage_and_all_later_ones_again(
    pairs: Path, tmp_path: Path, settings: dict[str, Any], stages: Stages
) -> None:
    out = tmp_path / "run"
    run(pairs, out, settings, until="negatives")
    stages.ran()
    run(pairs, out, settings, until="negatives", from_stage="dataset")
    assert stages.ran() == ["dataset", "baseline", "negatives"]


def test_a_run_goes_on_from_another_working_directory(
    pairs: Path, tmp_path: Path, settings: dict[str, Any], stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pairs.parent)
    run(Path(pairs.name), tmp_path / "run", settings, until="ingest")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    stages.ran()
    pipeline.run(None, tmp_path / "run", until="queries")
    assert stages.ran() == ["queries"]


def test_a_run_of_another_source_is_not_built_over(pairs: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    run(pairs, tmp_path / "run", settings, until="ingest")
    other = write_pairs(tmp_path / "other.jsonl", sentence_pairs()[:60])
    with pytest.raises(InputError, match=r"holds a run of .*pairs\.jsonl.*--yes"):
        run(other, tmp_path / "run", settings, until="ingest")
    run(other, tmp_path / "run", settings, until="ingest", replace=True)


def test_a_changed_byte_is_named_at_the_next_read(pairs: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    out = tmp_path / "run"
    run(pairs, out, settings, until="dataset")
    file = out / "dataset" / "corpus.jsonl"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(DamagedArtifact, match=r"dataset/corpus\.jsonl.*--from dataset"):
        run(pairs, out, settings, until="baseline")
    run(pairs, out, settings, until="dataset", from_stage="dataset")
    run(pairs, out, settings, until="baseline")


def test_the_gate_stops_a_strict_run_before_training(pairs: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    strict = settings | {"baseline": {"gate": "strict", "too_few_pairs": 100_000}}
    with pytest.raises(pipeline.GateClosed, match="collect-more-data"):
        run(pairs, tmp_path / "run", strict)
    assert "train" not in finished(tmp_path / "run")


def test_a_person_who_answers_no_stops_the_run(pairs: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    asked: list[str] = []

    def no(question: str) -> bool:
        asked.append(question)
        return False

    few = settings | {"baseline": {"too_few_pairs": 100_000}}
    with pytest.raises(pipeline.GateClosed):
        run(pairs, tmp_path / "run", few, confirm=no)
    assert "collect-more-data" in asked[0]


def test_every_stage_of_the_table_exists_and_reads_what_an_earlier_one_writes() -> None:
    import importlib

    written = {"source", "labels", "review", "rivals", "retention", "grades", "controls", "base_model"}
    for stage in pipeline.STAGES:
        module, _, name = stage.function.partition(":")
        assert callable(getattr(importlib.import_module(module), name))
        assert set(stage.reads) <= written, stage.name
        written.add(stage.writes)


Command = Callable[[Path], list[str]]


@pytest.fixture
def command(pairs: Path, tiny_bert: Path) -> Command:
    def make(out: Path) -> list[str]:
        options = ("epochs=6", "batch_size=8", "learning_rate=1e-3", "evaluations=8", "patience=9", "threads=1")
        sets = [part for option in options for part in ("--set", f"train.{option}")]
        return [
            *(sys.executable, "-m", "shoptalk", "run", str(pairs), "--out", str(out), "--base-model", str(tiny_bert)),
            *("--set", "evaluate.resamples=300", "--set", "model.precision=fp32", *sets),
        ]

    return make


def finish(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2_000:]


def start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def new_checkpoints(out: Path, process: subprocess.Popen[bytes]) -> Iterator[str]:
    """Names of checkpoints as they appear, until the process ends."""
    seen = {path.name for path in out.glob(".work/*/checkpoint-*")}
    while process.poll() is None:
        for path in out.glob(".work/*/checkpoint-*"):
            if path.name not in seen:
                seen.add(path.name)
                yield path.name
        time.sleep(0.005)


def test_killed_while_training_it_resumes_to_the_same_bytes(tmp_path: Path, command: Command) -> None:
    finish(command(tmp_path / "calm"))
    out = tmp_path / "killed"
    for delay in (0.0, 0.15):  # while a checkpoint is being written, and after it
        process = start(command(out))
        next(new_checkpoints(out, process))
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert list(out.glob(".work/*/checkpoint-*"))
    finish(command(out))
    assert contents(out) == contents(tmp_path / "calm")


@pytest.mark.slow
@pytest.mark.timeout(1_500)
def test_twenty_random_kills_change_nothing(tmp_path: Path, command: Command) -> None:
    started = time.monotonic()
    finish(command(tmp_path / "calm"))
    whole = time.monotonic() - started
    rng = random.Random(20)
    kills, rounds = 0, 0
    while kills < 20:
        out = tmp_path / f"killed-{rounds}"
        for _ in range(5):  # several kills into one run, then it may finish
            process = start(command(out))
            try:
                process.wait(rng.uniform(0.3, whole))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
            else:
                assert process.returncode == 0
                break
        finish(command(out))
        assert contents(out) == contents(tmp_path / "calm"), f"after kill {kills}"
        shutil.rmtree(out)
        rounds += 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB; skips where this user may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system needs more rights")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_ends_clearly_and_keeps_the_finished_stages(command: Command, small_disk: Path) -> None:
    out = small_disk / "run"
    filler = small_disk / "filler"
    finish([*command(out), "--until", "negatives"])
    filler.write_bytes(b"\0" * 7_500_000)
    failed = subprocess.run(command(out), capture_output=True, text=True, timeout=200)
    assert failed.returncode == 1
    assert "no space left" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert set(finished(out)) >= {"ingest", "queries", "dataset", "baseline", "negatives"}
    filler.unlink()
    finish([*command(out), "--set", "train.evaluations=1"])
    assert (out / "result.json").is_file()
