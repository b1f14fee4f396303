from __future__ import annotations

import json
from pathlib import Path

import ir_measures
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoptalk.beir import (
    looks_like_beir,
    read_dataset,
    read_jsonl,
    read_passages,
    read_qrels,
    read_queries,
    write_dataset,
    write_jsonl,
    write_passages,
    write_qrels,
    write_queries,
)
from shoptalk.errors import SourceError
from shoptalk.records import Dataset, Passage, Query, ScoredPair


@pytest.fixture
def write(tmp_path):
    def write_text(content: str | bytes, name: str = "file.jsonl") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_text


def test_a_beir_folder_has_a_corpus_and_queries(tmp_path):
    (tmp_path / "corpus.jsonl").write_text("")
    assert not looks_like_beir(tmp_path)
    (tmp_path / "queries.jsonl").write_text("")
    assert looks_like_beir(tmp_path)


def test_rows_come_with_their_line_numbers_and_blank_lines_are_skipped(write):
    path = write(b'\xef\xbb\xbf{"a": 1}\n\n  \r\n{"a": 2}\r\n{"a": 3}')
    assert list(read_jsonl(path)) == [(1, {"a": 1}), (4, {"a": 2}), (5, {"a": 3})]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "line 2: not JSON"),
        (b"[1]", "line 2: a list, not a JSON object"),
        (b'"text"', "line 2: a str, not a JSON object"),
        (b'{"a": "caf\xe9"}', r"line 2: not UTF-8 \(byte 10 is 0xe9\); save the file as UTF-8"),
        (b"[" * 100_000, "line 2: not JSON"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "line 2: not JSON"),
        (b"\x00\x01\x02", "line 2: not JSON"),
    ],
)
def test_a_line_that_is_no_json_object_is_named(write, line, message):
    with pytest.raises(SourceError, match=message) as caught:
        list(read_jsonl(write(b"{}\n" + line + b"\n")))
    assert "file.jsonl" in str(caught.value)


def test_a_very_long_line_is_refused_with_its_size(write):
    with pytest.raises(SourceError, match="line 1: 5,000,010 bytes in one line"):
        list(read_jsonl(write(b'{"a": "' + b"x" * 5_000_000 + b'"}\n\n')))
    assert len(list(read_jsonl(write(b"{}\n" * 700_000), max_line_chars=100))) == 700_000


def test_half_of_a_character_pair_does_not_stop_the_way_to_disk(write, tmp_path):
    """JSON may hold "\\ud83d", half an emoji, which no file can; a whole one stays what it is."""
    path = write('{"_id": "a", "text": "cut \\ud83d off \\ud83d\\ude00", "metadata": {"k\\udc00": ["\\udc01"]}}\n')
    passage = read_passages(path)[0]
    assert passage.text == "cut ? off 😀"
    write_passages(tmp_path / "again.jsonl", [passage])
    assert read_passages(tmp_path / "again.jsonl") == [passage]


def test_a_missing_file_is_named(tmp_path):
    for read in (read_passages, read_queries, read_qrels):
        with pytest.raises(SourceError, match=r"none\.jsonl"):
            read(tmp_path / "none.jsonl")
    with pytest.raises(SourceError, match="cannot be read: Is a directory"):
        read_passages(tmp_path)


def test_passages_keep_their_place_and_beirs_fields_are_enough(tmp_path):
    passages = [
        Passage("a#1", 'Text with "quotes"\nand lines ü 退款', "Title", "docs/a.md", 12),
        Passage("a#2", "on a page", "Title", "docs/a.pdf", 12, 3, "en"),
        Passage("d", "of no file", language="de"),
        Passage("b", "", "only a title"),
        Passage("c", "no title"),
    ]
    write_passages(tmp_path / "corpus.jsonl", passages)
    assert read_passages(tmp_path / "corpus.jsonl") == passages
    first = json.loads((tmp_path / "corpus.jsonl").read_text().splitlines()[0])
    assert first.keys() == {"_id", "title", "text", "metadata"}


@pytest.mark.parametrize(
    "metadata", ["null", '"text"', "[1]", "3", "{}", '{"start": "x"}', '{"start": null}', '{"start": 1e999}']
)
def test_other_peoples_metadata_is_no_reason_to_fail(write, metadata):
    row = f'{{"_id": 7, "title": null, "text": "x", "metadata": {metadata}}}'
    assert read_passages(write(row)) == [Passage("7", "x")]
    assert read_queries(write(row)) == {"7": Query("7", "x")}


@pytest.mark.parametrize("origin", ['"web"', "null", "[]", "7"])
def test_an_origin_that_is_not_ours_counts_as_human(write, origin):
    found = read_queries(write(f'{{"_id": "q", "text": "x", "metadata": {{"origin": {origin}}}}}'))
    assert found["q"].origin == "human"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('{"_id": "a", "text": "x"}\n{"_id": "a", "text": "y"}', r"line 2: .*'a'.*ids are unique"),
        ('{"_id": "a"}', "line 1: a .* needs _id and text; this has _id"),
        ('{"text": "x"}', "line 1: a .* needs _id and text; this has text"),
        ("{}", "needs _id and text; this has nothing"),
        ('{"_id": "a", "text": null}', "needs _id and text"),
        ('{"_id": "a", "text": 3}', "needs _id and text"),
        ('{"_id": "a\\tb", "text": "x"}', "line 1: .*tab or line break"),
        ('{"_id": "a\\nb", "text": "x"}', "line 1: .*tab or line break"),
        ('{"_id": "", "text": "x"}', "line 1: .*empty"),
    ],
)
def test_a_passage_or_query_that_cannot_be_used_is_named(write, rows, message):
    for read in (read_passages, read_queries):
        with pytest.raises(SourceError, match=message):
            read(write(rows))


