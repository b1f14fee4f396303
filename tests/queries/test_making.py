from __future__ import annotations

import json
from pathlib import Path

import pytest

from shoptalk.beir import read_jsonl, read_queries, write_passages, write_qrels, write_queries
from shoptalk.errors import SourceError
from shoptalk.queries import make_queries
from shoptalk.queries.making import text_query_id
from shoptalk.records import Passage, Query

BODY = "Send the completed form to the travel office, which answers within five working days by mail or by phone."
PASSAGES = [
    Passage("guide.md#1", BODY, "Guide > How do I pay for a hotel?", "guide.md", 0),
    Passage("guide.md#2", BODY.replace("travel", "ticket"), "Guide > Booking a train ticket", "guide.md", 500),
]


@pytest.fixture
def passages(tmp_path) -> Path:
    write_passages(tmp_path / "passages/corpus.jsonl", PASSAGES)
    return tmp_path / "passages"


@pytest.fixture
def made(make_stage, passages, tiny_bert):
    """Run the stage with these inputs and return what it wrote, each file as a list of rows."""

    def run(queries_settings: dict | None = None, **inputs: object):
        values = {name: str(value) if isinstance(value, Path) else value for name, value in inputs.items()}
        chosen = {"kinds": ["faq", "heading"], **(queries_settings or {})}
        stage = make_stage({"input": values, "queries": chosen, "model": {"base": str(tiny_bert)}}, passages=passages)
        make_queries(stage)
        names = ("queries", "judgements", "negatives", "pairs", "cuts", "rejected")
        return {name: [row for _, row in read_jsonl(stage.out / f"{name}.jsonl")] for name in names}

    return run


def triples(rows: list[dict]) -> list[tuple]:
    return [(row["query_id"], row["passage_id"], row["split"]) for row in rows]


def test_without_labels_queries_are_made_from_the_passages_and_cut_out_of_them(made, tmp_path):
    rows = made(source=tmp_path)
    found = {row["text"]: row["metadata"] for row in rows["queries"]}
    assert {text: (meta["origin"], meta["kind"]) for text, meta in found.items()} == {
        "How do I pay for a hotel?": ("offline", "faq"),
        "Booking a train ticket": ("offline", "heading"),
    }
    assert triples(rows["judgements"]) == [
        (text_query_id("How do I pay for a hotel?"), "guide.md#1", ""),
        (text_query_id("Booking a train ticket"), "guide.md#2", ""),
    ]
    assert rows["cuts"] == [
        {"passage_id": "guide.md#1", "text": "How do I pay for a hotel?"},
        {"passage_id": "guide.md#2", "text": "Booking a train ticket"},
    ]


def test_labels_for_the_documents_are_used_and_nothing_is_made(made, tmp_path, write_rows):
    labels = write_rows(
        "labels.jsonl",
        [
            {"query": "where to send it", "document": "guide.md", "offset": 510, "language": "en"},
            {"query": "who answers", "passage_id": "guide.md#1", "negative": ["the cook"], "grade": 2},
        ],
    )
    rows = made(source=tmp_path, queries=labels)
    assert [(row["text"], row["metadata"]) for row in rows["queries"]] == [
        ("where to send it", {"origin": "human", "kind": "labelled", "language": "en"}),
        ("who answers", {"origin": "human", "kind": "labelled", "language": ""}),
    ]
    assert [(row["passage_id"], row["grade"], row["split"]) for row in rows["judgements"]] == [
        ("guide.md#2", 1, ""), ("guide.md#1", 2, ""),
    ]  # fmt: skip
    assert [row["texts"] for row in rows["negatives"]] == [["the cook"]]
    assert rows["cuts"] == []


def test_a_label_that_maps_to_nothing_is_listed_with_its_query_and_reason(made, tmp_path, write_rows):
    labels = write_rows(
        "labels.jsonl", [{"query": "good", "passage_id": "guide.md#1"}, {"query": "bad", "passage_id": "gone"}]
    )
    rows = made(source=tmp_path, queries=labels)
    assert rows["rejected"] == [
        {
            "item": "labels.jsonl:2",
            "check": "maps-to-nothing",
            "reason": "no passage has the id 'gone' (query 'bad')",
        }
    ]
    assert [row["text"] for row in rows["queries"]] == ["good"]


