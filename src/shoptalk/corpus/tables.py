"""Rows of cells as text: a Markdown table where the rows are short, else one record a row with the column names."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WIDE_CHARS = 300
_WIDE_COLUMNS = 12
_TITLES = ("title", "name", "question", "subject", "heading", "headline", "summary", "topic", "term")
_TEXTS = ("text", "content", "body", "answer", "description", "passage", "document", "article", "message", "definition")


def table_text(rows: Sequence[Sequence[str]]) -> str:
    """The first row is the header. Empty rows and columns are left out; "" when nothing is left."""
    kept = _without_empty(rows)
    if not kept:
        return ""
    if len(kept) == 1 or len(kept[0]) == 1:
        return "\n\n".join(" ".join(filter(None, row)) for row in kept)
    header, body = kept[0], kept[1:]
    longest = sorted(sum(map(len, row)) for row in body)[int(0.9 * (len(body) - 1))]
    if longest > _WIDE_CHARS or len(header) > _WIDE_COLUMNS:
        return "\n\n".join(record_text(dict(zip(_unique(header), row, strict=True))) for row in body)
    return markdown_table(kept)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of rows of one length, the first of which is the header."""
    header, *body = (f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows)
    return "\n".join([header, "|" + " --- |" * len(rows[0]), *body])


def record_text(record: dict[str, str]) -> str:
    """One record: what names it is a heading, its long text stands alone, the rest is "name: value" lines."""
    plain = {name.strip().lower(): name for name in record}
    title = next((plain[key] for key in _TITLES if key in plain and 0 < len(record[plain[key]]) <= 200), None)
    text = next((plain[key] for key in _TEXTS if key in plain and record[plain[key]]), None)
    fields = [
        f"{name}: {' '.join(value.split())}" for name, value in record.items() if value and name not in (title, text)
    ]
    parts = [f"## {' '.join(record[title].split())}"] if title else []
    parts += ["\n".join(fields)] if fields else []
    parts += [record[text]] if text else []
    return "\n\n".join(parts)


def _without_empty(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    filled = [list(row) for row in rows if any(cell.strip() for cell in row)]
    width = max((len(row) for row in filled), default=0)
    padded = [row + [""] * (width - len(row)) for row in filled]
    used = [column for column in range(width) if any(row[column].strip() for row in padded)]
    return [[row[column].strip() for column in used] for row in padded]


def _unique(header: Sequence[str]) -> list[str]:
    """Column names, each once: a column without a name is called by its number, as is the second of two."""
    names: list[str] = []
    for number, name in enumerate(header, 1):
        plain = " ".join(name.split())
        names.append(plain if plain and plain not in names else f"{plain or 'column'} {number}")
    return names


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|")
