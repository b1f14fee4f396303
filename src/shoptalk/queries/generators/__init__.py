"""Queries without labels or LLM. One module a kind, each with `generate(passages) -> Iterator[Draft]`.

Text that becomes a query is cut out of its passages (`Draft.cut`), else a model learns to copy and a test measures copying.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from shoptalk.records import Origin, Passage

GENERATORS: dict[str, str] = {
    "faq": "shoptalk.queries.generators.faq",
    "heading": "shoptalk.queries.generators.heading",
    "path": "shoptalk.queries.generators.path",
    "title": "shoptalk.queries.generators.title",
    "acronym": "shoptalk.queries.generators.acronym",
    "definition": "shoptalk.queries.generators.definition",
    "term": "shoptalk.queries.generators.term",
    "template": "shoptalk.queries.generators.template",
    "sentence": "shoptalk.queries.generators.sentence",
    "key-phrase": "shoptalk.queries.generators.key_phrase",
}


@dataclass(frozen=True, slots=True)
class Draft:
    """A made query, the passages that answer it, the text to cut out of them ("" for none), and texts that do not answer it."""

    text: str
    passage_ids: tuple[str, ...]
    kind: str
    cut: str = ""
    origin: Origin = "offline"
    negatives: tuple[str, ...] = ()
    language: str = ""


class Generator(Protocol):
    """The one function that a generator module has."""

    def generate(self, passages: Sequence[Passage]) -> Iterator[Draft]:
        """Drafts in passage order."""


def generator(kind: str) -> Generator:
    """The generator of a kind, imported when first asked for."""
    return importlib.import_module(GENERATORS[kind])


def generate_drafts(passages: Sequence[Passage], kinds: Sequence[str]) -> list[Draft]:
    """All drafts of these kinds, the first kind first. They are judged, and thinned out, by `shoptalk.queries.judging`."""
    return [draft for kind in kinds for draft in generator(kind).generate(passages)]
