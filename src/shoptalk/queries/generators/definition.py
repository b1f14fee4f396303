"""What a text defines: "X is a ..." becomes "What is X?", "Full Name (FN)" becomes "What does FN stand for?"."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from shoptalk.queries.generators import Draft
from shoptalk.records import Passage

_DEFINITION = re.compile(
    r"(?:^|(?<=[.!?]\s)|(?<=\n))(?:\*\*|__)?(?:An?|The)?\s?(?P<term>[A-Z][\w’'\-/]*(?:\s[\w’'\-/()]+){0,4}?)(?:\*\*|__)?"
    r"\s(?:is an?|are|is the|refers to|means|stands for)\s(?P<rest>[^.!?\n]{25,})"
)
_ACRONYM = re.compile(
    r"\b(?P<name>(?:[A-Z][\w&’'\-]+\s(?:(?:of|and|for|the|on|in|to)\s){0,2}){1,6}[A-Z][\w&’'\-]+)\s\((?P<short>[A-Z][A-Za-z&]{1,7})s?\)"
)
_NOT_A_TERM = frozenset(
    [
        "it",
        "this",
        "that",
        "these",
        "those",
        "there",
        "they",
        "we",
        "you",
        "he",
        "she",
        "here",
        "what",
        "which",
        "who",
        "if",
        "when",
        "while",
        "as",
        "our",
        "your",
        "their",
        "its",
        "his",
        "her",
        "one",
        "most",
        "many",
        "some",
        "all",
        "each",
        "any",
        "both",
        "however",
        "also",
        "please",
        "note",
        "if",
        "and",
        "but",
        "or",
    ]
)


def generate(passages: Sequence[Passage]) -> Iterator[Draft]:
    """One definition and one acronym a passage, at most."""
    for passage in passages:
        for found in _DEFINITION.finditer(passage.text):
            term = found.group("term").strip().removeprefix("The ").removeprefix("An ").removeprefix("A ")
            if term[:1].isupper() and not _NOT_A_TERM & {word.casefold() for word in term.split()}:
                verb = "are" if re.search(r"\sare\s", found.group(0)) and term.endswith("s") else "is"
                yield Draft(f"What {verb} {term}?", (passage.passage_id,), "definition")
                break
        for found in _ACRONYM.finditer(passage.text):
            initials = "".join(word[0] for word in found.group("name").split() if word[0].isupper())
            short = found.group("short").upper()
            # The name may begin after a capital that is not its own: "The ...", "Ask the ...".
            if any(short.startswith(initials[i : i + 2]) for i in range(len(initials) - 1)):
                yield Draft(f"What does {found.group('short')} stand for?", (passage.passage_id,), "definition")
                break
