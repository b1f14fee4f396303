from __future__ import annotations

import csv
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shoptalk.errors import SourceError
from shoptalk.labelled import read_labelled
from shoptalk.queries.click_logs import Event, read_log
from shoptalk.queries.clicks import WeakLabel, relevance, weak_labels
from shoptalk.records import Passage
from shoptalk.settings import QuerySettings

PASSAGES = [
    Passage("a", "refunds for a hotel room are paid within a week", "", "docs/hotel.md", 0),
    Passage("b", "a train ticket is refunded by the office", "", "docs/train.md", 0),
    Passage("c", "seats on a train are booked by phone", "", "docs/train.md", 80),
]


def labels(*events: Event, **settings: float):
    return weak_labels(events, PASSAGES, QuerySettings(**{"click_min_weight": 0, **settings}))


def weights(*events: Event, **settings: float) -> dict[tuple[str, str], float]:
    return {(one.query, one.passage_id): one.weight for one in labels(*events, **settings).labels}


# The model, by hand


@pytest.mark.parametrize(
    ("clicks", "unclicked", "weight"),
    [
        (1, {}, 1 / 2),  # one click and one unclicked look beforehand
        (9, {}, 9 / 10),
        (3, {1: 1}, 3 / 5),  # rank 1 is always looked at
        (1, {0: 9}, 1 / 11),  # so is a result of unknown rank
        # Rank 2, looked at half of the time: r = 1 / (2 + 0.5 (1 - r) / (1 - 0.5 r)), so 1.5 r^2 - 3 r + 1 = 0.
        (1, {2: 1}, (3 - 3**0.5) / 3),
        (0, {3: 5}, 0.0),
    ],
)
def test_the_relevance_that_the_position_based_model_finds(clicks, unclicked, weight):
    assert relevance(clicks, Counter(unclicked), eta=1.0, prior=1.0) == pytest.approx(weight, abs=1e-6)


def test_with_many_looks_it_is_the_click_rate_over_the_chance_to_be_looked_at():
    # 100,000 times at rank 4, looked at 1 time in 4, clicked 1 time in 10: relevant to 4 in 10 lookers.
    assert relevance(10_000, Counter({4: 90_000}), eta=1.0, prior=1.0) == pytest.approx(0.4, abs=1e-3)
    assert relevance(10_000, Counter({4: 90_000}), eta=0.0, prior=1.0) == pytest.approx(0.1, abs=1e-3)


def test_not_being_clicked_counts_less_further_down_and_the_prior_weighs():
    found = [relevance(1, Counter({rank: 5}), 1.0, 1.0) for rank in (1, 2, 5, 50)]
    assert found == sorted(found)
    assert relevance(1, Counter(), 1.0, 3.0) == pytest.approx(1 / 4)


# From events to labels


def test_events_are_added_up_by_query_and_passage_whatever_the_spelling():
    found = weights(
        Event("x:1", "Hotel Refund", "a", 1, clicks=1),
        Event("x:2", "hotel  refund", "a", 1, clicks=1),
        Event("x:3", "hotel refund", "a", 1, clicks=1),
        Event("x:4", "hotel refund", "a", 1, clicks=0),
        Event("x:5", "hotel refund", "b", 2, clicks=0),
    )
    assert found == {("hotel refund", "a"): 0.6}


def test_a_count_is_as_many_events():
    many = [Event(f"x:{i}", "q", "a", 2, clicks=int(i < 3)) for i in range(8)]
    at_once = (Event("x:1", "q", "a", 2, clicks=3, looks=3), Event("x:2", "q", "a", 2, clicks=0, looks=5))
    assert weights(*many) == weights(*at_once)


def test_a_session_has_one_vote():
    clicked = Event("x:1", "q", "a", 1, clicks=1, session="s1")
    unclicked = Event("x:2", "q", "a", 1, clicks=0, session="s1")
    assert weights(clicked, clicked, unclicked, clicked) == {("q", "a"): 0.5}
    assert weights(unclicked, clicked) == {("q", "a"): 0.5}
    assert weights(Event("x:1", "q", "a", 1, clicks=40, looks=40, session="s1")) == {("q", "a"): 0.5}
    two = Event("x:3", "q", "a", 1, clicks=1, session="s2")
    assert weights(clicked, two) == {("q", "a"): pytest.approx(2 / 3, abs=1e-4)}


