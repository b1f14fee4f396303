from __future__ import annotations

import csv
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shoptalk.errors import SourceError
from shoptalk.labelled import _ALIASES, SUFFIXES, is_labelled_file, read_labelled

PAIR = {"query": "how do I pay", "positive": "by invoice"}


@pytest.fixture
def read(tmp_path):
    """Read a file with this content; `columns` as in settings."""

    def read_content(content: str | bytes, suffix: str = ".csv", columns: dict[str, str] | None = None):
        path = tmp_path / f"labels{suffix}"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_labelled(path, columns or {})

    return read_content


def table(*rows: dict[str, object], delimiter: str = ",") -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def spelled(name: str) -> list[str]:
    return [name, name.upper(), name.replace("_", "-"), f" {name.replace('_', ' ').title()} "]


@pytest.mark.parametrize("alias", _ALIASES["query"])
def test_every_name_of_a_query_is_recognised_however_it_is_spelled(read, alias):
    for name in spelled(alias):
        (label,) = read(table({name: "how do I pay", "positive": "by invoice"})).labels
        assert (label.query, label.positive) == ("how do I pay", "by invoice")


@pytest.mark.parametrize("alias", [*_ALIASES["positive"], "document", "doc"])
def test_every_name_of_a_positive_is_recognised(read, alias):
    for name in spelled(alias):
        assert read(table({"query": "q?", name: "by invoice"})).labels[0].positive == "by invoice"


@pytest.mark.parametrize(
    "alias", [*_ALIASES["negative"], "negative_1", "hard_negative_3", "neg2", "hard_neg_1", "Negative 7"]
)
def test_every_name_of_a_negative_is_recognised(read, alias):
    assert read(table({**PAIR, alias: "by bus"})).labels[0].negatives == ("by bus",)


@pytest.mark.parametrize("left", _ALIASES["sentence1"])
def test_every_name_of_the_sentences_is_recognised(read, left):
    right = _ALIASES["sentence2"][_ALIASES["sentence1"].index(left)]
    for score in _ALIASES["score"]:
        (pair,) = read(table({left: "one", right: "two", score: 3.5})).scored
        assert (pair.sentence1, pair.sentence2, pair.score) == ("one", "two", 3.5)


@pytest.mark.parametrize("ours", ["query_id", "passage_id", "language"])
def test_every_name_of_the_other_columns_is_recognised(read, ours):
    for alias in _ALIASES[ours]:
        assert getattr(read(table({**PAIR, alias: "x7"})).labels[0], ours) == "x7"


@pytest.mark.parametrize("alias", _ALIASES["offset"])
def test_a_passage_is_named_by_document_and_offset(read, alias):
    for document in _ALIASES["document"]:
        (label,) = read(table({"query": "q?", document: "a/b.md", alias: 120})).labels
        assert (label.document, label.offset, label.positive) == ("a/b.md", 120, "")


@pytest.mark.parametrize("alias", ["file", "filename", "source", "path", "url"])
def test_a_file_beside_the_query_is_a_place_and_not_a_text(read, alias):
    (label,) = read(table({"query": "q?", alias: "a/b.md"})).labels
    assert (label.document, label.positive) == ("a/b.md", "")


def test_a_document_beside_a_passage_id_is_a_place(read):
    (label,) = read(table({"query": "q?", "passage_id": "p1", "document": "a.md"})).labels
    assert (label.passage_id, label.document, label.positive) == ("p1", "a.md", "")


@pytest.mark.parametrize("alias", [*_ALIASES["grade"], "label"])
def test_a_grade_of_zero_says_that_it_is_no_answer(read, alias):
    found = read(table({**PAIR, alias: 2}, {"query": "other", "positive": "no answer", alias: 0}))
    assert [(label.query, label.grade) for label in found.labels] == [("how do I pay", 2)]
    assert [(entry.item, entry.check) for entry in found.rejected] == [("labels.csv:3", "not-relevant")]


def test_negatives_in_several_columns_and_in_a_list_come_together_once(read):
    rows = (
        '{"anchor": "q?", "positive": "yes", "negative_1": "no", "negative_2": ["no", "never"], "neg": {"text": "not"}}'
    )
    assert read(rows, ".jsonl").labels[0].negatives == ("no", "never", "not")


def test_every_positive_of_a_list_is_a_label(read):
    found = read('{"query": "q?", "pos": ["yes", {"text": "aye"}, "", null], "neg": ["no"]}', ".jsonl")
    assert [(label.positive, label.negatives) for label in found.labels] == [("yes", ("no",)), ("aye", ("no",))]


