"""Finding a team's own words: acronyms with what they stand for, terms of art, and what is no term."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from shoptalk.models.finding import find_model
from shoptalk.records import Passage
from shoptalk.settings import BUILTIN_MODEL
from shoptalk.vocabulary import Background, Term, definitions, find_terms, is_acronym
from shoptalk.vocabulary.acronyms import expansions, match, singular
from shoptalk.vocabulary.background import function_words
from shoptalk.vocabulary.words import grams, read_text

PLACES = "harbour garden station market bridge tower valley forest island castle".split()
FILLER = "The people of the {place} said that it was good and went there again with their friends before the evening."

ENDS = (
    "came late", "was seen by all", "is new", "helps us", "has no name yet", "costs money", "stood there", "will do", "and more",
    "or so",
)  # fmt: skip


@pytest.fixture(scope="session")
def background() -> Background:
    found = Background.of(find_model(BUILTIN_MODEL).path / "tokenizer.json")
    assert found is not None
    return found


def corpus(*texts: str, title: str = "") -> list[Passage]:
    """A document for each text, and ten of everyday language beside them."""
    every = [*texts, *(FILLER.format(place=place) for place in PLACES)]
    return [Passage(f"p{i}", text, title, f"d{i}.md") for i, text in enumerate(every)]


def names(terms: list[Term]) -> list[str]:
    return [term.text for term in terms]


# Acronyms


@pytest.mark.parametrize(
    "word", ["VA", "LLM", "LLMs", "HbA1c", "PhD", "18F", "COVID-19", "R&D", "ÄRZTE", "IaaS", "GPU's"]
)
def test_looks_like_an_acronym(word: str) -> None:
    assert is_acronym(word)


@pytest.mark.parametrize("word", ["A", "Slack", "JavaScript", "1990s", "2nd", "word", "GENERALISATION", "-", "", "As"])
def test_looks_like_no_acronym(word: str) -> None:
    assert not is_acronym(word)


@pytest.mark.parametrize(
    ("text", "short", "long"),
    [
        ("the Department of Veterans Affairs (VA) pays", "VA", "Veterans Affairs"),
        ("under the Freedom of Information Act (FOIA).", "FOIA", "Freedom of Information Act"),
        ("A TTS is not GSA's Technology Transformation Services (TTS)", "TTS", "Technology Transformation Services"),
        ("the human phenotype ontology (HPO)", "HPO", "human phenotype ontology"),
        ("HPO (Human Phenotype Ontology) lists", "HPO", "Human Phenotype Ontology"),
        ("Das Amt für Reisen und Ausgaben (ARA) prüft", "ARA", "Amt für Reisen und Ausgaben"),
        ("nonsteroidal anti-inflammatory drugs (NSAIDs)", "NSAID", "nonsteroidal anti-inflammatory drugs"),
        ("an intravenous (IV) line", "IV", "intravenous"),
        ("Организация Объединённых Наций (ООН) решила", "ООН", "Организация Объединённых Наций"),
    ],
)
def test_definitions_of_both_orders(text: str, short: str, long: str) -> None:
    assert list(definitions(text)) == [(short, long)]


@pytest.mark.parametrize(
    "text",
    [
        "send the form (if any) today",
        "see the table (Table 3)",
        "it was closed (in 2019)",
        "a list of names (USA)",
        "use the hook (useState) here",
        "the VA (VA) pays",
        "()",
        "(" * 3_000,
    ],
)
def test_brackets_that_define_nothing(text: str) -> None:
    assert list(definitions(text)) == []


def test_several_meanings_of_one_acronym_are_counted_most_first() -> None:
    texts = ["the Statement of Work (SOW)"] * 5 + ["the scope of work (SOW)"] * 2 + ["a statement of works (SOW)"]
    assert list(expansions(texts)["SOW"].items()) == [("Statement of Work", 6), ("scope of work", 2)]


def test_the_end_of_a_long_form_is_that_long_form() -> None:
    texts = ["Technology Transformation Services (TTS)", "TTS (Technology Transformation Services)"] * 2
    assert expansions(texts) == {"TTS": {"Technology Transformation Services": 4}}


def test_schwartz_and_hearst_match_letters_inside_words() -> None:
    assert match("HTTP", "the hypertext transfer protocol") == "hypertext transfer protocol"
    assert match("XYZ", "nothing of that kind") == ""


def test_plurals_of_acronyms_are_the_acronym() -> None:
    assert [singular(word) for word in ("LLMs", "LLM's", "VA", "class", "AS")] == ["LLM", "LLM", "VA", "class", "AS"]


# Words


def test_code_addresses_and_templates_are_no_words() -> None:
    text = (
        "Ask the helpdesk. See https://example.org/helpdesk/page and /etc/helpdesk/rc.conf or mail@helpdesk.org.\n"
        "```\nhelpdesk = helpdesk + 1\n```\nconst helpdesk = {a: helpdesk}; return helpdesk;\n"
        "[the page](helpdesk.md) `\\helpdesk` <b>bold</b>"
    )
    read = read_text([Passage("p", text)])
    counts = dict(zip(read.names, read.counts.tolist(), strict=True))
    assert counts["helpdesk"] == 1
    assert {"https", "rc", "const", "md", "b"}.isdisjoint(counts)


def test_a_line_that_stands_everywhere_counts_once() -> None:
    read = read_text(
        [Passage(f"p{i}", f"Skip to the main navigation.\nText number {i} here.", source=f"{i}") for i in range(9)]
    )
    assert dict(zip(read.names, read.counts.tolist(), strict=True))["navigation"] == 1


def test_grams_are_counted_as_a_plain_loop_would() -> None:
    rng = np.random.default_rng(3)
    texts = [" ".join(rng.choice(list("abcde"), 40)) + ". " + " ".join(rng.choice(list("abcde"), 9)) for _ in range(6)]
    read = read_text([Passage(f"p{i}", text) for i, text in enumerate(texts)])
    found = grams(read, 3, 2)
    wanted: dict[tuple[str, ...], list[int]] = {}
    for number, text in enumerate(texts):
        for sentence in text.split(". "):
            words = sentence.split()
            for start in range(len(words) - 2):
                wanted.setdefault(tuple(words[start : start + 3]), []).append(number)
    wanted = {gram: places for gram, places in wanted.items() if len(places) > 1}
    got = {
        tuple(read.names[w] for w in read.ids[at : at + 3]): (int(n), int(d))
        for at, n, d in zip(found[2].starts, found[2].count, found[2].documents, strict=True)
    }
    assert got == {gram: (len(places), len(set(places))) for gram, places in wanted.items()}
    for gram in range(len(found[2].count)):
        assert len(found[2].positions(gram)) == found[2].count[gram]
        assert (found[2].at[found[2].positions(gram)] == gram).all()


# Background


def test_everyday_words_are_more_frequent_than_rare_ones(background: Background) -> None:
    shares = background.log_share(["the", "house", "supervisor", "handover", "craniosynostosis"])
    assert list(shares) == sorted(shares, reverse=True)
    assert len(set(shares.tolist())) == 5


def test_general_words_are_words(background: Background) -> None:
    words = background.words(500)
    assert len(words) == 500
    assert all(word.isalpha() and len(word) > 2 for word in words)
    assert "people" in words


@pytest.mark.parametrize("name", ["bert", "xlm_roberta", "modernbert", "gemma3"])
def test_every_kind_of_tokenizer_gives_a_background(tmp_path: Path, name: str) -> None:
    from tiny_models import build_tiny

    found = Background.of(build_tiny(name, tmp_path / name) / "tokenizer.json")
    assert found is not None
    known, unknown = found.log_share(["hotel", "qxqxqxq"])
    assert known > unknown
    assert "hotel" in found.words(10_000)


def test_a_model_without_tokenizer_json_has_no_background(tmp_path: Path) -> None:
    assert Background.of(tmp_path / "tokenizer.json") is None


def test_function_words_are_those_of_the_languages_of_the_text() -> None:
    german = "der die das und ist nicht mit auf für ein eine zu den von".split()
    found = function_words({**dict.fromkeys(german, 30), "antrag": 40, "reise": 30})
    assert {"und", "nicht"} <= found
    assert not {"antrag", "reise"} & found


# Terms


def test_acronyms_come_with_what_the_text_says_they_stand_for(background: Background) -> None:
    texts = [
        "Ask for an Authorization to Operate (ATO).",
        "The ATO is late.",
        "No ATO, no launch.",
        "An ATO lasts a year.",
    ]
    (term,) = [term for term in find_terms(corpus(*texts), background) if term.text == "ATO"]
    assert (term.kind, term.count, term.documents) == ("acronym", 4, 4)
    assert [(one.text, one.defined) for one in term.expansions] == [("Authorization to Operate", 1)]
    assert set(term.passages) == {"p0", "p1", "p2", "p3"}


def test_an_acronym_that_only_people_write_gets_its_meaning_by_initials(background: Background) -> None:
    texts = [f"A lessons learned meeting {end}." for end in ENDS[:5]]
    questions = ["Who leads the LLM?", "When is an LLM?", "What are LLMs for?"]
    found = {term.text: term for term in find_terms(corpus(*texts), background, questions)}
    assert "lessons learned meeting" in found
    assert [(one.text, one.defined, one.uses) for one in found["LLM"].expansions] == [("lessons learned meeting", 0, 5)]
    assert "LLM" not in names(find_terms(corpus(*texts), background))


def test_words_in_capitals_for_loudness_are_no_acronyms(background: Background) -> None:
    texts = [f"Do NOT ask. You do not pay in the {place}. It is IMPORTANT; an important thing." for place in PLACES]
    assert not {"NOT", "IMPORTANT"} & set(names(find_terms(corpus(*texts), background)))


def test_phrases_words_and_no_everyday_language(background: Background) -> None:
    texts = [
        f"The disability compensation of a servicemember {end}. But the disability compensation {end}. "
        f"Every servicemember {end}. A timesheet {end}."
        for end in ENDS
    ]
    found = find_terms(corpus(*texts), background)
    kinds = {term.text: term.kind for term in found}
    assert kinds["disability compensation"] == "phrase"
    assert kinds["servicemember"] == kinds["timesheet"] == "word"
    assert not {"people", "friends", "evening", "the", "compensation", "disability"} & kinds.keys()
    assert [term.score for term in found] == sorted((term.score for term in found), reverse=True)


def test_a_part_of_a_longer_term_is_not_listed_again(background: Background) -> None:
    texts = [f"{mark} congenital phenotype ontology {end}." for mark in ("The", "Our") for end in ENDS]
    found = names(find_terms(corpus(*texts), background))
    assert "congenital phenotype ontology" in found
    assert not {"phenotype ontology", "congenital phenotype", "ontology", "phenotype"} & set(found)


def test_terms_in_german_without_a_german_model(background: Background) -> None:
    ends = ("kam spät", "ist neu", "hilft uns", "hat Zeit", "war gut", "will das so", "und mehr", "oder nicht")
    texts = [
        f"Der Reisekostenantrag {end}. Das Landesamt für Besoldung {end}. Wer fragt, was ein Reisekostenantrag ist, der {end}. "
        f"Und das Landesamt für Besoldung {end}, aber es ist nicht die Kasse."
        for end in ends
    ]
    found = names(find_terms([Passage(f"p{i}", text, source=f"{i}") for i, text in enumerate(texts)], background))
    assert "Reisekostenantrag" in found
    assert "Landesamt für Besoldung" in found
    assert not {"und", "nicht", "wird", "das"} & set(found)


def test_terms_are_found_without_a_background() -> None:
    texts = [f"The timesheet is in Tock near the {place}. Tock keeps every timesheet." for place in PLACES]
    assert {"timesheet", "Tock"} <= set(names(find_terms(corpus(*texts), None)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n ",
        "?" * 5_000,
        "A " * 3_000,
        "AB " * 3_000,
        "(" * 3_000,
        "返金には領収書が必要です。" * 50,
        "_" * 99,
        "１２３",
    ],
)
def test_strange_texts_are_no_error(background: Background, text: str) -> None:
    for term in find_terms([Passage("p", text, text[:50])], background):
        assert term.text.strip()


def test_the_same_corpus_gives_the_same_terms_and_time_grows_with_it_alone(background: Background) -> None:
    texts = [f"The ATO {i} of TTS is kept in Tock by the contracting officer of region {i % 7}." for i in range(3_000)]
    started = time.monotonic()
    once = find_terms(corpus(*texts), background)
    assert time.monotonic() - started < 60
    assert once == find_terms(corpus(*texts), background)
    assert find_terms([], background) == []
