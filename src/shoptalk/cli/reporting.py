"""`shoptalk report`: a run's report as HTML or Markdown, with its texts or without, and finished runs side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from shoptalk.cli.running import (
    AsJson,
    Base,
    Config,
    Controls,
    DevQueries,
    Out,
    Queries,
    Request,
    Set,
    TestQueries,
    execute,
)

_FORMATS = ("html", "markdown")
_FILES = {
    ("html", False): "report.html",
    ("html", True): "report-redacted.html",
    ("markdown", False): "report.md",
    ("markdown", True): "report-redacted.md",
}


def report(
    source: Annotated[
        list[str] | None,
        typer.Argument(
            help="One source of documents or labels, as for `run`; or run folders: one to report, several to compare."
        ),
    ] = None,
    out: Out = None,
    base_model: Base = None,
    queries: Queries = None,
    dev_queries: DevQueries = None,
    test_queries: TestQueries = None,
    controls: Controls = None,
    assignments: Set = None,
    config: Config = None,
    form: Annotated[
        str, typer.Option("--format", help="html (default), or markdown for a merge request or a wiki.")
    ] = "html",
    redact: Annotated[
        bool, typer.Option("--redact", help="No text of the documents or queries, for forwarding; a file of its own.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Write report.html and result.json. Runs the stages before it if they are not done. With several RUN folders: compare them."""
    if form not in _FORMATS:
        raise typer.BadParameter(f"{form!r} is not one of {', '.join(_FORMATS)}", param_hint="--format")
    named = source or []
    changing = {
        "--out": out, "--base-model": base_model, "--queries": queries, "--dev-queries": dev_queries,
        "--test-queries": test_queries, "--controls": controls, "--set": assignments, "--config": config,
    }  # fmt: skip
    given = [option for option, value in changing.items() if value]
    if len(named) > 1:
        if given:
            raise typer.BadParameter(
                "run folders are compared as they are; name one source, or leave this out", param_hint=given[0]
            )
        return _compare([Path(name) for name in named], form, as_json)
    one, out = _source_or_run(named[0] if named else None, out)
    request = Request(one, out, base_model, queries, dev_queries, test_queries, controls, assignments or [], config)
    further = form != "html" or redact
    as_it_is = further and bool(named) and one is None and not given and _is_finished(request.folder)
    if as_it_is:
        _show_result(request.folder, as_json)
    else:
        execute(request, "report", None, as_json, yes=False)
    if further:
        typer.echo(f"report  {write_report(request.folder, form, redact)}", err=as_json)
    return 0


def _is_finished(folder: Path) -> bool:
    """A finished run that is named alone is reported as it is: its documents, or its base model, may not be on this machine."""
    from shoptalk.pipeline import NAMES
    from shoptalk.report.history import look_at

    return look_at(folder, NAMES).state == "finished"


def _show_result(folder: Path, as_json: bool) -> None:
    from shoptalk.cli.console import stdout
    from shoptalk.cli.summary import show_result
    from shoptalk.pipeline import RunResult
    from shoptalk.report.history import read_result
    from shoptalk.workspace import Workspace

    result = read_result(Workspace(folder))
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False, allow_nan=False))
    else:
        show_result(RunResult(folder, result), stdout())


def write_report(folder: Path, form: str, redact: bool) -> Path:
    """Write another form of a finished run's report beside report.html, and return its path. Raises ShoptalkError."""
    from shoptalk.report.artifacts import read_artifacts
    from shoptalk.report.markdown import render_markdown
    from shoptalk.report.page import render
    from shoptalk.settings import read_settings
    from shoptalk.workspace import StageContext, open_workspace, write_atomically

    with open_workspace(folder) as workspace:
        stage = StageContext(
            settings=read_settings(folder / "shoptalk.yaml"),
            read=workspace.read,
            out=folder,
            scratch=folder,
            cache=workspace.cache,
            seconds={name: row.seconds for name, row in workspace.rows.items()},
            evaluations=workspace.evaluations(),
        )
        run = read_artifacts(stage)
        text = render_markdown(run, redact=redact) if form == "markdown" else render(run, redact=redact)
        path = folder / _FILES[form, redact]
        write_atomically(path, text)
    return path


def _source_or_run(named: str | None, out: Path | None) -> tuple[str | None, Path | None]:
    """A run folder in the place of the source is the run to report. Raises InputError when --out names another."""
    from shoptalk.errors import InputError
    from shoptalk.report.history import is_run_folder

    if named is None or not is_run_folder(Path(named)):
        return named, out
    if out is not None and out.resolve() != Path(named).resolve():
        raise InputError(
            f"{named}: a run folder and no source; name it alone to report it, or give two run folders to compare"
        )
    return None, Path(named)


def _compare(folders: list[Path], form: str, as_json: bool) -> int:
    from shoptalk.cli.console import stdout
    from shoptalk.cli.history import show_compared
    from shoptalk.errors import InputError
    from shoptalk.pipeline import NAMES
    from shoptalk.report.history import is_run_folder
    from shoptalk.report.markdown import render_runs_markdown
    from shoptalk.report.runs_compared import compare_runs

    for folder in folders:
        if not is_run_folder(folder):
            what = "no run folder (manifest.json and shoptalk.yaml)" if folder.exists() else "no such folder"
            raise InputError(f"{folder}: {what}; name run folders to compare, or one source with --out")
    record = compare_runs(folders, NAMES)
    if as_json:
        typer.echo(json.dumps(record, ensure_ascii=False, allow_nan=False))
    elif form == "markdown":
        typer.echo(render_runs_markdown(record), nl=False)
    else:
        show_compared(record, stdout())
    return 0
