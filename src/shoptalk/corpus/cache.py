"""What was parsed before, by content: a file that has not changed is not parsed again.

One SQLite file in the run folder's cache. It can always be made again, so a damaged one is simply started anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import sqlite3
import zlib
from pathlib import Path
from typing import Any

from shoptalk.corpus.readers import READERS, VERSION

_ENGINES = (
    "trafilatura",
    "lxml",
    "pypdfium2",
    "python-docx",
    "python-pptx",
    "openpyxl",
    "docutils",
    "charset-normalizer",
)
_COMMIT_EVERY = 200


class ParseCache:
    """Use as a context manager. Entries that a finished run did not ask for are dropped."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "parsed.sqlite"
        self._versions = "|".join([VERSION, *(f"{name}={_version(name)}" for name in _ENGINES)])
        self._asked: set[str] = set()
        self._unsaved = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._rows = self._opened()

    def __enter__(self) -> ParseCache:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with contextlib.suppress(sqlite3.Error):
            if kind is None:
                known = {key for (key,) in self._rows.execute("SELECT key FROM parsed")}
                self._rows.executemany("DELETE FROM parsed WHERE key = ?", [(key,) for key in known - self._asked])
            self._rows.commit()
        self._rows.close()

    def key(self, raw_sha256: str, suffix: str, name: str) -> str:
        """What an answer depends on: the bytes, the reader, and the name, which is the title where there is no other."""
        parts = [raw_sha256, READERS[suffix.lower()], suffix.lower(), name, self._versions]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def get(self, key: str) -> dict[str, Any] | None:
        """The answer that was kept, or None."""
        self._asked.add(key)
        try:
            row = self._rows.execute("SELECT answer FROM parsed WHERE key = ?", (key,)).fetchone()
            answer = None if row is None else json.loads(zlib.decompress(row[0]))
        except (sqlite3.Error, zlib.error, ValueError):
            return None
        return answer if isinstance(answer, dict) else None

    def put(self, key: str, answer: dict[str, Any]) -> None:
        """Keep an answer, unless it may be another one next time (too slow, a missing package)."""
        if answer.get("transient"):
            return
        packed = zlib.compress(json.dumps(answer).encode(), 1)
        with contextlib.suppress(sqlite3.DatabaseError):
            self._rows.execute("INSERT OR REPLACE INTO parsed VALUES (?, ?)", (key, packed))
            self._unsaved += 1
            if self._unsaved >= _COMMIT_EVERY:
                self._rows.commit()
                self._unsaved = 0

    def _opened(self) -> sqlite3.Connection:
        try:
            return self._connected()
        except sqlite3.DatabaseError:
            for path in self._path.parent.glob(f"{self._path.name}*"):
                path.unlink()
            return self._connected()

    def _connected(self) -> sqlite3.Connection:
        rows = sqlite3.connect(self._path)
        try:
            rows.execute("CREATE TABLE IF NOT EXISTS parsed (key TEXT PRIMARY KEY, answer BLOB NOT NULL)")
            rows.execute("SELECT count(*) FROM parsed").fetchone()
        except sqlite3.DatabaseError:
            rows.close()
            raise
        return rows


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"
