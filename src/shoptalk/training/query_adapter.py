"""Query-side adapters: a small layer behind the encoder that moves queries only, trained on vectors that are already there.

The passages' vectors stay as they are, so nothing is indexed again. With q a query's unit vector of the base model:

    linear:  q' = unit(q + W q)                       W is (dim, dim)
    mlp:     q' = unit(q + V gelu(U q + b))           U is (hidden, dim), V is (dim, hidden)

Both start as the base (W = 0, V = 0), and the penalty on W and V pulls them back to it. Source of the idea: LlamaIndex's query
adapters and Chroma's embedding adapters (Sanketh and Troynikov 2024); of the loss: van den Oord et al. 2018 (InfoNCE).

Saved, the adapter is made of sentence-transformers' own modules, without code of its own. A `Dense` with `use_residual` (since
5.7) is q + W q as it stands, and keeps the residual in full precision under autocast too. The residual of the mlp spans two
layers, so it is carried through the first: [gelu(U q + b); q] is one `Dense`, `dim` wider than `hidden`, with the residual
projection [0; I], and [V I] is the next.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from shoptalk.errors import ModelError, SourceError, TrainingFailed
from shoptalk.progress import task
from shoptalk.retrieval.metrics import PRIMARY, mean, per_query
from shoptalk.retrieval.topk import search

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

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


def train_query_adapter(
    queries: Vectors,
    passages: Vectors,
    positives: Positives,
    dev: Callable[[QueryAdapter], float] | tuple[Vectors, Vectors, Positives],
    kind: Kind,
    seed: int,
    settings: AdapterSettings = AdapterSettings(),
) -> AdapterTraining:
    """Train with InfoNCE over all passages, none of a query's known positives serving as its negative; keep the best epoch.

    queries: (n, dim), passages: (m, dim), float32 of unit length; positives: for every query at least one index into passages.
    dev: a function that scores an adapter, higher being better, or dev queries, their passages and positives, scored by
    nDCG@10. The loss of a query is the mean over its positives. The same seed and number of threads give the same adapter.
    Raises SourceError for data that does not fit together, TrainingFailed when the loss is not finite.
    """

    _check(queries, passages, positives)
    score = dev if callable(dev) else _ndcg_of(*dev)
    rng = np.random.default_rng(seed)
    weights = _start(kind, queries.shape[1], settings.hidden, rng)
    optimizer = _optimizer(weights, settings)
    best = _snapshot(kind, weights)
    scores, losses, best_epoch = [score(best)], [], 0
    with task("training", settings.epochs) as bar:
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


def with_query_adapter(model: SentenceTransformer, adapter: QueryAdapter) -> SentenceTransformer:
    """The model with the adapter behind it for queries: `encode_query` uses it, `encode_document` and `encode` do not.

    The result shares its modules with `model`; its prompts and maximum length are the model's. The last module becomes a
    Router with two routes that both begin with that module, so it is in memory and on disk once, and passages go through what
    they always went through. Saved, it loads with plain SentenceTransformer(path). Raises ModelError when the dimensions differ.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Router

    dim = model.get_embedding_dimension()
    if model.truncate_dim is not None or dim != adapter.dim:
        raise ModelError(
            f"a query adapter for {adapter.dim} dimensions does not fit a model with {dim}"
            f"{' (cut off)' if model.truncate_dim is not None else ''}; train it on this model's whole vectors"
        )
    modules = OrderedDict(model.named_children())
    name, last = modules.popitem()
    unit = [] if isinstance(last, Normalize) else [Normalize()]
    modules[name] = Router.for_query_document(
        query_modules=[last, *unit, *_dense(adapter), Normalize()], document_modules=[last]
    )
    routed = SentenceTransformer(
        modules=modules,
        device=str(model.device),
        prompts=dict(model.prompts),
        default_prompt_name=model.default_prompt_name,
        similarity_fn_name=model.similarity_fn_name,
    )
    routed.module_kwargs = model.module_kwargs
    routed.train(model.training)
    return routed


def _check(queries: Vectors, passages: Vectors, positives: Positives) -> None:
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


def _ndcg_of(queries: Vectors, passages: Vectors, positives: Positives) -> Callable[[QueryAdapter], float]:
    """A function from an adapter to nDCG@10 on these queries."""
    _check(queries, passages, positives)
    query_ids = [f"q{row}" for row in range(len(queries))]
    passage_ids = [f"p{row}" for row in range(len(passages))]
    qrels = {query: {f"p{row}": 1 for row in found} for query, found in zip(query_ids, positives, strict=True)}

    def score(adapter: QueryAdapter) -> float:
        return mean(per_query(qrels, search(query_ids, adapter(queries), passage_ids, passages, 10), [PRIMARY]))[
            PRIMARY
        ]

    return score


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


def _dense(adapter: QueryAdapter) -> list[Any]:
    """The adapter as modules of sentence-transformers; see the top of this file."""
    import torch
    from sentence_transformers.base.modules import Dense

    weights, dim = adapter.weights, adapter.dim
    if adapter.kind == "linear":
        only = Dense(
            dim, dim, bias=False, activation_function=None, init_weight=weights["W"].clone(), use_residual=True
        )
        return [only]
    hidden, eye = len(weights["b"]), torch.eye(dim)
    first = Dense(
        dim,
        hidden + dim,
        activation_function=torch.nn.GELU(),
        init_weight=torch.cat([weights["U"], torch.zeros(dim, dim)]),
        init_bias=torch.cat([weights["b"], torch.zeros(dim)]),
        use_residual=True,
    )
    first.residual.weight = torch.nn.Parameter(torch.cat([torch.zeros(hidden, dim), eye]))
    second = Dense(
        hidden + dim, dim, bias=False, activation_function=None, init_weight=torch.cat([weights["V"], eye], dim=1)
    )
    return [first, second]
