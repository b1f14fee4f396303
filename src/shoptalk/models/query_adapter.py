"""Query-side adapters: a small layer behind the encoder that moves queries only, fitted on vectors that are already there.

The passages' vectors stay as they are, so nothing is indexed again. With q a query's unit vector of the base model:

    linear:  q' = unit(q + W q)                       W is (dim, dim)
    mlp:     q' = unit(q + V gelu(U q + b))           U is (hidden, dim), V is (dim, hidden)

Both start as the base (W = 0, V = 0), and the penalty on W and V pulls them back to it. The gate forecasts with them, training makes
models of them. Source of the idea: LlamaIndex's query adapters and Chroma's embedding adapters (Sanketh and Troynikov 2024); of the
loss: van den Oord et al. 2018 (InfoNCE).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from shoptalk.errors import SourceError, TrainingFailed
from shoptalk.progress import task

if TYPE_CHECKING:
    import torch

Vectors = NDArray[np.float32]
Positives = Sequence[Sequence[int]]
"""For every query the indices of its known positive passages."""
Kind = Literal["linear", "mlp"]
_NEVER = -1e9  # a score that no softmax sees; unlike -inf it has a gradient when nothing else is left


@dataclass(frozen=True)
class AdapterSettings:
    """How an adapter is trained. Chosen on the dev parts of three sets: docs/experiments.md, query-adapters.

    pull: weight of the squared W or V in the loss. hidden: width of the mlp; 0 is that of the vectors. passages_per_step: with
    more passages than that, every step draws so many anew, its positives always among them.
    """

    epochs: int = 60
    batch_size: int = 128
    learning_rate: float = 0.1
    pull: float = 0.1
    temperature: float = 0.05
    patience: int = 10
    hidden: int = 0
    passages_per_step: int = 8_192


DEFAULTS = AdapterSettings()


@dataclass(frozen=True)
class QueryAdapter:
    """A trained adapter: float32 weights by name, as in the formulas above."""

    kind: Kind
    weights: dict[str, torch.Tensor]

    @property
    def dim(self) -> int:
        """The dimension of the vectors it moves."""
        return int(self.weights["W" if self.kind == "linear" else "U"].shape[1])

    def __call__(self, queries: Vectors) -> Vectors:
        """(n, dim) float32 of unit length, to the same."""
        import torch

        with torch.no_grad():
            moved: Vectors = _moved(self.weights, torch.from_numpy(queries)).numpy()
        return moved


@dataclass(frozen=True)
class AdapterTraining:
    """What training gave: `scores` on dev and mean `losses` by epoch; scores[0] is the base's. `adapter` is from `best_epoch`,
    and when that is 0 it does nothing.
    """

    adapter: QueryAdapter
    best_epoch: int
    scores: list[float]
    losses: list[float]


def fit_query_adapter(
    queries: Vectors,
    passages: Vectors,
    positives: Positives,
    score: Callable[[QueryAdapter], float],
    kind: Kind,
    seed: int,
    settings: AdapterSettings = DEFAULTS,
    label: str = "training",
) -> AdapterTraining:
    """Fit with InfoNCE over all passages, none of a query's known positives serving as its negative; keep the best epoch.

    queries: (n, dim), passages: (m, dim), float32 of unit length; positives: for every query at least one index into passages.
    score: higher is better. The loss of a query is the mean over its positives. The same seed and number of threads give the
    same adapter. Raises SourceError for data that does not fit together, TrainingFailed when the loss is not finite.
    """
    check_positives(queries, passages, positives)
    rng = np.random.default_rng(seed)
    weights = _start(kind, queries.shape[1], settings.hidden, rng)
    optimizer = _optimizer(weights, settings)
    best = _snapshot(kind, weights)
    scores, losses, best_epoch = [score(best)], [], 0
    with task(label, settings.epochs) as bar:
        for epoch in range(1, settings.epochs + 1):
            losses.append(_epoch(weights, optimizer, queries, passages, positives, rng, settings))
            now = _snapshot(kind, weights)
            scores.append(score(now))
            bar.advance()
            bar.note(f"loss {losses[-1]:.4f}  dev {scores[-1]:.4f}")
            if scores[-1] > scores[best_epoch]:
                best, best_epoch = now, epoch
            if epoch - best_epoch >= settings.patience:
                break
    return AdapterTraining(best, best_epoch, scores, losses)


def check_positives(queries: Vectors, passages: Vectors, positives: Positives) -> None:
    """Raise SourceError unless every query has positives and each is an index into passages of the same dimension."""
    if len(queries) != len(positives) or len(queries) == 0:
        raise SourceError(
            f"a query adapter needs positives for every query: {len(queries)} queries, {len(positives)} lists"
        )
    if queries.shape[1] != passages.shape[1]:
        raise SourceError(
            f"queries of {queries.shape[1]} and passages of {passages.shape[1]} dimensions cannot be compared"
        )
    for row, found in enumerate(positives):
        if not found or min(found) < 0 or max(found) >= len(passages):
            raise SourceError(
                f"query {row}: its positives are {list(found)[:5]}, not indices of {len(passages)} passages"
            )


def _start(kind: Kind, dim: int, hidden: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Weights that change nothing yet."""
    import torch

    if kind == "linear":
        return {"W": torch.zeros(dim, dim, requires_grad=True)}
    hidden = hidden or dim
    spread = torch.from_numpy(rng.standard_normal((hidden, dim), np.float32))
    return {
        "U": spread.requires_grad_(),
        "b": torch.zeros(hidden, requires_grad=True),
        "V": torch.zeros(dim, hidden, requires_grad=True),
    }


