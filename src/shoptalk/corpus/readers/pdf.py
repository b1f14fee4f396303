"""PDF by pypdfium2: lines with their places and sizes, made into headings, paragraphs and lists; a file without text says so."""

from __future__ import annotations

import ctypes
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from shoptalk.corpus.readers import Document, Unreadable, missing_part

_SOFT_HYPHENS = ("\ufffe", "\x02", "\xad")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ufffe\uffff\xad]")
_BULLET = re.compile(r"^[•▪■●○◦‣–·→►➔➢✓\uf0b7\uf0a7]\s*")
_NUMBERED = re.compile(r"^(?:\(?(?:\d{1,2}|[a-z])[.)])\s+\S")
_PAGE_NUMBER = re.compile(r"^\W*(?:page|seite|p\.)?\s*(\d{1,4})(?:\s*(?:of|/|von|de)\s*\d{1,4})?\W*$", re.IGNORECASE)
_EDGE_LINES = 3
_HEADING_LINES = 3
_HEADING_CHARS = 150
_TITLES_OF_TOOLS = re.compile(
    r"microsoft |untitled|^\W*$|\.(docx?|pdf|indd|pptx?|xlsx?|qxd|ai)\b|^document\d*$", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of a page; `left`, `right`, `top` and `bottom` in points from the lower left corner."""

    text: str
    left: float
    right: float
    top: float
    bottom: float
    size: float
    bold: bool


def read(raw: bytes, name: str) -> Document:
    """The text page by page. Raises Unreadable for an encrypted, damaged or scanned file, MissingPart."""
    try:
        import pypdfium2
    except ImportError:
        raise missing_part("PDF", "pypdfium2") from None
    try:
        pdf = pypdfium2.PdfDocument(raw)
    except pypdfium2.PdfiumError as error:
        reason = "encrypted; save it without a password" if "password" in str(error).lower() else f"not a PDF: {error}"
        raise Unreadable(reason) from None
    try:
        pages, broken = _pages(pdf)
        title = pdf.get_metadata_value("Title") or ""
    finally:
        pdf.close()
    empty = sum(1 for page in pages if not page)
    if empty == len(pages):
        raise Unreadable(f"no text on its {len(pages)} pages (scanned?); run a text recognition (OCR) over it first")
    without = _without_edges(pages)
    headings = _Headings(without)
    text, starts = _text(without, headings)
    notes = [f"{empty} of {len(pages)} pages have no text (scanned?)"] if empty else []
    notes += [f"{broken} pages are damaged"] if broken else []
    return Document(_clean(title) or headings.title or name, text, starts, "; ".join(notes))


def _pages(pdf: Any) -> tuple[list[list[_Line]], int]:
    """The lines of every page, and how many pages could not be opened (they have none)."""
    import pypdfium2

    pages: list[list[_Line]] = []
    broken = 0
    for number in range(len(pdf)):
        try:
            page = pdf[number]
            pages.append(list(_lines(page.get_textpage())))
            page.close()
        except pypdfium2.PdfiumError:
            pages.append([])
            broken += 1
    return pages, broken


def _lines(page: Any) -> Iterator[_Line]:
    start = 0
    n_chars = page.count_chars()
    for written in page.get_text_range().split("\r\n"):
        end = min(start + len(written), n_chars) - 1
        text = written.strip()
        if text and start <= end:
            first = start + len(written) - len(written.lstrip())
            last = max(first, end - (len(written) - len(written.rstrip())))
            yield _line(page, text, min(first, n_chars - 1), min(last, n_chars - 1))
        start += len(written) + 2


def _line(page: Any, text: str, first: int, last: int) -> _Line:
    left, bottom, right, top = page.get_charbox(first, loose=True)
    end = page.get_charbox(last, loose=True)
    for mark in _SOFT_HYPHENS:
        text = f"{text[:-1]}\xad" if text.endswith(mark) else text
    hyphen = "\xad" if text.endswith("\xad") else ""
    plain = " ".join(_CONTROL.sub("", text).split()) + hyphen
    bold = _is_bold(page, first) and _is_bold(page, last)
    # Two lines with a hyphen between them come as one, which ends at the second.
    return _Line(plain, left, max(right, end[2]), top, min(bottom, end[1]), _size(page, first), bold)


def _size(page: Any, index: int) -> float:
    """The font size in points as it is shown: that of the font, times the scale of the text's matrix."""
    import pypdfium2.raw as pdfium

    matrix = pdfium.FS_MATRIX()
    known = pdfium.FPDFText_GetMatrix(page, index, ctypes.byref(matrix))
    scale = (matrix.b**2 + matrix.d**2) ** 0.5 if known else 1.0
    return round(float(pdfium.FPDFText_GetFontSize(page, index)) * scale, 1)


def _is_bold(page: Any, index: int) -> bool:
    import pypdfium2.raw as pdfium

    name = ctypes.create_string_buffer(128)
    flags = ctypes.c_int()
    pdfium.FPDFText_GetFontInfo(page, index, name, 128, ctypes.byref(flags))
    return b"bold" in name.value.lower() or pdfium.FPDFText_GetFontWeight(page, index) >= 600


def _without_edges(pages: Sequence[list[_Line]]) -> list[list[_Line]]:
    """The pages without running headers and footers: lines at the edge of a page that many pages have, and page numbers."""
    seen: Counter[str] = Counter()
    for page in pages:
        seen.update({_form(line) for line in _edge(page)})
    often = max(3, 0.3 * len(pages))
    kept = []
    for number, page in enumerate(pages, 1):
        gone = {
            id(line)
            for line in _edge(page)
            if seen[_form(line)] >= often
            or ((found := _PAGE_NUMBER.match(line.text)) is not None and int(found.group(1)) == number)
        }
        kept.append([line for line in page if id(line) not in gone and line.text.strip("\xad")])
    return kept


def _edge(page: Sequence[_Line]) -> list[_Line]:
    """The highest and the lowest lines."""
    by_height = sorted(page, key=lambda line: -line.top)
    return by_height if len(page) <= 2 * _EDGE_LINES else [*by_height[:_EDGE_LINES], *by_height[-_EDGE_LINES:]]


def _form(line: _Line) -> str:
    """A line with its numbers alike, so that "Page 3 of 9" is on every page."""
    return re.sub(r"\d+", "#", line.text).casefold()


class _Headings:
    """Which lines are headings: larger than the body, or a short bold line where the body is not bold."""

    def __init__(self, pages: Sequence[list[_Line]]) -> None:
        lines = [line for page in pages for line in page]
        sizes: Counter[float] = Counter()
        for line in lines:
            sizes[line.size] += len(line.text)
        self.body = sizes.most_common(1)[0][0] if sizes else 0.0
        letters = sum(len(line.text) for line in lines) or 1
        self._bold_body = sum(len(line.text) for line in lines if line.bold) > 0.4 * letters
        larger = sorted({line.size for line in lines if self._is_larger(line)}, reverse=True)
        self._levels = {size: min(level, 3) for level, size in enumerate(larger, 1)}
        self._deepest = min(4, len(larger) + 1)
        # A form or a poster is large and bold everywhere: then size says nothing.
        self._useless = sum(1 for line in lines if self._level(line)) > 0.4 * len(lines)
        first = [line for line in (pages[0] if pages else []) if self._is_larger(line)]
        self.title = ""
        if first and not self._useless:
            largest = max(line.size for line in first)
            run = [line.text.strip("\xad") for line in first if line.size == largest]
            self.title = " ".join(run)[:200].strip()

    def level(self, line: _Line) -> int:
        """1 to 4, or 0 for a line that is no heading."""
        return 0 if self._useless else self._level(line)

    def _level(self, line: _Line) -> int:
        if self._is_larger(line):
            return self._levels[line.size]
        short = len(line.text) <= 80 and line.text[-1:] not in ".,;:"
        few_numbers = len(re.findall(r"\d", line.text)) <= 0.2 * len(line.text)
        likely = line.bold and not self._bold_body and short and few_numbers
        return self._deepest if likely else 0

    def _is_larger(self, line: _Line) -> bool:
        return line.size >= 1.15 * self.body and len(line.text) <= 150 and len(re.findall(r"[^\W\d_]", line.text)) >= 3


def _begins_like_a_heading(line: _Line) -> bool:
    first = re.search(r"[^\W_]", line.text)
    return first is not None and not first.group().islower() and _BULLET.match(line.text) is None


def _text(pages: Sequence[list[_Line]], headings: _Headings) -> tuple[str, tuple[int, ...]]:
    """The pages as Markdown, and where each begins. A sentence that goes on over the page goes on in the text."""
    text, starts = "", []
    for page in pages:
        blocks = _page_text(page, headings)
        goes_on = bool(text and blocks) and re.match(r"^[a-zà-ÿ]", blocks) is not None and text[-1] not in ".:!?|"
        if goes_on and text.endswith("\xad"):
            text = text[:-1]
        elif blocks and text:
            text = text.rstrip("\xad") + (" " if goes_on else "\n\n")
        starts.append(len(text))
        text += blocks
    return text.replace("\xad", ""), tuple(start - text[:start].count("\xad") for start in starts)


def _page_text(page: Sequence[_Line], headings: _Headings) -> str:
    """Lines are joined where a paragraph goes on; rows of tables and short lines stay on their own."""
    text = ""
    before: _Line | None = None
    level_before = 0
    for line, level in zip(page, _levels(page, headings), strict=True):
        marked = _BULLET.sub("- ", line.text)
        shown = f"{'#' * level} {line.text}" if level else re.sub(r"^#", "\\#", marked)
        if before is None:
            text = shown
        elif level and level == level_before and _is_one_type(before, line):
            text += f" {line.text}"  # a heading of several lines
        elif level or level_before or not _is_near(before, line):
            text += f"\n\n{shown}"
        elif text.endswith("\n- ") or text in ("-", "- "):
            text = f"{text.rstrip()} {line.text}"  # the bullet stood alone
        elif shown.startswith("- ") or _NUMBERED.match(line.text):
            text += f"\n{shown}"
        else:
            text = _joined(text, before, line, page)
        before, level_before = line, level
    return text


def _levels(page: Sequence[_Line], headings: _Headings) -> list[int]:
    """The heading level of every line; several lines in a heading's type are a paragraph set large."""
    levels = [headings.level(line) for line in page]
    start = 0
    for end in range(1, len(page) + 1):
        if end < len(page) and levels[end] and levels[end] == levels[start] and _is_one_type(page[end - 1], page[end]):
            continue
        run = page[start:end]
        long = len(run) > _HEADING_LINES or sum(len(line.text) for line in run) > _HEADING_CHARS
        if long or not _begins_like_a_heading(run[0]):
            levels[start:end] = [0] * len(run)
        start = end
    return levels


def _joined(text: str, before: _Line, line: _Line, page: Sequence[_Line]) -> str:
    """`text` with a line that follows closely: a part of the same paragraph where the one before was full."""
    if text.endswith("\xad"):
        return text[:-1] + line.text
    margin = max(other.right for other in page if abs(other.left - before.left) <= 2 * before.size)
    full = before.right >= before.left + 0.8 * (margin - before.left) and not _is_row(before) and not _is_row(line)
    if re.search(r"[^\W\d]-$", text) and line.text[:1].islower():
        return text[:-1] + line.text
    return text + (" " if full or line.text[:1].islower() else "\n") + line.text


def _is_row(line: _Line) -> bool:
    """A row of a table: much of it is numbers."""
    words = line.text.split()
    return len(words) >= 2 and sum(1 for word in words if re.search(r"\d", word) or word in "$%—-") >= 0.4 * len(words)


def _is_near(before: _Line, line: _Line) -> bool:
    """Whether a line is right below another (or beside it), in the same column."""
    return -0.2 * before.size <= before.bottom - line.top + 0.5 * line.size <= 1.2 * max(before.size, line.size)


def _is_one_type(before: _Line, line: _Line) -> bool:
    return before.bold == line.bold and _is_near(before, line)


def _clean(title: str) -> str:
    plain = " ".join(_CONTROL.sub("", title).split())
    nothing = re.search(r"[^\W\d_]{3}", plain) is None
    return "" if nothing or len(plain) < 4 or len(plain) > 150 or _TITLES_OF_TOOLS.search(plain) else plain
