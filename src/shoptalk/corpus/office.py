"""What the files of Word, Excel and PowerPoint have in common: how they are opened and what is said when they do not open."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

from shoptalk.corpus.readers import Unreadable

_OLE = b"\xd0\xcf\x11\xe0"


@contextmanager
def office_file(raw: bytes, kind: str, program: str, suffix: str) -> Iterator[io.BytesIO]:
    """The bytes as a file for the block that parses them. kind: with its article, as in "a Word document".

    Raises Unreadable for a file that is encrypted, of an old format, or damaged.
    """
    if raw.startswith(_OLE):
        raise Unreadable(f"encrypted, or of {program} 97; save it as {suffix} without a password")
    try:
        yield io.BytesIO(raw)
    except MemoryError:
        raise
    except Exception as error:  # zipfile, the XML parsers and each library have their own
        raise Unreadable(f"not {kind}: {' '.join(str(error).split())[:200]}") from None