def test_labels_of_which_none_maps_are_an_error_that_shows_the_first(made, tmp_path, write_rows):
    labels = write_rows("labels.jsonl", [{"query": f"q{i}", "passage_id": f"gone{i}"} for i in range(3)])
    with pytest.raises(
        SourceError,
        match=r"none of its 3 labels maps to a passage; the first: labels\.jsonl:1: no passage has the id 'gone0'",
    ):
        made(source=tmp_path, queries=labels)


def test_test_labels_alone_make_a_human_test_and_offline_training_queries(made, tmp_path, write_rows):
    labels = write_rows("test.jsonl", [{"query": "who answers", "passage_id": "guide.md#1"}])
    rows = made(source=tmp_path, test_queries=labels)
    origins = {row["_id"]: row["metadata"]["origin"] for row in rows["queries"]}
    assert [(origins[query_id], split) for query_id, _, split in triples(rows["judgements"])] == [
        ("human", "test"), ("offline", ""), ("offline", ""),
    ]  # fmt: skip


def test_with_dev_labels_alone_there_is_still_something_to_train_with(made, tmp_path, write_rows):
    dev = write_rows("dev.jsonl", [{"query": "a", "passage_id": "guide.md#1"}])
    rows = made(source=tmp_path, dev_queries=dev)
    assert [split for _, _, split in triples(rows["judgements"])] == ["dev", "", ""]
    with pytest.raises(SourceError, match=r"nothing to train with: .* queries\.make is never"):
        made({"make": "never"}, source=tmp_path, dev_queries=dev)


def test_made_queries_beside_labels_where_that_is_asked_for(made, tmp_path, write_rows):
    labels = write_rows("labels.jsonl", [{"query": "who answers", "passage_id": "guide.md#1"}])
    rows = made({"make": "always"}, source=tmp_path, queries=labels)
    assert [(row["kind"], row["weight"]) for row in rows["judgements"]] == [("labelled", 1), ("faq", 1), ("heading", 1)]


def test_the_yields_say_what_became_of_every_draft(made, tmp_path):
    rows = made(
        {"round_trip_k": 0, "per_passage": 1, "kinds": ["faq", "heading", "template", "key-phrase"]}, source=tmp_path
    )
    table = json.loads((tmp_path / "out/yields.json").read_text(encoding="utf-8"))
    counts = {kind: (row["drafted"], row["kept"], row["rejected"]) for kind, row in table["kinds"].items()}
    assert counts == {"faq": (1, 1, {}), "heading": (1, 1, {}), "template": (1, 0, {"per-passage": 1})}
    assert table["kinds"]["template"]["samples"]["rejected"][0]["query"] == "How do I book a train ticket?"
    assert table["thresholds"]["per_passage"] == 1
    assert rows["rejected"] == [
        {
            "item": "template guide.md#2: How do I book a train ticket?",
            "check": "per-passage",
            "reason": "guide.md#2 has 1 already",
        }
    ]


def test_when_every_draft_is_rejected_the_first_reason_is_said(made, tmp_path, write_rows):
    with pytest.raises(
        SourceError,
        match=r"all 1 queries made from its 2 passages were rejected; the first: heading guide\.md#2: Booking",
    ):
        made({"kinds": ["heading"], "copied_words": 1}, source=tmp_path)


def test_a_click_log_gives_weighted_labels_and_no_made_queries(made, tmp_path, write_rows):
    log = write_rows(
        "log.jsonl",
        [
            {"query": "send the form", "shown": ["guide.md#2", "guide.md#1"], "clicked": ["guide.md#1"]},
            {"query": "who", "shown": ["guide.md#2"], "clicked": ["guide.md#2"], "count": 9},
            {"query": "", "shown": ["guide.md#2"], "clicked": ["guide.md#2"]},
            {"query": "gone", "shown": ["nowhere"], "clicked": ["nowhere"]},
        ],
    )
    rows = made({"skip_above": True}, source=tmp_path, clicks=log)
    texts = {row["_id"]: (row["text"], row["metadata"]["origin"], row["metadata"]["kind"]) for row in rows["queries"]}
    assert [
        (*texts[row["query_id"]], row["passage_id"], row["weight"], row["split"]) for row in rows["judgements"]
    ] == [
        ("send the form", "human", "click", "guide.md#1", 0.5, ""),
        ("who", "human", "click", "guide.md#2", 0.9, ""),
    ]
    assert [(row["query_id"], row["texts"]) for row in rows["negatives"]] == [
        (text_query_id("send the form"), [PASSAGES[1].content])
    ]
    assert [(row["item"], row["check"]) for row in rows["rejected"]] == [
        ("log.jsonl:3", "empty"), ("log.jsonl:4", "maps-to-nothing"),
    ]  # fmt: skip
    assert made(source=tmp_path, clicks=log)["negatives"] == []


