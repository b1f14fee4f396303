"""Files of texts to encode, read a row at a time: .jsonl, .csv, .tsv and .txt."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoptalk.beir import read_jsonl
from shoptalk.errors import SourceError

SUFFIXES = (".jsonl", ".csv", ".tsv", ".txt")
_IDS = ("_id", "id")
_MAX_LINE_BYTES = 2_000_000


@dataclass(frozen=True)
class TextFile:
    """(id, text) of every row, each time it is iterated. Nothing of the file stays in memory.

    A .txt holds one text a line, empty ones too, and its ids are the numbers of the lines. A .jsonl, .csv or .tsv has an `_id` or `id`,
    or the row's number is the id; its text is `field`, or title and text as in a BEIR corpus. Raises SourceError that names the line.
    """

    path: Path
    field: str | None = None

    def __post_init__(self) -> None:
        if not self.path.is_file():
            raise SourceError(
                f"{self.path}: {'a folder, not a file of texts' if self.path.is_dir() else 'no such file'}"
            )
        if self.path.suffix.lower() not in SUFFIXES:
            raise SourceError(f"{self.path}: not a file of texts; shoptalk encodes {', '.join(SUFFIXES)}")
        if self.field is not None and self.path.suffix.lower() == ".txt":
            raise SourceError(f"{self.path}: a .txt has no fields; leave --field out")

    def __iter__(self) -> Iterator[tuple[str, str]]:
        suffix = self.path.suffix.lower()
        if suffix == ".txt":
            yield from self._lines()
            return
        rows = read_jsonl(self.path) if suffix == ".jsonl" else self._table("\t" if suffix == ".tsv" else ",")
        for count, (number, row) in enumerate(rows, 1):
            where = f"{self.path}, line {number}"
            name = next((str(row[key]) for key in _IDS if row.get(key) not in (None, "")), str(count))
            if any(mark in name for mark in "\n\r"):
                raise SourceError(f"{where}: the id {name!r} holds a line break; ids are written one a line")
            yield name, self._text(row, where)

    def _text(self, row: dict[str, Any], where: str) -> str:
        field = self.field or "text"
        text = row.get(field)
        if not isinstance(text, str):
            kind = f"{field!r} is a {type(text).__name__}, not a text" if field in row else f"no field {field!r}"
            raise SourceError(
                f"{where}: {kind}; it has {', '.join(map(str, row)) or 'nothing'}. Choose one with --field"
            )
        title = row.get("title") if self.field is None else None
        return f"{title} {text}" if title else text

    def _lines(self) -> Iterator[tuple[str, str]]:
        number = 0
        try:
            with self.path.open("rb") as lines:
                while raw := lines.readline(_MAX_LINE_BYTES + 1):
                    number += 1
                    if len(raw) > _MAX_LINE_BYTES:
                        raise SourceError(
                            f"{self.path}, line {number}: more than {_MAX_LINE_BYTES:,} bytes in one line; a .txt holds one text a line"
                        )
                    text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                    yield str(number), text.rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise SourceError(
                f"{self.path}, line {number}: not UTF-8 (byte {error.start} is 0x{error.object[error.start]:02x}); "
                "save the file as UTF-8"
            ) from None
        except OSError as error:
            raise SourceError(f"{self.path}: cannot be read: {error.strerror}") from None

    def _table(self, delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
        csv.field_size_limit(_MAX_LINE_BYTES)
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as lines:
                reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
                for row in reader:
                    if None in row:
                        raise SourceError(
                            f"{self.path}, line {reader.line_num}: more cells than the header has columns; quote cells that hold "
                            f"{delimiter!r}"
                        )
                    yield reader.line_num, row
        except UnicodeDecodeError as error:
            raise SourceError(
                f"{self.path}: not UTF-8 (byte {error.start} is 0x{error.object[error.start]:02x}); save the file as UTF-8"
            ) from None
        except csv.Error as error:
            raise SourceError(f"{self.path}: not readable as {self.path.suffix[1:]}: {error}") from None
        except OSError as error:
            raise SourceError(f"{self.path}: cannot be read: {error.strerror}") from None
