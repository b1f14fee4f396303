"""Passages as arrays of words: what is no prose is left out, and every n-gram can be counted at once."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from shoptalk.records import Passage
from shoptalk.vocabulary.acronyms import singular

_NOT_PROSE = re.compile(
    r"```.*?(?:```|\Z)"  # code blocks
    r"|<[^<>\n]{1,200}>"  # tags, and addresses in angle brackets
    r"|\]\([^()\s]*\)"  # where a Markdown link leads
    r"|\b(?:[a-z][a-z+.\-]{1,12}://|www\.)\S+"
    r"|\S+@\S+"
    r"|[\\$@%#&]\w+"  # commands and variables
    r"|(?<![\w/])[~.]{0,2}/?[\w.\-]+(?:[/\\][\w.\-]+){2,}/?"  # paths
    r"|\b\w[\w\-]*(?:\.\w[\w\-]*)+(?:\(\))?",  # file names, versions, dotted names
    re.DOTALL | re.IGNORECASE,
)
# Without one of these there is nothing of the kind; most passages have none, and looking for them is quick.
_NOT_PROSE_MARK = re.compile(r"[<`\\$@%#&/]|\]\(|\w\.\w|www")
_SEGMENT = re.compile(r"(?<=[.!?:])\s+|\n+|\s+\|\s+")
_TITLE_PART = re.compile(r"\s+[>|–—-]\s+|:\s+")
_CODE_MARK = re.compile(r"[{}=;<>$\\|]")
_CODE_SHARE = 0.02
_PIECE = re.compile(r"[^\W_]+(?:(?:[-’'·]|&(?=[A-Z])|(?<=\d)/(?=\d))[^\W_]+)*|_\w*|[^\w\s]")
_ELISION = re.compile(r"^[^\W\d_]{1,3}'(?=[^\W\d_]{3})")
_POSSESSIVE = re.compile(r"'s?$")
_MOST_CHARS = 24_000_000
_FEW_SOURCES = 5
_SPELLINGS = 500

Words = NDArray[np.int64]
BREAK = -1


@dataclass(frozen=True)
class Text:
    """The words of passages in one row. `ids`: (n,) case-folded word or BREAK; `surfaces`: (n,) spelling; `places`: (n,)
    passage; `units`: (n,) what a document is.
    """

    ids: Words
    surfaces: Words
    places: Words
    units: Words
    names: list[str]
    spellings: list[str]

    @cached_property
    def counts(self) -> Words:
        """(n_words,) how often each word occurs."""
        return np.bincount(self.ids[self.ids >= 0], minlength=len(self.names)).astype(np.int64)

    @cached_property
    def total(self) -> int:
        """How many words there are."""
        return int(self.counts.sum())

    @cached_property
    def index(self) -> dict[str, int]:
        """Word -> its number."""
        return {name: number for number, name in enumerate(self.names)}

    @cached_property
    def first_letters(self) -> Words:
        """(n_words + 1,) the code point each word begins with; the last is for places without a word."""
        return np.array([*(ord(name[0]) for name in self.names), 0], np.int64)

    @cached_property
    def n_units(self) -> int:
        """How many documents there are."""
        return int(self.units.max()) + 1 if len(self.units) else 0

    def spelling(self, positions: Words, size: int) -> str:
        """How the n-gram at these positions is written: in small letters, then as short, then as often as it comes, of the
        spellings that make a fifth or more.
        """
        found: Counter[str] = Counter()
        for start in positions[:_SPELLINGS].tolist():
            words = (self.spellings[i] for i in self.surfaces[start : start + size])
            found[" ".join(singular(word) for word in words)] += 1
        frequent = [text for text, n in found.items() if 5 * n >= min(len(positions), _SPELLINGS)] or list(found)
        return min(frequent, key=lambda text: (text != text.casefold(), len(text), -found[text], text))


def read_text(passages: Sequence[Passage]) -> Text:
    """The words of passages, titles included (a heading counts once a document).

    Of a corpus of more than 24 million characters an even sample of its passages is read.
    """
    step = max(1, -(-sum(len(p.text) for p in passages) // _MOST_CHARS))
    chosen = range(0, len(passages), step)
    by_source = len({passages[i].source for i in chosen}) >= _FEW_SOURCES
    units: dict[str, int] = {}
    spelled: dict[str, int] = {}
    surfaces: list[int] = []
    places: list[int] = []
    of_place: list[int] = []
    seen: set[tuple[str, str]] = set()
    for place in chosen:
        passage = passages[place]
        pieces = [piece for segment in _segments(passage, seen) for piece in (*_PIECE.findall(segment), ".")]
        surfaces += [spelled.setdefault(piece, len(spelled)) for piece in pieces]
        places += [place] * len(pieces)
        unit = passage.source if by_source else passage.passage_id
        of_place += [units.setdefault(unit, len(units))] * len(pieces)
    spellings = [_POSSESSIVE.sub("", spelling) for spelling in spelled]
    ids, names = _folded(spellings, surfaces)
    columns = (np.asarray(column, np.int64) for column in (surfaces, places, of_place))
    return Text(ids, next(columns), next(columns), next(columns), names, spellings)


def _segments(passage: Passage, seen: set[tuple[str, str]]) -> Iterator[str]:
    """Sentences and lines that are prose and new: what stands on every page (a template, a menu) counts once."""
    for part in _TITLE_PART.split(passage.title.replace("’", "'")):
        if ("title " + passage.source, part) not in seen:
            seen.add(("title " + passage.source, part))
            yield part
    text = (html.unescape(passage.text) if "&" in passage.text else passage.text).replace("’", "'")
    prose = _NOT_PROSE.sub(" | ", text) if _NOT_PROSE_MARK.search(text) else text
    for segment in _SEGMENT.split(prose):
        if ("", segment) not in seen and len(_CODE_MARK.findall(segment)) <= 1 + _CODE_SHARE * len(segment):
            seen.add(("", segment))
            yield segment


def _folded(spellings: list[str], surfaces: list[int]) -> tuple[Words, list[str]]:
    """Case-folded words, a plural in -s with its singular where both occur."""
    folded = [_ELISION.sub("", singular(spelling).casefold()) for spelling in spellings]
    known = set(folded)
    names: dict[str, int] = {}
    of_spelling = np.full(len(folded), BREAK, np.int64)
    for index, word in enumerate(folded):
        if not word[:1].isalnum() or not any(letter.isalpha() for letter in word):
            continue
        if len(word) > 4 and word.endswith("s") and word[:-1] in known and not word.endswith("ss"):
            word = word[:-1]
        of_spelling[index] = names.setdefault(word, len(names))
    ids = of_spelling[np.asarray(surfaces, np.int64)] if surfaces else np.zeros(0, np.int64)
    return ids, list(names)


@dataclass(frozen=True)
class Grams:
    """N-grams of one size. `at`: (n_words,) id of the n-gram that starts there or BREAK; `starts`: its first place by id."""

    size: int
    at: Words
    count: Words
    documents: Words
    starts: Words

    def positions(self, gram: int) -> Words:
        """Where an n-gram starts, in order."""
        first, last = self._edges[gram : gram + 2]
        return self._order[first:last]

    @cached_property
    def _order(self) -> Words:
        inside = np.flatnonzero(self.at >= 0)
        return inside[np.argsort(self.at[inside], kind="stable")].astype(np.int64)

    @cached_property
    def _edges(self) -> Words:
        return np.concatenate([[0], np.cumsum(self.count)]).astype(np.int64)


def grams(text: Text, most: int, fewest: int) -> list[Grams]:
    """All n-grams of 1 to `most` words that occur `fewest` times or more, counted; longer ones only within those."""
    found = [_numbered(text, text.ids, 1, fewest)]
    for size in range(2, most + 1):
        head = found[-1].at
        tail = np.full(len(head), BREAK, np.int64)
        tail[: len(tail) - size + 1] = found[0].at[size - 1 :] if size > 1 else found[0].at
        keys = np.where((head >= 0) & (tail >= 0), head * (len(text.names) + 1) + tail, BREAK)
        found.append(_numbered(text, keys, size, fewest))
    return found


def _numbered(text: Text, keys: Words, size: int, fewest: int) -> Grams:
    there = np.flatnonzero(keys >= 0)
    _, first, inverse, count = np.unique(keys[there], return_index=True, return_inverse=True, return_counts=True)
    kept = np.flatnonzero(count >= fewest)
    renamed = np.full(len(count), BREAK, np.int64)
    renamed[kept] = np.arange(len(kept))
    at = np.full(len(keys), BREAK, np.int64)
    at[there] = renamed[inverse]
    inside = np.flatnonzero(at >= 0)
    pairs = np.unique(at[inside] * max(1, text.n_units) + text.units[inside])
    documents = np.bincount(pairs // max(1, text.n_units), minlength=len(kept)).astype(np.int64)
    return Grams(size, at, count[kept].astype(np.int64), documents, there[first[kept]])
