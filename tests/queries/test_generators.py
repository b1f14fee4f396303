from __future__ import annotations

from importlib import import_module

import pytest

from shoptalk.queries.generators import GENERATORS, Draft, generate_drafts, generator
from shoptalk.queries.generators.template import passage_type
from shoptalk.records import Passage
from shoptalk.settings import QuerySettings

BODY = "Send the completed form to the travel office, which answers within five working days by mail or by phone."


def passages(*pairs: tuple[str, str], language: str = "en") -> list[Passage]:
    """Passages p1, p2, ... of one document from (title, text)."""
    return [Passage(f"p{i}", text, title, "guide.md", i, language=language) for i, (title, text) in enumerate(pairs, 1)]


def drafts(kind: str, *pairs: tuple[str, str], language: str = "en") -> list[Draft]:
    return list(generator(kind).generate(passages(*pairs, language=language)))


# A small handbook in which every kind finds something.
HANDBOOK = (
    (
        "Travel handbook > Claims > How do I claim my expenses?",
        f"What is a travel claim?\nA Travel Claim is a request for money that was spent on a journey. {BODY} A travel claim needs "
        "receipts. Every travel claim is checked by the Human Resources Office (HRO).",
    ),
    (
        "Travel handbook > Claims > Sending a claim to the office",
        f"1. Print it.\n2. Sign it.\n\n{BODY} You send it once.",
    ),
    (
        "Travel handbook > Claims > Late claims",
        f"The Human Resources Office decides. {BODY} Ask the Human Resources Office. A late claim is a late claim.",
    ),
)


@pytest.mark.parametrize("kind", GENERATORS)
def test_every_generator_of_the_table_makes_drafts_that_keep_the_contract(kind):
    found = drafts(kind, *HANDBOOK)
    by_id = {passage.passage_id: passage for passage in passages(*HANDBOOK)}
    assert generator(kind) is import_module(GENERATORS[kind])
    assert found
    assert found == drafts(kind, *HANDBOOK)
    for draft in found:
        assert draft.kind == kind
        assert draft.origin == "offline"
        assert draft.text == draft.text.strip() != ""
        assert set(draft.passage_ids) <= by_id.keys()
        assert draft.passage_ids
        for own in (by_id[passage_id] for passage_id in draft.passage_ids):
            # What is cut stands in the passage, and is gone from it afterwards; a query in the text's own words names its cut.
            assert draft.cut in own.content
            assert not draft.cut or draft.cut not in own.without([draft.cut]).content
            assert draft.text not in own.without([draft.cut] if draft.cut else []).content


def test_the_table_and_the_settings_name_the_same_kinds():
    allowed = QuerySettings.model_fields["kinds"].annotation.__args__[0].__args__
    assert set(allowed) == set(GENERATORS)


TEMPLATES = ("What ", "How ", "Who ")


@pytest.mark.parametrize("kind", GENERATORS)
def test_no_english_template_for_a_passage_in_another_language(kind):
    german = (
        (
            "Reisehandbuch > Anträge > Verspätete Anträge",
            "Das Amt für Reisen und Ausgaben (ARA) prüft den Antrag. " * 4,
        ),
        (
            "Reisehandbuch > Anträge > Einreichen der Belege",
            "1. Drucken.\n2. Prüfen.\nDas Amt für Reisen prüft alles. " * 3,
        ),
        (
            "Reisehandbuch > Anträge > Kontakt zur Stelle",
            "Schreiben Sie an reisen@example.org, dann prüft sie das Amt. " * 3,
        ),
    )
    for language in ("de", ""):  # "" as for text that was never looked at: it is guessed
        assert not [d.text for d in drafts(kind, *german, language=language) if d.text.startswith(TEMPLATES)]


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


def test_questions_in_a_row_have_each_their_own_answer():
    text = f"How do I pay?\nWho pays for it?\n{BODY}\n3. ¿Quién paga el hotel?\n{BODY}\n返金はどうしますか？\n{BODY}"
    assert [draft.text for draft in drafts("faq", ("", text))] == [
        "Who pays for it?", "¿Quién paga el hotel?", "返金はどうしますか？",
    ]  # fmt: skip


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


