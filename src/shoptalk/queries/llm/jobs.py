"""What is asked for: a job is a passage with the kinds of queries wanted, or two passages and a question that needs both."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from shoptalk.records import Passage
from shoptalk.settings import LLMSettings

_T = TypeVar("_T")
MULTI_PASSAGE = "multi-passage"
DOC2QUERY = "doc2query"
_ACRONYM = re.compile(r"\b(?=[A-Z0-9&/-]*[A-Z][A-Z0-9&/-]*[A-Z])[A-Z][A-Z0-9&/-]{1,9}s?\b")


@dataclass(frozen=True, slots=True)
class Job:
    """A passage (or two, for a question that needs both) and the queries wanted. Passages of the same content are one job."""

    passages: tuple[Passage, ...]
    slots: tuple[str, ...]
    same: tuple[str, ...] = ()
    """Ids of further passages with the content of the first."""

    @property
    def passage_ids(self) -> tuple[str, ...]:
        """All passages that answer the job's queries."""
        return (*(passage.passage_id for passage in self.passages), *self.same)

    @property
    def content(self) -> str:
        """All that the model is shown of the documents."""
        return "\n\n".join(passage.content for passage in self.passages)


def choose_slots(passage: Passage, settings: LLMSettings) -> tuple[str, ...]:
    """The kinds of queries wanted of a passage: drawn by the mix's weights without repeating a kind before all were drawn.

    The draw follows from the passage's content and the seed alone, so other passages never change what a passage is asked.
    Source: weighted sampling without replacement, Efraimidis and Spirakis 2006.
    """
    kinds = [kind for kind in sorted(settings.mix) if kind != "acronym" or _ACRONYM.search(passage.content)] or [
        "natural"
    ]
    seed = int(
        hashlib.sha256(f"{settings.seed}\x1f{passage.content}".encode("utf-8", "surrogatepass")).hexdigest()[:16], 16
    )
    rng = np.random.default_rng(seed)
    weights = np.array([settings.mix.get(kind, 1.0) for kind in kinds])
    chosen: list[str] = []
    while len(chosen) < settings.queries_per_passage:
        order = np.argsort(-np.log(rng.random(len(kinds))) / weights, kind="stable")
        chosen += [kinds[i] for i in order]
    return tuple(sorted(chosen[: settings.queries_per_passage]))


def has_acronym(text: str) -> bool:
    """Whether a text holds an acronym: two capitals or more in one short word."""
    return _ACRONYM.search(text) is not None


def make_jobs(passages: Sequence[Passage], settings: LLMSettings, bare: bool = False) -> list[Job]:
    """One job for each different content, in passage order, then those that need two passages. bare: a model of the doc2query
    kind, which knows no kinds of queries.
    """
    same: dict[str, list[Passage]] = defaultdict(list)
    for passage in passages:
        if passage.text.strip():
            same[passage.content].append(passage)
    different = _spread(list(same.values()), settings.max_passages)
    plain = (DOC2QUERY,) * settings.queries_per_passage
    jobs = [
        Job((first,), plain if bare else choose_slots(first, settings), tuple(other.passage_id for other in others))
        for first, *others in different
    ]
    pairs = [] if bare else _spread(_neighbours([first for first, *_ in different]), settings.multi_passage)
    return [*jobs, *(Job(pair, (MULTI_PASSAGE,)) for pair in pairs)]


def _neighbours(passages: Sequence[Passage]) -> list[tuple[Passage, Passage]]:
    """Passages that follow each other in one document."""
    documents: dict[str, list[Passage]] = defaultdict(list)
    for passage in passages:
        if passage.source:
            documents[passage.source].append(passage)
    ordered = [sorted(found, key=lambda passage: passage.start) for found in documents.values()]
    return [pair for found in ordered for pair in itertools.pairwise(found)]


def _spread(items: list[_T], limit: int | None) -> list[_T]:
    """At most `limit` of the items, evenly over all of them."""
    if limit is None or len(items) <= limit:
        return items
    return [items[i * len(items) // limit] for i in range(limit)]
