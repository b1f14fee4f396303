from __future__ import annotations

from importlib import import_module

import pytest

from shoptalk.queries.generators import GENERATORS, Draft, generate_queries, generator
from shoptalk.records import Passage

BODY = "Send the completed form to the travel office, which answers within five working days by mail or by phone."


def passages(*pairs: tuple[str, str]) -> list[Passage]:
    """Passages p1, p2, ... of one document from (title, text)."""
    return [Passage(f"p{i}", text, title, "guide.md") for i, (title, text) in enumerate(pairs, 1)]


def drafts(kind: str, *pairs: tuple[str, str]) -> list[Draft]:
    return list(generator(kind).generate(passages(*pairs)))


@pytest.mark.parametrize("kind", GENERATORS)
def test_every_generator_of_the_table_makes_drafts_of_its_kind(kind):
    text = (
        f"Claims\n\nWhat is a travel claim?\nA Travel Claim is a request for money that was spent on a journey. {BODY} "
    )
    text += "A travel claim needs receipts. Every travel claim is checked."
    found = drafts(
        kind, ("Guide > Claims > How do I claim my expenses?", text), ("Guide > Sending the form", BODY), ("", "x")
    )
    assert generator(kind) is import_module(GENERATORS[kind])
    assert found
    assert {draft.kind for draft in found} == {kind}
    assert all(set(draft.passage_ids) <= {"p1", "p2", "p3"} and draft.text for draft in found)


@pytest.mark.parametrize("kind", GENERATORS)
@pytest.mark.parametrize(
    "text",
    ["", "word", "?" * 5_000, "A " * 5_000, "Aa " * 5_000 + "(AB)", "**" * 5_000, "返金には領収書が必要です。" * 50],
)
def test_strange_texts_make_no_error_and_no_query_without_words_or_passage(kind, text):
    for draft in drafts(kind, (text[:200], text), ("", "")):
        assert draft.text.strip()
        assert draft.passage_ids


def test_a_question_heading_is_answered_by_every_passage_under_it():
    title = "Guide > How do I pay?"
    assert drafts("faq", (title, BODY), (title, BODY), ("Guide > Other", BODY)) == [
        Draft("How do I pay?", ("p1", "p2"), "faq", "How do I pay?")
    ]


@pytest.mark.parametrize(
    "line",
    ["How do I pay?", "**How do I pay?**", "Q: How do I pay?", "- How do I pay?", "> **Question: How do I pay?**"],
)
def test_a_question_line_is_answered_by_what_follows(line):
    assert drafts("faq", ("", f"Before.\n{line}\n{BODY}")) == [Draft("How do I pay?", ("p1",), "faq", "How do I pay?")]


@pytest.mark.parametrize(
    "text", [f"{BODY}\nHow do I pay?", f"Why not?\n{BODY}", f"Is it so? Yes. {BODY}", "How do I pay?\nBy mail."]
)
def test_a_question_without_an_answer_below_is_none(text):
    assert drafts("faq", ("", text)) == []


def test_a_heading_is_a_query_and_a_short_one_gets_its_document_as_context():
    assert drafts("heading", ("Travel guide > Booking a hotel room", BODY), ("Travel guide > Refunds", BODY)) == [
        Draft("Booking a hotel room", ("p1",), "heading", "Booking a hotel room"),
        Draft("Travel guide: Refunds", ("p2",), "heading", "Refunds"),
    ]


@pytest.mark.parametrize(
    "title", ["Guide > Overview", "Guide > FAQ", "Guide", "Guide > How do I pay?", "Guide > " + "word " * 15, ""]
)
def test_a_heading_that_says_nothing_is_no_query(title):
    assert drafts("heading", (title, BODY)) == []


def test_a_document_title_of_three_words_is_a_query():
    assert [draft.text for draft in drafts("heading", ("Booking a hotel", BODY))] == ["Booking a hotel"]


def test_a_heading_over_very_many_passages_is_too_wide():
    assert drafts("heading", *[("Guide > Booking a hotel", BODY)] * 6) == []
    assert len(drafts("heading", *[("Guide > Booking a hotel", BODY)] * 5)) == 1


