"""An HTML tree as Markdown, every element of it: what is boilerplate was taken out before."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from lxml import etree, html

from shoptalk.corpus.tables import table_text

_SKIPPED = {
    "script", "style", "noscript", "template", "head", "svg", "math", "iframe", "object", "embed", "canvas", "video", "audio",
    "button", "input", "select", "textarea", "datalist", "nav", "img",
}  # fmt: skip
_BLOCKS = {
    "address", "article", "aside", "blockquote", "body", "center", "dd", "details", "dialog", "div", "dl", "dt", "fieldset",
    "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "html", "li", "main", "ol",
    "p", "pre", "section", "summary", "table", "tbody", "td", "tfoot", "th", "thead", "tr", "ul", "caption", "menu",
}  # fmt: skip
_LIST_MARK = re.compile(r"^([-*+]|\d+[.)])\s")


def parse(source: str) -> Any:
    """The tree of a page, or None when there is nothing in it. Comments and processing instructions are gone."""
    bare = re.sub(r"^\s*<\?xml[^>]*\?>", "", source)  # lxml refuses a text that declares an encoding
    parser = html.HTMLParser(remove_comments=True, remove_pis=True, no_network=True)
    try:
        return html.document_fromstring(bare, parser=parser)
    except (etree.LxmlError, ValueError, AssertionError):
        return None


def to_markdown(element: Any) -> str:
    """The text of an element in Markdown: headings, paragraphs, lists, tables, code; links keep their text."""
    return "\n\n".join(_blocks(element))


def _blocks(element: Any) -> Iterator[str]:
    """The blocks inside an element. Text that stands between blocks is a paragraph."""
    run = [element.text or ""]
    for child in element:
        tag = child.tag if isinstance(child.tag, str) else ""
        if tag in _BLOCKS or (tag not in _SKIPPED and _has_block(child)):
            yield from _paragraph(run)
            run = []
            yield from _block(child, tag)
        elif tag and tag not in _SKIPPED:
            run.append(_inline(child))
        run.append(child.tail or "")
    yield from _paragraph(run)


def _block(element: Any, tag: str) -> Iterator[str]:
    if tag in ("h1", "h2", "h3", "h4", "h5", "h6"):
        text = _one_line(_inline(element))
        yield from [f"{'#' * int(tag[1])} {text}"] if text else []
    elif tag in ("ul", "ol", "menu"):
        items = list(_items(element, ordered=tag == "ol"))
        yield from ["\n".join(items)] if items else []
    elif tag == "dl":
        yield from _definitions(element)
    elif tag == "pre":
        text = "".join(element.itertext()).strip("\n")
        fence = "~~~" if "```" in text else "```"
        yield from [f"{fence}\n{text}\n{fence}"] if text.strip() else []
    elif tag == "blockquote":
        for block in _blocks(element):
            yield "\n".join(f"> {line}" for line in block.split("\n"))
    elif tag == "table":
        yield from _table(element)
    elif tag != "hr":
        yield from _blocks(element)


def _items(element: Any, ordered: bool) -> Iterator[str]:
    number = 0
    for child in element:
        if child.tag in ("ul", "ol", "menu"):  # a list right inside a list, as word processors write it
            yield from (f"  {line}" for line in _items(child, ordered=child.tag == "ol"))
            continue
        if not isinstance(child.tag, str) or child.tag in _SKIPPED:
            continue
        parts = [re.sub(r"^#+ ", "", block) for block in _blocks(child)]
        if parts:
            number += 1
            mark = f"{number}. " if ordered else "- "
            pad = " " * len(mark)
            first, *rest = (line for part in parts for line in part.split("\n"))
            yield "\n".join([mark + first, *(pad + line for line in rest)])


def _definitions(element: Any) -> Iterator[str]:
    for child in element.iter("dt", "dd"):
        text = "\n\n".join(_blocks(child))
        if text:
            yield f"**{_one_line(text)}**" if child.tag == "dt" else text


def _table(element: Any) -> Iterator[str]:
    if next(element.iterdescendants("table"), None) is not None:  # a layout table
        yield from _blocks(element)
        return
    caption = next(element.iterdescendants("caption"), None)
    if caption is not None:
        yield from _paragraph([_inline(caption)])
    rows = [[_one_line(_text(cell)) for cell in row if cell.tag in ("td", "th")] for row in element.iter("tr")]
    text = table_text(rows)
    yield from [text] if text else []


def _text(element: Any) -> str:
    return " ".join(_blocks(element))


def _has_block(element: Any) -> bool:
    return any(True for _ in element.iterdescendants(*_BLOCKS))


def _inline(element: Any) -> str:
    """The text of an inline element, white space as it is; a line break is one."""
    if element.tag == "br":
        return "\n"
    if element.tag in ("code", "kbd", "samp", "tt"):
        text = _one_line("".join(element.itertext()))
        return f"`{text}`" if text and "`" not in text else text
    parts = [element.text or ""]
    for child in element:
        if isinstance(child.tag, str) and child.tag not in _SKIPPED:
            parts.append(_inline(child))
        parts.append(child.tail or "")
    return "".join(parts)


def _paragraph(run: list[str]) -> Iterator[str]:
    """The text of a run; a line break of the source is a space, one of the page is kept."""
    text = "".join(run)
    lines = [line for part in text.split("\n\n") for line in [_one_line(part)] if line]
    if lines:
        yield "\n".join(re.sub(r"^#", "\\#", line) for line in lines)


def _one_line(text: str) -> str:
    return " ".join(text.split())