def _optimizer(weights: Mapping[str, torch.Tensor], settings: AdapterSettings) -> torch.optim.Optimizer:
    """Gradient descent with momentum: Adam steps in every entry of W alike, which overfits a few hundred queries at once.

    V sees `hidden` features of size 1 where W sees a unit vector, so its step is smaller by that and its pull larger.
    """
    import torch

    width = len(weights["b"]) if "b" in weights else 1
    rate, groups = settings.learning_rate, []
    for name, weight in weights.items():
        if name in ("W", "V"):
            groups.append({"params": [weight], "lr": rate / width, "weight_decay": settings.pull * width})
        else:
            groups.append({"params": [weight], "lr": rate, "weight_decay": 0.0})
    return torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True)


def _snapshot(kind: Kind, weights: Mapping[str, torch.Tensor]) -> QueryAdapter:
    return QueryAdapter(kind, {name: weight.detach().clone() for name, weight in weights.items()})


def _moved(weights: Mapping[str, torch.Tensor], queries: torch.Tensor) -> torch.Tensor:
    """(n, dim) -> (n, dim), unit length."""
    import torch

    if "W" in weights:
        change = queries @ weights["W"].T
    else:
        change = torch.nn.functional.gelu(queries @ weights["U"].T + weights["b"]) @ weights["V"].T
    return torch.nn.functional.normalize(queries + change, dim=1)


def _epoch(
    weights: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    queries: Vectors,
    passages: Vectors,
    positives: Positives,
    rng: np.random.Generator,
    settings: AdapterSettings,
) -> float:
    """One pass over the queries in a new order. Returns the mean loss."""
    import torch

    total, order = 0.0, rng.permutation(len(queries))
    for start in range(0, len(order), settings.batch_size):
        batch = order[start : start + settings.batch_size]
        columns, wanted = _columns(batch, positives, len(passages), settings.passages_per_step, rng)
        shown = torch.from_numpy(passages if columns is None else passages[columns])
        scores = _moved(weights, torch.from_numpy(queries[batch])) @ shown.T / settings.temperature
        loss = _info_nce(scores, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(batch)
    if not math.isfinite(total):
        raise TrainingFailed(
            "the loss of the query adapter is not finite; are the cached vectors? Otherwise lower its rate"
        )
    return total / len(order)


def _columns(
    batch: NDArray[np.int64], positives: Positives, n_passages: int, most: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64] | None, list[list[int]]]:
    """The passages of a step, None for all of them, and where in them the positives of each query are."""
    wanted = [list(dict.fromkeys(positives[row])) for row in batch]
    if n_passages <= most:
        return None, wanted
    own = [index for found in wanted for index in found]
    columns = np.unique(np.concatenate([own, rng.integers(n_passages, size=most)]))
    return columns, [np.searchsorted(columns, found).tolist() for found in wanted]


def _info_nce(scores: torch.Tensor, positives: list[list[int]]) -> torch.Tensor:
    """scores: (n_queries, n_passages). The mean over queries of the mean over their positives; each positive stands against all
    passages that are no positive of its query.
    """
    import torch

    rows = torch.tensor([row for row, found in enumerate(positives) for _ in found])
    columns = torch.tensor([column for found in positives for column in found])
    share = torch.tensor([1 / len(found) for found in positives for _ in found])
    of_positives = scores[rows, columns]
    negatives = scores.index_put((rows, columns), torch.tensor(_NEVER))
    against = torch.logsumexp(negatives, dim=1)[rows]
    return ((torch.logaddexp(of_positives, against) - of_positives) @ share) / len(positives)
