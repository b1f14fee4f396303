"""What can be said against a drafted query by its text alone: copied, in the wrong language, asked of many places, said before."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from shoptalk.queries.generators import Draft
from shoptalk.queries.generators.stop_words import STOP_WORDS
from shoptalk.queries.language import is_off_language, language_of, main_script
from shoptalk.records import Passage
from shoptalk.retrieval.bm25 import words


@dataclass(frozen=True, slots=True)
class Refused:
    """A draft that a check turned down."""

    draft: Draft
    check: str
    reason: str


def same_text(drafts: Sequence[Draft]) -> tuple[list[Draft], list[Refused]]:
    """One draft for each text. The same text for the same passage is a duplicate; for places apart it is too generic for all."""
    places: dict[str, list[Draft]] = {}
    for draft in drafts:
        places.setdefault(plain(draft.text), []).append(draft)
    kept, refused = [], []
    for first, *others in places.values():
        elsewhere = [other for other in others if not set(first.passage_ids) & set(other.passage_ids)]
        if elsewhere:
            reason = f"drafted for {len(elsewhere) + 1} places, such as {first.passage_ids[0]} and {elsewhere[0].passage_ids[0]}"
            refused += [Refused(draft, "too-generic", reason) for draft in (first, *others)]
        else:
            kept.append(first)
            refused += [Refused(other, "duplicate", f"the kind {first.kind} made the same text") for other in others]
    return kept, refused


def copied_span(text: str, passages: Iterable[Passage]) -> str:
    """The longest run of a query's words that one of the passages holds word for word, as plain text ("" for none)."""
    query = words(text)
    best: list[str] = []
    for passage in passages:
        inside = f" {' '.join(words(passage.content))} "
        for start in range(len(query)):
            # Only longer runs than the best so far are of interest.
            while start + len(best) < len(query):
                run = query[start : start + len(best) + 1]
                if f" {' '.join(run)} " not in inside:
                    break
                best = run
    return " ".join(best)


def off_language(draft: Draft, passage: Passage) -> str:
    """Why a draft is in another language than the one wanted (its own claim, else its passage's), or "" when it is not clear."""
    wanted = draft.language or language_of(passage)
    ours, theirs = main_script(draft.text), main_script(passage.text)
    if ours and theirs and ours != theirs and not draft.language:
        return f"written in {ours.title()} letters, the passage in {theirs.title()}"
    found = is_off_language(draft.text, wanted)
    return f"in {found}, not in {wanted}" if found else ""


class NearDuplicates:
    """Finds queries of one passage that say nearly the same; a rare word that only one of them has tells them apart."""

    def __init__(self, passages: Sequence[Passage], threshold: float) -> None:
        spread = Counter(word for passage in passages for word in set(words(passage.content)))
        self._weight: Mapping[str, float] = {w: math.log((len(passages) + 1) / (n + 0.5)) for w, n in spread.items()}
        self._rarest = math.log(2 * (len(passages) + 1))
        self._threshold = threshold
        self._seen: dict[str, list[tuple[frozenset[str], str]]] = defaultdict(list)

    def find(self, draft: Draft) -> str:
        """An earlier query of one of the draft's passages that it nearly repeats, or ""."""
        mine = _content(draft.text)
        for passage_id in draft.passage_ids:
            for other, text in self._seen[passage_id]:
                if self.overlap(mine, other) >= self._threshold:
                    return text
        return ""

    def add(self, draft: Draft) -> None:
        """Remember a draft that was kept."""
        for passage_id in draft.passage_ids:
            self._seen[passage_id].append((_content(draft.text), draft.text))

    def overlap(self, left: frozenset[str], right: frozenset[str]) -> float:
        """Jaccard over words weighted by how rare they are in the passages, from 0 to 1."""
        either = sum(self._weigh(word) for word in left | right)
        return sum(self._weigh(word) for word in left & right) / either if either else 1.0

    def _weigh(self, word: str) -> float:
        return max(0.1, self._weight.get(word, self._rarest))


def _content(text: str) -> frozenset[str]:
    found = frozenset(words(text))
    return found - STOP_WORDS or found


def plain(text: str) -> str:
    """A query's text for comparing: case folded, single spaces, without its last mark."""
    return " ".join(text.casefold().split()).rstrip("?.! ")
