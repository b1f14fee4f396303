"""`shoptalk compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def compare(
    models: Annotated[
        list[str],
        typer.Argument(help="Models to compare; the first is the base. Folders, Hub ids, builtin:NAME or bm25."),
    ],
    data: Annotated[Path, typer.Option("--data", help="BEIR folder with the corpus, the queries and the judgements.")],
    split: Annotated[str, typer.Option("--split", help="Which qrels file to use.")] = "test",
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="A setting, as in --set evaluate.resamples=2000.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON on stdout.")] = False,
) -> None:
    """Compare models on a BEIR folder: metrics over the whole corpus, with intervals and p-values against the first."""
    from shoptalk.cli.console import rich_progress, stdout
    from shoptalk.settings import Settings, with_values

    if len(models) < 2:
        raise typer.BadParameter("name at least two models", param_hint="MODELS")
    settings = with_values(Settings(), assignments or [])
    with rich_progress():
        from shoptalk.comparing import compare_models

        record = compare_models(models, data, split=split, settings=settings)
    if as_json:
        typer.echo(json.dumps(record, ensure_ascii=False, allow_nan=False))
        return
    from rich.table import Table

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
    console = stdout()
    console.print(table)
    if "verdict" in record:
        console.print(f"\nverdict for {record['model']}: {record['verdict']}", markup=False)
        for reason in record["reasons"]:
            console.print(f"  - {reason}", markup=False, soft_wrap=True)
