"""`shoptalk run`, and one command for each stage, which is `run` up to that stage."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from shoptalk.settings import Settings

Source = Annotated[
    str | None,
    typer.Argument(
        help="Folder, glob, file or archive of documents (.md .pdf .docx .html ...), BEIR folder, or labelled file "
        "(.jsonl .csv .tsv .parquet)."
    ),
]
Out = Annotated[Path | None, typer.Option("--out", help="Run folder. Default: runs/NAME_OF_SOURCE.")]
Base = Annotated[
    str | None, typer.Option("--base-model", help="builtin:all-MiniLM-L6-v2 (default), a folder, or a Hub id.")
]
Queries = Annotated[str | None, typer.Option("--queries", help="Labelled queries for a folder of documents.")]
DevQueries = Annotated[str | None, typer.Option("--dev-queries", help="Labelled queries to keep as the dev split.")]
TestQueries = Annotated[str | None, typer.Option("--test-queries", help="Labelled queries to keep as the test split.")]
Controls = Annotated[
    str | None, typer.Option("--controls", help="Control queries that have nothing to do with your domain.")
]
Set = Annotated[list[str] | None, typer.Option("--set", help="A setting, as in --set train.epochs=3. May be repeated.")]
Config = Annotated[
    Path | None, typer.Option("--config", help="Settings file. Default: ./shoptalk.yaml when there is one.")
]
Search = Annotated[
    int | None,
    typer.Option("--search", min=0, help="Trials of a search for the best training settings, judged on dev (optuna)."),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Print the plan with minutes per stage and what training takes; write nothing."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON on stdout.")]

STAGE_HELP = {
    "ingest": "Read the documents (or a BEIR folder, or labels) into passages.",
    "queries": "Map labelled queries to passages, or make queries where there are no labels.",
    "dataset": "Check, cluster near-duplicates, split without leaks, audit.",
    "baseline": "Measure the base model, BM25, both fused and other models, and say whether tuning is likely to pay (the gate).",
    "negatives": "Build training examples; mine hard negatives if asked to.",
    "train": "Fine-tune the base model; keep the last checkpoint, unless dev is sure of a better one.",
    "evaluate": "Compare base and tuned model on the test split, with intervals.",
    "diagnose": "Look for what went wrong, from leaks and collapse to forgetting, hubs and drift.",
    "report": "Write report.html and result.json, or Markdown; given several finished run folders, compare them.",
}


@dataclass(frozen=True)
class Request:
    """What a person asked for on the command line."""

    source: str | None
    out: Path | None
    base_model: str | None = None
    queries: str | None = None
    dev_queries: str | None = None
    test_queries: str | None = None
    controls: str | None = None
    assignments: list[str] = field(default_factory=list)
    config: Path | None = None

    @property
    def folder(self) -> Path:
        """The run folder."""
        if self.out is not None:
            return self.out
        name = Path(self.source).resolve().stem if self.source else "run"
        return Path("runs") / (re.sub(r"[*?\[\]]+", "_", name).strip("_.") or "run")

    def settings(self) -> Settings | None:
        """Settings from file and --set; None, meaning those of the run folder, when there is neither source nor change."""
        from shoptalk.settings import Settings, read_settings, with_values

        own = self.folder / "shoptalk.yaml"
        if self.config is not None:
            settings = read_settings(self.config)
        elif self.source is None and own.is_file():
            settings = read_settings(own)
        elif Path("shoptalk.yaml").is_file():
            settings = read_settings(Path("shoptalk.yaml"))
        else:
            settings = Settings()
        controls = [f"diagnose.controls={json.dumps(self.controls)}"] if self.controls else []
        return with_values(settings, [*controls, *self.assignments])


def add_commands(app: typer.Typer) -> None:
    """Put `run` and the stages' commands on the app, in the order of the way of the data."""
    from shoptalk.cli.reporting import report  # which takes its options from here

    app.command(name="run")(run)
    for name, text in STAGE_HELP.items():
        own: dict[str, Callable[..., int]] = {"train": _train, "ingest": _ingest, "queries": _queries, "report": report}
        command = own.get(name) or _stage_command(name)
        app.command(name=name, help=text + " Runs the stages before it if they are not done.")(command)


def run(
    source: Source = None,
    out: Out = None,
    base_model: Base = None,
    queries: Queries = None,
    dev_queries: DevQueries = None,
    test_queries: TestQueries = None,
    controls: Controls = None,
    search: Search = None,
    assignments: Set = None,
    config: Config = None,
    until: Annotated[str, typer.Option("--until", help="Last stage to run.")] = "report",
    from_stage: Annotated[str | None, typer.Option("--from", help="Run this stage and all after it again.")] = None,
    gate: Annotated[
        str | None, typer.Option("--gate", help="advise (default) or strict: stop when the gate says no.")
    ] = None,
    as_json: AsJson = False,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes", "-y", help="Do not ask: train whatever the gate advises, build over a run of another source."
        ),
    ] = False,
    dry_run: DryRun = False,
    fail_on: Annotated[
        str | None, typer.Option("--fail-on", help="Exit with 3 on this verdict (ship, do-not-ship, inconclusive).")
    ] = None,
) -> int:
    """The whole job: from documents or labelled data to a tuned model, a comparison and a report.

    Killed or stopped, the same command goes on where it was. Without SOURCE it goes on with the run in --out.
    """
    _one_of("--gate", gate, ("advise", "strict"))
    _one_of("--fail-on", fail_on, ("ship", "do-not-ship", "inconclusive"))
    if fail_on is not None and until != "report":
        raise typer.BadParameter(
            f"there is no verdict with --until {until}; leave out one of them", param_hint="--fail-on"
        )
    chosen = [*(assignments or []), *([f"baseline.gate={gate}"] if gate else []), *_searching(search)]
    request = Request(source, out, base_model, queries, dev_queries, test_queries, controls, chosen, config)
    if dry_run:
        return _plan(request, until, as_json)
    result = execute(request, until, from_stage, as_json, yes)
    return 3 if fail_on is not None and result.verdict == fail_on else 0


