from __future__ import annotations

import pytest

from shoptalk.labelled import Label
from shoptalk.queries.mapping import PassageFinder
from shoptalk.records import Passage

ONE = "The manager approves every travel request within five days of its arrival at the office."
TWO = "Tickets can be returned within thirty days after the day of purchase if they were not used."
PASSAGES = [
    Passage("a#1", ONE, "Guide > Travel", "docs/a.md", 10),
    Passage("a#2", TWO, "Guide > Tickets", "docs/a.md", 200),
    Passage("b#1", "申请退款需要提供购买发票和护照复印件，并在三十天之内提交。", "", "docs/b.md", 0),
    Passage("x#1", "Other one.", "", "x/faq.md", 0),
    Passage("y#1", "Other two.", "", "y/faq.md", 0),
]


@pytest.fixture(scope="module")
def finder() -> PassageFinder:
    return PassageFinder(PASSAGES)


def label(**fields) -> Label:
    return Label("labels.csv:2", "a query", **fields)


def test_by_passage_id(finder):
    assert finder.find(label(passage_id="a#2")) == (["a#2"], "")
    assert finder.find(label(passage_id="a#9")) == ([], "no passage has the id 'a#9'")


def test_an_id_that_is_unknown_here_leaves_the_quote_to_say(finder):
    assert finder.find(label(passage_id="theirs-17", positive=ONE))[0] == ["a#1"]


@pytest.mark.parametrize(("offset", "expected"), [(0, "a#1"), (10, "a#1"), (199, "a#1"), (200, "a#2"), (99_999, "a#2")])
def test_by_document_and_offset(finder, offset, expected):
    assert finder.find(label(document="docs/a.md", offset=offset)) == ([expected], "")


def test_passages_given_out_of_order_are_found_by_offset():
    finder = PassageFinder(PASSAGES[1::-1])
    assert finder.find(label(document="docs/a.md", offset=20))[0] == ["a#1"]


def test_a_document_is_found_by_the_end_of_its_path(finder):
    for name in ("docs/a.md", "./docs/a.md", "a.md", " a.md "):
        assert finder.find(label(document=name, offset=250))[0] == ["a#2"]


def test_the_end_of_a_path_that_several_documents_have_is_ambiguous(finder):
    found, reason = finder.find(label(document="faq.md", offset=0))
    assert found == []
    assert reason == "2 documents are called 'faq.md'; say which by more of its path"
    assert finder.find(label(document="x/faq.md", offset=0))[0] == ["x#1"]


def test_an_unknown_document_is_named(finder):
    assert finder.find(label(document="z.md", offset=0)) == ([], "no document 'z.md' among the passages")
    assert finder.find(label(document="d.md", offset=0))[0] == []  # "d.md" ends nothing after a slash


def test_a_document_of_one_passage_needs_no_more(finder):
    assert finder.find(label(document="b.md")) == (["b#1"], "")
    found, reason = finder.find(label(document="a.md"))
    assert (found, reason) == ([], "document 'a.md' has 2 passages; say which by offset or by a quote")


def test_a_quote_is_found_whatever_its_case_space_and_punctuation(finder):
    quote = "the MANAGER approves;\n  every travel request – within five days"
    assert finder.find(label(positive=quote)) == (["a#1"], "")


def test_a_quote_of_few_words_must_be_there_word_by_word(finder):
    assert finder.find(label(positive="thirty days after"))[0] == ["a#2"]
    assert finder.find(label(positive="hirty days after"))[0] == []


def test_a_quote_in_a_script_without_spaces(finder):
    assert finder.find(label(positive="购买发票和护照复印件"))[0] == ["b#1"]
    assert finder.find(label(positive="护照"))[0] == ["b#1"]


def test_a_quote_of_title_and_text_as_beir_writes_it(finder):
    assert finder.find(label(positive=PASSAGES[1].content))[0] == ["a#2"]


def test_a_quote_that_crosses_a_border_maps_to_the_passage_with_most_of_it():
    words = [f"word{i}" for i in range(60)]
    finder = PassageFinder([Passage("p1", " ".join(words[:30])), Passage("p2", " ".join(words[30:]))])
    assert finder.find(label(positive=" ".join(words[5:40])))[0] == ["p1"]
    assert finder.find(label(positive=" ".join(words[20:55])))[0] == ["p2"]


def test_a_quote_of_which_less_than_half_is_there_maps_to_nothing(finder):
    quote = (
        "Tickets can be returned within thirty days "
        + "but only by the member who bought them at the counter in person"
    )
    found, reason = finder.find(label(positive=quote))
    assert found == []
    assert reason.startswith("no passage holds the text 'Tickets can be returned")
    assert reason.endswith("...'")


def test_a_quote_within_a_named_document_is_looked_for_there_only():
    finder = PassageFinder([Passage("a", ONE, source="a.md"), Passage("b", ONE, source="b.md")])
    assert finder.find(label(positive=ONE, document="b.md"))[0] == ["b"]
    assert finder.find(label(positive=ONE))[0] == ["a", "b"]
    assert finder.find(label(positive=TWO, document="b.md"))[0] == []


def test_a_quote_with_an_unknown_document_is_still_found(finder):
    assert finder.find(label(positive=TWO, document="renamed.md"))[0] == ["a#2"]


def test_a_short_quote_that_very_many_passages_hold_is_ambiguous():
    finder = PassageFinder([Passage(f"p{i}", f"call the office {i}") for i in range(9)])
    assert finder.find(label(positive="the office")) == ([], "9 passages hold the text 'the office'; quote more of it")
    assert PassageFinder(PASSAGES).find(label(positive="days"))[0] == ["a#1", "a#2"]


def test_a_long_quote_that_many_copies_hold_maps_to_the_first_of_them():
    finder = PassageFinder([Passage(f"p{i}", ONE) for i in range(9)])
    assert finder.find(label(positive=ONE))[0] == ["p0", "p1", "p2", "p3", "p4"]


def test_a_quote_without_words_maps_to_nothing(finder):
    assert finder.find(label(positive="?!"))[0] == []