@pytest.mark.parametrize(
    ("language", "text", "question"),
    [
        ("de", "Eine Dienstreise ist eine Reise, die im Auftrag der Stelle gemacht wird.", "Was ist Dienstreise?"),
        (
            "fr",
            "Une Note de frais est une demande de remboursement signée par le chef.",
            "Qu'est-ce que Note de frais ?",
        ),
        ("es", "Los Viáticos son sumas que se pagan por cada día de un viaje.", "¿Qué son Viáticos?"),
        ("nl", "Een Dienstreis is een reis die in opdracht wordt gemaakt door iemand.", None),
    ],
)
def test_a_definition_is_asked_in_its_own_language(language, text, question):
    found = drafts("definition", ("", text), language=language)
    assert [(d.text, d.language) for d in found] == ([(question, language)] if question else [])


def test_a_heading_path_is_asked_with_the_heading_above():
    assert drafts("path", ("Guide > Travel claims > Late arrivals", BODY)) == [
        Draft("Travel claims late arrivals", ("p1",), "path", "Late arrivals")
    ]
    assert drafts("path", ("Guide > Travel claims > PTO rules", BODY))[0].text == "Travel claims PTO rules"


@pytest.mark.parametrize(
    "title",
    [
        "Late arrivals",
        "Guide > Overview",
        "Guide > Why late?",
        "Claims > Claims that are late",
        "Notes > Late arrivals",
    ],
)
def test_a_path_that_adds_nothing_is_no_query(title):
    assert drafts("path", (title, BODY)) == []


def test_a_document_title_is_answered_by_its_opening_passage():
    found = drafts(
        "title", ("Travel handbook > Claims", BODY), ("Travel handbook > Trains", BODY), ("Handbook_2", BODY)
    )
    assert found == [Draft("Travel handbook", ("p1",), "title", "Travel handbook")]


def test_a_title_that_very_many_passages_without_a_document_share_opens_none():
    many = [Passage(f"p{i}", BODY, "General questions about claims") for i in range(13)]
    assert list(generator("title").generate(many)) == []
    assert len(list(generator("title").generate(many[:12]))) == 1


DEFINES = "Ask the Human Resources Office (HRO) first; it answers questions within a week or two, by mail."


def test_an_acronym_is_asked_where_it_is_explained_and_swapped_where_one_form_stands_alone():
    found = drafts(
        "acronym",
        ("Guide > Where to ask", DEFINES),
        ("Guide > Late claims", "The human resources office decides. Ask the Human Resources Office."),
        ("Guide > Asking HRO twice", "It decides again."),
        ("Guide > Both", "The Human Resources Office, or HRO, is closed on Mondays."),
    )
    assert found == [
        Draft("What does HRO stand for?", ("p1",), "acronym", language="en"),
        Draft("HRO Late claims", ("p2",), "acronym", "Late claims"),
        Draft("Asking Human Resources Office twice", ("p3",), "acronym", "Asking HRO twice"),
    ]


def test_the_reverse_order_short_form_first_is_an_explanation_too():
    found = drafts("acronym", ("", "The HRO (Human Resources Office) answers. " + BODY))
    assert [draft.text for draft in found] == ["What does HRO stand for?"]


def test_brackets_that_explain_nothing_make_no_acronym():
    assert drafts("acronym", ("", "We met the Travel Office (see below) in Berlin (BER is its airport).")) == []


def test_an_acronym_that_is_named_in_passing_or_everywhere_is_not_swapped():
    passing = ("Guide > Late claims", "The human resources office decides on them.")
    assert [d.text for d in drafts("acronym", ("Guide > Where to ask", DEFINES), passing)] == [
        "What does HRO stand for?"
    ]
    everywhere = [("", f"HRO and HRO number {i}") for i in range(12)]
    assert drafts("acronym", ("Guide > Where to ask", DEFINES), *everywhere) == []


def test_marks_of_markdown_are_no_part_of_a_query_and_the_cut_is_what_stands_in_the_text():
    text = f"**Who pays** for the [train ticket](a.md) \\(2nd class\\)?\n{BODY}"
    assert drafts("faq", ("", text)) == [
        Draft(
            "Who pays for the train ticket (2nd class)?",
            ("p1",),
            "faq",
            "Who pays** for the [train ticket](a.md) \\(2nd class\\)?",
        )
    ]
    assert drafts("heading", ("Guide > `ls` and _its_ options", BODY))[0].text == "ls and its options"


