"""HTML without its boilerplate, as Markdown. Engine: trafilatura (parsing only; its fetcher is never used)."""

from __future__ import annotations

import logging
import re

from shoptalk.corpus.readers import Document, Unreadable, decode

_TITLE = re.compile(r"<title[^<>]*>([^<]*)</title>", re.IGNORECASE)


def read(raw: bytes, name: str) -> Document:
    """The main text of a page. Raises Unreadable when there is none."""
    import html as entities

    import trafilatura

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    source = decode(raw)
    text = trafilatura.extract(
        source, output_format="markdown", include_tables=True, include_links=False, favor_recall=True
    )
    if not text or not text.strip():
        raise Unreadable("no text in the page (a redirect, or built by scripts)")
    found = _TITLE.search(source)
    title = " ".join(entities.unescape(found.group(1)).split()) if found else ""
    return Document(re.split(r"\s+[|–—]\s+", title)[0] or name, text)
