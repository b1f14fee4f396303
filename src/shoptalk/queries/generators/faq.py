"""Questions that the documents ask themselves: a heading or a line that ends in a question mark."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from shoptalk.queries.generators import Draft
from shoptalk.queries.generators.heading import same_heading
from shoptalk.records import Passage

_LINE = re.compile(
    r"^\s*(?:[-*>#]+\s*)?(?:\*\*|__)?(?:Q(?:uestion)?\s*[:.]\s*)?(?P<question>[^\n?]{12,160}\?)(?:\*\*|__)?\s*$",
    re.MULTILINE,
)


def generate(passages: Sequence[Passage]) -> Iterator[Draft]:
    """Question headings (answered by every passage under them) and question lines (answered by what follows)."""
    for heading, below in same_heading(passages):
        if heading.endswith("?"):
            yield Draft(heading, tuple(p.passage_id for p in below), "faq", heading)
    for passage in passages:
        for found in _LINE.finditer(passage.text):
            question = found.group("question").strip(" *_")
            if len(passage.text[found.end() :].split()) >= 12 and len(question.split()) >= 3:
                yield Draft(question, (passage.passage_id,), "faq", question)
