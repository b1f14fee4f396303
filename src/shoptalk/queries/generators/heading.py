"""Headings as queries: a heading is how an author names what the text below answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shoptalk.queries.generators import Draft
from shoptalk.queries.generators.markup import without_markup
from shoptalk.records import Passage

_GENERIC = frozenset(
    """
    overview introduction background summary resources conclusion notes contents about more contact references appendix links
    example examples general details description purpose scope faq questions steps instructions process usage definitions
    procedure prerequisites requirements abstract preface glossary index
    einleitung übersicht überblick zusammenfassung inhalt hinweise beispiele anhang allgemeines
    résumé sommaire conclusions exemples annexe introducción resumen índice conclusión ejemplos
    """.split()
) | {
    "frequently asked questions", "front matter", "table of contents", "more information", "get more information",
    "additional resources", "additional information", "related links", "related pages", "next steps", "see also",
    "read more", "further reading", "quick links", "last updated", "release notes",
}  # fmt: skip
MOST_PASSAGES = 5
_MOST_WORDS = 14
_FEWEST_WORDS = 3


def generate(passages: Sequence[Passage]) -> Iterator[Draft]:
    """The last heading above each section; one or two words get the title of their document as context."""
    for heading, below in same_heading(passages):
        document = below[0].title.split(" > ")[0]
        if not says_something(heading) or (heading == document and len(heading.split()) < _FEWEST_WORDS):
            continue
        text = heading if len(heading.split()) >= _FEWEST_WORDS else f"{document}: {heading}"
        yield Draft(without_markup(text), tuple(p.passage_id for p in below), "heading", heading)


def says_something(heading: str) -> bool:
    """Whether a heading names a subject: no question (those are the kind faq), no "Overview", no sentence."""
    return (
        not heading.rstrip().endswith(("?", "？", "؟"))
        and heading.casefold().strip(" .:0123456789") not in _GENERIC | {""}
        and 1 <= len(heading.split()) <= _MOST_WORDS
    )


def same_heading(passages: Sequence[Passage]) -> Iterator[tuple[str, list[Passage]]]:
    """Each heading of a document with the passages right under it; those with very many are skipped as too wide."""
    sections: dict[tuple[str, str], list[Passage]] = {}
    for passage in passages:
        sections.setdefault((passage.source, passage.title), []).append(passage)
    for (_, title), below in sections.items():
        if title and len(below) <= MOST_PASSAGES:
            yield title.split(" > ")[-1], below
