"""The command line called in process: what it prints, what it says, what it exits with."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shoptalk.cli.app import run_command

# Settings under which tiny_bert learns the toy task in a second.
QUICK_SET = [
    "train.epochs=10",
    "train.batch_size=16",
    "train.learning_rate=5e-3",
    "train.evaluations=3",
    "train.hidden_dropout=0",
    "train.threads=1",
    "model.precision=fp32",
    "model.device=cpu",
    "evaluate.resamples=200",
    "select.retention=off",
    "negatives.mine=0",
]


@dataclass(frozen=True)
class Done:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def record(self) -> Any:
        """The one line of JSON that ends stdout, read by a parser that takes no NaN."""
        return json.loads(self.out.splitlines()[-1], parse_constant=lambda name: pytest.fail(f"{name} on stdout"))


def call(*arguments: object, cwd: Path) -> Done:
    """Run `shoptalk ARGUMENTS` in the folder `cwd`."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_command([str(argument) for argument in arguments])
    return Done(code, out.getvalue(), err.getvalue())


def quickly(base: Path, *assignments: str) -> list[object]:
    """The options of a quick run with `base`."""
    return ["--base-model", base, *(part for text in (*QUICK_SET, *assignments) for part in ("--set", text))]


def stages_of(folder: Path) -> list[str]:
    """The finished stages of a run folder."""
    return list(json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["stages"])
