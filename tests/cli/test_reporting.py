"""`shoptalk report` in its forms, and `shoptalk runs`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from commandline import Done, call, quickly, stages_of

from report.finished import finished_run
from report.runs import FINDING, Kind
from shoptalk.pipeline import NAMES
from shoptalk.report.wording import plain, signed
from toy import write_pairs


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> tuple[Path, Done]:
    """A folder with pairs.jsonl and a run of it in `run`, reported as Markdown in the same command."""
    folder = tmp_path_factory.mktemp("real")
    write_pairs(folder / "pairs.jsonl")
    options = quickly(tiny_bert, "select.retention=off", "diagnose.terms=0")
    return folder, call("report", "pairs.jsonl", "--out", "run", *options, "--format", "markdown", "--json", cwd=folder)


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three runs: two finished, one that stands at train."""
    root = tmp_path_factory.mktemp("past")
    finished_run(root / "runs" / "first", Kind(findings=(FINDING,)))
    finished_run(root / "runs" / "second", Kind(ranks=((1, 1), (4, 1), (9, 1))), {"train": {"epochs": 7}})
    finished_run(root / "runs" / "stopped", until="negatives")
    return root


def result_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "result.json").read_text(encoding="utf-8")))


# One run


def test_a_source_is_run_and_reported_as_markdown_beside_the_page(real: tuple[Path, Done]) -> None:
    folder, done = real
    assert done.code == 0, done.err
    assert done.record == result_of(folder / "run")
    assert done.err.splitlines()[-1] == "report  run/report.md"
    page = (folder / "run" / "report.md").read_text(encoding="utf-8")
    gain = done.record["delta"]["ndcg@10"]["value"]
    assert f"nDCG@10 {signed(gain)}\n" in page.splitlines(keepends=True)[2]
    assert page.startswith("# shoptalk report: pairs.jsonl\n")
    assert (folder / "run" / "report.html").is_file()


@pytest.mark.parametrize("place", [("--out", "run"), ("run", "--out", "run"), ("pairs.jsonl", "--out", "run")])
def test_a_run_is_reported_again_without_running_anything(real: tuple[Path, Done], place: tuple[str, ...]) -> None:
    folder, first = real
    options = ["--config", "run/shoptalk.yaml"] if place[0] == "pairs.jsonl" else []
    done = call("report", *place, *options, "--format", "markdown", cwd=folder)
    assert done.code == 0, done.err
    assert all(f"{name:<10} unchanged" in done.err for name in NAMES)
    assert done.out.splitlines()[-1] == "report  run/report.md"
    assert f"verdict: {first.record['verdict']}" in done.out


@pytest.mark.parametrize("as_json", [False, True])
def test_a_finished_run_that_is_named_alone_needs_no_source(past: Path, as_json: bool) -> None:
    assert not (past / "docs").exists()
    done = call("report", "runs/first", "--format", "markdown", *(["--json"] if as_json else []), cwd=past)
    assert done.code == 0, done.err
    assert (done.err if as_json else done.out).splitlines()[-1] == "report  runs/first/report.md"
    assert "verdict: ship" in done.out or done.record == result_of(past / "runs" / "first")
    assert (past / "runs" / "first" / "report.md").read_text(encoding="utf-8").startswith("# shoptalk report: docs\n")


def test_an_unfinished_run_that_is_named_alone_goes_on_and_needs_its_source(past: Path) -> None:
    done = call("report", "runs/stopped", "--format", "markdown", cwd=past)
    assert done.code == 2
    assert "docs" in done.err


@pytest.mark.parametrize(("form", "file"), [("markdown", "report-redacted.md"), ("html", "report-redacted.html")])
def test_redacted_reports_are_files_of_their_own_without_texts(real: tuple[Path, Done], form: str, file: str) -> None:
    folder, _ = real
    whole = (folder / "run" / "report.html").read_bytes()
    done = call("report", "run", "--format", form, "--redact", "--json", cwd=folder)
    assert done.code == 0, done.err
    assert done.err.splitlines()[-1] == f"report  run/{file}"
    text = (folder / "run" / file).read_text(encoding="utf-8")
    assert "what is the" in whole.decode()
    assert "what is the" not in text
    assert "pairs.jsonl" not in text
    assert (folder / "run" / "report.html").read_bytes() == whole


def test_further_forms_leave_the_run_as_it_is(real: tuple[Path, Done]) -> None:
    folder, _ = real
    call("report", "run", "--format", "markdown", "--redact", cwd=folder)
    done = call("report", "run", "--json", cwd=folder)
    assert (done.code, done.record) == (0, result_of(folder / "run"))
    assert all(f"{name:<10} unchanged" in done.err for name in NAMES)
    assert stages_of(folder / "run") == list(NAMES)


def test_an_unknown_format_is_named(tmp_path: Path) -> None:
    done = call("report", "docs", "--format", "pdf", cwd=tmp_path)
    assert done.code == 2
    assert "'pdf' is not one of html, markdown" in " ".join(done.err.split())


def test_a_run_folder_as_the_source_of_another_run_is_a_mistake(past: Path) -> None:
    done = call("report", "runs/first", "--out", "runs/other", cwd=past)
    assert done.code == 2
    assert "runs/first: a run folder and no source" in done.err
    assert not (past / "runs" / "other").exists()


# Several runs


def test_two_runs_are_compared_in_the_terminal(past: Path) -> None:
    done = call("report", "runs/first", "runs/second", cwd=past)
    assert done.code == 0, done.err
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    first, second = (result_of(past / "runs" / name) for name in ("first", "second"))
    assert f"verdict {first['verdict']} {second['verdict']}" in lines
    assert f"gain {signed(first['delta']['ndcg@10']['value'])} {signed(second['delta']['ndcg@10']['value'])}" in lines
    assert 'train.epochs "auto" 7' in lines
    assert "one sided bias warning" in lines
    assert "runs/second against runs/first: better. nDCG@10 +" in done.out
    assert "on the same 60 test queries" in done.out