def test_in_a_log_of_choices_every_other_search_is_a_missed_chance():
    # 3 of 4 searches chose a: 3 / (3 + 1 + 1); one chose b: 1 / (1 + 3 + 1).
    events = [Event(f"x:{i}", "q", target, clicks=1, chosen_only=True) for i, target in enumerate("aaab")]
    assert weights(*events) == {("q", "a"): 0.6, ("q", "b"): 0.2}
    assert weights(events[0], Event("x:9", "other", "b", clicks=1, chosen_only=True)) == {
        ("q", "a"): 0.5, ("other", "b"): 0.5,
    }  # fmt: skip


def test_weak_clicks_are_rejected_with_what_they_were():
    events = [Event("x:1", "q", "a", 1, clicks=1), Event("x:2", "q", "a", 1, clicks=0, looks=9)]
    out = labels(*events, click_min_weight=0.3)
    assert out.labels == []
    assert [(one.item, one.check, one.reason) for one in out.rejected] == [
        ("q a", "weak-click", "weight 0.09, under 0.3: 1 clicks, 9 times not clicked")
    ]
    assert labels(*events, click_min_weight=0.09).labels == [WeakLabel("q", "a", 0.0909)]


def test_a_document_means_its_passage_that_suits_the_query_best():
    def event(query, target):
        return Event("log:1", query, target, clicks=1)

    assert weights(event("train seats", "docs/train.md")) == {("train seats", "c"): 0.5}
    assert weights(event("ticket", "train.md")) == {("ticket", "b"): 0.5}
    assert weights(event("anything", "hotel.md")) == {("anything", "a"): 0.5}
    assert weights(event("lodging", PASSAGES[0].text)) == {("lodging", "a"): 0.5}
    out = labels(event("lodging", "docs/train.md"), event("lodging", "gone.md"), event("lodging", "gone.md"))
    assert out.labels == []
    assert [(one.item, one.check, one.reason) for one in out.rejected] == [
        ("log:1", "maps-to-nothing", "docs/train.md has 2 passages, and none shares a word with the query 'lodging'"),
        ("log:1", "maps-to-nothing", "no passage has the id 'gone.md', and no document is called so"),
    ]


def test_results_passed_over_are_negatives_only_when_asked_for_and_never_clicked():
    events = [
        Event("x:1", "q", "a", 1, clicks=0, skipped=1),
        Event("x:1", "q", "b", 2, clicks=1),
        Event("x:1", "q", "c", 3, clicks=0),
    ]
    assert labels(*events).skipped == {}
    assert labels(*events, skip_above=True).skipped == {"q": ["a"]}
    assert labels(*events, Event("x:2", "q", "a", 1, clicks=1), skip_above=True).skipped == {}


# The files

SEARCH = {"query": "q", "shown": ["a", "b", "c"], "clicked": ["b"], "count": 2, "session": "s"}
EVENTS = [
    Event("log:1", "q", "a", 1, 0, 2, "s", 2),
    Event("log:1", "q", "b", 2, 2, 2, "s", 0),
    Event("log:1", "q", "c", 3, 0, 2, "s", 0),
]


def as_file(tmp_path, suffix, rows):
    path = tmp_path / f"log{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    with path.open("w", encoding="utf-8", newline="") as out:
        table = csv.DictWriter(out, rows[0].keys(), delimiter="\t" if suffix == ".tsv" else ",")
        table.writeheader()
        table.writerows(rows)
    return path


def placed(events):
    """Events without where they stand, which differs from format to format."""
    return [(e.query, e.target, e.position, e.clicks, e.looks, e.session, e.skipped, e.chosen_only) for e in events]


def test_a_search_a_row_in_every_format(tmp_path, write_rows):
    assert read_log(write_rows("log.jsonl", [SEARCH]))[0][0].where == "log.jsonl:1"
    assert placed(read_log(write_rows("log.jsonl", [SEARCH]))[0]) == placed(EVENTS)
    assert placed(read_log(as_file(tmp_path, ".parquet", [SEARCH]))[0]) == placed(EVENTS)
    for shown, clicked in (('["a", "b", "c"]', '["b"]'), ("a|b|c", "b"), ("a | b | c", " b "), ("a\nb\nc", "b")):
        row = SEARCH | {"shown": shown, "clicked": clicked}
        assert placed(read_log(as_file(tmp_path, ".csv", [row]))[0]) == placed(EVENTS)
        assert placed(read_log(as_file(tmp_path, ".tsv", [row]))[0]) == placed(EVENTS)


