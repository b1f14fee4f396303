"""Runs of the past: the list of a folder's runs, and what differs between finished ones.

Everything is read through the manifest and without the run folder's lock, so that a run that is being made can be looked at.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from shoptalk.errors import DamagedArtifact, InputError, ShoptalkError
from shoptalk.workspace import MANIFEST, Row, Workspace

SETTINGS = "shoptalk.yaml"
_LOCK = ".lock"


@dataclass(frozen=True)
class Run:
    """A run folder as the list shows it. stage: the first that is not done, or is out of date; words: what a reader must know.

    changed: when its last stage was done, local time with its offset; result: result.json of a finished run; gate: its decision.
    """

    folder: Path
    state: Literal["finished", "unfinished", "damaged"]
    changed: datetime
    source: str = ""
    stage: str | None = None
    words: str = ""
    minutes: float = 0.0
    gate: str | None = None
    result: Mapping[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """The form that `shoptalk runs --json` prints; null for what an unfinished or damaged run has not."""
        result = self.result or {}
        metric = result.get("metric")
        return {
            "run": str(self.folder),
            "state": self.state,
            "stage": self.stage,
            "words": self.words,
            "date": self.changed.isoformat(timespec="seconds"),
            "source": self.source,
            "verdict": result.get("verdict"),
            "metric": metric,
            "base": result["base"][metric] if metric else None,
            "tuned": result["tuned"][metric] if metric else None,
            "delta": result["delta"][metric] if metric else None,
            "findings": dict(Counter(finding["severity"] for finding in result["findings"])) if metric else None,
            "gate": self.gate,
            "minutes": round(self.minutes, 2),
        }


def list_runs(folder: Path, stages: Sequence[str]) -> list[Run]:
    """The runs in a folder and one level below it, the oldest first; a damaged one is listed as such. stages: all, in order.

    Raises InputError when there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name the folder that holds your runs, as in `shoptalk runs runs`")
    if is_run_folder(folder):
        return [look_at(folder, stages)]
    found = []
    for path in _folders(folder):
        found += [path] if is_run_folder(path) else [below for below in _folders(path) if is_run_folder(below)]
    return sorted((look_at(path, stages) for path in found), key=lambda run: (run.changed, run.folder))


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:  # a folder that may not be read holds no run of this person's
        return []


def is_run_folder(folder: Path) -> bool:
    """Whether a run was made here. A manifest.json of something else, or settings beside documents, are none."""
    try:
        if Workspace(folder).rows:
            return True
    except (DamagedArtifact, OSError, ValueError):
        pass
    return (folder / SETTINGS).is_file() and (folder / _LOCK).exists()


def look_at(folder: Path, stages: Sequence[str]) -> Run:
    """How a run stands. Never raises for what the folder holds: whatever cannot be read makes it a damaged one."""
    changed = _changed(folder)
    try:
        workspace = Workspace(folder)
        source = str((read_values(folder).get("input") or {}).get("source") or "")
        minutes = sum(row.seconds for row in workspace.rows.values()) / 60
        stage = standing(workspace.rows, stages)
        if stage is not None:
            done = stages.index(stage)
            words = f"stands at {stage}, {done} of {len(stages)} stages done"
            return Run(folder, "unfinished", changed, source, stage, words, minutes, _gate(workspace))
        result = read_result(workspace)
        run = Run(folder, "finished", changed, source, None, "", minutes, result["gate"]["decision"], result)
        run.as_json()  # it has what the list shows
        return run
    except (ShoptalkError, OSError) as error:
        return Run(folder, "damaged", changed, words=str(error))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Run(folder, "damaged", changed, words=f"{folder}: not what shoptalk writes: {error!r}")


def standing(rows: Mapping[str, Row], stages: Sequence[str]) -> str | None:
    """The first stage that is not done, or whose inputs were made again after it; None for a finished run."""
    made = {row.artifact: row.digest for row in rows.values()}
    for stage in stages:
        row = rows.get(stage)
        if row is None or any(made.get(name, digest) != digest for name, digest in row.inputs.items()):
            return stage
    return None


def read_values(folder: Path) -> dict[str, Any]:
    """shoptalk.yaml of a run as plain values, also of a version that knew other settings. Raises DamagedArtifact."""
    path = folder / SETTINGS
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DamagedArtifact(f"{path}: is gone; restore it, or run again") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DamagedArtifact(f"{path}: not readable as YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(values, dict):
        raise DamagedArtifact(
            f"{path}: holds a {type(values).__name__}, not settings by name; restore it, or run again"
        )
    return values


def read_result(workspace: Workspace) -> dict[str, Any]:
    """result.json, verified. Raises DamagedArtifact."""
    return dict(_json(workspace.read("report") / "result.json"))


def _gate(workspace: Workspace) -> str | None:
    """The decision of an unfinished run that has come so far."""
    if "baseline" not in workspace.rows:
        return None
    return str(_json(workspace.read("baseline") / "gate.json")["decision"])


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _changed(folder: Path) -> datetime:
    """The manifest's time: it is written when a stage is done."""
    for path in (folder / MANIFEST, folder / SETTINGS, folder):
        if path.exists():
            return datetime.fromtimestamp(path.stat().st_mtime, UTC).astimezone()
    return datetime.now(UTC).astimezone()
