from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from shoptalk.queries.checks import NearDuplicates, Refused, copied_span, off_language, same_text
from shoptalk.queries.generators import Draft
from shoptalk.queries.judging import cut_passages, judge_drafts
from shoptalk.queries.language import guess_language, is_english, is_off_language, language_of, main_script
from shoptalk.queries.round_trip import Trip, generic, lost, round_trips
from shoptalk.queries.yields import yields
from shoptalk.records import Passage
from shoptalk.settings import QuerySettings

BODY = "Send the completed form to the travel office, which answers within five working days by mail or by phone."


class PlaneEncoder:
    """An Encoder of two dimensions: the angle of a text is the number that it ends with, in degrees."""

    digest = "plane"

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        angles = np.radians([float(text.split()[-1].rstrip("?")) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    encode_passages = encode_queries


def draft(text: str, *passage_ids: str, **fields: str) -> Draft:
    return Draft(text, passage_ids or ("p1",), fields.pop("kind", "heading"), **fields)


def at(**angles: float) -> list[Passage]:
    return [Passage(name, f"word{name} {angle}", language="en") for name, angle in angles.items()]


# The same text


def test_the_same_text_for_the_same_passage_is_a_duplicate_of_the_first():
    first, second = draft("How do I pay?", "p1", kind="faq"), draft("how do I  pay", "p2", "p1", kind="heading")
    assert same_text([first, second]) == ([first], [Refused(second, "duplicate", "the kind faq made the same text")])


def test_the_same_text_for_places_apart_is_too_generic_for_both():
    drafts = [draft("Late claims", "p1"), draft("Late Claims", "p2"), draft("Booking a train", "p2")]
    kept, refused = same_text(drafts)
    assert kept == drafts[2:]
    assert [(one.draft, one.check, one.reason) for one in refused] == [
        (one, "too-generic", "drafted for 2 places, such as p1 and p2") for one in drafts[:2]
    ]


# Copied spans


@pytest.mark.parametrize(
    ("query", "span"),
    [
        ("Who answers within five working days?", "answers within five working days"),
        ("Send THE completed form", "send the completed form"),
        ("the form that answers", "the"),
        ("something else entirely", ""),
        ("a travel offices", "travel"),
    ],
)
def test_the_longest_run_of_words_that_the_passage_has_too(query, span):
    assert copied_span(query, [Passage("p1", BODY)]) == span


def test_a_run_of_the_longest_of_several_passages():
    passages = [Passage("p1", "one two three"), Passage("p2", "two three four five")]
    assert copied_span("one two three four", passages) == "one two three"


def judged(drafts: Sequence[Draft], passages: Sequence[Passage], encoder=None, judge=None, **settings):
    return judge_drafts(drafts, passages, QuerySettings(**{"round_trip_k": 0, **settings}), encoder, judge)


def test_a_copied_query_is_rejected_unless_what_it_copies_is_cut_out():
    text = "answers within five working days by"
    passages = [Passage("p1", BODY, language="en")]
    copied, cropped = draft(text, "p1"), draft(text, "p1", cut=text)
    assert judged([copied], passages, copied_words=6).refused == [
        Refused(copied, "copied", f"the passage says {text!r}")
    ]
    assert judged([cropped], passages, copied_words=6).kept == [cropped]
    assert judged([copied], passages, copied_words=7).kept == [copied]
    assert judged([copied], passages, copied_words=0).kept == [copied]


# Language

GERMAN = "Reichen Sie das Formular innerhalb von fünf Tagen bei der Stelle für Dienstreisen ein."


def test_a_query_in_another_language_than_its_passage_is_rejected_and_others_are_not():
    english = draft("Where do I send the form for my journey?", "p1")
    german = draft("Wohin schicke ich das Formular für meine Reise?", "p1")
    short = draft("Formular Reise", "p1")
    passages = [Passage("p1", BODY, language="en")]
    out = judged([english, german, short], passages, per_passage=9)
    assert [(one.draft, one.check, one.reason) for one in out.refused] == [(german, "off-language", "in de, not in en")]
    assert out.kept == [english, short]
    assert german in judged([german], passages, off_language=False).kept


def test_a_query_that_was_wanted_in_another_language_is_right_in_that_one():
    passage = Passage("p1", BODY, language="en")
    assert off_language(draft("Wohin schicke ich das Formular für meine Reise?", language="de"), passage) == ""
    assert off_language(draft("Where do I send the form for my journey?", language="de"), passage) == "in en, not in de"


def test_another_script_is_another_language_however_short():
    japanese = Passage("p1", "返金には領収書が必要です。", language="ja")
    assert off_language(draft("refund"), japanese) == "written in Latin letters, the passage in Cjk"
    assert off_language(draft("返金の方法"), japanese) == ""
    assert off_language(draft("リファンド"), japanese) == ""
    assert off_language(draft("返金の方法", language="ja"), Passage("p1", BODY, language="en")) == ""


def test_the_language_of_a_passage_is_what_ingest_found_else_a_guess():
    assert language_of(Passage("p1", GERMAN, language="nl")) == "nl"
    assert language_of(Passage("p1", GERMAN)) == "de"
    assert (is_english(Passage("p1", BODY)), is_english(Passage("p1", GERMAN))) == (True, False)
    assert (guess_language("PTO 12"), main_script("12 !")) == ("", "")
    assert is_off_language("hello there", "en") == ""


# Near duplicates

SMALL = [Passage(f"p{i}", "how is a hotel booked by members", language="en") for i in range(20)]


def test_near_duplicates_share_their_words_but_for_common_ones():
    near = NearDuplicates([*SMALL, Passage("x", "Spain"), Passage("y", "France")], 0.8)
    near.add(draft("How is a hotel in Spain booked?", "p1"))
    assert near.find(draft("is a hotel booked in Spain", "p1")) == "How is a hotel in Spain booked?"
    assert near.find(draft("How is a hotel in France booked?", "p1")) == ""
    assert near.find(draft("is a hotel booked in Spain", "p2")) == ""


def test_the_overlap_weighs_a_word_by_its_rarity():
    near = NearDuplicates([Passage("a", "hotel spain"), Passage("b", "hotel"), Passage("c", "hotel france")], 0.5)
    # With 3 passages: hotel ln(4 / 3.5) = 0.1335, spain and france ln(4 / 1.5) = 0.9808.
    assert near.overlap(frozenset({"hotel", "spain"}), frozenset({"hotel", "france"})) == pytest.approx(
        0.1335 / (0.1335 + 2 * 0.9808), abs=1e-3
    )
    assert near.overlap(frozenset({"hotel"}), frozenset({"hotel"})) == 1.0


def test_the_second_of_two_near_duplicates_is_rejected():
    first, second = draft("How is a hotel booked?", "p1"), draft("a hotel is booked how", "p1")
    out = judged([first, second], SMALL)
    assert (out.kept, out.refused) == ([first], [Refused(second, "near-duplicate", "of 'How is a hotel booked?'")])


# Round trip and generic queries


def test_a_trip_says_at_which_rank_and_how_close_the_passage_at_rank_k_is():
    passages = at(a=0, b=60, c=90)
    found = round_trips(
        [draft("asked 0", "a"), draft("asked 80", "b"), draft("asked 80", "a")], passages, PlaneEncoder(), 2
    )
    assert [trip["base"].rank for trip in found] == [1, 2, 0]
    # cos 60 / cos 0, and the passage itself at rank 2 of 2.
    assert [trip["base"].rival for trip in found] == pytest.approx([0.5, 1.0, 0.0], abs=1e-6)
    assert [trip["bm25"] for trip in found[:1]] == [Trip(1, 0.0)]


def test_bm25_alone_is_enough_and_neither_is_not():
    passages = at(a=0, b=10, c=20, d=180)
    by_word, by_angle, by_none = draft("wordd 0", "d"), draft("asked 5", "b"), draft("asked 1", "d")
    out = judged([by_word, by_angle, by_none], passages, PlaneEncoder(), round_trip_k=2, generic_share=1.0)
    assert out.kept == [by_word, by_angle]
    assert out.refused == [
        Refused(by_none, "round-trip", "not among the first 2 that the base model or BM25 find")
    ]  # fmt: skip
    assert judged([by_none], passages, PlaneEncoder(), round_trip_k=4, generic_share=1.0).kept == [by_none]


def test_without_an_encoder_the_round_trip_is_bm25s():
    assert lost(round_trips([draft("nothing", "a")], at(a=0), None, 3)[0], 3) == "not among the first 3 that BM25 find"


@pytest.mark.parametrize(
    ("trips", "share", "is_generic"),
    [
        ({"base": Trip(1, 0.98), "bm25": Trip(2, 0.99)}, 0.97, True),
        ({"base": Trip(1, 0.98), "bm25": Trip(2, 0.5)}, 0.97, False),
        ({"base": Trip(1, 0.5), "bm25": Trip(2, 0.99)}, 0.97, False),
        ({"base": Trip(1, 0.98), "bm25": Trip(0, 0.0)}, 0.97, True),
        ({"base": Trip(1, 0.96)}, 0.97, False),
        ({"base": Trip(1, 1.0)}, 1.0, False),
    ],
)
def test_a_query_is_too_generic_when_no_search_that_finds_it_tells_it_apart(trips, share, is_generic):
    assert bool(generic(trips, share, 20)) == is_generic


def test_a_query_that_matches_many_passages_as_well_is_rejected():
    passages = at(a=10, b=11, c=12, d=13, e=90)
    vague, sharp = draft("asked 9", "a"), draft("asked 80", "e")
    out = judged([vague, sharp], passages, PlaneEncoder(), round_trip_k=3)
    assert [(one.draft, one.check) for one in out.refused] == [(vague, "too-generic")]
    assert out.refused[0].reason == "the passage at rank 3 has 1.00 of its score by the base model"
    assert out.kept == [sharp]


def test_the_round_trip_searches_passages_without_what_became_a_query():
    heading = "Booking a hotel room"
    passages = [Passage("p1", BODY, f"Guide > {heading}", language="en"), Passage("p2", "hotel rooms", language="en")]
    own = draft(heading, "p1", cut=heading)
    assert [p.title for p in cut_passages(passages, [own])] == ["Guide", ""]
    out = judged([own], passages, round_trip_k=5)
    assert [(one.check, one.reason) for one in out.refused] == [("round-trip", "not among the first 5 that BM25 find")]
    assert judged([draft(heading, "p1")], passages, round_trip_k=5).kept


# How many, the judge, and the account of it all


def test_no_more_than_the_limit_for_one_passage_the_first_first():
    drafts = [draft(text, "p1") for text in ("hotel bills", "train tickets", "late claims")]
    for limit in (1, 2, 3):
        out = judged(drafts, SMALL, per_passage=limit)
        assert out.kept == drafts[:limit]
        assert {one.check for one in out.refused} <= {"per-passage"}
    llm = [draft(one.text, "p1", origin="llm") for one in drafts]
    assert judged(llm, SMALL, per_passage=1).kept == llm


def test_key_phrases_are_asked_only_where_nothing_else_was_found():
    drafts = [
        draft("late claims", "p1"),
        draft("hotel bills", "p1", kind="key-phrase"),
        draft("hotels", "p2", kind="key-phrase"),
    ]
    assert [one.text for one in judged(drafts, SMALL, per_passage=3).kept] == ["late claims", "hotels"]


def test_the_judge_is_asked_last_and_only_about_what_is_left():
    asked: list[str] = []

    def judge(drafts: Sequence[Draft]) -> list[str]:
        asked.extend(one.text for one in drafts)
        return ["natural 1 of 5: no" if one.text == "hotel bills" else "" for one in drafts]

    drafts = [draft("hotel bills", "p1"), draft("train tickets", "p1"), draft("bills, hotel", "p1")]
    out = judged(drafts, SMALL, judge=judge)
    assert asked == ["hotel bills", "train tickets"]
    assert out.kept == [drafts[1]]
    assert Refused(drafts[0], "llm-judge", "natural 1 of 5: no") in out.refused


def test_no_draft_is_lost_and_the_yields_count_every_one():
    drafts = [draft(f"hotel bills {i % 7}", f"p{i % 5}", kind="faq" if i % 2 else "heading") for i in range(40)]
    out = judged(drafts, SMALL)
    assert len(out.kept) + len(out.refused) == len(drafts)
    table = yields(out.kept, out.refused, QuerySettings())
    for kind, row in table["kinds"].items():
        assert row["drafted"] == sum(one.kind == kind for one in drafts)
        assert row["kept"] + sum(row["rejected"].values()) == row["drafted"]
        assert {sample["check"] for sample in row["samples"]["rejected"]} == row["rejected"].keys()
        assert len(row["samples"]["kept"]) == min(5, row["kept"])
    assert table["thresholds"]["round_trip_k"] == 20
