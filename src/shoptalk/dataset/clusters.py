"""Clusters of exact and near-duplicate texts. MinHash (datasketch) only proposes; every pair is verified exactly."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence

import xxhash

from shoptalk.progress import task
from shoptalk.retrieval.bm25 import words

_PERMUTATIONS = 64
_SHINGLE = 3


class UnionFind:
    """Disjoint sets of hashable items; the name of a set is its first-seen member."""

    def __init__(self) -> None:
        self._parent: dict[Hashable, Hashable] = {}
        self._order: dict[Hashable, int] = {}

    def find(self, item: Hashable) -> Hashable:
        """The name of an item's set; a new item is its own."""
        if item not in self._parent:
            self._parent[item] = item
            self._order[item] = len(self._order)
        root = item
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[item] != root:
            self._parent[item], item = root, self._parent[item]
        return root

    def union(self, left: Hashable, right: Hashable) -> None:
        """Make the sets of two items one."""
        a, b = self.find(left), self.find(right)
        if a != b:
            first, second = (a, b) if self._order[a] < self._order[b] else (b, a)
            self._parent[second] = first


def near_duplicate_clusters(texts: Mapping[str, str], threshold: float) -> tuple[dict[str, str], int]:
    """Cluster id by text id, and how many near-duplicate pairs were verified.

    Two texts are near-duplicates when the Jaccard similarity of their sets of word 3-grams is `threshold` or more, or when
    they have the same words. Clusters are the connected components; a cluster is named after its first text.
    """
    sets = UnionFind()
    first: dict[tuple[str, ...], str] = {}
    shingles: dict[str, frozenset[int]] = {}
    for text_id, text in texts.items():
        tokens = tuple(words(text))
        sets.find(text_id)
        twin = first.setdefault(tokens, text_id)
        if twin != text_id:
            sets.union(twin, text_id)
        else:
            shingles[text_id] = _shingles(tokens)
    pairs = [
        pair for pair in _proposals(shingles, threshold) if jaccard(shingles[pair[0]], shingles[pair[1]]) >= threshold
    ]
    for left, right in pairs:
        sets.union(left, right)
    return {text_id: str(sets.find(text_id)) for text_id in texts}, len(pairs)


def jaccard(left: frozenset[int], right: frozenset[int]) -> float:
    """Shared share of two sets; 0 when both are empty."""
    union = len(left | right)
    return len(left & right) / union if union else 0.0


def _shingles(tokens: Sequence[str]) -> frozenset[int]:
    size = min(_SHINGLE, max(1, len(tokens)))
    runs = ("\x1f".join(tokens[i : i + size]) for i in range(len(tokens) - size + 1))
    return frozenset(xxhash.xxh32_intdigest(run.encode()) for run in runs)


def _proposals(shingles: Mapping[str, frozenset[int]], threshold: float) -> Iterable[tuple[str, str]]:
    """Pairs that may reach the threshold. The index is tuned well below it, so that a near miss of the hash costs nothing."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=max(0.3, threshold - 0.2), num_perm=_PERMUTATIONS, weights=(0.2, 0.8))
    with task("looking for near-duplicates", len(shingles)) as bar:
        for text_id, found in shingles.items():
            bar.advance()
            if not found:
                continue
            hashes = MinHash(num_perm=_PERMUTATIONS, seed=1, hashfunc=int)
            hashes.update_batch(list(found))
            for other in index.query(hashes):
                yield str(other), text_id
            index.insert(text_id, hashes)
