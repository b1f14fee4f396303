"""Labels to passages: by passage id, by document and offset, or by quoted text. What maps to nothing is listed."""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from shoptalk.labelled import Label
from shoptalk.records import Passage
from shoptalk.retrieval.bm25 import words

_SHINGLE = 5
_ENOUGH = 0.5
_MOST_COPIES = 5


class PassageFinder:
    """Finds the passages that a label means."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._by_id: Mapping[str, Passage] = {p.passage_id: p for p in passages}
        self._by_document: dict[str, list[Passage]] = defaultdict(list)
        for passage in passages:
            if passage.source:
                self._by_document[passage.source].append(passage)
        for found in self._by_document.values():
            found.sort(key=lambda p: p.start)
        self._tokens = {p.passage_id: words(p.content) for p in passages}
        self._by_shingle: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for passage_id, tokens in self._tokens.items():
            for shingle in set(_shingles(tokens)):
                self._by_shingle[shingle].append(passage_id)

    def find(self, label: Label) -> tuple[list[str], str]:
        """The ids of the passages that a label means, or none and the reason."""
        if label.passage_id:
            if label.passage_id in self._by_id:
                return [label.passage_id], ""
            if not label.positive and not label.document:
                return [], f"no passage has the id {label.passage_id!r}"
        within: set[str] | None = None
        if label.document:
            document, problem = self._document(label.document)
            if document is None:
                if not label.positive:
                    return [], problem
            elif label.offset is not None:
                return [_at(document, label.offset).passage_id], ""
            else:
                within = {p.passage_id for p in document}
        if label.positive:
            return self._quoted(label.positive, within)
        if within is not None and len(within) == 1:
            return sorted(within), ""
        return (
            [],
            f"document {label.document!r} has {len(within or ())} passages; say which by offset or by a quote",
        )

    def in_document(self, name: str) -> list[Passage]:
        """The passages of a document by its path or the end of it; none when there is no such document, or more than one."""
        return self._document(name)[0] or []

    def _document(self, name: str) -> tuple[list[Passage] | None, str]:
        """The passages of a document by its path or the end of it, or None and the reason."""
        plain = name.strip().removeprefix("./")
        if plain in self._by_document:
            return self._by_document[plain], ""
        endings = [found for source, found in self._by_document.items() if source.endswith("/" + plain)]
        if len(endings) > 1:
            return None, f"{len(endings)} documents are called {name!r}; say which by more of its path"
        return (endings[0], "") if endings else (None, f"no document {name!r} among the passages")

    def _quoted(self, quote: str, within: set[str] | None) -> tuple[list[str], str]:
        """The passages that hold the quote; else those that share most of its five-word runs (a quote may cross a border)."""
        tokens = words(quote)
        shingles = list(_shingles(tokens))
        nothing = f"no passage holds the text {_short(quote)!r}"
        if not shingles:
            inside = [i for i in (within or self._tokens) if _contains(self._tokens[i], tokens)]
            if len(inside) > _MOST_COPIES:
                return [], f"{len(inside)} passages hold the text {_short(quote)!r}; quote more of it"
            return sorted(inside), "" if inside else nothing
        shared = Counter(
            passage_id
            for shingle in set(shingles)
            for passage_id in self._by_shingle.get(shingle, ())
            if within is None or passage_id in within
        )
        if not shared:
            return [], nothing
        best = max(shared.values())
        exact = sorted(i for i, n in shared.items() if n == best and _contains(self._tokens[i], tokens))
        if exact:
            return exact[:_MOST_COPIES], ""
        covers = best >= _ENOUGH * len(set(shingles))
        return ([min(i for i, n in shared.items() if n == best)], "") if covers else ([], nothing)


def _at(document: Sequence[Passage], offset: int) -> Passage:
    index = bisect.bisect_right([p.start for p in document], offset) - 1
    return document[max(0, index)]


def _shingles(tokens: Sequence[str]) -> Iterable[tuple[str, ...]]:
    return (tuple(tokens[i : i + _SHINGLE]) for i in range(len(tokens) - _SHINGLE + 1))


def _contains(tokens: Sequence[str], part: Sequence[str]) -> bool:
    return bool(part) and f" {' '.join(part)} " in f" {' '.join(tokens)} "


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
