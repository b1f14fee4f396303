"""The name of a query that came without one."""

from __future__ import annotations

import hashlib


def text_query_id(text: str) -> str:
    """An id that depends on the query's text alone, so that labels of one question meet in one query."""
    return "q-" + hashlib.sha256(" ".join(text.split()).encode("utf-8", "replace")).hexdigest()[:12]