def test_a_log_of_weak_clicks_alone_is_an_error_that_shows_the_first(made, tmp_path, write_rows):
    log = write_rows("log.jsonl", [{"query": "who", "passage_id": "guide.md#1", "clicked": 1, "count": 50}])
    with pytest.raises(
        SourceError, match=r"no click is left as a label; the first: who guide\.md#1: weight 0\.02, under 0\.3"
    ):
        made(source=tmp_path, clicks=log)


def test_a_review_is_read_back(made, tmp_path):
    first = made(source=tmp_path)
    by_text = {row["text"]: row["_id"] for row in first["queries"]}
    review = tmp_path / "review.csv"
    review.write_text(
        f"keep,query,query_id\nyes,What does a hotel cost me?,{by_text['How do I pay for a hotel?']}\n"
        f"no,Booking a train ticket,{by_text['Booking a train ticket']}\nyes,Old one,q-old\n",
        encoding="utf-8",
    )
    rows = made({"review": str(review)}, source=tmp_path)
    assert [(row["_id"], row["text"], row["metadata"]["kind"]) for row in rows["queries"]] == [
        (text_query_id("What does a hotel cost me?"), "What does a hotel cost me?", "faq")
    ]
    assert rows["cuts"] == [{"passage_id": "guide.md#1", "text": "How do I pay for a hotel?"}]
    assert [(row["item"], row["check"], row["reason"]) for row in rows["rejected"]] == [
        ("review.csv:4", "review", "its query is not made any more: 'Old one'"),
        ("heading guide.md#2: Booking a train ticket", "review", "review.csv, line 3 says no"),
    ]


def test_each_file_gives_its_split(made, tmp_path, write_rows):
    files = {
        name: write_rows(f"{name}.jsonl", [{"query": name, "passage_id": "guide.md#1"}])
        for name in ("queries", "dev_queries", "test_queries")
    }
    assert [split for _, _, split in triples(made(source=tmp_path, **files)["judgements"])] == ["", "dev", "test"]


def test_labels_of_the_same_question_meet_in_one_query(made, tmp_path, write_rows):
    labels = write_rows(
        "labels.jsonl",
        [{"query": "who answers", "passage_id": "guide.md#1"}, {"query": "who  answers ", "passage_id": "guide.md#2"}],
    )
    rows = made(source=tmp_path, queries=labels)
    assert len(rows["queries"]) == 1
    assert len(rows["judgements"]) == 2


def test_the_same_query_id_in_two_files_does_not_mix_their_questions(made, tmp_path, write_rows):
    train = write_rows("train.jsonl", [{"query_id": "1", "query": "who answers", "passage_id": "guide.md#1"}])
    test = write_rows("test.jsonl", [{"query_id": "1", "query": "where to send it", "passage_id": "guide.md#2"}])
    rows = made(source=tmp_path, queries=train, test_queries=test)
    texts = {row["_id"]: row["text"] for row in rows["queries"]}
    assert [(texts[query_id], passage_id, split) for query_id, passage_id, split in triples(rows["judgements"])] == [
        ("who answers", "guide.md#1", ""),
        ("where to send it", "guide.md#2", "test"),
    ]


def test_a_given_query_id_is_kept_and_one_that_no_qrels_file_can_hold_is_not(made, tmp_path, write_rows):
    labels = write_rows(
        "labels.jsonl",
        [
            {"query_id": "Q-7", "query": "who answers", "passage_id": "guide.md#1"},
            {"query_id": "a\tb", "query": "where to", "passage_id": "guide.md#1"},
        ],
    )
    rows = made(source=tmp_path, queries=labels)
    assert [row["_id"] for row in rows["queries"]] == ["Q-7", text_query_id("where to")]


def test_scored_pairs_are_pairs_and_no_queries(made, write_rows):
    path = write_rows("scored.jsonl", [{"sentence1": "a b", "sentence2": "c d", "score": 0.5}])
    dev = write_rows("dev.jsonl", [{"sentence1": "e f", "sentence2": "g h", "score": 1}])
    rows = made(source=path, dev_queries=dev)
    assert rows["pairs"] == [
        {"pair_id": "s000000", "sentence1": "a b", "sentence2": "c d", "score": 0.5, "split": ""},
        {"pair_id": "s000001", "sentence1": "e f", "sentence2": "g h", "score": 1.0, "split": "dev"},
    ]
    assert rows["queries"] == []


