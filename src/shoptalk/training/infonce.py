"""InfoNCE over a batch in which queries may share passages and passages may answer several queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shoptalk.records import Dataset, Example


@dataclass(frozen=True)
class Known:
    """What is known of every training row, as numbers: `positive` its own passage's near-duplicate cluster, `answers` the
    clusters of all passages known to answer its query, `negatives` the clusters of its hard negatives (-1: none), `weights`
    how much each row counts (weak labels count less).
    """

    positive: tuple[int, ...]
    answers: tuple[frozenset[int], ...]
    negatives: tuple[tuple[int, ...], ...]
    weights: tuple[float, ...]

    @classmethod
    def of(cls, examples: Sequence[Example], dataset: Dataset) -> Known:
        """From training examples and the judgements behind them."""
        number: dict[str, int] = {}
        for cluster in dataset.clusters.values():
            number.setdefault(cluster, len(number))
        of_text: Mapping[str, int] = {p.content: number[dataset.clusters[i]] for i, p in dataset.passages.items()}
        answers = {
            query: frozenset(number[dataset.clusters[p]] for p, grade in judged.items() if grade > 0)
            for query, judged in dataset.qrels["train"].items()
        }
        return cls(
            tuple(number[dataset.clusters[e.positive_id]] for e in examples),
            tuple(answers[e.query_id] for e in examples),
            tuple(tuple(of_text.get(text, -1) for text in e.negatives) for e in examples),
            tuple(e.weight for e in examples),
        )

    def candidates(self, rows: Sequence[int], n_columns: int) -> tuple[list[int], Tensor]:
        """For a batch of rows: which of its candidates count, and what answers what.

        Candidates are the positives of all rows, then the first negatives, the second, ... A passage that stands in several
        rows counts once. Returns their places (n_candidates) and a mask (n_rows, n_candidates), true where known to answer.
        """
        clusters = [self.positive[row] for row in rows]
        for column in range(n_columns - 1):
            clusters += [self.negatives[row][column] for row in rows]
        seen: set[int] = set()
        places = []
        for place, cluster in enumerate(clusters):
            if cluster < 0 or cluster not in seen:
                places.append(place)
                seen.add(cluster)
        mask = [[clusters[place] in self.answers[row] for place in places] for row in rows]
        return places, torch.tensor(mask)


class InfoNCE(nn.Module):  # type: ignore[misc]  # untyped base class
    """Cross-entropy of each query's own passage against all passages of the batch that are not known to answer it.

    Every passage counts once however many queries share it; other known answers of a query, and their near-duplicates, are
    masked rather than taken for negatives. `symmetric` adds the same from passage to query. Rows count by their weights. With
    one query a passage, all of weight 1, it is MultipleNegativesRankingLoss. Labels: (batch,) row numbers into `known`. Source:
    van den Oord et al. 2018.
    """

    def __init__(self, model: nn.Module, known: Known, temperature: float, symmetric: bool = False) -> None:
        super().__init__()
        self.model = model
        self.known = known
        self.temperature = temperature
        self.symmetric = symmetric

    def forward(self, sentence_features: Any, labels: Tensor) -> Tensor:
        """sentence_features: one tokenized column for queries, positives and each negative. Returns the mean loss."""
        from sentence_transformers.base.losses.merged_forward import embed_columns

        queries, *columns = embed_columns(self.model, sentence_features)
        return self.loss(queries, torch.cat(columns), labels)

    def loss(self, queries: Tensor, passages: Tensor, labels: Tensor) -> Tensor:
        """queries: (batch, dim); passages: (batch * columns, dim), the positives first. Neither need be of unit length."""
        rows = labels.tolist()
        places, answers = self.known.candidates(rows, len(passages) // len(queries))
        answers = answers.to(queries.device)
        of_cluster = {self.known.positive[rows[place]]: i for i, place in enumerate(places) if place < len(rows)}
        own = torch.tensor([of_cluster[self.known.positive[row]] for row in rows], device=queries.device)
        scores = (
            nn.functional.normalize(queries, dim=-1)
            @ nn.functional.normalize(passages[torch.tensor(places, device=queries.device)], dim=-1).T
            / self.temperature
        )
        at = torch.arange(len(rows), device=queries.device)
        others = answers.clone()
        others[at, own] = False
        loss = self._mean(
            nn.functional.cross_entropy(scores.masked_fill(others, -torch.inf), own, reduction="none"), rows
        )
        if not self.symmetric:
            return loss
        to_own = scores[:, own].T  # (row, query of the batch): that query's score for this row's passage
        same = answers[:, own].T.clone()
        same[at, at] = False
        backward = nn.functional.cross_entropy(to_own.masked_fill(same, -torch.inf), at, reduction="none")
        return (loss + self._mean(backward, rows)) / 2

    def _mean(self, losses: Tensor, rows: Sequence[int]) -> Tensor:
        weights = torch.tensor([self.known.weights[row] for row in rows], dtype=losses.dtype, device=losses.device)
        return (losses * weights).mean()  # not over the sum of weights: a batch of doubtful rows moves the model less
