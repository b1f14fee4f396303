from __future__ import annotations

import csv

import pytest

from shoptalk.errors import SourceError
from shoptalk.queries.generators import Draft
from shoptalk.queries.naming import text_query_id
from shoptalk.queries.review import COLUMNS, apply_review, read_review, write_review
from shoptalk.records import Passage
from shoptalk.spreadsheet import neutralised, restored

NASTY = [
    "=SUM(A1:A9)", "+1 800", "-x", "@here", "'=already", "''-twice", "'quoted'", 'say "hi", you', "plain", "größer; als", "\tx", "'",
]  # fmt: skip


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "review.csv"
    write_review(path, [(text, "faq", Passage(f"p{i}", "The text. " * 50, "T")) for i, text in enumerate(NASTY)])
    return path


def rewritten(path, change, **dialect):
    """The file as a spreadsheet saves it after a person changed its rows."""
    rows = list(csv.DictReader(path.open(encoding="utf-8-sig", newline="")))
    change(rows)
    with path.open("w", encoding="utf-8", newline="") as out:
        table = csv.DictWriter(out, COLUMNS, **dialect)
        table.writeheader()
        table.writerows(rows)


def test_every_text_comes_back_as_it_was_and_no_cell_is_a_formula(file):
    raw = file.read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf")
    rows = list(csv.DictReader(file.open(encoding="utf-8-sig", newline="")))
    assert tuple(rows[0]) == COLUMNS
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert max(len(row["passage"]) for row in rows) == 300
    found = read_review(file)
    assert [row.text for row in found] == [text.strip() for text in NASTY]
    assert [row.query_id for row in found] == [text_query_id(text) for text in NASTY]
    assert all(row.keep for row in found)


@pytest.mark.parametrize("text", NASTY)
def test_a_neutralised_cell_is_restored_and_a_cell_without_the_mark_is_left(text):
    assert restored(neutralised(text)) == text
    assert restored("=typed by a person") == "=typed by a person"


@pytest.mark.parametrize("dialect", [{"delimiter": ";"}, {"delimiter": "\t"}, {"quoting": csv.QUOTE_ALL}])
def test_what_spreadsheets_of_other_countries_save_is_read(file, dialect):
    before = [(row.query_id, row.text, row.keep) for row in read_review(file)]
    rewritten(file, lambda rows: None, **dialect)
    assert [(row.query_id, row.text, row.keep) for row in read_review(file)] == before


def test_edited_dropped_and_deleted_rows(file):
    def change(rows):
        rows[0]["query"] = "How much is it in all?"
        rows[1] |= {"keep": "Nein", "note": "nobody asks so"}
        del rows[2:]

    rewritten(file, change)
    drafts = [Draft(text, ("p",), "faq", cut="x") for text in NASTY[:3]]
    kept, refused, gone = apply_review(drafts, read_review(file), "review.csv")
    assert kept == [Draft("How much is it in all?", ("p",), "faq", cut="x")]
    assert [(one.draft, one.check) for one in refused] == [(drafts[1], "review"), (drafts[2], "review")]
    assert refused[0].reason == "review.csv, line 3 says no: nobody asks so"
    assert refused[1].reason.startswith("not in review.csv")
    assert gone == []


def set_cell(row, name, value):
    return lambda rows: rows[row].__setitem__(name, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_cell(1, "keep", "maybe"), r"review\.csv, line 3: keep is 'maybe'; write yes or no"),
        (set_cell(2, "keep", ""), r"review\.csv, line 4: keep is ''"),
        (set_cell(0, "query", " "), r"review\.csv, line 2: the query is empty"),
        (set_cell(3, "query_id", ""), r"review\.csv, line 5: query_id is empty; .*--queries"),
        (lambda rows: rows.append(dict(rows[0])), r"review\.csv, line 14: query_id q-\w+ was already used in line 2"),
    ],
)
def test_a_row_that_cannot_be_meant_is_an_error_that_names_its_line(file, change, message):
    rewritten(file, change)
    with pytest.raises(SourceError, match=message):
        read_review(file)


def test_a_dropped_row_may_have_an_empty_query(file):
    rewritten(file, lambda rows: rows[0].update(query="", keep="no"))
    assert not read_review(file)[0].keep


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"keep,text\nyes,x\n", r"has no column query and no query_id; its first line is 'keep,text'"),
        (b"", r"has no column keep"),
        ("keep,query,query_id\nyes,größer,q-1\n".encode("cp1252"), r"not UTF-8 \(byte 26\); save it .* 'CSV UTF-8'"),
        (b'keep,query,query_id\nyes,"open,q-1\n', r"line \d: not readable as CSV"),
    ],
)
def test_a_file_that_is_no_review_is_an_error(tmp_path, content, message):
    path = tmp_path / "review.csv"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=message):
        read_review(path)
