"""Workbooks: a sheet is a section with its table; the values that were saved, not the formulas."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from shoptalk.corpus.readers import Document, Unreadable, missing_part
from shoptalk.corpus.tables import table_text

_OLE = b"\xd0\xcf\x11\xe0"
_MOST_CELLS = 2_000_000
_MOST_COLUMNS = 500


def read(raw: bytes, name: str) -> Document:
    """The sheets in order. Raises Unreadable for an encrypted or damaged file, MissingPart."""
    try:
        import openpyxl
    except ImportError:
        raise missing_part("Excel workbooks", "openpyxl") from None
    if raw.startswith(_OLE):
        raise Unreadable("encrypted, or of Excel 97; save it as .xlsx without a password")
    try:
        book = openpyxl.load_workbook(io.BytesIO(raw), read_only=True, data_only=True)
        sheets = [(sheet.title, table_text(list(_rows(sheet)))) for sheet in book.worksheets]
    except MemoryError:
        raise
    except Exception as error:  # zipfile, the XML parser and openpyxl each have their own
        raise Unreadable(f"not an Excel workbook: {' '.join(str(error).split())[:200]}") from None
    filled = [(title, text) for title, text in sheets if text]
    title = " ".join((book.properties.title or "").split()) if book.properties else ""
    return Document(title or name, "\n\n".join(f"## {sheet}\n\n{text}" for sheet, text in filled))


def _rows(sheet: Any) -> Iterator[list[str]]:
    sheet.reset_dimensions()  # what the file says of its size may be wrong, or a million empty rows
    cells = 0
    for row in sheet.iter_rows(values_only=True, max_col=_MOST_COLUMNS):
        cells += len(row)
        if cells > _MOST_CELLS:
            raise ValueError(f"more than {_MOST_CELLS:,} cells in sheet {sheet.title!r}")
        values = [_shown(value) for value in row]
        if any(values):
            yield values


def _shown(value: Any) -> str:
    """A cell as the sheet shows it: no ".0" of whole numbers, no midnight of days."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value).removesuffix(" 00:00:00")
