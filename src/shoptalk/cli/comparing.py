"""`shoptalk compare`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console


def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Systems to compare; the first is the base. Folders, Hub ids, builtin:NAME, bm25, fused:SYSTEM (with BM25), "
            "endpoint:MODEL@http://host/v1 (OpenAI-compatible) or run:FILE.trec (a run of the system in production)."
        ),
    ],
    data: Annotated[Path, typer.Option("--data", help="BEIR folder with the corpus, the queries and the judgements.")],
    split: Annotated[str, typer.Option("--split", help="Which qrels file to use.")] = "test",
    metrics: Annotated[
        str | None, typer.Option("--metrics", help='Further metrics at any k, as in "ndcg@20 recall@50 hit@5".')
    ] = None,
    dims: Annotated[
        str | None, typer.Option("--dims", help="Smaller sizes to cut vectors to: halves, or as in 256,128.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="A holes.csv with grades filled in, read as further judgements.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for comparison.json, per_query.jsonl, holes.csv and the rankings."),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Where vectors are kept. Default: the user's cache folder.")
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep no vectors after the comparison.")] = False,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="A setting, as in --set evaluate.resamples=2000.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before an endpoint is paid.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON on stdout.")] = False,
) -> None:
    """Compare systems on a BEIR folder: metrics over the whole corpus, with intervals and p-values against the first."""
    from shoptalk.cli.console import rich_progress, stdout
    from shoptalk.settings import Settings, with_values

    if len(models) < 2:
        raise typer.BadParameter("name at least two models", param_hint="MODELS")
    chosen = [*_as_settings(metrics, dims, labels), *(assignments or [])]
    settings = with_values(Settings(), chosen)
    with rich_progress():
        from shoptalk.comparing import compare_models

        record = compare_models(
            models, data, split=split, settings=settings, cache=cache, keep=not no_cache, out=out,
            confirm=_confirm(yes, as_json),
        )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(record, ensure_ascii=False, allow_nan=False))
    else:
        _show(record, stdout())


def _as_settings(metrics: str | None, dims: str | None, labels: Path | None) -> list[str]:
    chosen = []
    if metrics is not None:
        chosen.append(
            f"evaluate.metrics=[{', '.join(json.dumps(m) for m in metrics.lower().replace(',', ' ').split())}]"
        )
    if dims is not None:
        chosen.append(f"evaluate.dims={dims if dims.isalpha() else f'[{dims}]'}")
    if labels is not None:
        chosen.append(f"evaluate.labels={json.dumps(str(labels))}")
    return chosen


def _confirm(yes: bool, as_json: bool) -> Callable[[str], bool] | None:
    """Who agrees to what an endpoint costs: the person at the keyboard, or --yes; else a cap in the settings."""
    import sys

    if yes:
        return lambda words: True
    if sys.stdin.isatty() and not as_json:
        return lambda words: typer.confirm(f"{words}\nGo on?", default=True, err=True)
    return None


def _show(record: Mapping[str, Any], console: Console) -> None:
    from rich.table import Table

    from shoptalk.cli.measured import show_about, show_holes, show_slices, show_table, worse_words
    from shoptalk.retrieval.metrics import SHOWN

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("metric")
    for name in (record["base_model"]["name"], *record["deltas"]):  # each system once, however often it was named
        table.add_column(name, justify="right", overflow="fold")
    for metric in record["base"]:
        cells = [f"{record['base'][metric]:.4f}"]
        for name, deltas in record["deltas"].items():
            low, high = deltas[metric]["ci95"]
            cells.append(
                f"{record['systems'][name][metric]:.4f}\n{deltas[metric]['value']:+.4f}\n{low:+.3f} to {high:+.3f}"
            )
        table.add_row(SHOWN[metric], *cells)
    console.print(table)
    console.print()
    show_table(record["table"], console)
    show_about(record["about"], console)
    if record.get("slices"):
        console.print()
        show_slices(record["slices"], console)
    elif len(record["slices_by_system"]) > 1:
        for name, rows in record["slices_by_system"].items():
            if rows:
                console.print(f"{name}: {worse_words(rows)}", markup=False, soft_wrap=True)
    show_holes(record["holes"], console)
    for name, found in record["outcomes"].items():
        console.print(
            f"{name}: {found['won']} queries won, {found['lost']} lost, {found['unchanged']} unchanged", markup=False
        )
    if "verdict" in record:
        console.print(f"\nverdict for {record['model']}: {record['verdict']}", markup=False)
        for reason in record["reasons"]:
            console.print(f"  - {reason}", markup=False, soft_wrap=True)