def parquet(rows: list[dict[str, object]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("content", "suffix"),
    [
        (b'{"query": "Wie zahle ich?", "positive": "Per Rechnung, \\u20ac"}\n', ".jsonl"),
        ('query,positive\nWie zahle ich?,"Per Rechnung, €"\n'.encode(), ".csv"),
        ("query,positive\r\nWie zahle ich?,'Per Rechnung, €'\r\n".replace("'", '"').encode(), ".csv"),
        ("\ufeffquery,positive\nWie zahle ich?,'Per Rechnung, €'".replace("'", '"').encode(), ".csv"),
        ("query\tpositive\nWie zahle ich?\tPer Rechnung, €\n".encode(), ".tsv"),
        (parquet([{"query": "Wie zahle ich?", "positive": "Per Rechnung, €"}]), ".parquet"),
        ("\ufeffquery,positive\nWie zahle ich?,'Per Rechnung, €'".replace("'", '"').encode(), ".CSV"),
    ],
    ids=["jsonl", "csv", "csv of Windows", "csv with byte order mark", "tsv", "parquet", "upper case"],
)
def test_all_formats_give_the_same_label(read, content, suffix):
    (label,) = read(content, suffix).labels
    assert (label.query, label.positive) == ("Wie zahle ich?", "Per Rechnung, €")
    assert label.where.startswith(f"labels{suffix}:")


def test_parquet_keeps_lists_numbers_and_missing_values(read):
    rows = [
        {"query": "q?", "positive": ["yes", "aye"], "grade": 2.0, "language": None},
        {"query": "r?", "positive": ["so"], "grade": None, "language": "en"},
    ]
    found = read(parquet(rows), ".parquet")
    assert [(label.positive, label.grade, label.language) for label in found.labels] == [
        ("yes", 2, ""), ("aye", 2, ""), ("so", 1, "en"),
    ]  # fmt: skip


def test_a_cell_with_line_breaks_is_one_cell_and_where_is_the_last_line_of_the_row(read):
    (label,) = read('query,positive\nq?,"one\ntwo"\n').labels
    assert (label.positive, label.where) == ("one\ntwo", "labels.csv:3")


def test_the_nameless_index_column_that_pandas_writes_is_ignored(read):
    (first, second) = read(",query,positive\n0,q?,yes\n1,r?,aye\n").labels
    assert (first.query, second.positive) == ("q?", "aye")


def test_a_row_with_too_many_cells_is_an_error_that_names_the_line(read):
    with pytest.raises(SourceError, match=r"labels\.csv, line 3: more cells than the header has columns; quote cells"):
        read("query,positive\nq?,yes\nr?,well, yes\n")


def test_a_row_with_too_few_cells_is_rejected(read):
    found = read("query,positive\nq?,yes\nr?\n")
    assert [(entry.item, entry.check) for entry in found.rejected] == [("labels.csv:3", "empty")]


@pytest.mark.parametrize(
    ("content", "suffix", "message"),
    [
        (b"query,positive\ncaf\xe9,yes\n", ".csv", r"not UTF-8 \(byte \d+ is 0xe9\); save the file as UTF-8"),
        (b'{"query": "caf\xe9"}', ".jsonl", r"line 1: not UTF-8"),
        ("query,positive\n".encode("utf-16"), ".csv", "not UTF-8"),
        (b'query,positive\nq?,"never closed\n', ".csv", "not readable as csv: unexpected end of data"),
        (b'query,positive\nq?,"yes" and more\n', ".csv", "not readable as csv"),
        (b'query,positive\nq?,"' + b"x" * 5_000_000 + b'"\n', ".csv", "not readable as csv: field larger than field limit"),
        (b'{"query": "' + b"x" * 5_000_000 + b'", "positive": "y"}', ".jsonl", "line 1: 5,000,030 bytes in one line"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\xff\xfe", ".csv", "not UTF-8"),
        (b"PK\x03\x04\x14\x00\x06\x00\x08\x00\x00\x00!\x00", ".csv", "columns|holds no rows"),
        (b"\x00\x01\x02\x03\n\x00\x01", ".csv", "columns"),
        (b"PAR1 but not really", ".parquet", "not readable as parquet"),
        (b"", ".parquet", "not readable as parquet"),
        (b"", ".csv", "holds no rows"),
        (b"query,positive\n", ".csv", "holds no rows"),
        (b"\n\n", ".jsonl", "holds no rows"),
        (b"[1, 2]", ".jsonl", "line 1: a list, not a JSON object"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_understood_is_named_with_the_reason(read, content, suffix, message):
    with pytest.raises(SourceError, match=message) as caught:
        read(content, suffix)
    assert f"labels{suffix}" in str(caught.value)


def test_a_missing_file_a_folder_and_another_format_are_named(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "labels.xlsx").write_bytes(b"x")
    for name, message in (
        ("none.csv", "no such file"),
        ("folder.csv", "a folder"),
        ("labels.xlsx", r"not a labelled file; shoptalk reads \.jsonl, \.csv, \.tsv, \.parquet"),
    ):
        with pytest.raises(SourceError, match=message):
            read_labelled(tmp_path / name, {})


def test_the_suffix_says_what_is_a_labelled_file():
    assert all(is_labelled_file(Path(f"labels{suffix}")) for suffix in (*SUFFIXES, ".CSV"))
    assert not is_labelled_file(Path("labels.json"))


def test_unknown_columns_are_listed_with_how_to_name_them(read):
    with pytest.raises(SourceError, match=r"columns frage, absatz; .*--set input\.columns\.query=YOUR_COLUMN"):
        read("frage,absatz\nq?,yes\n")


def test_columns_can_be_named(read):
    (label,) = read("frage,absatz,query\nq?,yes,other\n", columns={"query": "frage", "positive": "absatz"}).labels
    assert (label.query, label.positive) == ("q?", "yes")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"query": "Frage"}, r"has no column 'Frage' \(input\.columns\.query\); it has frage, absatz"),
        ({"question": "frage"}, r"input\.columns: question is not one of ours \(query, positive, "),
    ],
)
def test_a_wrong_column_name_is_explained(read, columns, message):
    with pytest.raises(SourceError, match=message):
        read("frage,absatz\nq?,yes\n", columns=columns)


@pytest.mark.parametrize("score", ["nan", "inf", "-Infinity", "high", "", "1,5"])
def test_a_score_that_is_no_finite_number_is_rejected_with_its_text(read, score):
    found = read(
        table({"sentence1": "a", "sentence2": "b", "score": 1}, {"sentence1": "c", "sentence2": "d", "score": score})
    )
    assert found.shape == "scored"
    assert [pair.sentence1 for pair in found.scored] == ["a"]
    (entry,) = found.rejected
    assert (entry.item, entry.check, entry.reason) == (
        "labels.csv:3", "no-score", f"score {score!r} is not a finite number",
    )  # fmt: skip


def test_the_nan_of_json_is_no_score_either(read):
    found = read('{"s1": "a", "s2": "b", "score": NaN}\n{"s1": "a", "s2": "b", "score": 1}\n', ".jsonl")
    assert (len(found.scored), found.rejected[0].check) == (1, "no-score")


@pytest.mark.parametrize(
    ("row", "check", "reason"),
    [
        ({"query": " ", "positive": "yes"}, "empty", "the query is empty"),
        ({"query": "q?", "positive": ""}, "empty", "nothing says which passage answers"),
        ({"query": "Same  Text", "positive": "same text"}, "copy", "the positive is the query itself"),
        (
            {"query": "q?", "positive": "yes", "negative": "yes"},
            "contradictory",
            "the same text is positive and negative",
        ),
        ({"query": "q?", "positive": "yes", "grade": "nan"}, "not-relevant", "grade 'nan' does not say"),
        ({"query": "q?", "positive": "yes", "grade": "-1"}, "not-relevant", "grade '-1' does not say"),
    ],
)
def test_a_row_that_cannot_be_used_is_rejected_with_the_reason(read, row, check, reason):
    good = {"query": "good", "positive": "fine", "negative": "bad", "grade": "1"}
    found = read(table(good, dict.fromkeys(good, "") | {"grade": "1"} | row))
    assert [label.query for label in found.labels] == ["good"]
    assert [(entry.item, entry.check) for entry in found.rejected] == [("labels.csv:3", check)]
    assert reason in found.rejected[0].reason


def test_a_file_without_a_usable_row_says_why_the_first_is_not(read):
    with pytest.raises(
        SourceError, match=r"none of its 2 rows can be used; the first: labels\.csv:2: the query is empty"
    ):
        read("query,positive\n,yes\n,aye\n")
    with pytest.raises(SourceError, match=r"none of its 1 rows can be used; .* score 'x' is not a finite number"):
        read("s1,s2,score\na,b,x\n")


def test_scored_pairs_win_over_pairs_where_both_would_do(read):
    assert read("sentence1,sentence2,score,query,positive\na,b,1,c,d\n").shape == "scored"


@pytest.mark.parametrize(("score", "kept"), [(1, True), (0.87, True), (0.5, True), (0.3, False), (0, False), (3, True)])
def test_a_score_beside_a_query_is_a_grade_and_a_share_says_relevant_from_a_half_on(write_rows, score, kept):
    rows = [
        {"query": "which form", "positive": "the blue form", "score": score},
        {"query": "who pays", "positive": "we do"},
    ]
    file = read_labelled(write_rows("scored.jsonl", rows), {})
    assert ("which form" in [label.query for label in file.labels]) is kept
    assert len(file.rejected) == (0 if kept else 1)
