"""Batches in which no known positive of a query serves as its negative, and in which queries of one passage stand together.

A unit is up to `per_passage` rows that share their positive passage; most losses want 1. Every epoch deals the units, in random
order, round-robin into a fixed number of batches; a unit skips a batch that holds one it conflicts with. Two units conflict when
one shows a passage (or a near-duplicate of it) that answers a query of the other. Units with many conflicts are dealt first,
while there is room for them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from sentence_transformers.base.sampler import DefaultBatchSampler

from shoptalk.records import Dataset, Example


class Conflicts:
    """What every unit of training rows shows and what it must not meet, as sets of near-duplicate clusters."""

    def __init__(
        self,
        shown: Sequence[frozenset[str]],
        own: Sequence[frozenset[str]],
        units: Sequence[tuple[int, ...]] | None = None,
    ) -> None:
        self.shown = shown
        self.own = own
        self.units = list(units) if units is not None else [(row,) for row in range(len(shown))]
        showing = Counter(cluster for clusters in shown for cluster in clusters)
        asking = Counter(cluster for clusters in own for cluster in clusters)
        self._weight = [
            sum(showing[c] for c in mine) + sum(asking[c] for c in seen) for mine, seen in zip(own, shown, strict=True)
        ]

    @classmethod
    def of(cls, examples: Sequence[Example], dataset: Dataset, per_passage: int = 1) -> Conflicts:
        """shown: clusters of a unit's positives and negatives; own: clusters of all known positives of its queries."""
        cluster_of_text: Mapping[str, str] = {p.content: dataset.clusters[i] for i, p in dataset.passages.items()}
        known = {
            q: frozenset(dataset.clusters[p] for p, grade in judged.items() if grade > 0)
            for q, judged in dataset.qrels["train"].items()
        }

        def shown(example: Example) -> frozenset[str]:
            negatives = (cluster_of_text[t] for t in example.negatives if t in cluster_of_text)
            return frozenset({dataset.clusters[example.positive_id], *negatives})

        units = _units(examples, per_passage)
        return cls(
            [frozenset().union(*(shown(examples[row]) for row in unit)) for unit in units],
            [frozenset().union(*(known[examples[row].query_id] for row in unit)) for unit in units],
            units,
        )

    def batches_needed(self, batch_size: int) -> int:
        """Batches of `batch_size` units an epoch: as many as one deal of all units takes."""
        n = len(self.shown)
        most = max(Counter(cluster for own in self.own for cluster in own).values(), default=1)
        batches = min(n, max(-(-n // batch_size), most))
        order = self.order(np.random.default_rng(0))
        while left := self.deal(order, batches, batch_size)[1]:
            batches = min(n, batches + max(1, left // batch_size))
        return batches

    def order(self, rng: np.random.Generator) -> list[int]:
        """All units at random, but those with the most conflicts first and units with the same answers side by side."""
        shuffled = [int(unit) for unit in rng.permutation(len(self.shown))]
        place: dict[frozenset[str], int] = {}
        for unit in shuffled:
            place.setdefault(self.own[unit], len(place))
        return sorted(shuffled, key=lambda unit: (-self._weight[unit], place[self.own[unit]]))

    def deal(self, order: Sequence[int], n_batches: int, batch_size: int) -> tuple[list[list[int]], int]:
        """Batches of unit indices without a conflict, none empty, and how many units fitted nowhere."""
        batches: list[list[int]] = [[] for _ in range(n_batches)]
        shown: list[set[str]] = [set() for _ in range(n_batches)]
        own: list[set[str]] = [set() for _ in range(n_batches)]
        left = 0
        for position, unit in enumerate(order):
            for step in range(n_batches):
                place = (position + step) % n_batches
                fits = (
                    len(batches[place]) < batch_size
                    and shown[place].isdisjoint(self.own[unit])
                    and own[place].isdisjoint(self.shown[unit])
                )
                if fits:
                    batches[place].append(unit)
                    shown[place] |= self.shown[unit]
                    own[place] |= self.own[unit]
                    break
            else:
                left += 1
        return batches, left


def _units(examples: Sequence[Example], per_passage: int) -> list[tuple[int, ...]]:
    """Rows by their positive passage, cut into pieces of `per_passage`, each query once in a piece."""
    if per_passage == 1:
        return [(row,) for row in range(len(examples))]
    rows: dict[str, list[int]] = {}
    for row, example in enumerate(examples):
        rows.setdefault(example.positive_id, []).append(row)
    return [tuple(own[i : i + per_passage]) for own in rows.values() for i in range(0, len(own), per_passage)]


class ConflictFreeBatchSampler(DefaultBatchSampler):  # type: ignore[misc]  # untyped base class
    """A batch sampler for sentence-transformers' trainer; the same seed and epoch give the same batches. `batch_size` counts
    units, that is, different passages.
    """

    def __init__(self, conflicts: Conflicts, batch_size: int, seed: int) -> None:
        self.conflicts = conflicts
        self.n_batches = conflicts.batches_needed(batch_size)
        n_rows = sum(map(len, conflicts.units))
        super().__init__(range(n_rows), batch_size=batch_size, drop_last=False, seed=seed)

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[list[int]]:
        order = self.conflicts.order(np.random.default_rng([self.seed, self.epoch]))
        batches, _ = self.conflicts.deal(order, self.n_batches, self.batch_size)
        yield from ([row for unit in batch for row in self.conflicts.units[unit]] for batch in batches if batch)
