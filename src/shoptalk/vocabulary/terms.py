"""Finding a team's own words: acronyms, words and phrases that are frequent here and rare or different elsewhere.

A phrase counts as often as it stands on its own, not as a part of a longer one (after the C-value of Frantzi, Ananiadou and
Mima 2000); it weighs as much as its words are more frequent here than in general text (weirdness: Ahmad, Gillam and Tostevin
1999) and hold together (normalised pointwise mutual information: Bouma 2009).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shoptalk.records import Passage
from shoptalk.vocabulary.acronyms import Expansion, expansions, is_acronym, plain_form, singular
from shoptalk.vocabulary.background import Background, function_words
from shoptalk.vocabulary.words import Grams, Text, Words, grams, read_text

_LONGEST = 4
_HOMES = 8
_FEWEST = 3
_FREE_SHARE = 0.35
# Natural logarithms of shares of general text. Above the first a word says nothing (about the 300 most frequent), above the
# second it is everyday language, which is a term only as a part of a phrase. By eye, on four corpora.
_EMPTY, _EVERYDAY, _RARE = -8.0, -11.0, -12.0
_WEIRD = (-2.0, 8.0)
_MOST_EXPANSIONS = 4
_WEAK = 3.5
_SPELLED = 400

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Term:
    """A word of the team's own. count: occurrences; documents: how many hold it; score: for ordering terms among themselves.

    passages: ids of the passages that use it, those that use it most first, at most 8.
    """

    text: str
    kind: Literal["acronym", "word", "phrase"]
    count: int
    documents: int
    score: float
    expansions: tuple[Expansion, ...] = ()
    passages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Found:
    """A candidate: the n-gram `gram` of `size` words, written as `term` is."""

    term: Term
    size: int
    gram: int


def find_terms(
    passages: Sequence[Passage], background: Background | None, queries: Iterable[str] = (), most: int = 200
) -> list[Term]:
    """The terms of a corpus, the most telling first; none inside another. Acronyms come with what they stand for.

    background: of the base model; without one every word that is no function word counts as equally rare.
    queries: labelled questions; an acronym that stands only there is a term too.
    """
    text = read_text(passages)
    if not (text.ids >= 0).any():
        return []
    found = grams(text, _LONGEST + 2, 2)
    general, stop = _general(text, background)
    defined = expansions(f"{p.title}\n{p.text}" if p.title else p.text for p in passages)
    capitals = _capitals(text)
    rows = _single(text, found, general, stop, capitals, defined)
    for size in range(2, _LONGEST + 1):
        rows += _phrases(text, found, size, general, stop)
    rows.sort(key=lambda row: (-row.term.score, row.term.text))
    asked = _asked(queries)
    shorts = {row.term.text for row in rows if row.term.kind == "acronym"} | asked.keys()
    meant = _meanings(text, found, stop, shorts, defined)
    chosen = _without_parts([*rows, *_only_asked(rows, meant, asked)], meant, most)
    return [
        replace(row.term, expansions=meant.get(row.term.text, ()), passages=_homes(text, found, row, passages))
        for row in chosen
    ]


def _general(text: Text, background: Background | None) -> tuple[Floats, Flags]:
    """Each word's share of general text, and whether it says nothing; the last entry is for places without a word."""
    small = function_words(Counter(dict(zip(text.names, text.counts.tolist(), strict=True))))
    shares = background.log_share(text.names) if background else np.full(len(text.names), _RARE)
    # A compound is as everyday as the most everyday of its parts is rare.
    shares = np.array(
        [max(share, _RARE) if "-" in name else share for share, name in zip(shares, text.names, strict=True)]
    )
    empty = [name in small or len(name) < 2 or "'" in name for name in text.names]
    return np.append(shares, 0.0), np.append(empty, True) | (np.append(shares, 0.0) > _EMPTY)


def _weirdness(text: Text, general: Floats, words: Words) -> Floats:
    here = np.log((text.counts[words] + 0.5) / text.total)
    return np.clip(here - general[words], *_WEIRD)


def _capitals(text: Text) -> Words:
    """(n_words,) how often each word is written as an acronym."""
    shaped = np.array([is_acronym(spelling) for spelling in text.spellings], bool)
    inside = (text.ids >= 0) & shaped[text.surfaces]
    return np.bincount(text.ids[inside], minlength=len(text.names)).astype(np.int64)


def _fewest_documents(text: Text) -> int:
    return 1 if text.n_units < 5 else 2 if text.n_units < 1000 else 3