def test_two_runs_are_compared_as_one_line_of_json(past: Path) -> None:
    done = call("report", "runs/first", "runs/second", "--json", cwd=past)
    assert (done.code, done.out.count("\n")) == (0, 1)
    record = done.record
    assert [run["run"] for run in record["runs"]] == ["runs/first", "runs/second"]
    assert record["settings"] == {"train.epochs": {"runs/first": "auto", "runs/second": 7}}
    (pair,) = record["paired"]
    assert (pair["comparable"], pair["against"], pair["run"]) == (True, "runs/first", "runs/second")
    low, high = pair["delta"]["ci95"]
    assert 0 < low < pair["delta"]["value"] < high


def test_two_runs_are_compared_as_markdown_on_stdout(past: Path) -> None:
    done = call("report", "runs/first", "runs/second", "--format", "markdown", cwd=past)
    assert done.code == 0, done.err
    assert done.out.startswith("# shoptalk: 2 runs compared\n")
    assert '| train.epochs | "auto" | 7 |\n' in done.out


def test_runs_that_cannot_be_paired_are_shown_with_the_reason(past: Path, tmp_path: Path) -> None:
    other = finished_run(tmp_path / "other", Kind(title="Rooms {i}"))
    done = call("report", "runs/first", other, cwd=past)
    assert done.code == 0, done.err
    assert "not compared query by query: the passages differ" in done.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("runs/first", "runs/none"), "runs/none: no such folder"),
        (("runs/first", "runs"), "runs: no run folder (manifest.json and shoptalk.yaml)"),
        (("docs", "more docs"), "docs: no such folder"),
        (("runs/first", "runs/stopped"), "finish it with `shoptalk run --out runs/stopped`"),
        (("runs/first", "runs/first"), "runs/first: named twice"),
        (("runs/first", "runs/second", "--out", "x"), "run folders are compared as they are"),
        (("runs/first", "runs/second", "--set", "seed=3"), "run folders are compared as they are"),
    ],
)
def test_what_cannot_be_compared_is_an_error_with_code_2(past: Path, arguments: tuple[str, ...], said: str) -> None:
    done = call("report", *arguments, cwd=past)
    assert (done.code, done.out) == (2, "")
    assert said in " ".join(done.err.replace("│", " ").split())
    assert "unexpected" not in done.err


def test_a_damaged_run_is_an_error_that_names_the_file(past: Path, tmp_path: Path) -> None:
    harmed = Path(shutil.copytree(past / "runs" / "second", tmp_path / "harmed"))
    (harmed / "result.json").write_text("{}", encoding="utf-8")
    done = call("report", "runs/first", harmed, cwd=past)
    assert done.code == 1
    assert f"{harmed / 'result.json'}: changed since it was written" in done.err


# The list


def test_runs_lists_what_is_in_the_folder(past: Path) -> None:
    done = call("runs", cwd=past)
    assert (done.code, done.err) == (0, "")
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    for row in json.loads(call("runs", "--json", cwd=past).out):
        first = next(
            i for i, line in enumerate(lines) if line.startswith(f"{Path(row['run']).name} {row['date'][:10]} ")
        )
        if row["state"] == "unfinished":
            assert lines[first].split()[2:] == ["unfinished", f"{row['minutes']:.1f}"]
            continue
        low, high = row["delta"]["ci95"]
        scores = f"nDCG@10 {plain(row['base'])} → {plain(row['tuned'])}"
        found = "1 warning" if row["run"] == "runs/first" else "none"
        assert lines[first].endswith(f" {row['verdict']} {scores} {found} {row['minutes']:.1f}")
        assert lines[first + 1].startswith("docs ")
        assert lines[first + 1].endswith(
            f"{row['gate']} {signed(row['delta']['value'])} ({signed(low)} to {signed(high)})"
        )
    assert f"runs/stopped: stands at train, 5 of {len(NAMES)} stages done" in lines


def test_runs_as_json_is_one_line_with_the_key_figures(past: Path) -> None:
    done = call("runs", "runs", "--json", cwd=past)
    assert (done.code, done.out.count("\n")) == (0, 1)
    rows = {row["run"]: row for row in done.record}
    assert rows.keys() == {"runs/first", "runs/second", "runs/stopped"}
    result = result_of(past / "runs" / "first")
    first = rows["runs/first"]
    assert (first["verdict"], first["base"]) == (result["verdict"], result["base"]["ndcg@10"])
    assert first["delta"] == result["delta"]["ndcg@10"]
    assert (rows["runs/stopped"]["stage"], rows["runs/stopped"]["verdict"]) == ("train", None)


def test_runs_of_a_run_folder_shows_that_one(past: Path) -> None:
    done = call("runs", "runs/first", cwd=past)
    assert done.code == 0
    assert " ".join(done.out.splitlines()[2].split()).startswith("first ")


def test_runs_of_an_empty_folder_says_how_one_is_made(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    done = call("runs", cwd=tmp_path)
    assert done.code == 0
    assert done.out == "runs: holds no run; `shoptalk run SOURCE` makes one\n"
    assert call("runs", "--json", cwd=tmp_path).record == []


def test_runs_of_no_folder_is_an_error(tmp_path: Path) -> None:
    done = call("runs", cwd=tmp_path)
    assert done.code == 2
    assert "runs: no such folder" in done.err
