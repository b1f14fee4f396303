from __future__ import annotations

import pytest

from shoptalk.dataset.checks import check_judgements, check_pairs, check_passages, check_queries, text_problem
from shoptalk.records import Judgement, Passage, Query, ScoredPair
from shoptalk.settings import DatasetSettings

SETTINGS = DatasetSettings()


@pytest.mark.parametrize(
    ("text", "check", "reason"),
    [
        ("", "empty", "no text"),
        (" \n\t\u00a0", "empty", "no text"),
        ("x" * 101, "over-long", "101 characters; at most 100"),
        ("?!... --- ***", "non-text", "no letters or digits"),
        ("ab\ufffd\ufffd\x01", "non-text", "3 of 5 characters are not text"),
        ("\ue000" * 5 + "abc", "non-text", "5 of 8 characters are not text"),
    ],
)
def test_a_text_that_may_not_stay_has_a_check_and_a_reason(text, check, reason):
    assert text_problem(text, 100) == (check, reason)


@pytest.mark.parametrize(
    "text", ["x", "7", "退款", "दिन", "\u0e01\u0e34", "a\tb\nc\r\n\f", "😀 ok", "x" * 100, "a" * 20 + "\ufffd"]
)
def test_a_text_that_may_stay(text):
    assert text_problem(text, 100) is None


def test_passages_and_queries_are_kept_or_rejected_by_their_own_limits():
    settings = DatasetSettings(max_query_chars=10, max_passage_chars=100)
    kept, rejected = check_passages(
        [Passage("a", "text"), Passage("b", ""), Passage("c", "", "only a title"), Passage("d", "x" * 101)], settings
    )
    assert [p.passage_id for p in kept] == ["a", "c"]
    assert [(entry.item, entry.check) for entry in rejected] == [("b", "empty"), ("d", "over-long")]

    queries, refused = check_queries([Query("a", "short"), Query("b", "x" * 11), Query("c", "?")], settings)
    assert list(queries) == ["a"]
    assert [(entry.item, entry.check) for entry in refused] == [("b", "over-long"), ("c", "non-text")]


def judged(judgements, negatives=None):
    queries = {"q": Query("q", "Where is it?"), "r": Query("r", "other")}
    passages = {"p": Passage("p", "It is there."), "copy": Passage("copy", "where  IS it?", "Title")}
    kept, rejected = check_judgements(((j, "") for j in judgements), queries, passages, negatives or {})
    return [judgement for judgement, _ in kept], [(entry.item, entry.check) for entry in rejected]


def test_judgements_need_both_sides():
    good = Judgement("q", "p")
    assert judged([good, Judgement("gone", "p"), Judgement("q", "gone")]) == (
        [good],
        [("gone p", "orphan"), ("q gone", "orphan")],
    )


def test_a_passage_that_is_the_query_itself_teaches_nothing():
    assert judged([Judgement("q", "copy")]) == ([], [("q copy", "copy")])
    assert judged([Judgement("r", "copy")])[1] == []


def test_a_passage_that_is_answer_and_non_answer_is_contradictory():
    assert judged([Judgement("q", "p")], {"q": ["no", "it is  THERE."]}) == ([], [("q p", "contradictory")])
    assert judged([Judgement("r", "p")], {"q": ["It is there."]})[1] == []  # only for its own query
    assert judged([Judgement("q", "p", 0)], {"q": ["It is there."]})[1] == []  # grade 0 says the same


def pair(name: str, left: str, right: str, score: float, split: str = "") -> tuple[ScoredPair, str]:
    return ScoredPair(name, left, right, score), split


def test_the_same_texts_with_clearly_different_scores_contradict_each_other():
    scale = pair("low", "scale low", "x", 0.0), pair("high", "scale high", "x", 5.0)
    kept, rejected = check_pairs(
        [*scale, pair("a", "One text", "two", 4.0), pair("b", "two", "one  TEXT", 1.0)], SETTINGS
    )
    assert [p.pair_id for p, _ in kept] == ["low", "high"]
    assert [(entry.item, entry.check, entry.reason) for entry in rejected] == [
        ("a", "contradictory", "the same texts have scores from 1 to 4"),
        ("b", "contradictory", "the same texts have scores from 1 to 4"),
    ]


def test_the_same_texts_with_nearly_the_same_score_are_one_pair():
    scale = pair("low", "scale low", "x", 0.0), pair("high", "scale high", "x", 5.0)
    kept, rejected = check_pairs([*scale, pair("a", "one", "two", 4.0), pair("b", "two", "one", 4.5)], SETTINGS)
    assert [p.pair_id for p, _ in kept] == ["low", "high", "a"]
    assert [(entry.item, entry.check) for entry in rejected] == [("b", "duplicate")]


def test_a_given_test_split_keeps_its_pairs_whatever_the_training_file_says():
    scale = pair("low", "scale low", "x", 0.0), pair("high", "scale high", "x", 5.0)
    train = pair("same", "one", "two", 4.0), pair("other", "three", "four", 0.0)
    dev = (pair("dev", "five", "six", 2.0, "dev"),)
    test = (
        pair("t1", "two", "one", 4.0, "test"),
        pair("t2", "three", "four", 5.0, "test"),
        pair("t3", "five", "six", 2.0, "test"),
    )
    kept, rejected = check_pairs([*scale, *train, *dev, *test], SETTINGS)
    assert [p.pair_id for p, _ in kept] == ["low", "high", "t1", "t2", "t3"]
    assert [(entry.item, entry.check) for entry in rejected] == [
        ("same", "duplicate"), ("other", "duplicate"), ("dev", "duplicate"),
    ]  # fmt: skip


def test_pairs_with_texts_or_scores_that_are_none():
    kept, rejected = check_pairs(
        [
            pair("good", "one", "two", 1.0),
            pair("empty", "", "two", 1.0),
            pair("non-text", "one", "???", 0.0),
            pair("nan", "three", "four", float("nan")),
            pair("inf", "five", "six", float("inf")),
            pair("fine", "seven", "eight", 0.5),
        ],
        SETTINGS,
    )
    assert [p.pair_id for p, _ in kept] == ["good", "fine"]
    assert [(entry.item, entry.check) for entry in rejected] == [
        ("empty", "empty"), ("non-text", "non-text"), ("nan", "no-score"), ("inf", "no-score"),
    ]  # fmt: skip


def test_scores_that_are_all_the_same_contradict_nothing():
    kept, _ = check_pairs([pair("a", "one", "two", 1.0), pair("b", "three", "four", 1.0)], SETTINGS)
    assert len(kept) == 2
    assert check_pairs([], SETTINGS) == ([], [])
