"""Delimited text as a document: a table, or one record a row where the rows are long."""

from __future__ import annotations

import csv
import io

from shoptalk.corpus.readers import Document, Unreadable, decode
from shoptalk.corpus.tables import table_text

_DELIMITERS = ",;\t|"
_MAX_CELL_CHARS = 2_000_000


def read(raw: bytes, name: str) -> Document:
    """The rows, whatever separates their cells. Raises Unreadable."""
    text = decode(raw)
    csv.field_size_limit(_MAX_CELL_CHARS)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text)))
    except csv.Error as error:
        raise Unreadable(f"not a table: {error}") from None
    return Document(name, table_text(rows))


def _delimiter(text: str) -> str:
    """The sign that the first lines have most often, and all equally often where there is one like that."""
    lines = [line for line in text[:20_000].split("\n")[:20] if line.strip()]
    counts = {sign: [line.count(sign) for line in lines] for sign in _DELIMITERS}
    return max(_DELIMITERS, key=lambda sign: (bool(lines) and min(counts[sign]) > 0, counts[sign][:1]))
