"""`shoptalk queries --review`: written, edited as in a spreadsheet, read back, and only what depends on it run again."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from commandline import call

from shoptalk.beir import read_jsonl, read_queries

HEADINGS = "Booking a hotel room|Sending the travel form|Reading the ticket|Paying a lunch|Asking the office".split("|")


@pytest.fixture
def command(tmp_path: Path, tiny_bert: Path) -> list[object]:
    for name in HEADINGS:
        body = (
            f"The {name.split()[-1]} is sent to the office, which answers within a week of five days, by mail or by phone. "
            * 2
        )
        (tmp_path / "docs").mkdir(exist_ok=True)
        (tmp_path / "docs" / f"{name}.md").write_text(f"# Guide\n\n## {name}\n\n{body}\n", encoding="utf-8")
    return [
        "docs",
        "--out",
        "run",
        "--base-model",
        tiny_bert,
        "--set",
        "queries.kinds=[heading]",
        "--set",
        "queries.round_trip_k=0",
    ]


def made(folder: Path) -> set[str]:
    return {query.text for query in read_queries(folder / "run/queries/queries.jsonl").values()}


def test_the_round_trip_of_a_review(tmp_path: Path, command: list[object]) -> None:
    done = call("queries", *command, "--review", "review.csv", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "review.csv: 5 queries to look at" in done.err
    assert made(tmp_path) == set(HEADINGS)
    path = tmp_path / "review.csv"
    rows = list(csv.DictReader(path.open(encoding="utf-8-sig", newline="")))
    assert {row["query"]: (row["keep"], row["kind"], row["source"]) for row in rows} == {
        name: ("yes", "heading", f"{name}.md") for name in HEADINGS
    }

    # Looked at and not changed: the same queries, and the file is left as it is.
    before = path.read_bytes()
    assert "5 of 5 queries kept" in call("queries", *command, "--review", "review.csv", cwd=tmp_path).err
    assert (made(tmp_path), path.read_bytes()) == (set(HEADINGS), before)

    rows[0] |= {"query": "What does a room cost?"}
    rows[1] |= {"keep": "no"}
    with path.open("w", encoding="utf-8", newline="") as out:
        table = csv.DictWriter(out, rows[0].keys(), delimiter=";")
        table.writeheader()
        table.writerows(rows[:4])
    # A later command goes on with the review, which the run folder's settings name.
    done = call("queries", "--out", "run", cwd=tmp_path)
    assert done.code == 0, done.err
    assert made(tmp_path) == {"What does a room cost?", rows[2]["query"], rows[3]["query"]}
    reasons = [row["reason"] for _, row in read_jsonl(tmp_path / "run/queries/rejected.jsonl")]
    assert sorted(reason.split(" ")[0] for reason in reasons) == ["not", "review.csv,"]
    assert "heading: 3 of 5 kept" in done.out


def test_a_bad_row_stops_before_anything_runs(tmp_path: Path, command: list[object]) -> None:
    (tmp_path / "review.csv").write_text("keep,query,query_id\nperhaps,x,q-1\n", encoding="utf-8")
    done = call("queries", *command, "--review", "review.csv", cwd=tmp_path)
    assert done.code == 2
    assert "review.csv, line 2: keep is 'perhaps'; write yes or no" in done.err
    assert not (tmp_path / "run").exists()


def test_labels_are_not_reviewed(tmp_path: Path, command: list[object]) -> None:
    (tmp_path / "labels.csv").write_text(
        "query,document,offset\nwho answers,Reading the ticket.md,40\n", encoding="utf-8"
    )
    done = call("queries", *command, "--queries", "labels.csv", "--review", "review.csv", cwd=tmp_path)
    assert done.code == 2
    assert "no queries were made, so there are none to review" in done.err
    assert not (tmp_path / "review.csv").exists()
