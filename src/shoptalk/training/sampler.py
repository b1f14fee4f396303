"""Batches in which no known positive of a query serves as its negative.

Every epoch deals the rows, in random order, round-robin into a fixed number of batches; a row skips a batch that holds a row
it conflicts with. Two rows conflict when one shows a passage (or a near-duplicate of it) that answers the other's query. Rows
with many conflicts are dealt first, while there is room for them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from sentence_transformers.base.sampler import DefaultBatchSampler

from shoptalk.records import Dataset, Example


class Conflicts:
    """What every training row shows and what it must not meet, as sets of near-duplicate clusters."""

    def __init__(self, shown: Sequence[frozenset[str]], own: Sequence[frozenset[str]]) -> None:
        self.shown = shown
        self.own = own
        showing = Counter(cluster for clusters in shown for cluster in clusters)
        asking = Counter(cluster for clusters in own for cluster in clusters)
        self._weight = [
            sum(showing[c] for c in mine) + sum(asking[c] for c in seen) for mine, seen in zip(own, shown, strict=True)
        ]

    @classmethod
    def of(cls, examples: Sequence[Example], dataset: Dataset) -> Conflicts:
        """shown: clusters of the row's positive and negatives; own: clusters of all known positives of its query."""
        cluster_of_text: Mapping[str, str] = {p.content: dataset.clusters[i] for i, p in dataset.passages.items()}
        known = {
            q: frozenset(dataset.clusters[p] for p, grade in judged.items() if grade > 0)
            for q, judged in dataset.qrels["train"].items()
        }
        shown = [
            frozenset(
                {
                    dataset.clusters[e.positive_id],
                    *(cluster_of_text[t] for t in e.negatives if t in cluster_of_text),
                }
            )
            for e in examples
        ]
        return cls(shown, [known[e.query_id] for e in examples])

    def batches_needed(self, batch_size: int) -> int:
        """Batches an epoch: as many as one deal of all rows takes."""
        n = len(self.shown)
        most = max(Counter(cluster for own in self.own for cluster in own).values(), default=1)
        batches = min(n, max(-(-n // batch_size), most))
        order = self.order(np.random.default_rng(0))
        while left := self.deal(order, batches, batch_size)[1]:
            batches = min(n, batches + max(1, left // batch_size))
        return batches

    def order(self, rng: np.random.Generator) -> list[int]:
        """All rows at random, but those with the most conflicts first and rows with the same answers side by side."""
        shuffled = [int(row) for row in rng.permutation(len(self.shown))]
        place: dict[frozenset[str], int] = {}
        for row in shuffled:
            place.setdefault(self.own[row], len(place))
        return sorted(shuffled, key=lambda row: (-self._weight[row], place[self.own[row]]))

    def deal(self, order: Sequence[int], n_batches: int, batch_size: int) -> tuple[list[list[int]], int]:
        """Batches of row indices without a conflict, none empty, and how many rows fitted nowhere."""
        batches: list[list[int]] = [[] for _ in range(n_batches)]
        shown: list[set[str]] = [set() for _ in range(n_batches)]
        own: list[set[str]] = [set() for _ in range(n_batches)]
        left = 0
        for position, row in enumerate(order):
            for step in range(n_batches):
                place = (position + step) % n_batches
                fits = (
                    len(batches[place]) < batch_size
                    and shown[place].isdisjoint(self.own[row])
                    and own[place].isdisjoint(self.shown[row])
                )
                if fits:
                    batches[place].append(row)
                    shown[place] |= self.shown[row]
                    own[place] |= self.own[row]
                    break
            else:
                left += 1
        return batches, left


class ConflictFreeBatchSampler(DefaultBatchSampler):  # type: ignore[misc]  # untyped base class
    """A batch sampler for sentence-transformers' trainer; the same seed and epoch give the same batches."""

    def __init__(self, conflicts: Conflicts, batch_size: int, seed: int) -> None:
        self.conflicts = conflicts
        self.n_batches = conflicts.batches_needed(batch_size)
        super().__init__(range(len(conflicts.shown)), batch_size=batch_size, drop_last=False, seed=seed)

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[list[int]]:
        order = self.conflicts.order(np.random.default_rng([self.seed, self.epoch]))
        batches, _ = self.conflicts.deal(order, self.n_batches, self.batch_size)
        yield from (batch for batch in batches if batch)