def _ingest(
    source: Source = None,
    out: Out = None,
    base_model: Base = None,
    queries: Queries = None,
    dev_queries: DevQueries = None,
    test_queries: TestQueries = None,
    controls: Controls = None,
    assignments: Set = None,
    config: Config = None,
    as_json: AsJson = False,
    show: Annotated[
        int, typer.Option("--show", min=0, help="Print so many passages; without SOURCE, those of the run in --out.")
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Which passages --show draws.")] = 0,
) -> int:
    from shoptalk.cli.console import stdout
    from shoptalk.cli.showing import show_passages, shown_passages
    from shoptalk.cli.summary import stage_record

    request = Request(source, out, base_model, queries, dev_queries, test_queries, controls, assignments or [], config)
    finished = show and source is None and not assignments and (request.folder / "passages" / "corpus.jsonl").is_file()
    if not show:
        execute(request, "ingest", None, as_json, yes=False)
        return 0
    if not finished:
        execute(request, "ingest", None, as_json=False, yes=False, quiet=True)
    rows = shown_passages(request.folder, show, seed)
    if as_json:
        typer.echo(json.dumps(stage_record(request.folder, "ingest") | {"shown": rows}, ensure_ascii=False))
    else:
        show_passages(rows, stdout())
    return 0


def _queries(
    source: Source = None,
    out: Out = None,
    base_model: Base = None,
    queries: Queries = None,
    dev_queries: DevQueries = None,
    test_queries: TestQueries = None,
    controls: Controls = None,
    assignments: Set = None,
    config: Config = None,
    as_json: AsJson = False,
    review: Annotated[
        Path | None,
        typer.Option("--review", help="CSV of made queries to edit: written when it is not there, else read back."),
    ] = None,
) -> int:
    from shoptalk.cli.reviewing import offer_review

    chosen = [*(assignments or []), *([f"queries.review={json.dumps(str(review))}"] if review else [])]
    request = Request(source, out, base_model, queries, dev_queries, test_queries, controls, chosen, config)
    execute(request, "queries", None, as_json, yes=False)
    if review is not None:
        typer.echo(offer_review(request.folder, review), err=True)
    return 0


def _train(
    source: Source = None,
    out: Out = None,
    base_model: Base = None,
    queries: Queries = None,
    dev_queries: DevQueries = None,
    test_queries: TestQueries = None,
    controls: Controls = None,
    search: Search = None,
    assignments: Set = None,
    config: Config = None,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> int:
    chosen = [*(assignments or []), *_searching(search)]
    request = Request(source, out, base_model, queries, dev_queries, test_queries, controls, chosen, config)
    if dry_run:
        return _plan(request, "train", as_json)
    execute(request, "train", None, as_json, yes=False)
    return 0


def _plan(request: Request, until: str, as_json: bool) -> int:
    from shoptalk.cli.planning import show_plan

    show_plan(request, until, as_json)
    return 0


def _searching(trials: int | None) -> list[str]:
    return [] if trials is None else [f"train.search={trials}"]


def _one_of(option: str, value: str | None, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(allowed)}", param_hint=option)


def _stage_command(name: str) -> Callable[..., int]:
    def command(
        source: Source = None,
        out: Out = None,
        base_model: Base = None,
        queries: Queries = None,
        dev_queries: DevQueries = None,
        test_queries: TestQueries = None,
        controls: Controls = None,
        assignments: Set = None,
        config: Config = None,
        as_json: AsJson = False,
    ) -> int:
        request = Request(
            source, out, base_model, queries, dev_queries, test_queries, controls, assignments or [], config
        )
        execute(request, name, None, as_json, yes=False)
        return 0

    return command


def execute(request: Request, until: str, from_stage: str | None, as_json: bool, yes: bool, quiet: bool = False) -> Any:
    """Run the pipeline with progress on stderr and the outcome, unless `quiet`, on stdout."""
    import sys

    from shoptalk.cli import summary
    from shoptalk.cli.console import rich_progress, stdout

    settings = request.settings()
    with rich_progress():
        from shoptalk import pipeline

        result = pipeline.run(
            request.source,
            request.folder,
            base_model=request.base_model,
            queries=request.queries,
            dev_queries=request.dev_queries,
            test_queries=request.test_queries,
            settings=settings,
            until=until,
            from_stage=from_stage,
            confirm=_agreed if yes else _confirm if sys.stdin.isatty() and not as_json else None,
            replace=yes,
        )
    if quiet:
        return result
    if as_json:
        record = result.result if until == "report" else summary.stage_record(result.folder, until)
        typer.echo(json.dumps(record, ensure_ascii=False, allow_nan=False))
    elif until == "report":
        summary.show_result(result, stdout())
    else:
        summary.show_stage(result.folder, until, stdout())
    return result


def _agreed(words: str) -> bool:
    return True


def _confirm(words: str) -> bool:
    return typer.confirm(f"{words}\nGo on?", default=True, err=True)
