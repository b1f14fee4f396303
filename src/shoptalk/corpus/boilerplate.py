"""Text that many files of one folder have in common: banners, running footers, "was this helpful", whatever their readers left.

A block counts when a large share of the files of the source, or of one of its top folders (a site, an archive), have it word for
word. Not of deeper folders: what pages on one subject share is content. Headings, code and tables are never boilerplate, nor
are a few words, which may be an item of any list.
"""

from __future__ import annotations

import bisect
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from shoptalk.corpus.readers.markdown import lines_of

_FEWEST_FILES = 8
_FEWEST_WORDS = 4
_LETTERS = re.compile(r"(?:[^\W\d_].*?){10}")
_ITEM = re.compile(r"^\s*(?:[-*+•]|\d+[.)])\s")


@dataclass(frozen=True, slots=True)
class Repeated:
    """A block that was taken out, and in how many files of which folder it stood."""

    text: str
    folder: str
    files: int


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A text without its boilerplate; `origin(offset)` says where a place of it stood before."""

    text: str
    _starts: tuple[int, ...] = (0,)
    _shifts: tuple[int, ...] = (0,)

    def origin(self, offset: int) -> int:
        """The offset in the text as it was read."""
        return offset + self._shifts[bisect.bisect_right(self._starts, offset) - 1]


def find_repeated(texts: Iterable[tuple[str, str]], share: float) -> dict[str, list[Repeated]]:
    """Boilerplate by folder, from (file name, text) of every document. share: of a folder's files, from which on it counts."""
    files: Counter[str] = Counter()
    copies: dict[str, Counter[str]] = defaultdict(Counter)
    for name, text in texts:
        folders = _folders(name)
        files.update(folders)
        for block in {plain for _, _, plain in _units(text)}:
            for folder in folders:
                copies[folder][block] += 1
    found: dict[str, list[Repeated]] = {}
    for folder, blocks in copies.items():
        least = max(_FEWEST_FILES / 2, share * files[folder])
        if files[folder] >= _FEWEST_FILES:
            found[folder] = [Repeated(block, folder, n) for block, n in blocks.most_common() if n >= least]
    return {folder: repeated for folder, repeated in found.items() if repeated}


def without_repeated(name: str, text: str, found: Mapping[str, Sequence[Repeated]]) -> Cleaned:
    """The text of a file without what its folders have found to be boilerplate."""
    gone = {repeated.text for folder in _folders(name) for repeated in found.get(folder, ())}
    cut = [(start, end) for start, end, plain in _units(text) if plain in gone] if gone else []
    if not cut:
        return Cleaned(text)
    parts: list[str] = []
    starts, shifts, at, length = [0], [0], 0, 0
    for start, end in cut:
        parts.append(text[at:start])
        length += start - at
        at = end
        starts.append(length)
        shifts.append(at - length)
    return Cleaned("".join([*parts, text[at:]]), tuple(starts), tuple(shifts))


def _folders(name: str) -> list[str]:
    """The whole source (""), and the top folder that a file is in; an archive is a folder too."""
    top, inside, _ = name.partition("/")
    return ["", top] if inside else [""]


def _units(text: str) -> Iterator[tuple[int, int, str]]:
    """Start, end and words of every paragraph and list item outside code, tables and headings."""
    start, offset, lines = 0, 0, list[str]()
    for line, is_code in [*lines_of(text), ("", False)]:
        plain = line.strip()
        apart = not plain or is_code or plain.startswith(("#", "|"))
        if lines and (apart or _ITEM.match(line)):
            yield from _unit(start, offset, lines)
            lines = []
        if not apart:
            start = start if lines else offset
            lines.append(line)
        offset += len(line)


def _unit(start: int, end: int, lines: list[str]) -> Iterator[tuple[int, int, str]]:
    plain = " ".join("".join(lines).split())
    if plain.count(" ") + 1 >= _FEWEST_WORDS and _LETTERS.search(plain):
        yield start, end, plain
