"""Questions by what a passage is: steps are asked how, a rule whether it is allowed, an address whom to ask, a table for its columns.

English passages only: a template in another language than the passage would teach the wrong thing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from shoptalk.queries.generators import Draft
from shoptalk.queries.generators.heading import same_heading, says_something
from shoptalk.queries.generators.markup import in_a_sentence, without_markup
from shoptalk.queries.language import is_english
from shoptalk.records import Passage
from shoptalk.retrieval.bm25 import words

PassageType = Literal["steps", "table", "contact", "rule", "code", "text"]

_STEP = re.compile(r"^\s*(?:\d{1,2}[.)]|Step \d+)\s+\S", re.MULTILINE)
_ROW = re.compile(r"^\s*\|.+\|\s*$", re.MULTILINE)
_DIVIDER = re.compile(r"^\s*\|?[\s:|\-]+\|?\s*$")
_CONTACT = re.compile(r"[\w.+\-]+@[\w\-]+\.\w+|(?:\+\d{1,3}[\s.\-])?\(?\d{3}\)?[\s.\-]\d{3,4}[\s.\-]?\d{3,4}\b")
_ASKS_FOR_CONTACT = re.compile(r"\b(?:contact|call|e-?mail|phone|reach|write to)\b", re.IGNORECASE)
_RULE = re.compile(
    r"\b(?:must(?: not)?|shall(?: not)?|may not|(?:is|are) (?:not )?(?:required|permitted|allowed|prohibited|eligible|entitled))\b",
    re.IGNORECASE,
)
_CODE = re.compile(r"^(?:```|    \S|\t\S|\$ )", re.MULTILINE)
_A_CLAUSE = re.compile(r"(?:if|when|what|why|where|who|which|how(?! to))\b", re.IGNORECASE)
_LONGEST_TABLE_QUESTION = 3


def generate(passages: Sequence[Passage]) -> Iterator[Draft]:
    """One question a section, about its heading, in the form that the type of its passages suggests."""
    seen: Counter[str] = Counter(word for passage in passages for word in words(passage.text))
    for heading, below in same_heading(passages):
        subject = without_markup(heading).strip(" .:")
        named = says_something(heading) and re.search(r"[A-Za-z]{3}", subject) and not _A_CLAUSE.match(subject)
        if named and is_english(below[0]):
            text = _question(passage_type(below[0].text), subject, below[0], seen)
            if text:
                yield Draft(text, tuple(p.passage_id for p in below), "template", heading, language="en")


def passage_type(text: str) -> PassageType:
    """What a passage mostly is, by its form; "text" when nothing stands out."""
    if len(_ROW.findall(text)) >= 3:
        return "table"
    if len(_STEP.findall(text)) >= 2:
        return "steps"
    n_words = len(text.split())
    if _CONTACT.search(text) and _ASKS_FOR_CONTACT.search(text) and n_words < 120:
        return "contact"
    if len(_RULE.findall(text)) * 40 >= n_words:
        return "rule"
    return "code" if len(_CODE.findall(text)) >= 2 else "text"


def _question(kind: PassageType, subject: str, passage: Passage, seen: Mapping[str, int]) -> str:
    first, _, rest = subject.partition(" ")
    task = _verb(first, rest, seen)
    about = in_a_sentence(subject)
    doing = f"{task} {rest}".strip() if task and rest else ""
    if doing and kind in ("steps", "code", "text", "rule"):
        return f"How do I {doing}?"
    if first.casefold() == "how" and rest.casefold().startswith("to "):
        return f"How do I {rest[3:]}?"
    if kind == "table":
        columns = _columns(passage.text)
        return f"What are the {columns} for {about}?" if columns else ""
    return {
        "steps": f"What are the steps for {about}?",
        "contact": f"Who do I contact about {about}?",
        "rule": f"What are the rules on {about}?",
        "code": f"How do I use {about}?" if " " in about else "",
        "text": "",
    }[kind]


def _verb(word: str, rest: str, seen: Mapping[str, int]) -> str:
    """The verb of a heading that begins with one: "Booking a" as book, "Filing your" as file, "Submit" as submit; "" for no verb.

    Many of these words are nouns as well ("Meeting rooms", "Travel policy"): they count as verbs before an article and the like.
    Of the spellings that -ing allows, the one that the corpus uses most.
    """
    plain = word.casefold()
    if plain in _IMPERATIVES or not rest or rest.split()[0].casefold() not in _AFTER_A_VERB:
        return plain if plain in _IMPERATIVES else ""
    stem = plain.removesuffix("ing")
    if stem == plain:
        return plain if plain in _ALSO_NOUNS else ""
    if len(stem) < 3:
        return ""
    spellings = [stem, stem + "e", *([stem[:-1]] if stem[-1] == stem[-2] else [])]
    known = _IMPERATIVES | _ALSO_NOUNS
    best = max(spellings, key=lambda spelling: (spelling in known, seen.get(spelling, 0)))
    return best if best in known or seen.get(best, 0) else ""


_IMPERATIVES = frozenset(
    """
    add apply approve ask avoid become buy cancel choose configure connect convert create declare delete deploy determine disable
    edit enable enrol enroll enter find get install join make manage obtain pay prepare prevent register remove rename renew
    replace reset restart restore run select send set start stop submit undo verify withdraw write
    """.split()
)
_ALSO_NOUNS = frozenset(
    """
    access book build change check claim close complete contact copy debug download export file fill format import log move open
    order print process read record report request reserve return review save schedule search sign switch test transfer travel
    turn update upgrade upload use view
    """.split()
)
_AFTER_A_VERB = frozenset(
    "a an the your my our their its for to on in out up with from into as by all any each or and".split()
)


def _columns(text: str) -> str:
    """The headings of a table's columns after the first, as "rate and limit"; "" for none or many."""
    rows = [row.group().strip().strip("|") for row in _ROW.finditer(text) if not _DIVIDER.match(row.group())]
    cells = [cell.strip(" *_").casefold() for cell in rows[0].split("|")][1:] if rows else []
    if not 1 <= len(cells) <= _LONGEST_TABLE_QUESTION or not all(
        re.fullmatch(r"[a-z][a-z \-]{2,24}", cell) for cell in cells
    ):
        return ""
    return " and ".join([", ".join(cells[:-1]), cells[-1]] if len(cells) > 1 else cells)