def _free(found: Sequence[Grams], size: int, text: Text, stop: Flags) -> Floats:
    """(n_grams,) the share of occurrences that are no part of one longer phrase or of one template."""
    own = found[size - 1]
    nested = np.zeros(len(own.count), np.int64)
    longer, template = found[size], found[size + 1]
    if len(longer.count):
        first, last = longer.starts, longer.starts + size
        np.maximum.at(nested, own.at[first], np.where(stop[text.ids[last]], 0, longer.count))
        np.maximum.at(nested, own.at[first + 1], np.where(stop[text.ids[first]], 0, longer.count))
    if len(template.count) and size > 1:
        np.maximum.at(nested, own.at[template.starts], template.count)
    return 1 - nested / own.count


def _single(
    text: Text,
    found: Sequence[Grams],
    general: Floats,
    stop: Flags,
    capitals: Words,
    defined: Mapping[str, Mapping[str, int]],
) -> list[_Found]:
    own, free = found[0], _free(found, 1, text, stop)
    words = text.ids[own.starts]
    known = {short.casefold() for short in defined}
    rows = []
    for gram, word in enumerate(words.tolist()):
        name, count = text.names[word], int(own.count[gram])
        shouted = 2 * int(capitals[word]) > count
        is_defined = name in known and int(capitals[word]) > 0
        if is_defined and not shouted:  # "IT" beside many an "it"
            count = int(capitals[word])
        if count < _FEWEST or own.documents[gram] < _fewest_documents(text):
            continue
        acronym = shouted or is_defined
        share = min(general[word], _RARE) if is_defined else general[word]
        if not acronym and (stop[word] or share > _EVERYDAY or name[0].isdigit() or free[gram] < _FREE_SHARE):
            continue
        weird = min(math.log((count + 0.5) / text.total) - float(share), _WEIRD[1])
        score = math.log1p(own.documents[gram] * free[gram]) * (weird - 2.5) * (1.3 if is_defined else 1.0)
        if score > 0:
            positions = own.positions(gram)
            spelled = _shouted(text, positions) if acronym else text.spelling(positions, 1)
            kind: Literal["acronym", "word"] = "acronym" if acronym else "word"
            rows.append(_Found(Term(spelled, kind, count, int(own.documents[gram]), score), 1, gram))
    return rows


def _shouted(text: Text, positions: Words) -> str:
    found = Counter(singular(text.spellings[i]) for i in text.surfaces[positions].tolist())
    shaped = {spelling: n for spelling, n in found.items() if is_acronym(spelling)}
    return min(shaped, key=lambda spelling: (-shaped[spelling], spelling))


def _phrases(text: Text, found: Sequence[Grams], size: int, general: Floats, stop: Flags) -> list[_Found]:
    own = found[size - 1]
    if not len(own.count):
        return []
    words = np.stack([text.ids[own.starts + i] for i in range(size)], axis=1)
    content, free = ~stop[words], _free(found, size, text, stop)
    here = np.log(own.count / text.total)
    together = (here - np.log(text.counts[words] / text.total).sum(axis=1)) / -here / (size - 1)
    weird = (_weirdness(text, general, words) * content).sum(axis=1) / np.maximum(1, content.sum(axis=1))
    score = np.log1p(own.documents * free) * (weird - 0.5) * np.sqrt(np.maximum(0, together))
    long_enough = np.array([len(name) > 1 for name in text.names] + [False])
    keep = (
        content[:, 0] & content[:, -1] & (content.sum(axis=1) >= size - 1) & long_enough[words].all(axis=1)
        & (own.count >= _FEWEST) & (own.documents >= _fewest_documents(text)) & (free >= _FREE_SHARE) & (score > 0)
    )  # fmt: skip
    # Only what could be chosen is spelled out, which takes the longest.
    kept = np.flatnonzero(keep)
    kept = kept[np.argsort(-score[kept], kind="stable")[:_SPELLED]]
    return [
        _Found(
            Term(
                text.spelling(own.positions(gram), size), "phrase", int(own.count[gram]),
                int(own.documents[gram]), float(score[gram]),
            ), size, gram,
        )
        for gram in kept.tolist()
    ]  # fmt: skip


