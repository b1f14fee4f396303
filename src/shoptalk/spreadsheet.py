"""CSV files that a person edits in a spreadsheet: no cell is taken for a formula, and any usual way of saving is read back."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from shoptalk.errors import SourceError

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def read_sheet(path: Path, needed: Sequence[str], otherwise: str) -> list[tuple[int, dict[str, str | None]]]:
    """The rows with their line numbers. Raises SourceError; `otherwise` is its last sentence when a needed column is not there."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{path}: not UTF-8 (byte {error.start}); save it from the spreadsheet as 'CSV UTF-8'"
        ) from None
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)  # spreadsheets of some countries write semicolons
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    missing = [name for name in needed if name not in (reader.fieldnames or ())]
    if missing:
        raise SourceError(
            f"{path}: has no column {' and no '.join(missing)}; its first line is {header.strip()[:80]!r}. {otherwise}"
        )
    rows = []
    try:
        rows += [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise SourceError(f"{path}, line {reader.line_num}: not readable as CSV: {error}") from None
    return rows


def neutralised(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula; `restored` gives back the text."""
    return "'" + cell if cell.lstrip("'").startswith(_FORMULA) else cell


def restored(cell: str) -> str:
    """The text of a cell that `neutralised` wrote, or that a person wrote without it."""
    return cell[1:] if cell.startswith("'") and cell.lstrip("'").startswith(_FORMULA) else cell
