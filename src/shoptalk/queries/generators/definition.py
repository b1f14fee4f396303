"""What a text defines: "X is a ..." becomes "What is X?", in the languages whose way of defining is known here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shoptalk.queries.generators import Draft
from shoptalk.queries.language import language_of
from shoptalk.records import Passage

_START = r"(?:^|(?<=[.!?]\s)|(?<=\n))(?:\*\*|__)?"
_TERM = r"(?P<term>[^\W\d_a-zß-ÿ][\w’'\-/]*(?:\s[\w’'\-/()]+){0,4}?)(?:\*\*|__)?\s"
_IN_BRACKETS = re.compile(r"\s*\([^()]*\)")
_REST = r"\s(?P<rest>[^.!?\n]{25,})"


@dataclass(frozen=True)
class _Way:
    """How a language defines something, how it asks for it, and what looks like a term but is none."""

    defining: re.Pattern[str]
    question: str
    plural: str
    articles: frozenset[str]
    no_term: frozenset[str]


def _way(article: str, verbs: str, question: str, plural: str, no_term: str) -> _Way:
    articles = frozenset(article.lower().split("|"))
    before = "|".join(sorted((word.capitalize() for word in articles), key=len, reverse=True))
    pattern = re.compile(rf"{_START}(?:(?:{before})\s)?{_TERM}(?P<verb>{verbs}){_REST}")
    return _Way(pattern, question, plural, articles, frozenset(no_term.split()))


_WAYS = {
    "en": _way(
        "a|an|the", r"is an?|are|is the|refers to|means|stands for", "What is {}?", "What are {}?",
        "it this that these those there they we you he she here what which who if when while as our your their its his her one "
        "most many some all each any both however also please note and but or a an the once first second next last other another "
        "such only before after during for with in on at by to from interested eligible",
    ),
    "de": _way(
        "ein|eine|der|die|das", r"ist eine?|sind|bezeichnet|bedeutet", "Was ist {}?", "Was sind {}?",
        "es das dies dieser diese dieses er sie wir ihr hier da was wer wenn als ob man einer eines jede jeder jedes alle viele "
        "und aber oder auch bitte hinweis ziel grund",
    ),
    "fr": _way(
        "un|une|le|la|les", r"est une?|sont|désigne|signifie", "Qu'est-ce que {} ?", "Que sont {} ?",
        "il elle ce ceci cela ils elles nous vous on qui que si quand où tout tous chaque et mais ou ici notre votre leur",
    ),
    "es": _way(
        "un|una|el|la|los|las", r"es una?|son|significa", "¿Qué es {}?", "¿Qué son {}?",
        "esto eso este esta ese esa ellos ellas él ella nosotros usted ustedes que quien si cuando donde todo todos cada y pero o "
        "aquí su nuestro",
    ),
}  # fmt: skip


def generate(passages: Sequence[Passage]) -> Iterator[Draft]:
    """One definition a passage, at most."""
    for passage in passages:
        language = language_of(passage)
        way = _WAYS.get(language)
        for found in way.defining.finditer(passage.text) if way else ():
            assert way is not None
            term = " ".join(_IN_BRACKETS.sub("", found.group("term")).split())
            words = {word.casefold() for word in term.split()}
            if not way.no_term & words and not way.articles & words:
                many = found.group("verb") in ("are", "sind", "sont", "son")
                if many and language == "en" and not term.endswith("s"):
                    continue  # "Claims for a journey are", "Submit what you are": no term in the plural
                text = (way.plural if many else way.question).format(term)
                yield Draft(text, (passage.passage_id,), "definition", language=language)
                break
