"""From a document to passages: by headings first, then by structure within a section, sized in the base model's tokens.

Engine within a section: semantic-text-splitter. A passage's title is its heading path: "Travel guide > Booking > Hotels".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shoptalk.corpus.readers import Document
from shoptalk.corpus.readers.markdown import Heading, headings
from shoptalk.records import Passage

_TINY_WORDS = 20
_BLOCK_CHARS = 20_000
_PATH = " > "


@dataclass(frozen=True, slots=True)
class _Section:
    path: tuple[str, ...]
    body: str
    start: int


class Chunker:
    """Cuts documents into passages of at most `max_tokens`, heading path included."""

    def __init__(self, tokenizer_file: Path | None, max_tokens: int) -> None:
        """tokenizer_file: the base model's tokenizer.json; without one, four characters count as a token."""
        self.max_tokens = max_tokens
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
            room = max(16, self.max_tokens - self._count(_PATH.join(section.path)))
            for offset, text in self._chunks(section.body, room):
                pieces.append(_Section(section.path, text, section.start + offset))
        return [
            Passage(f"{source}#{number}", piece.body.strip(), _PATH.join(piece.path), source, _text_start(piece))
            for number, piece in enumerate(self._merge_tiny(pieces), 1)
        ]

    def _chunks(self, body: str, room: int) -> list[tuple[int, str]]:
        if not body.strip():
            return []
        if self._count(body) <= room:
            return [(0, body)]
        from semantic_text_splitter import MarkdownSplitter

        if self._tokenizer is not None:
            splitter = MarkdownSplitter.from_huggingface_tokenizer(self._tokenizer, room)
        else:
            splitter = MarkdownSplitter(room * 4)
        return [
            (block_start + int(offset), str(text))
            for block_start, block in _blocks(body)
            for offset, text in splitter.chunk_indices(block)
        ]

    def _merge_tiny(self, pieces: list[_Section]) -> list[_Section]:
        """A piece of a few words joins the next one under the same top heading, keeping its own heading in the text."""
        merged: list[_Section] = []
        for piece in pieces:
            last = merged[-1] if merged else None
            if last is not None and last.path[:1] == piece.path[:1] and len(last.body.split()) < _TINY_WORDS:
                heading = f"{piece.path[-1]}: " if piece.path != last.path and piece.path else ""
                joined = f"{last.body.strip()}\n{heading}{piece.body.strip()}"
                if self._count(joined) + self._count(_PATH.join(last.path)) <= self.max_tokens:
                    merged[-1] = _Section(last.path, joined, last.start)
                    continue
            merged.append(piece)
        return merged

    def _count(self, text: str) -> int:
        if self._tokenizer is None:
            return len(text) // 4 + 1
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)


def _blocks(body: str) -> Iterator[tuple[int, str]]:
    """A long body in blocks with their offsets, cut at an empty line, a line end or a space: the splitter's time grows faster
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
