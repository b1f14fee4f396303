"""HTML without its boilerplate, as Markdown. Engine: trafilatura (parsing only; its fetcher is never used).

What a page says of itself is believed first: navigation, banners, dialogs, cookie and feedback boxes are named as such by their
elements, roles and class names, on any site. What many pages of a folder share goes later (see `corpus.boilerplate`).
"""

from __future__ import annotations

import logging
import re
from typing import Any

from shoptalk.corpus import markup
from shoptalk.corpus.readers import Document, Unreadable, decode

_SKIPPED = "script style noscript template nav aside dialog button select svg iframe".split()
_ROLES = {
    "navigation", "banner", "contentinfo", "search", "dialog", "alertdialog", "progressbar", "menu", "menubar", "complementary",
    "tooltip", "toolbar",
}  # fmt: skip
_NAMED = re.compile(
    r"(?:^|[\s_-])(?:cookies?|consent|gdpr|breadcrumbs?|navbar|navigation|sidebar|skip(?:nav|link|-to)?|share|sharing|social|"
    r"feedback|helpful|language-?(?:switch\w*|select\w*|picker|toggle)|lang-?switch\w*|pagination|pager|newsletter|subscribe|"
    r"promo|advert\w*|loading|spinner|incompatible|outdated|browser-?(?:warning|upgrade)|back-to-top|popup|modal|visually-hidden|"
    r"sr-only|screen-?reader\w*|on-this-page|page-?toc|related-?(?:links|articles|posts)|site-?(?:header|footer)|last-?updated|"
    r"print-?(?:button|link)|edit-?(?:link|page)|usa-banner)(?:[\s_-]|$)",
    re.IGNORECASE,
)
_LANDMARKS = ("main", "article")
_MOST_SHARE = 0.7
_FEW_WORDS = 30
_INDENTED = re.compile(r"^[ \t]{4,}(?![ \t]|[-*]|\d+[.)])", re.MULTILINE)
_HEADING_IN_ITEM = re.compile(r"^(\s*(?:[-*]|\d+[.)])\s+)#{1,6}\s+", re.MULTILINE)
_EMPTY_ITEM = re.compile(r"^\s*[-*]\s*$\n?", re.MULTILINE)
_SITE_NAME = re.compile(r"\s+[|–—]\s+")


def read(raw: bytes, name: str) -> Document:
    """The main text of a page. Raises Unreadable when there is none."""
    import trafilatura

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    tree = markup.parse(decode(raw))
    if tree is None:
        raise Unreadable("no text in the page (a redirect, or built by scripts)")
    title = " ".join((tree.findtext(".//title") or "").split())
    _prune(tree)
    text = trafilatura.extract(
        tree, output_format="markdown", include_tables=True, include_links=False, favor_recall=True, deduplicate=False
    )
    text = _tidy(text or "")
    if not _says_something(text):
        raise Unreadable("no text in the page (a redirect, or built by scripts)")
    return Document(_SITE_NAME.split(title)[0] or name, text)


def _tidy(text: str) -> str:
    """Without headings in list items, items without text, and the indentation of the page's source."""
    text = _EMPTY_ITEM.sub("", _HEADING_IN_ITEM.sub(r"\1", text))
    return re.sub(r"\n\s*\n\s*\n+", "\n\n", _INDENTED.sub("", text))


def _says_something(text: str) -> bool:
    """Whether more than headings is left."""
    return any(line.strip() and not line.lstrip().startswith("#") for line in text.split("\n"))


def _prune(tree: Any) -> None:
    """Take out what the page itself calls navigation, banner, cookie box and the like; never most of its text."""
    for element in [*tree.iter(*_SKIPPED)]:
        _drop(element)
    body = tree.find("body")
    if body is None:
        return
    for landmark in _LANDMARKS:  # a page's one main part holds all that is worth reading
        found = [element for element in body.iter() if element.tag == landmark or element.get("role") == landmark]
        if len(found) == 1 and len(_words(found[0])) >= 5:
            keep = found[0]
            body = _only(body, keep)
            break
    everything = len(_words(body)) or 1
    for element in [*body.iter()]:
        if element is not body and _is_boilerplate(element):
            n_words = len(_words(element))
            if n_words <= _FEW_WORDS or n_words <= _MOST_SHARE * everything:
                _drop(element)


def _only(body: Any, keep: Any) -> Any:
    """`body` with the element `keep` alone."""
    keep.drop_tree()
    for child in [*body]:
        body.remove(child)
    body.text = keep.tail = None
    body.append(keep)
    return body


def _is_boilerplate(element: Any) -> bool:
    if not isinstance(element.tag, str):
        return False
    hidden = element.get("hidden") is not None or element.get("aria-hidden") == "true"
    named = f"{element.get('class') or ''} {element.get('id') or ''}"
    in_content = any(True for _ in element.iterancestors("main", "article"))
    frame = element.tag in ("header", "footer") and not in_content
    return frame or hidden or element.get("role") in _ROLES or _NAMED.search(named) is not None


def _drop(element: Any) -> None:
    if element.getparent() is not None:
        element.drop_tree()


def _words(element: Any) -> list[str]:
    return str(element.text_content()).split()
