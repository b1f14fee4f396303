"""From a document to passages: by headings first, then by structure within a section, sized in the base model's tokens.

Paragraphs, lists, tables and code blocks stay whole where they fit; a table that is cut has its header in every part. What is
longer than a passage is cut by semantic-text-splitter. A passage's title is its heading path: "Travel guide > Booking > Hotels".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from shoptalk.corpus.blocks import Block, blocks_of
from shoptalk.corpus.readers import Document
from shoptalk.corpus.readers.markdown import Heading, headings
from shoptalk.records import Passage

_TINY_WORDS = 20
_BLOCK_CHARS = 20_000
_JOIN_TOKENS = 2
_PATH = " > "
_PATH_SHARE = 3
_ELLIPSIS = "…"
_SENTENCE = re.compile(r"(?:(?<=[.!?:;。！？])\s+|\n+)(?=\S)")


@dataclass(frozen=True, slots=True)
class _Section:
    path: tuple[str, ...]
    body: str
    start: int


class Chunker:
    """Cuts documents into passages of at most `max_tokens`, heading path included."""

    def __init__(self, tokenizer_file: Path | None, max_tokens: int, overlap_tokens: int = 0) -> None:
        """tokenizer_file: the base model's tokenizer.json; without one, four characters count as a token.

        overlap_tokens: of the text before, repeated at the start of the next passage of a section; at most half a passage.
        """
        self.max_tokens = max_tokens
        self.overlap_tokens = min(overlap_tokens, max_tokens // 2)
        self._tokenizer = None
        if tokenizer_file is not None and tokenizer_file.is_file():
            from tokenizers import Tokenizer

            self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()

    def split(self, document: Document, source: str) -> list[Passage]:
        """The passages of a document, in order; ids are source#1, source#2, ..."""
        pieces: list[_Section] = []
        for section in _sections(document):
            path = self._short_path(section.path)
            room = max(min(16, self.max_tokens // 2), self.max_tokens - self.count(_PATH.join(path)))
            for offset, text in self._chunks(section.body, room):
                pieces.append(_Section(path, text, section.start + offset))
        return [
            Passage(f"{source}#{number}", piece.body.strip(), _PATH.join(piece.path), source, _text_start(piece))
            for number, piece in enumerate(self._merge_tiny(pieces), 1)
        ]

    def count(self, text: str) -> int:
        """How many tokens a text has for the base model, without those that mark its beginning and end."""
        if self._tokenizer is None:
            return len(text) // 4 + 1
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _short_path(self, path: tuple[str, ...]) -> tuple[str, ...]:
        """A heading path that takes a third of a passage at most: the middle goes first, then the ends of its names."""
        most = max(8, self.max_tokens // _PATH_SHARE)
        names, middle = list(path), list(path[1:-1])
        while middle and self.count(_PATH.join(names)) > most:
            middle.pop(0)
            names = [path[0], _ELLIPSIS, *middle, path[-1]]
        while self.count(_PATH.join(names)) > most and any(len(name) > 8 for name in names):
            longest = max(range(len(names)), key=lambda number: len(names[number]))
            names[longest] = names[longest][: len(names[longest]) * 2 // 3].rstrip(f" {_ELLIPSIS}") + _ELLIPSIS
        return tuple(names)

    def _chunks(self, body: str, room: int) -> list[tuple[int, str]]:
        if not body.strip():
            return []
        if self.count(body) <= room:
            return [(0, body)]
        overlap = min(self.overlap_tokens, room // 2)
        pieces = list(self._packed(body, room - overlap))
        return (
            [self._overlapping(body, piece, overlap) if piece[0] else piece for piece in pieces] if overlap else pieces
        )

    def _packed(self, body: str, room: int) -> Iterator[tuple[int, str]]:
        """As many whole blocks as fit in one piece; a block that is too long comes in parts of its own."""
        start = end = used = 0
        for block in blocks_of(body):
            size = self.count(body[block.start : block.end])
            if used and used + _JOIN_TOKENS + size > room:
                yield from self._fitting(body, start, end, room)
                used = 0
            if size > room:
                yield from self._cut(body, block, room)
            else:
                start = start if used else block.start
                used = used + _JOIN_TOKENS + size if used else max(1, size)
                end = block.end
        if used:
            yield from self._fitting(body, start, end, room)

    def _fitting(self, body: str, start: int, end: int, room: int) -> Iterator[tuple[int, str]]:
        """A piece of whole blocks; cut after all where the tokenizer counts the whole as more than its blocks."""
        if self.count(body[start:end]) <= room:
            yield start, body[start:end]
        else:
            yield from self._split_text(body, start, end, room)

    def _cut(self, body: str, block: Block, room: int) -> Iterator[tuple[int, str]]:
        header = body[block.start : block.header_end]
        header_tokens = self.count(header) if header else 0
        if not header or header_tokens > room // 2:
            yield from self._split_text(body, block.start, block.end, room)
            return
        start = end = block.header_end
        used = header_tokens
        for row in re.finditer(r"[^\n]*\n?", body[block.header_end : block.end]):
            row_start, row_end = block.header_end + row.start(), block.header_end + row.end()
            size = self.count(row.group()) + 1
            if used + size > room and end > start:
                yield self._table_part(body, block, start, end)
                start, used = row_start, header_tokens
            if header_tokens + size > room:  # one row is longer than a passage: its header would not fit
                yield from self._split_text(body, row_start, row_end, room)
                start = row_end
            else:
                used += size
            end = row_end
        if end > start:
            yield self._table_part(body, block, start, end)

    def _table_part(self, body: str, block: Block, start: int, end: int) -> tuple[int, str]:
        """Rows under their table's header, which is written again; the first rows have it where it stands."""
        if start == block.header_end:
            return block.start, body[block.start : end]
        return start, body[block.start : block.header_end] + body[start:end]

    def _split_text(self, body: str, start: int, end: int, room: int) -> Iterator[tuple[int, str]]:
        from semantic_text_splitter import MarkdownSplitter

        # A callback: each splitter made from a tokenizer would copy it, which takes longer than the splitting.
        splitter = MarkdownSplitter.from_callback(self.count, room)
        for part_start, part in _bounded(body[start:end]):
            for offset, text in splitter.chunk_indices(part):
                yield start + part_start + int(offset), str(text)

    def _overlapping(self, body: str, piece: tuple[int, str], overlap: int) -> tuple[int, str]:
        """The piece with the last sentences before it, as many as fit; with the last words where none fits."""
        start, text = piece
        if not body.startswith(text[:50], start):  # a table's part, whose header says what it is
            return piece
        window = body[max(0, start - 12 * overlap) : start]
        cuts = [found.end() for found in _SENTENCE.finditer(window)] + [
            found.end() for found in re.finditer(r"\s+", window)
        ]
        for cut in cuts:
            before = window[cut:]
            if before.strip() and self.count(before) <= overlap:
                return start - len(before), before + text
        return piece

    def _merge_tiny(self, pieces: Sequence[_Section]) -> list[_Section]:
        """A piece of a few words joins the next one under the same top heading, else the one before; its heading goes with it."""
        merged: list[_Section] = []
        for piece in pieces:
            last = merged[-1] if merged else None
            if last is not None and len(last.body.split()) < _TINY_WORDS and (joined := self._join(last, piece)):
                merged[-1] = joined
            else:
                merged.append(piece)
        kept: list[_Section] = []
        for piece in merged:
            if kept and len(piece.body.split()) < _TINY_WORDS and (joined := self._join(kept[-1], piece)):
                kept[-1] = joined
            else:
                kept.append(piece)
        return kept

    def _join(self, first: _Section, second: _Section) -> _Section | None:
        """Two pieces as one with the first one's heading, or None when they are of different parts or too long together."""
        if first.path[:1] != second.path[:1]:
            return None
        heading = second.path[-1] if second.path != first.path and second.path else ""
        heading += "" if not heading else " " if heading.endswith((":", "?", ".", "!")) else ": "
        body = second.body.strip()
        gap = "\n" if heading and body.startswith(("|", "```", "~~~", "- ", "* ")) else ""
        joined = f"{first.body.strip()}\n{heading}{gap}{body}"
        if self.count(joined) + self.count(_PATH.join(first.path)) > self.max_tokens:
            return None
        return _Section(first.path, joined, first.start)


def _bounded(body: str) -> Iterator[tuple[int, str]]:
    """A long body in parts with their offsets, cut at an empty line, a line end or a space: the splitter's time grows faster
    than its input.
    """
    start = 0
    while len(body) - start > _BLOCK_CHARS:
        end = start + _BLOCK_CHARS
        cuts = (body.rfind(mark, start + _BLOCK_CHARS // 2, end) + len(mark) for mark in ("\n\n", "\n", " "))
        cut = next((cut for cut in cuts if cut > start + _BLOCK_CHARS // 2), end)
        yield start, body[start:cut]
        start = cut
    yield start, body[start:]


def _text_start(piece: _Section) -> int:
    return piece.start + len(piece.body) - len(piece.body.lstrip())


def _sections(document: Document) -> Iterator[_Section]:
    """Heading path, body and offset of every section; the document's title is the first part of each path."""
    text, start = document.text, 0
    stack: list[Heading] = []
    for heading in (*headings(text), None):
        body = text[start : heading.start if heading else len(text)]
        if body.strip():
            names = [above.name for above in stack]
            path = names if names[:1] == [document.title] else [document.title, *names]
            yield _Section(tuple(name for name in path if name), body, start)
        if heading:
            stack = [above for above in stack if above.level < heading.level] + [heading]
            start = heading.end