def test_the_same_heading_in_two_documents_is_two_places():
    found = [
        Passage("a", BODY, "Guide > Booking a hotel", "a.md"),
        Passage("b", BODY, "Guide > Booking a hotel", "b.md"),
    ]
    assert [draft.passage_ids for draft in generator("heading").generate(found)] == [("a",), ("b",)]


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("A Travel Claim is a request for money that was spent on a journey.", "What is Travel Claim?"),
        ("See below. Travel Claims are requests for money that was spent on journeys.", "What are Travel Claims?"),
        ("**Per diem** refers to the sum that is paid for every day of a journey.", "What is Per diem?"),
        ("The General Services Administration (GSA) pays.", "What does GSA stand for?"),
        ("Ask the Office of Human Resources (OHR) first.", "What does OHR stand for?"),
    ],
)
def test_what_a_text_defines_is_asked(text, question):
    assert [draft.text for draft in drafts("definition", ("", text))] == [question]


@pytest.mark.parametrize(
    "text",
    [
        "This is a request for money that was spent on a journey by a member.",
        "It is a long way to the office where the form is kept for you.",
        "If this is a request for money then it must be sent on the same day.",
        "The form is a page.",
        "We met the Travel Office (see below) in Berlin.",
    ],
)
def test_what_defines_nothing_is_not_asked(text):
    assert drafts("definition", ("", text)) == []


def test_the_phrase_that_sets_a_passage_apart():
    text = f"The hotel booking opens in May. {BODY} Each hotel booking needs a form, and a hotel booking ends in June."
    other = f"The train ticket is sent by mail. {BODY} Each train ticket has a number, and every train ticket ends."
    assert [draft.text for draft in drafts("key-phrase", ("", text), ("", other))] == [
        "What should I know about hotel booking?",
        "What should I know about train ticket?",
    ]
    assert drafts("key-phrase", ("", BODY), ("", "hotel booking hotel booking")) == []


def test_no_more_than_the_limit_for_one_passage_the_first_kind_first():
    text = f"How do I pay?\n{BODY}\nWhere do I send the form?\n{BODY}\nWho approves my request?\n{BODY}"
    for limit in (1, 2, 4):
        found = generate_queries(passages(("Guide > Paying for a hotel", text)), ["faq", "heading"], limit)
        expected = ["How do I pay?", "Where do I send the form?", "Who approves my request?", "Paying for a hotel"]
        assert [draft.text for draft in found] == expected[:limit]


def test_the_kinds_are_those_that_were_asked_for():
    found = generate_queries(passages(("Guide > Paying for a hotel", f"How do I pay?\n{BODY}")), ["heading"], 5)
    assert [draft.kind for draft in found] == ["heading"]


def test_a_query_that_several_places_answer_is_left_out():
    found = [
        Passage("a", BODY, "Guide A > Booking a hotel", "a.md"),
        Passage("b", BODY, "Guide B > booking a Hotel", "b.md"),
        Passage("c", BODY, "Guide B > Booking a train", "b.md"),
    ]
    assert [draft.text for draft in generate_queries(found, ["heading"], 2)] == ["Booking a train"]


def test_a_query_that_two_generators_make_of_one_place_is_kept_once():
    title = "Guide > What is Travel Claim?"
    text = "A Travel Claim is a request for money that was spent on a journey. " + BODY
    found = generate_queries(passages((title, text)), ["faq", "definition"], 3)
    assert [(draft.text, draft.kind) for draft in found] == [("What is Travel Claim?", "faq")]


def test_key_phrases_are_asked_only_where_nothing_else_was_found():
    phrase = f"Each hotel booking needs a form. {BODY} Every hotel booking ends in June."
    found = generate_queries(
        passages(("Guide > Booking a hotel room", phrase), ("", phrase.replace("hotel booking", "train ticket"))),
        ["heading", "key-phrase"],
        3,
    )
    assert [(draft.kind, draft.passage_ids) for draft in found] == [("heading", ("p1",)), ("key-phrase", ("p2",))]
