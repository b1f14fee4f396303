"""Plain text; the title is the file's name."""

from __future__ import annotations

from shoptalk.corpus.readers import Document, decode


def read(raw: bytes, name: str) -> Document:
    """The text as it is."""
    return Document(name, decode(raw))