@pytest.mark.parametrize(
    ("row", "clicks", "looks", "position"),
    [
        ({"clicked": 1}, 1, 1, 0),
        ({"clicked": "true", "rank": 3}, 1, 1, 3),
        ({"clicked": True, "count": 4}, 4, 4, 0),
        ({"clicked": 0, "count": 4}, 0, 4, 0),
        ({"clicked": False}, 0, 1, 0),
        ({"clicked": None}, 0, 1, 0),
        ({"clicked": 3, "impressions": 10}, 3, 10, 0),
        ({"clicked": 1, "impressions": 10}, 1, 10, 0),
        ({"clicked": 5}, 5, 5, 0),
    ],
)
def test_a_result_a_row(write_rows, row, clicks, looks, position):
    path = write_rows("log.jsonl", [{"query": "q", "doc_id": "a"} | row, {"query": "q", "doc_id": "b", "clicked": 1}])
    first = read_log(path)[0][0]
    assert (first.target, first.clicks, first.looks, first.position) == ("a", clicks, looks, position)


@pytest.mark.parametrize("row", [{"chosen": "a"}, {"clicked": "a"}, {"document": "a"}, {"clicked_url": ["a"]}])
def test_a_choice_a_row(write_rows, row):
    path = write_rows("log.jsonl", [{"query": "q", "position": 2, "count": 3} | row])
    assert placed(read_log(path)[0]) == [("q", "a", 2, 3, 3, "", 0, True)]


@pytest.mark.parametrize(
    ("row", "check", "reason"),
    [
        ({"query": " "}, "empty", "the query is empty"),
        ({"shown": []}, "empty", "nothing was shown"),
        ({"clicked": ["z"]}, "not-shown", "'z' was clicked, but is not among the 3 that were shown"),
        ({"count": "many"}, "bad-number", "count 'many' is not a whole number from 1"),
        ({"count": -1}, "bad-number", "count -1 is not a whole number from 1"),
        ({"count": 1.5}, "bad-number", "count 1.5 is not a whole number from 1"),
    ],
)
def test_a_row_that_cannot_be_used_is_listed_and_the_others_are_read(write_rows, row, check, reason):
    events, rejected = read_log(write_rows("log.jsonl", [SEARCH, SEARCH | row]))
    assert placed(events) == placed(EVENTS)
    assert [(one.item, one.check, one.reason) for one in rejected] == [("log.jsonl:2", check, reason)]


def test_more_clicks_than_looks_are_no_result(write_rows):
    rows = [{"query": "q", "doc_id": "a", "clicked": n, "count": 2} for n in (2, 3)]
    assert read_log(write_rows("log.jsonl", rows))[1][0].reason == "clicked 3 times, but shown 2 times"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"query": "q", "answer": "a"}], r"columns query, answer; a click log has query, shown and clicked"),
        ([{"shown": "a", "clicked": "a"}], r"columns shown, clicked; a click log has query"),
        ([SEARCH | {"clicked": []}], r"none of its 1 rows holds a click$"),
        ([SEARCH | {"query": ""}], r"none of its 1 rows holds a click; the first .* log\.jsonl:1: the query is empty"),
    ],
)
def test_what_is_no_log_or_has_no_click_is_an_error(write_rows, rows, message):
    with pytest.raises(SourceError, match=message):
        read_log(write_rows("log.jsonl", rows))


def test_a_click_log_is_not_taken_for_labels(write_rows):
    path = write_rows("log.jsonl", [{"query": "q", "passage_id": name, "clicked": i} for i, name in enumerate("ab")])
    with pytest.raises(SourceError, match=r"its column clicked is that of a click log.*--set input\.clicks=log\.jsonl"):
        read_labelled(path, {})
    assert [label.passage_id for label in read_labelled(path, {"grade": "clicked"}).labels] == ["b"]
