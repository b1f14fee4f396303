"""Workbooks: a sheet is a section with its table; the values that were saved, not the formulas."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shoptalk.corpus.office import office_file
from shoptalk.corpus.readers import Document, missing_part
from shoptalk.corpus.tables import table_text

_MOST_CELLS = 2_000_000
_MOST_COLUMNS = 500


def read(raw: bytes, name: str) -> Document:
    """The sheets in order. Raises Unreadable for an encrypted or damaged file, MissingPart."""
    try:
        import openpyxl
    except ImportError:
        raise missing_part("Excel workbooks", "openpyxl") from None
    with office_file(raw, "an Excel workbook", "Excel", ".xlsx") as file:
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
        sheets = [(sheet.title, table_text(list(_rows(sheet)))) for sheet in book.worksheets]
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
