"""Queries without labels or LLM. One module a kind, each with `generate(passages) -> Iterator[Draft]`.

Text that becomes a query is cut out of its passages (`Draft.cut`), else a model learns to copy and a test measures copying.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from shoptalk.records import Origin, Passage

GENERATORS: dict[str, str] = {
    "faq": "shoptalk.queries.generators.faq",
    "heading": "shoptalk.queries.generators.heading",
    "definition": "shoptalk.queries.generators.definition",
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


def generate_queries(passages: Sequence[Passage], kinds: Sequence[str], per_passage: int) -> list[Draft]:
    """Drafts of all kinds, the first kind first; at most `per_passage` for one passage.

    A query that several places would answer is too generic and left out. Key phrases are used only where nothing else was
    found: in our experiments they help least (docs/experiments.md: offline-queries).
    """
    drafts = [draft for kind in kinds for draft in generator(kind).generate(passages)]
    places: dict[str, list[Draft]] = {}
    for draft in drafts:
        places.setdefault(_plain(draft.text), []).append(draft)
    made: Counter[str] = Counter()
    kept: list[Draft] = []
    for first, *others in places.values():
        limit = 1 if first.kind == "key-phrase" else per_passage
        elsewhere = any(not set(first.passage_ids) & set(other.passage_ids) for other in others)
        if elsewhere or any(made[passage_id] >= limit for passage_id in first.passage_ids):
            continue
        made.update(first.passage_ids)
        kept.append(first)
    return kept


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip("?.! ")
