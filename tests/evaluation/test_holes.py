"""Judgement holes: counted, written for a person, read back."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from shoptalk.errors import SourceError
from shoptalk.evaluation.holes import (
    COLUMNS,
    count_holes,
    hole_rows,
    read_labels,
    with_labels,
    write_holes,
)
from shoptalk.records import Dataset, Passage, Query, Ranking


@pytest.fixture
def dataset() -> Dataset:
    passages = {f"p{i}": Passage(f"p{i}", f"passage  {i}\nof a book") for i in range(30)}
    queries = {"q1": Query("q1", "=HYPERLINK(1)  twice"), "-q2": Query("-q2", 'what, "is" it?')}
    return Dataset("retrieval", passages, queries, {"test": {"q1": {"p0": 1, "p1": 0}, "-q2": {"p5": 2}}})


def ranked(*numbers: int) -> list[tuple[str, float]]:
    return [(f"p{number}", 100.0 - place) for place, number in enumerate(numbers)]


BASE: Ranking = {"q1": ranked(0, 1, 2, 3), "-q2": ranked(*range(20))}
TUNED: Ranking = {"q1": ranked(2, 9, 0), "-q2": []}


def test_holes_are_counted_in_the_first_ten(dataset: Dataset) -> None:
    judged = dataset.qrels["test"]
    assert count_holes(BASE, judged) == {"judged_share": pytest.approx(3 / 14), "unjudged": 11}
    assert count_holes(TUNED, judged) == {"judged_share": pytest.approx(1 / 3), "unjudged": 2}
    assert count_holes({}, judged) == {"judged_share": 1.0, "unjudged": 0}


def test_a_passage_comes_once_with_who_found_it_and_its_best_rank(dataset: Dataset) -> None:
    rows = hole_rows({"base": BASE, "tuned": TUNED}, dataset, "test", {"q1": 0.5})
    assert [(row["query_id"], row["passage_id"], row["found_by"], row["rank"]) for row in rows[:3]] == [
        ("q1", "p2", "base tuned", "1"),
        ("q1", "p9", "tuned", "2"),
        ("q1", "p3", "base", "4"),
    ]
    assert {row["query_id"] for row in rows[3:]} == {"-q2"}
    assert [row["rank"] for row in rows[3:]] == [str(rank) for rank in range(1, 11) if rank != 6]
    assert rows[0]["passage"] == "passage 2 of a book"
    assert hole_rows({"base": BASE}, dataset, "test", {"-q2": 0.5})[0]["query_id"] == "-q2"


def filled(path: Path, dataset: Dataset, grades: dict[tuple[str, str], str], delimiter: str = ",") -> Path:
    """The written file as a spreadsheet would save it with grades filled in."""
    write_holes(path, hole_rows({"base": BASE, "tuned": TUNED}, dataset, "test", {}))
    with path.open(encoding="utf-8-sig", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0]) == list(COLUMNS)
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())
    left = dict(grades)
    with path.open("w", encoding="utf-8-sig", newline="") as out:
        table = csv.DictWriter(out, COLUMNS, delimiter=delimiter)
        table.writeheader()
        for row in rows:
            row["grade"] = left.pop((row["query_id"].lstrip("'"), row["passage_id"]), "")
            table.writerow(row)
    assert not left
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_grades_that_a_person_filled_in_are_read_back(tmp_path: Path, dataset: Dataset, delimiter: str) -> None:
    path = filled(
        tmp_path / "holes.csv", dataset, {("q1", "p2"): "1", ("-q2", "p0"): " 0 ", ("-q2", "p1"): "3.0"}, delimiter
    )
    labels = read_labels(path, dataset, "test")
    assert labels.grades == {"q1": {"p2": 1}, "-q2": {"p0": 0, "p1": 3}}
    assert labels.record == {
        "file": "holes.csv",
        "sha256": labels.sha256,
        "judgements": 3,
        "relevant": 2,
        "queries": 2,
    }
    more = with_labels(dataset, labels, "test")
    assert more.qrels["test"] == {"q1": {"p0": 1, "p1": 0, "p2": 1}, "-q2": {"p5": 2, "p0": 0, "p1": 3}}
    assert dataset.qrels["test"]["q1"] == {"p0": 1, "p1": 0}
    assert count_holes(BASE, more.qrels["test"])["unjudged"] == 8


def test_a_row_that_says_what_is_known_is_no_contradiction(tmp_path: Path, dataset: Dataset) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("query_id,passage_id,grade\nq1,p0,1\nq1,p4,0\nq1,p4,0\n", encoding="utf-8")
    assert read_labels(path, dataset, "test").grades == {"q1": {"p0": 1, "p4": 0}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("query_id,passage_id,grade\nq1,p2,yes\n", "line 2: grade is 'yes'; write a whole number"),
        ("query_id,passage_id,grade\nq1,p2,-1\n", "line 2: grade is '-1'"),
        ("query_id,passage_id,grade\nq1,p2,0.5\n", "line 2: grade is '0.5'"),
        ("query_id,passage_id,grade\nq1,p2,nan\n", "line 2: grade is 'nan'"),
        ("query_id,passage_id,grade\nq1,p2,1\nq9,p2,1\n", "line 3: query_id 'q9' is not a test query here"),
        ("query_id,passage_id,grade\nq1,p99,1\n", "line 2: passage_id 'p99' is not in the corpus"),
        ("query_id,passage_id,grade\nq1,p0,2\n", "line 2: p0 is already judged for q1, with grade 1"),
        (
            "query_id,passage_id,grade\nq1,p2,1\nq1,p2,0\n",
            "line 3: the same query and passage have another grade in line 2",
        ),
        ("query_id,query,passage_id,grade\nq1,another text,p2,1\n", "is the file from another run?"),
        ("query_id,passage_id,grade\nq1,p2,\n", "no row has a grade"),
        ("query_id,passage_id\nq1,p2\n", "has no column grade"),
        ("", "has no column query_id and no passage_id and no grade"),
        ('query_id,passage_id,grade\nq1,"p2,1\n', "not readable as CSV"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(tmp_path: Path, dataset: Dataset, text: str, words: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SourceError) as caught:
        read_labels(path, dataset, "test")
    assert str(path) in str(caught.value)
    assert words in str(caught.value)


def test_a_file_that_is_not_there_or_not_text_is_named(tmp_path: Path, dataset: Dataset) -> None:
    with pytest.raises(SourceError, match="cannot be read: No such file"):
        read_labels(tmp_path / "none.csv", dataset, "test")
    (tmp_path / "latin.csv").write_bytes(b"query_id,passage_id,grade\nq\xe4,p1,1\n")
    with pytest.raises(SourceError, match="save it from the spreadsheet as 'CSV UTF-8'"):
        read_labels(tmp_path / "latin.csv", dataset, "test")


def test_a_long_passage_is_cut_and_no_more_than_can_be_labelled_is_written(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoptalk.evaluation.holes._MOST_ROWS", 4)
    passages = {p: Passage(p, "long " * 1_000) for p in dataset.passages}
    long = Dataset("retrieval", passages, dataset.queries, dataset.qrels)
    rows = hole_rows({"base": BASE}, long, "test", {})
    assert {len(row["passage"]) for row in rows} == {1_000}
    write_holes(tmp_path / "holes.csv", rows)
    with (tmp_path / "holes.csv").open(encoding="utf-8-sig", newline="") as lines:
        assert len(list(csv.DictReader(lines))) == 4
