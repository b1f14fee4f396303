"""Word documents: headings, lists and tables in document order, with what was inserted and without what was deleted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from shoptalk.corpus.office import office_file
from shoptalk.corpus.readers import Document, missing_part
from shoptalk.corpus.tables import table_text

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_HEADING = re.compile(r"^(?:heading|überschrift|titre|título|título|kop|rubrik|overskrift)\s*([1-6])$", re.IGNORECASE)


def read(raw: bytes, name: str) -> Document:
    """The body of a document. Raises Unreadable for an encrypted or damaged file, MissingPart."""
    try:
        import docx
    except ImportError:
        raise missing_part("Word documents", "python-docx") from None
    with office_file(raw, "a Word document", "Word", ".docx") as file:
        document = docx.Document(file)
    styles = {style.style_id: style.name or "" for style in document.styles}
    blocks = [block for block in _blocks(document.element.body, styles) if block]
    text = "\n".join(_joined(blocks))
    return Document(_title(document, blocks) or name, text)


def _title(document: Any, blocks: list[str]) -> str:
    """The first heading of the first level, else what the file says of itself."""
    first = next((block[2:].strip() for block in blocks if block.startswith("# ")), "")
    return first or " ".join((document.core_properties.title or "").split())


def _joined(blocks: list[str]) -> Iterator[str]:
    """Items of a list stand together, all else is set apart by an empty line."""
    for before, block in zip(["", *blocks], blocks, strict=False):
        if before and not (_is_item(before) and _is_item(block)):
            yield ""
        yield block


def _is_item(block: str) -> bool:
    return block.lstrip().startswith("- ")


def _blocks(parent: Any, styles: dict[str, str]) -> Iterator[str]:
    for child in parent:
        if child.tag == f"{_W}p":
            yield _paragraph(child, styles)
        elif child.tag == f"{_W}tbl":
            yield from _table(child, styles)
        elif child.tag == f"{_W}sdt":  # a content control: a form field, a table of contents, a cover
            for content in child.iter(f"{_W}sdtContent"):
                yield from _blocks(content, styles)
                break
        elif child.tag in (f"{_W}ins", f"{_W}customXml", f"{_W}smartTag"):
            yield from _blocks(child, styles)


def _paragraph(element: Any, styles: dict[str, str]) -> str:
    text = "\n".join(line for part in _text(element).split("\n") if (line := " ".join(part.split())))
    if not text:
        return ""
    properties = element.find(f"{_W}pPr")
    style_id = _value(properties, "pStyle")
    style = styles.get(style_id, style_id)
    if style.lower().startswith("toc"):
        return ""
    if level := _level(properties, style):
        return f"{'#' * level} {' '.join(text.split())}"
    numbering = properties.find(f"{_W}numPr") if properties is not None else None
    if numbering is not None or style.startswith("List"):
        depth = int(_value(numbering, "ilvl") or 0) if numbering is not None else 0
        return f"{'  ' * min(depth, 8)}- {' '.join(text.split())}"
    return re.sub(r"(?m)^#", "\\#", text)


def _level(properties: Any, style: str) -> int:
    """The heading level of a paragraph; 0 for none. An outline level says it where the style's name does not."""
    if style.lower() == "title":
        return 1
    if found := _HEADING.match(style):
        return min(6, int(found.group(1)) + 1)
    outline = _value(properties, "outlineLvl")
    return min(6, int(outline) + 2) if outline.isdigit() and int(outline) < 9 else 0


def _value(element: Any, name: str) -> str:
    found = element.find(f"{_W}{name}") if element is not None else None
    return str(found.get(f"{_W}val") or "") if found is not None else ""


def _table(element: Any, styles: dict[str, str]) -> Iterator[str]:
    """A table; one of a single column is a frame around its text."""
    rows = [_cells(row) for row in element.iterchildren(f"{_W}tr")]
    if all(len(row) <= 1 for row in rows):
        for cell in (cell for row in rows for cell in row):
            yield from _blocks(cell, styles)
    else:
        yield table_text([[" ".join(" ".join(map(_text, c.iter(f"{_W}p"))).split()) for c in row] for row in rows])


def _cells(row: Any) -> list[Any]:
    """The cells of a row, also those in a content control, but not those of a table in a cell."""
    found: list[Any] = []
    for child in row:
        if child.tag == f"{_W}tc":
            found.append(child)
        elif child.tag in (f"{_W}sdt", f"{_W}sdtContent", f"{_W}customXml"):
            found += _cells(child)
    return found


def _text(element: Any) -> str:
    """The text in runs, links and insertions; of a drawing's two versions, the newer one."""
    parts: list[str] = []
    for child in element:
        if child.tag == f"{_W}t":
            parts.append(child.text or "")
        elif child.tag == f"{_W}tab":
            parts.append("\t")
        elif child.tag in (f"{_W}br", f"{_W}cr"):
            parts.append("\n")
        elif child.tag == f"{_W}noBreakHyphen":
            parts.append("-")
        elif child.tag not in (f"{_W}del", f"{_W}pPr", f"{_W}instrText", f"{_W}delText", _FALLBACK):
            parts.append(_text(child))
    return "".join(parts)
