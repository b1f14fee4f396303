"""Heading paths as queries: a section's heading with the heading above it, as people type "expenses late claims"."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shoptalk.queries.generators import Draft
from shoptalk.queries.generators.heading import same_heading, says_something
from shoptalk.queries.generators.markup import in_a_sentence, without_markup
from shoptalk.records import Passage

_MOST_WORDS = 16


def generate(passages: Sequence[Passage]) -> Iterator[Draft]:
    """The last two headings of a path of two or more, the wider one first. Both say something, and not the same."""
    for heading, below in same_heading(passages):
        above, _, _ = below[0].title.rpartition(" > ")
        above = above.split(" > ")[-1]
        own, wider = set(heading.casefold().split()), set(above.casefold().split())
        if not (above and says_something(heading) and says_something(above)) or own <= wider or wider <= own:
            continue
        text = without_markup(f"{above} {in_a_sentence(heading)}")
        if len(text.split()) <= _MOST_WORDS:
            yield Draft(text, tuple(p.passage_id for p in below), "path", heading)
