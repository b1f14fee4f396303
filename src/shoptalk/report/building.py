"""The stage report: what the run found, for people (report.html) and for programs (result.json)."""

from __future__ import annotations

import json

from shoptalk.report.artifacts import read_artifacts
from shoptalk.report.page import render
from shoptalk.report.result import make_result
from shoptalk.workspace import StageContext


def build_report(stage: StageContext) -> None:
    """Write report.html and result.json. Nothing is measured here: every number was written by an earlier stage."""
    run = read_artifacts(stage)
    result = json.dumps(make_result(run), indent=1, ensure_ascii=False, allow_nan=False)
    (stage.out / "result.json").write_text(result + "\n", encoding="utf-8")
    (stage.out / "report.html").write_text(render(run), encoding="utf-8", newline="\n")
