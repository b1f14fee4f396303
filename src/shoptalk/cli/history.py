"""`shoptalk runs`, and finished runs side by side as `shoptalk report RUN_A RUN_B` shows them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from shoptalk.report.history import Run

_COLOUR = {"ship": "green", "do-not-ship": "red", "inconclusive": "yellow", "unfinished": "cyan", "damaged": "red"}


def runs(
    folder: Annotated[
        Path | None, typer.Argument(help="The folder that holds the run folders. Default: ./runs.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as one line of JSON on stdout.")] = False,
) -> int:
    """List the runs of a folder: date, source, verdict, scores with the gain's interval, findings, gate and minutes."""
    from shoptalk.cli.console import stdout
    from shoptalk.pipeline import NAMES
    from shoptalk.report.history import list_runs

    folder = folder or Path("runs")
    found = list_runs(folder, NAMES)
    if as_json:
        typer.echo(json.dumps([run.as_json() for run in found], ensure_ascii=False, allow_nan=False))
    elif not found:
        typer.echo(f"{folder}: holds no run; `shoptalk run SOURCE` makes one")
    else:
        _show_list(folder, found, stdout())
    return 0


def _show_list(folder: Path, found: list[Run], console: Console) -> None:
    """A table of the runs, two lines each so that it fits a terminal, and under it what is to be said of the unfinished ones."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("run\nsource", overflow="fold")
    table.add_column("date", no_wrap=True)
    table.add_column("verdict\ngate", overflow="fold")
    table.add_column("scores\ngain, 95% interval", no_wrap=True)
    table.add_column("findings", no_wrap=True)
    table.add_column("min", justify="right", no_wrap=True)
    for run in found:
        word = str(run.result["verdict"]) if run.result else run.state
        verdict = Text(word, style=_COLOUR.get(word, "")).append(f"\n{run.gate or ''}", style="default")
        table.add_row(
            Text(f"{_name(run.folder, folder)}\n{Path(run.source).name}"),
            f"{run.changed:%Y-%m-%d}\n{run.changed:%H:%M}",
            verdict,
            *(Text(cell) for cell in _scores_and_findings(run)),
            f"{run.minutes:.1f}" if run.minutes else "",
        )
    console.print(table)
    for run in found:
        if run.words:
            console.print(f"{run.folder}: {run.words}", markup=False, soft_wrap=True)


def _name(run: Path, folder: Path) -> str:
    """A run's name in the list of a folder, which may be the run itself."""
    return run.name if run == folder else run.relative_to(folder).as_posix()


def _scores_and_findings(run: Run) -> tuple[str, str]:
    from shoptalk.report.runs_compared import severities
    from shoptalk.report.wording import plain, shown, signed

    record = run.as_json()
    delta = record["delta"]
    if delta is None:
        return "", ""
    low, high = delta["ci95"]
    scores = f"{shown(record['metric'])} {plain(record['base'])} \N{RIGHTWARDS ARROW} {plain(record['tuned'])}"
    gain = f"{signed(delta['value'])} ({signed(low)} to {signed(high)})"
    return f"{scores}\n{gain}", severities(record["findings"]).replace(", ", "\n")


def show_compared(record: Mapping[str, Any], console: Console) -> None:
    """Print what `compare_runs` found: figures, differing settings and findings, and last the tuned models against each other."""
    from shoptalk.report.runs_compared import figures, pairs_in_words
    from shoptalk.report.wording import spoken

    names = [run["run"] for run in record["runs"]]
    _table("", names, figures(record), console)
    settings = [
        (key, [json.dumps(values[name], ensure_ascii=False) if name in values else "" for name in names])
        for key, values in record["settings"].items()
    ]
    _table("setting", names, settings, console, "the settings are the same")
    findings = [
        (spoken(finding), [values.get(name, "") for name in names]) for finding, values in record["findings"].items()
    ]
    _table("finding", names, findings, console, "the findings are the same")
    console.print()
    for words in pairs_in_words(record):
        console.print(words, markup=False, soft_wrap=True)
    console.print("a run that is chosen by its test queries has seen them: confirm it on fresh ones", markup=False)


def _table(
    heading: str, names: list[str], rows: list[tuple[str, list[str]]], console: Console, otherwise: str = ""
) -> None:
    from rich.table import Table
    from rich.text import Text

    if heading:
        console.print()
    if not rows:
        console.print(otherwise)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(heading)
    for name in names:
        table.add_column(Text(name), overflow="fold")
    for label, cells in rows:
        table.add_row(Text(label), *(Text(cell) for cell in cells))
    console.print(table)