def _meanings(
    text: Text, found: Sequence[Grams], stop: Flags, shorts: Iterable[str], defined: Mapping[str, Mapping[str, int]]
) -> dict[str, tuple[Expansion, ...]]:
    """acronym -> what it stands for: as defined in the text, else frequent phrases whose words begin with its letters."""
    meant = {}
    for short in shorts:
        if short in defined:
            meant[short] = [Expansion(form, n, _uses(text, found, form)) for form, n in defined[short].items()]
        else:
            meant[short] = _by_initials(text, found, stop, short)
    return {short: tuple(forms[:_MOST_EXPANSIONS]) for short, forms in meant.items() if forms}


def _uses(text: Text, found: Sequence[Grams], form: str) -> int:
    """How often a long form of up to six words stands in the text."""
    words = [text.index.get(word, text.index.get(f"{word}s", -1)) for word in plain_form(form).split()]
    if not words or min(words) < 0 or len(words) > len(found):
        return 0
    own = found[len(words) - 1]
    same = np.ones(len(own.starts), bool)
    for place, word in enumerate(words):
        same &= text.ids[own.starts + place] == word
    return int(own.count[same].sum())


def _by_initials(text: Text, found: Sequence[Grams], stop: Flags, short: str) -> list[Expansion]:
    """Phrases of as many words as an acronym of three letters or more has, said three times or more, most used first."""
    letters = short.casefold()
    if not 3 <= len(letters) <= len(found) or not letters.isalpha():
        return []
    own = found[len(letters) - 1]
    same = (own.count >= _FEWEST) & ~stop[text.ids[own.starts + len(letters) - 1]]
    for place, letter in enumerate(letters):
        same &= text.first_letters[text.ids[own.starts + place]] == ord(letter)
    kept = sorted(np.flatnonzero(same).tolist(), key=lambda gram: (-int(own.count[gram]), gram))
    return [
        Expansion(text.spelling(own.positions(gram), len(letters)), 0, int(own.count[gram]))
        for gram in kept[:_MOST_EXPANSIONS]
    ]


def _asked(queries: Iterable[str]) -> Counter[str]:
    """How many queries hold each acronym."""
    return Counter(
        short
        for query in queries
        for short in {singular(word.strip("?!.,;:()'\"“”„«»")) for word in query.split()}
        if is_acronym(short)
    )


def _only_asked(
    rows: Sequence[_Found], meant: Mapping[str, tuple[Expansion, ...]], asked: Mapping[str, int]
) -> list[_Found]:
    """Acronyms that people write and the text spells out."""
    known = {row.term.text for row in rows}
    return [
        _Found(Term(short, "acronym", 0, 0, math.log1p(n)), 1, -1)
        for short, n in asked.items()
        if n >= _FEWEST and short not in known and short in meant
    ]


def _without_parts(rows: Sequence[_Found], meant: Mapping[str, tuple[Expansion, ...]], most: int) -> list[_Found]:
    """The first `most`, without what is a part of, or holds, one before it, and without the long forms of acronyms."""
    spelled_out = {
        plain_form(form.text)
        for row in rows
        if row.term.kind == "acronym"
        for form in meant.get(row.term.text, ())
        if form.defined
    }
    chosen: list[_Found] = []
    taken: set[tuple[str, ...]] = set()
    parts: set[tuple[str, ...]] = set()
    for row in rows:
        words = tuple(plain_form(row.term.text).split())
        inside = {words[i:j] for i in range(len(words)) for j in range(i + 1, len(words) + 1)}
        is_meant = row.term.kind == "acronym" and bool(meant.get(row.term.text))
        if not words or " ".join(words) in spelled_out or (not is_meant and (words in parts or inside & taken)):
            continue
        chosen.append(row)
        taken.add(words)
        parts |= inside
        if len(chosen) == most:
            break
    # In a small corpus chance makes terms; weak ones are left out, acronyms with a meaning are not.
    return [row for row in chosen if row.term.score >= _WEAK or meant.get(row.term.text)]


def _homes(text: Text, found: Sequence[Grams], row: _Found, passages: Sequence[Passage]) -> tuple[str, ...]:
    if row.gram < 0:
        return ()
    positions = found[row.size - 1].positions(row.gram)
    if row.term.kind == "acronym":
        shaped = [singular(text.spellings[i]) == row.term.text for i in text.surfaces[positions].tolist()]
        positions = positions[np.array(shaped, bool)]
    uses = Counter(text.places[positions].tolist())
    places = sorted(uses, key=lambda place: (-uses[place], place))[:_HOMES]
    return tuple(passages[place].passage_id for place in places)
