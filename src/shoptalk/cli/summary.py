"""What is printed on stdout when a stage or a run is done."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from shoptalk.beir import read_jsonl
from shoptalk.cli.assessing import show_gate
from shoptalk.cli.measured import show_measured, worse_words
from shoptalk.retrieval.metrics import SHOWN

if TYPE_CHECKING:
    from shoptalk.pipeline import RunResult

_SHOWN_APART = ("table", "slices", "holes")
_COLOUR = {"ship": "green", "do-not-ship": "red", "inconclusive": "yellow"}


def show_result(result: RunResult, console: Console) -> None:
    """The metric table, the findings and the verdict, which comes last."""
    record = result.result
    if record is None:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, side in (
        ("metric", "left"),
        ("base", "right"),
        ("tuned", "right"),
        ("change", "right"),
        ("95% interval", "right"),
    ):
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    for metric, delta in record["delta"].items():
        low, high = delta["ci95"]
        table.add_row(
            SHOWN[metric],
            f"{record['base'][metric]:.3f}",
            f"{record['tuned'][metric]:.3f}",
            f"{delta['value']:+.3f}",
            f"{low:+.3f} to {high:+.3f}",
        )
    console.print(table)
    if "bm25" in record:
        console.print(f"BM25 alone: nDCG@10 {record['bm25']['ndcg@10']:.3f}")
    queries = record["dataset"]["queries"]
    console.print(
        f"{record['dataset']['passages']:,} passages; queries: {queries['train']} train, {queries['dev']} dev, {queries['test']} test "
        f"({record['dataset']['test_origin']}); {sum(record['seconds'].values()):.0f} s"
    )
    console.print(f"\ngate: {record['gate']['decision']}", markup=False)
    _bullets(record["gate"]["reasons"], console)
    for finding in record["findings"]:
        words = f"finding ({finding['severity']}): {finding['name']}: {finding['evidence']}; {finding['advice']}"
        console.print(words, markup=False, soft_wrap=True)
    if record.get("slices"):
        console.print(f"slices: {worse_words(record['slices'])}", markup=False, soft_wrap=True)
    console.print(f"\nverdict: [bold {_COLOUR[record['verdict']]}]{record['verdict']}[/]")
    _bullets(record["reasons"], console)
    console.print(
        f"\nmodel   {result.folder / 'model'}\nreport  {result.folder / 'report.html'}", markup=False, soft_wrap=True
    )


def _bullets(lines: list[str], console: Console) -> None:
    for line in lines:
        console.print(f"  - {line}", markup=False, soft_wrap=True)


def show_stage(folder: Path, stage: str, console: Console) -> None:
    """The facts of a finished stage, one a line; of the gate its table and advice."""
    if stage == "baseline":
        show_gate(stage_record(folder, stage), console)
        console.print(f"written to {folder}", markup=False, soft_wrap=True)
        return
    record = stage_record(folder, stage)
    apart = _SHOWN_APART if stage == "evaluate" else ()
    tables: dict[str, Any] = {name: record.pop(name) for name in apart if name in record}
    for name, value in record.items():
        if isinstance(value, dict):
            value = ", ".join(
                f"{key} {entry:.3f}" if isinstance(entry, float) else f"{key} {entry}" for key, entry in value.items()
            )
        elif isinstance(value, float):
            value = f"{value:.4f}" if abs(value) >= 0.01 or value == 0 else f"{value:.4g}"  # 4e-05, not 0.0000
        if isinstance(value, list):
            console.print(f"{name}:", markup=False)
            _bullets([str(entry) for entry in value], console)
        elif value not in ("", None):
            console.print(f"{name}: {value}", markup=False, soft_wrap=True)
    show_measured(tables, console)
    console.print(f"written to {folder}", markup=False, soft_wrap=True)


def _files_record(passages: Path) -> dict[str, Any]:
    """How many files were read, skipped or hidden, in which formats and languages; nothing for a source without documents."""
    if not (passages / "files.jsonl").is_file():
        return {}
    rows = [row for _, row in read_jsonl(passages / "files.jsonl")]
    files = Counter({"read": 0, "skipped": 0})
    for row in rows:
        files[row["status"]] += row.get("files", 1)
    read = [row for row in rows if row["status"] == "read"]
    repeated = sum(1 for _ in read_jsonl(passages / "repeated.jsonl"))
    return {
        "files": dict(files) if rows else None,
        "formats": dict(Counter(Path(row["file"]).suffix.lower() for row in read).most_common()) or None,
        "languages": dict(Counter(row["language"] or "unknown" for row in read).most_common()) or None,
        "repeated blocks taken out": repeated or None,
    }


_MOST_LINES = 30


def _left_out(queries: Path) -> dict[str, Any]:
    """What the stage queries left out: counted by check; rows of a person's own file one by one, made queries by kind."""
    rows = [row for _, row in read_jsonl(queries / "rejected.jsonl")]
    made = queries / "yields.json"
    table = json.loads(made.read_text(encoding="utf-8"))["kinds"] if made.is_file() else {}
    of_made = sum((Counter(kind["rejected"]) for kind in table.values()), Counter())
    others = [row for row in rows if row["check"] not in of_made][:_MOST_LINES]
    return {
        "scored pairs": sum(1 for _ in read_jsonl(queries / "pairs.jsonl")) or None,
        "made": [f"{name}: {kind['kept']} of {kind['drafted']} kept" for name, kind in table.items()] or None,
        "rejected": dict(Counter(row["check"] for row in rows).most_common()) or None,
        "left out": [f"{row['item']}: {row['reason']}" for row in others] or None,
    }


