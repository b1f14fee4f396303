"""The blocks of Markdown text: paragraphs, lists, tables, code. What is kept whole when a text is cut."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from shoptalk.corpus.readers.markdown import lines_of

Kind = Literal["text", "list", "table", "code"]
_ITEM = re.compile(r"^\s{0,12}(?:[-*+•]|\d{1,3}[.)])\s")
_RULE = re.compile(r"^\s*\|?\s*:?-{2,}:?\s*(?:\|\s*:?-{2,}:?\s*)*\|?\s*$")


@dataclass(frozen=True, slots=True)
class Block:
    """A block from `start` to `end`; of a table, the header with its rule ends at `header_end` (else it is `start`)."""

    kind: Kind
    start: int
    end: int
    header_end: int


def blocks_of(text: str) -> Iterator[Block]:
    """The blocks in order. A list goes on over empty lines while items or indented lines follow."""
    lines = _kinds(text)
    number = 0
    while number < len(lines):
        kind, start, end = lines[number]
        if kind == "":
            number += 1
            continue
        last = number
        for following in range(number + 1, len(lines)):
            other = lines[following][0]
            if other == kind or (kind == "list" and other == "indented"):
                last = following
            elif other != "" or kind != "list":
                break
        end = lines[last][2]
        yield _block("text" if kind == "indented" else kind, text, start, end)
        number = last + 1


def _block(kind: str, text: str, start: int, end: int) -> Block:
    if kind == "table":
        first = text.find("\n", start, end) + 1
        second = text.find("\n", first, end) + 1 if first else 0
        if second and _RULE.match(text[first:second]):
            return Block("table", start, end, second)
    plain: Kind = kind if kind in ("list", "table", "code") else "text"  # type: ignore[assignment]
    return Block(plain, start, end, start)


def _kinds(text: str) -> list[tuple[str, int, int]]:
    """Kind, start and end of every line; "" is an empty one."""
    found: list[tuple[str, int, int]] = []
    offset = 0
    before = ""
    for line, is_code in lines_of(text):
        end = offset + len(line)
        if is_code:
            kind = "code"
        elif not line.strip():
            kind = ""
        elif line.lstrip().startswith("|"):
            kind = "table"
        elif _ITEM.match(line):
            kind = "list"
        elif before in ("list", "indented") and found[-1][0] != "":
            kind = before  # the rest of an item's paragraph
        elif before in ("list", "indented", "") and line[:2] == "  " and _in_list(found):
            kind = "indented"
        else:
            kind = "text"
        found.append((kind, offset, end))
        before = kind
        offset = end
    return found


def _in_list(lines: list[tuple[str, int, int]]) -> bool:
    """Whether the last line with text belongs to a list."""
    return next((kind in ("list", "indented") for kind, _, _ in reversed(lines) if kind), False)
