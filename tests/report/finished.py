"""Run folders as the pipeline leaves them, with a manifest, around the artifacts of `report.runs`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from report.runs import Kind, make_run
from shoptalk.pipeline import STAGES
from shoptalk.report import build_report
from shoptalk.settings import resolved_yaml
from shoptalk.workspace import Row, StageContext, Workspace, digest_of, list_files, open_workspace, write_atomically

STAGE_SECONDS = 6.0


def finished_run(
    folder: Path,
    kind: Kind | None = None,
    settings: dict[str, Any] | None = None,
    until: str = "report",
    make: Callable[..., StageContext] = make_run,
) -> Path:
    """A run folder in which every stage up to `until` was committed; its report is built by the stage's own function."""
    artifacts = folder.with_name(f".{folder.name}-artifacts")
    stage = make(artifacts, kind) if settings is None else make(artifacts, kind, settings)
    with open_workspace(folder) as workspace:
        write_atomically(folder / "shoptalk.yaml", resolved_yaml(stage.settings))
        for one in STAGES:
            commit(workspace, one.name, stage)
            if one.name == until:
                break
    return folder


def commit(workspace: Workspace, name: str, stage: StageContext, note: str = "") -> None:
    """Commit one stage of the run from the artifacts' folder. note: written into the artifact, so that it is another one."""
    one = next(one for one in STAGES if one.name == name)
    out, _ = workspace.begin(one.writes, name)
    if one.name == "report":
        build_report(replace(stage, out=out))
    elif (made := stage.read(one.writes)).is_dir():
        shutil.copytree(made, out, dirs_exist_ok=True)
    if note:
        (out / "note.txt").write_text(note, encoding="utf-8")
    digests = {row.artifact: row.digest for row in workspace.rows.values()}
    inputs = {read: digests.get(read, "from outside") for read in one.reads}
    files = list_files(out)
    workspace.commit(name, Row(one.writes, name, inputs, "", files, digest_of(files), STAGE_SECONDS, {}))
