"""Books: the chapters in reading order, each with its headings. A book with digital rights management says so."""

from __future__ import annotations

import io
import posixpath
import urllib.parse
import zipfile
from typing import Any

from lxml import etree

from shoptalk.corpus import markup
from shoptalk.corpus.readers import Document, Unreadable, decode

_MOST_BYTES = 200_000_000
_PAGES = ("application/xhtml+xml", "text/html")


def read(raw: bytes, name: str) -> Document:
    """The chapters of the spine. Raises Unreadable."""
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as book:
            return _read(book, name)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise Unreadable(f"not a book: {error}") from None
    except (KeyError, IndexError, etree.LxmlError, ValueError, AttributeError) as error:
        raise Unreadable(f"not a book that can be read: {' '.join(str(error).split())[:200]}") from None


def _read(book: zipfile.ZipFile, name: str) -> Document:
    if sum(entry.file_size for entry in book.infolist()) > _MOST_BYTES:
        raise Unreadable(f"unpacks to more than {_MOST_BYTES // 1_000_000} MB")
    if "META-INF/rights.xml" in book.namelist():
        raise Unreadable("protected by digital rights management")
    package_path = _xml(book, "META-INF/container.xml").xpath("//*[local-name()='rootfile']/@full-path")[0]
    package = _xml(book, package_path)
    files = {
        item.get("id"): urllib.parse.unquote(item.get("href") or "")
        for item in package.xpath("//*[local-name()='manifest']/*[local-name()='item']")
        if item.get("media-type") in _PAGES and "nav" not in (item.get("properties") or "").split()
    }
    title = " ".join("".join(package.xpath("//*[local-name()='metadata']/*[local-name()='title'][1]//text()")).split())
    chapters, missing = [], 0
    for entry in package.xpath("//*[local-name()='spine']/*[local-name()='itemref']/@idref"):
        if entry not in files:
            continue
        path = posixpath.normpath(posixpath.join(posixpath.dirname(package_path), files[entry]))
        try:
            tree = markup.parse(decode(book.read(path)))
        except (KeyError, Unreadable):
            missing += 1
            continue
        body = None if tree is None else tree.find("body")
        chapters.append("" if body is None else markup.to_markdown(body))
    note = f"{missing} chapters could not be read" if missing else ""
    return Document(title or name, "\n\n".join(filter(None, chapters)), note=note)


def _xml(book: zipfile.ZipFile, path: str) -> Any:
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    return etree.fromstring(book.read(path), parser)