def test_the_sentence_that_says_most_of_the_rest_is_cropped():
    rest = f"Receipts are kept for a year. {BODY} They, for a hotel, name the guest and the nights, and for a train the class."
    sentence = "Hotel receipts name the guest and all nights."
    assert drafts("sentence", ("", f"{rest} {sentence}"), ("", BODY)) == [
        Draft(sentence, ("p1",), "sentence", sentence)
    ]


@pytest.mark.parametrize("start", ["This hotel receipt names", "However hotel receipts name", "It names receipts for"])
def test_a_sentence_that_points_back_is_not_cropped(start):
    rest = f"{BODY.replace('.', ',')} receipts for a hotel name the guest and all nights of it and every hotel is named"
    assert drafts("sentence", ("", f"{rest} {rest}. {start} every guest and all nights.")) == []


def test_a_passage_too_short_to_lose_a_sentence_keeps_it():
    assert (
        drafts("sentence", ("", "Hotel receipts name every guest. Receipts name the hotel, the guest and the nights."))
        == []
    )


TABLE = "| Country | Daily rate | Hotel limit |\n|---|---|---|\n| France | 40 | 120 |\n| Spain | 35 | 110 |"


@pytest.mark.parametrize(
    ("heading", "text", "kind", "question"),
    [
        ("Booking a hotel", "1. Open it.\n2. Book a room.", "steps", "How do I book a hotel?"),
        ("Filing your claim", "1. Open it.\n2. File it.", "steps", "How do I file your claim?"),
        (
            "Submitting to the office",
            "First submit it, then wait for what they say.",
            "text",
            "How do I submit to the office?",
        ),
        ("Submit receipts", BODY, "text", "How do I submit receipts?"),
        ("How to book a room", "1. Open it.\n2. Book it.", "steps", "How do I book a room?"),
        ("Late claims", "1. Open it.\n2. Book it.", "steps", "What are the steps for late claims?"),
        (
            "Travel Policy",
            "You must ask first. You may not book it yourself.",
            "rule",
            "What are the rules on Travel Policy?",
        ),
        (
            "Lost receipts",
            "Call us at 555-123-4567 or write to lost@example.org.",
            "contact",
            "Who do I contact about lost receipts?",
        ),
        ("Per diem rates", TABLE, "table", "What are the daily rate and hotel limit for per diem rates?"),
        ("The config file", "```\na = 1\n```\nThat is all of it.", "code", "How do I use the config file?"),
        ("Meeting rooms", "People meet in rooms of the office, which are large and quiet.", "text", None),
        ("Travel policy", "It was written by the office a long time ago.", "text", None),
    ],
)
def test_a_passage_is_asked_for_what_it_is(heading, text, kind, question):
    assert passage_type(text) == kind
    found = drafts("template", (f"Guide > {heading}", text))
    assert found == ([Draft(question, ("p1",), "template", heading, language="en")] if question else [])


def test_the_phrase_that_sets_a_passage_apart():
    text = f"The hotel booking opens in May. {BODY} Each hotel booking needs a form, and a hotel booking ends in June."
    other = f"The train ticket is sent by mail. {BODY} Each train ticket has a number, and every train ticket ends."
    assert [draft.text for draft in drafts("key-phrase", ("", text), ("", other))] == [
        "What should I know about hotel booking?",
        "What should I know about train ticket?",
    ]
    assert drafts("key-phrase", ("", BODY), ("", "hotel booking hotel booking")) == []


def test_a_key_phrase_of_another_language_stands_alone():
    text = "Die Reisekosten Abrechnung wird geprüft. Das Amt zahlt dann sofort alles aus. Jede Reisekosten Abrechnung zählt."
    other = "Ein Hotel nennt den Gast und alle Tage, die er dort war."
    assert [draft.text for draft in drafts("key-phrase", ("", f"{text} {other}"), language="de")] == [
        "reisekosten abrechnung"
    ]


def test_the_drafts_come_in_the_order_of_the_kinds_that_were_asked_for():
    text = ("Guide > Paying for a hotel", f"How do I pay?\n{BODY}")
    for kinds in (["heading"], ["faq", "heading"], ["heading", "faq"]):
        assert [draft.kind for draft in generate_drafts(passages(text), kinds)] == kinds