def test_queries_keep_origin_kind_and_language(tmp_path):
    queries = {"a": Query("a", "what?", "offline", "faq", "en"), "b": Query("b", "wie?")}
    write_queries(tmp_path / "queries.jsonl", queries.values())
    assert read_queries(tmp_path / "queries.jsonl") == queries


@pytest.mark.parametrize(
    "text",
    [
        "query-id\tcorpus-id\tscore\nq1\tp1\t1\nq1\tp2\t0\nq2\tp1\t3\n",
        "q1\tp1\t1\nq1\tp2\t0\nq2\tp1\t3",
        "\ufeffquery-id\tcorpus-id\tscore\r\nq1\tp1\t1\r\nq1\tp2\t0\r\n\r\nq2\tp1\t3\r\n",
        "q1\t0\tp1\t1\nq1\tQ0\tp2\t0\nq2\t0\tp1\t3\n",
        "query\titer\tdoc\trel\nq1\t0\tp1\t1.0\nq1\t0\tp2\t0\nq2\t0\tp1\t3\n",
    ],
    ids=["beir", "no header", "Windows", "trec", "trec with header"],
)
def test_judgements_in_the_forms_that_people_have(write, text):
    assert read_qrels(write(text, "test.tsv")) == {"q1": {"p1": 1, "p2": 0}, "q2": {"p1": 3}}


@pytest.mark.parametrize(
    "line", ["q1 p1 1", "q1\tp1", "q1\tp1\tyes", "q1\tp1\t0.5", "q1\tp1\tnan", "q1\tp1\tinf", "a\tb\tc\td\te"]
)
def test_a_line_that_is_no_judgement_is_named(write, line):
    with pytest.raises(SourceError, match=r"test\.tsv, line 3: expected query-id, corpus-id and a whole-number score"):
        read_qrels(write(f"query-id\tcorpus-id\tscore\nq0\tp0\t1\n{line}\n", "test.tsv"))


def test_judgements_that_are_not_utf8_are_named(write):
    with pytest.raises(SourceError, match=r"test\.tsv: cannot be read as UTF-8"):
        read_qrels(write(b"q\tcaf\xe9\t1\n", "test.tsv"))


ids = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=8)


@given(st.dictionaries(ids, st.dictionaries(ids, st.integers(-1, 9), min_size=1, max_size=3), max_size=4))
def test_judgements_round_trip(tmp_path_factory, qrels):
    path = tmp_path_factory.getbasetemp() / "round" / "test.tsv"
    write_qrels(path, qrels)
    assert read_qrels(path) == qrels


def test_ids_with_unusual_separators_round_trip(tmp_path):
    """Unicode knows more line breaks than "\\n"; an id may hold them."""
    qrels = {"a\u2028b": {"c\x85d": 1, "e\x0bf": 2}}
    write_qrels(tmp_path / "test.tsv", qrels)
    assert read_qrels(tmp_path / "test.tsv") == qrels


def test_nan_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_jsonl(tmp_path / "a.jsonl", [{"a": float("nan")}])


@pytest.fixture
def dataset() -> Dataset:
    splits = ("train", "dev", "test")
    return Dataset(
        "retrieval",
        passages={f"p{i}": Passage(f"p{i}", f"text {i}") for i in range(4)},
        queries={f"q-{s}": Query(f"q-{s}", f"query {s}") for s in splits},
        qrels={s: {f"q-{s}": {f"p{i}": i, "p3": 1}} for i, s in enumerate(splits)},
        clusters={"p0": "p0", "p1": "p0", "p2": "p2", "p3": "p3"},
        groups={f"q-{s}": f"g{i}" for i, s in enumerate(splits)},
        negatives={"q-train": ("no", "nay")},
    )


def test_a_dataset_round_trips(tmp_path, dataset):
    write_dataset(tmp_path, dataset)
    assert read_dataset(tmp_path, ["train", "dev", "test"]) == dataset


def test_who_reads_train_sees_nothing_of_the_test_split(tmp_path, dataset):
    write_dataset(tmp_path, dataset)
    (tmp_path / "qrels/test.tsv").write_text("broken: must not even be opened")
    found = read_dataset(tmp_path, ["train", "dev"])

    assert found.qrels.keys() == {"train", "dev"}
    assert found.queries.keys() == found.groups.keys() == {"q-train", "q-dev"}
    assert found.passages == dataset.passages  # the haystack is the whole corpus
    assert read_dataset(tmp_path, ["dev"]).negatives == {}


def test_a_written_split_is_what_ir_measures_reads(tmp_path, dataset):
    write_dataset(tmp_path, dataset)
    lines = (tmp_path / "qrels/test.tsv").read_text().splitlines()
    assert lines[0] == "query-id\tcorpus-id\tscore"
    trec = "".join("{} 0 {} {}\n".format(*line.split("\t")) for line in lines[1:])
    assert len(list(ir_measures.read_trec_qrels(trec))) == 2


def test_a_dataset_of_pairs_round_trips(tmp_path):
    pairs = {s: [ScoredPair(f"s-{s}", "left", "right", 0.5)] for s in ("train", "dev", "test")}
    dataset = Dataset("similarity", pairs=pairs, groups={f"s-{s}": "g" for s in pairs})
    write_dataset(tmp_path, dataset)
    assert read_dataset(tmp_path, ["train", "dev", "test"]) == dataset
    assert read_dataset(tmp_path, ["train"]).pairs == {"train": pairs["train"]}
