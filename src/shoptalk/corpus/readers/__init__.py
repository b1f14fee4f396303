"""One module a document format, each with `read(raw, name) -> Document`. The table is the whole registry."""

from __future__ import annotations

import importlib
import unicodedata
from dataclasses import dataclass
from typing import Protocol

from shoptalk.errors import MissingPart

READERS: dict[str, str] = {
    ".md": "shoptalk.corpus.readers.markdown",
    ".markdown": "shoptalk.corpus.readers.markdown",
    ".txt": "shoptalk.corpus.readers.text",
    ".rst": "shoptalk.corpus.readers.rst",
    ".html": "shoptalk.corpus.readers.html",
    ".htm": "shoptalk.corpus.readers.html",
    ".pdf": "shoptalk.corpus.readers.pdf",
    ".docx": "shoptalk.corpus.readers.docx",
    ".pptx": "shoptalk.corpus.readers.pptx",
    ".xlsx": "shoptalk.corpus.readers.xlsx",
    ".csv": "shoptalk.corpus.readers.csv",
    ".tsv": "shoptalk.corpus.readers.csv",
    ".jsonl": "shoptalk.corpus.readers.jsonl",
    ".epub": "shoptalk.corpus.readers.epub",
    ".eml": "shoptalk.corpus.readers.mail",
}

VERSION = "1"
"""Raised when a reader reads the same bytes differently: what was parsed before is then parsed again."""

# Code pages of DOS, mainframes and the old Macintosh, for which a short Western text of Windows is else taken.
_EXTINCT = [
    *(f"cp{n:03}" for n in (37, 273, 424, 437, 500, 720, 737, 775, *range(850, 867), 869, 875, 1006, 1026, 1125, 1140)),
    *(f"mac_{name}" for name in ("cyrillic", "greek", "iceland", "latin2", "roman", "turkish")),
    "hp_roman8",
]


@dataclass(frozen=True, slots=True)
class Document:
    """What a reader returns: a title and Markdown text (offsets of passages count in this text).

    page_starts: the offset at which each page begins; empty for a format without pages. note: what a person should know
    about the reading ("2 of 9 pages have no text").
    """

    title: str
    text: str
    page_starts: tuple[int, ...] = ()
    note: str = ""


class Unreadable(Exception):
    """Raised by a reader; the message is the reason that is listed."""


class Reader(Protocol):
    """The one function that a format module has."""

    def read(self, raw: bytes, name: str) -> Document:
        """The document in a file's bytes. Raises Unreadable."""


def reader_for(suffix: str) -> Reader | None:
    """The reader of a file suffix, imported when first asked for."""
    module = READERS.get(suffix.lower())
    return None if module is None else importlib.import_module(module)


def missing_part(what: str, package: str) -> MissingPart:
    """The error for a format whose optional package is not installed."""
    return MissingPart(f"reading {what} needs {package}: pip install 'shoptalk[documents]'")


def decode(raw: bytes) -> str:
    """Bytes to text: UTF-8 (or what a byte order mark says), else the encoding that charset-normalizer finds.

    Raises Unreadable for bytes that are no text.
    """
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = raw.decode("utf-16", "replace")
    elif b"\x00" in raw[:65_536]:
        raise Unreadable("binary data, not text")
    else:
        text = _decode_8bit(raw)
    sample = text[:65_536]
    broken = sum(
        1
        for char in sample
        if char == "\ufffd" or (unicodedata.category(char) in ("Cc", "Cn", "Co") and char not in "\t\n\r\f")
    )
    if broken > 0.05 * len(sample):
        raise Unreadable("control characters, not text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _decode_8bit(raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        import charset_normalizer

        found = charset_normalizer.from_bytes(raw[:262_144], cp_exclusion=_EXTINCT)
        best = next((match for match in found if match.encoding == "cp1252"), found.best())
        if best is None:
            raise Unreadable("neither UTF-8 nor any encoding that could be recognised") from None
        return raw.decode(best.encoding, "replace")