def stage_record(folder: Path, stage: str) -> dict[str, Any]:
    """The facts of a finished stage, as they are on disk."""
    if stage == "ingest":
        return {
            "passages": sum(1 for _ in read_jsonl(folder / "passages" / "corpus.jsonl", 1 << 30)),
            "skipped": [
                f"{row['item']}: {row['reason']}" for _, row in read_jsonl(folder / "passages" / "skipped.jsonl")
            ],
        } | _files_record(folder / "passages")
    if stage == "queries":
        kinds = Counter(
            (row.get("metadata") or {}).get("kind", "") for _, row in read_jsonl(folder / "queries" / "queries.jsonl")
        )
        return {"queries": dict(kinds)} | _left_out(folder / "queries")
    if stage == "negatives":
        rows = [row for _, row in read_jsonl(folder / "examples" / "examples.jsonl")]
        audited = folder / "examples" / "audit.json"
        said = json.loads(audited.read_text(encoding="utf-8"))["sentence"] if audited.is_file() else None
        return {"examples": len(rows), "negatives each": len(rows[0]["negatives"]) if rows else 0, "mined": said}
    if stage == "diagnose":
        findings = json.loads((folder / "diagnosis" / "findings.json").read_text(encoding="utf-8"))
        return {
            "findings": [f"{f['name']} ({f['severity']}): {f['evidence']}; {f['advice']}" for f in findings] or "none"
        }
    file = {
        "dataset": "dataset/audit.json",
        "baseline": "baseline/gate.json",
        "train": "candidates/training.json",
        "select": "model/shoptalk.json",
        "evaluate": "evaluation/comparison.json",
    }[stage]
    record: dict[str, Any] = json.loads((folder / file).read_text(encoding="utf-8"))
    if stage == "train" and (searched := folder / "candidates" / "search.jsonl").is_file():
        rows = [row for _, row in read_jsonl(searched)]
        complete = [row for row in rows if row["state"] == "complete"]
        best = max(complete, key=lambda row: (row["dev"], -row["number"]))
        values = " ".join(f"train.{name}={value:.4g}" for name, value in best["values"].items())
        record["search"] = (
            f"best of {len(rows)} trials, {len(complete)} of them complete, is {best['number']}: {values}"
        )
    if stage == "evaluate":
        deltas = {
            SHOWN[m]: f"{d['value']:+.4f} [{d['ci95'][0]:+.4f}, {d['ci95'][1]:+.4f}]"
            for m, d in record["delta"].items()
        }
        return {
            "verdict": record["verdict"],
            "reasons": record["reasons"],
            "base": record["base"],
            "tuned": record["tuned"],
            "change": deltas,
            **{name: record[name] for name in ("bm25", "fused", "labels", *_SHOWN_APART) if name in record},
        }
    return record