def test_rows_that_the_reader_rejected_are_listed_too(made, tmp_path, write_rows):
    labels = write_rows("labels.jsonl", [{"query": "a", "passage_id": "guide.md#1"}, {"query": "", "passage_id": "x"}])
    assert [row["check"] for row in made(source=tmp_path, queries=labels)["rejected"]] == ["empty"]


def test_passages_to_make_no_query_from_are_an_error_that_says_what_to_give(made, tmp_path, passages):
    write_passages(passages / "corpus.jsonl", [Passage("p", "too short")])
    with pytest.raises(SourceError, match=r"no labels, and its 1 passages have no headings, .* with --queries FILE"):
        made(source=tmp_path)


@pytest.fixture
def beir(tmp_path, passages) -> Path:
    folder = tmp_path / "beir"
    write_passages(folder / "corpus.jsonl", PASSAGES)
    write_queries(folder / "queries.jsonl", [Query(f"q{i}", f"query {i}") for i in range(4)])
    write_qrels(folder / "qrels/train.tsv", {"q0": {"guide.md#1": 1, "guide.md#2": 0}})
    write_qrels(folder / "qrels/test.tsv", {"q1": {"guide.md#1": 2, "guide.md#2": 0}})
    return folder


def test_a_beir_folder_keeps_its_splits_and_the_grades_of_the_test(made, beir):
    write_qrels(beir / "qrels/validation.tsv", {"q2": {"guide.md#2": 1}})
    write_qrels(beir / "qrels/notes.tsv", {"q3": {"guide.md#2": 1}})
    rows = made(source=beir)
    assert [(row["query_id"], row["passage_id"], row["grade"], row["split"]) for row in rows["judgements"]] == [
        ("q1", "guide.md#1", 2, "test"),
        ("q1", "guide.md#2", 0, "test"),
        ("q0", "guide.md#1", 1, "train"),
        ("q2", "guide.md#2", 1, "dev"),
    ]
    assert {row["_id"] for row in rows["queries"]} == {"q0", "q1", "q2"}


def test_judgements_of_what_does_not_exist_are_an_error_unless_dropped(made, beir):
    write_qrels(beir / "qrels/dev.tsv", {"q2": {"gone": 1, "guide.md#1": 1}, "q9": {"guide.md#1": 1}})
    with pytest.raises(
        SourceError, match=r"2 judgements name what does not exist; the first: qrels/dev\.tsv: q2 gone: corpus"
    ):
        made(source=beir)

    rows = made(source=beir, dangling="drop")
    assert [(row["item"], row["check"], row["reason"]) for row in rows["rejected"]] == [
        ("qrels/dev.tsv: q2 gone", "dangling", "corpus.jsonl has no 'gone'"),
        ("qrels/dev.tsv: q9 guide.md#1", "dangling", "queries.jsonl has no 'q9'"),
    ]
    assert ("q2", "guide.md#1", "dev") in triples(rows["judgements"])


def test_a_beir_folder_of_which_nothing_is_left_is_an_error_even_when_dropped(made, beir):
    (beir / "qrels/test.tsv").unlink()
    write_qrels(beir / "qrels/train.tsv", {"q0": {"gone": 1}})
    with pytest.raises(SourceError, match="1 judgements name what does not exist"):
        made(source=beir, dangling="drop")


def test_a_beir_folder_without_judgements_says_so(made, beir):
    (beir / "qrels/test.tsv").unlink()
    (beir / "qrels/train.tsv").unlink()
    with pytest.raises(SourceError, match=r"without qrels/train\.tsv or qrels/test\.tsv"):
        made(source=beir)


def test_a_beir_folder_with_test_judgements_only_gets_offline_training_queries(made, beir):
    (beir / "qrels/train.tsv").unlink()
    rows = made(source=beir)
    assert [row["metadata"]["origin"] for row in rows["queries"]] == ["human", "offline", "offline"]


def test_what_is_written_is_read_as_queries(made, make_stage, passages, tmp_path):
    made(source=tmp_path)
    assert len(read_queries(tmp_path / "out/queries.jsonl")) == 2
