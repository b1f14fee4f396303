"""Headings as queries: a heading is how an author names what the text below answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from shoptalk.queries.generators import Draft
from shoptalk.records import Passage

_GENERIC = frozenset(
    [
        "overview",
        "introduction",
        "background",
        "summary",
        "resources",
        "conclusion",
        "notes",
        "contents",
        "about",
        "more",
        "contact",
        "references",
        "appendix",
        "links",
        "example",
        "examples",
        "general",
        "details",
        "description",
        "purpose",
        "scope",
        "faq",
        "questions",
        "steps",
        "instructions",
        "process",
        "usage",
    ]
)
_MOST_PASSAGES = 5


def generate(passages: Sequence[Passage]) -> Iterator[Draft]:
    """The last heading above each section; one or two words get the title of their document as context."""
    for heading, below in same_heading(passages):
        words = heading.split()
        document = below[0].title.split(" > ")[0]
        if (
            heading.endswith("?")
            or (heading == document and len(words) < 3)
            or heading.casefold() in _GENERIC
            or not 1 <= len(words) <= 14
        ):
            continue
        text = heading if len(words) >= 3 else f"{document}: {heading}"
        yield Draft(text, tuple(p.passage_id for p in below), "heading", heading)


def same_heading(passages: Sequence[Passage]) -> Iterator[tuple[str, list[Passage]]]:
    """Each heading with the passages that stand right under it; those with very many are skipped as too wide."""
    for (_, title), below in groupby(passages, key=lambda p: (p.source, p.title)):
        found = list(below)
        if title and len(found) <= _MOST_PASSAGES:
            yield title.split(" > ")[-1], found
