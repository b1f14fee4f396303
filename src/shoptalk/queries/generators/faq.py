"""Questions that the documents ask themselves: a heading or a line that ends in a question mark."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from shoptalk.queries.generators import Draft
from shoptalk.queries.generators.heading import same_heading
from shoptalk.queries.generators.markup import without_markup
from shoptalk.records import Passage

_MARKS = "?？؟"
_LINE = re.compile(
    r"^[ \t*>#_\-]*(?:\d{1,3}[.)][ \t]+[*_]*)?(?:(?:Q(?:uestion)?|Frage|Pregunta|F|P) ?\d{0,3} ?[:.)][ \t]*)?"
    rf"(?P<question>[^\n{_MARKS}]{{4,160}}[{_MARKS}])(?:\*\*|__)?\s*$",
    re.MULTILINE,
)
_FEWEST_ANSWER_CHARS = 60


def generate(passages: Sequence[Passage]) -> Iterator[Draft]:
    """Question headings (answered by every passage under them) and question lines (answered by what follows)."""
    for heading, below in same_heading(passages):
        if is_question(heading):
            yield Draft(without_markup(heading), tuple(p.passage_id for p in below), "faq", heading)
    for passage in passages:
        lines = list(_LINE.finditer(passage.text))
        ends = [*(line.start() for line in lines[1:]), len(passage.text)]
        for found, end in zip(lines, ends, strict=False):
            question = found.group("question").strip(" *_")
            answer = passage.text[found.end() : end].strip()
            if len(answer) >= _FEWEST_ANSWER_CHARS and _says_enough(question):
                yield Draft(without_markup(question), (passage.passage_id,), "faq", question)


def is_question(text: str) -> bool:
    """Whether a text ends in a question mark of any script."""
    return text.rstrip()[-1:] in tuple(_MARKS)


def _says_enough(question: str) -> bool:
    """Three words, or eight characters of a script that is written without spaces."""
    return len(question.split()) >= 3 or (question.isascii() is False and len(question) >= 8 and " " not in question)
