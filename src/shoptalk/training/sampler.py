"""Batches in which no known positive of a query serves as its negative.

Every epoch deals all rows, in random order, round-robin into a fixed number of batches; a row skips a batch that holds a row
it conflicts with. Two rows conflict when one shows a passage (or a near-duplicate of it) that answers the other's query.
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
        """Batches an epoch: enough for all rows, and for the rows that can never share one."""
        n = len(self.shown)
        most = max(Counter(cluster for own in self.own for cluster in own).values(), default=1)
        return min(n, max(-(-n // batch_size), most))

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
        rng = np.random.default_rng([self.seed, self.epoch])
        order = [int(i) for i in rng.permutation(len(self.conflicts.shown))]
        batches, _ = self.conflicts.deal(order, self.n_batches, self.batch_size)
        yield from (batch for batch in batches if batch)
