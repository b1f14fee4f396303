"""Titles of documents as queries, answered by the passage that opens the document."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from shoptalk.queries.generators import Draft
from shoptalk.queries.generators.heading import says_something
from shoptalk.queries.generators.markup import without_markup
from shoptalk.records import Passage

_FILE_NAME = re.compile(r"^[\w\-]+\.\w{2,4}$|^[\w\-]*[_\d][\w\-]*$")
_MOST_PARTS = 12


def generate(passages: Sequence[Passage]) -> Iterator[Draft]:
    """The title of each document of two words or more; one that its opening passage stands under, and no file name."""
    documents: dict[tuple[str, str], list[Passage]] = {}
    for passage in passages:
        documents.setdefault((passage.source, passage.title.split(" > ")[0].strip()), []).append(passage)
    for (_, title), document in documents.items():
        opening = min(document, key=lambda p: p.start)
        wide = not opening.source and len(document) > _MOST_PARTS  # a title that many passages share opens none of them
        if not wide and len(title.split()) >= 2 and says_something(title) and not _FILE_NAME.match(title):
            yield Draft(without_markup(title), (opening.passage_id,), "title", title)
