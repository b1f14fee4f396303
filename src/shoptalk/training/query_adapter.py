"""Query-side adapters as models: fitted (see `shoptalk.models.query_adapter`), put behind a model for its queries, saved.

Saved, the adapter is made of sentence-transformers' own modules, without code of its own. A `Dense` with `use_residual` (since
5.7) is q + W q as it stands, and keeps the residual in full precision under autocast too. The residual of the mlp spans two
layers, so it is carried through the first: [gelu(U q + b); q] is one `Dense`, `dim` wider than `hidden`, with the residual
projection [0; I], and [V I] is the next.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shoptalk.errors import ModelError
from shoptalk.models.query_adapter import (
    DEFAULTS,
    AdapterSettings,
    AdapterTraining,
    Kind,
    Positives,
    QueryAdapter,
    Vectors,
    check_positives,
    fit_query_adapter,
)
from shoptalk.retrieval.metrics import PRIMARY, mean, per_query
from shoptalk.retrieval.topk import search

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def train_query_adapter(
    queries: Vectors,
    passages: Vectors,
    positives: Positives,
    dev: Callable[[QueryAdapter], float] | tuple[Vectors, Vectors, Positives],
    kind: Kind,
    seed: int,
    settings: AdapterSettings = DEFAULTS,
) -> AdapterTraining:
    """`fit_query_adapter`, told how good an adapter is by a function or by dev queries.

    dev: a function that scores an adapter, higher being better, or dev queries, their passages and positives, scored by
    nDCG@10. The rest, the errors included, is as `fit_query_adapter` has it.
    """
    check_positives(queries, passages, positives)
    score = dev if callable(dev) else _ndcg_of(*dev)
    return fit_query_adapter(queries, passages, positives, score, kind, seed, settings)


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


def _ndcg_of(queries: Vectors, passages: Vectors, positives: Positives) -> Callable[[QueryAdapter], float]:
    """A function from an adapter to nDCG@10 on these queries."""
    check_positives(queries, passages, positives)
    query_ids = [f"q{row}" for row in range(len(queries))]
    passage_ids = [f"p{row}" for row in range(len(passages))]
    qrels = {query: {f"p{row}": 1 for row in found} for query, found in zip(query_ids, positives, strict=True)}

    def score(adapter: QueryAdapter) -> float:
        return mean(per_query(qrels, search(query_ids, adapter(queries), passage_ids, passages, 10), [PRIMARY]))[
            PRIMARY
        ]

    return score


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
