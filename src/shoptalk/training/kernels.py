"""What makes a training step fast on a CPU: four pieces swapped in while a model trains, and taken out again.

Each was found by profiling and is measured in docs/experiments.md, training-step. They act in training mode only, so an
evaluation during training computes what any other evaluation does, and nothing of them is saved with the model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_ATTENTION = "shoptalk_cpu"


@contextlib.contextmanager
def cpu_kernels(model: SentenceTransformer, bf16: bool) -> Iterator[None]:
    """Train `model` with the CPU kernels while the block runs. `bf16`: the hidden states between layers are bf16 as well."""
    with contextlib.ExitStack() as stack:
        transformer = getattr(model, "transformers_model", None)
        if transformer is not None:
            stack.enter_context(_attention(transformer))
            stack.enter_context(_word_embeddings(transformer))
            if bf16:
                stack.enter_context(_bf16_stream(transformer))
        stack.enter_context(_dropout(model))
        yield


class _Attention(torch.autograd.Function):  # type: ignore[misc]  # untyped base class
    """Attention whose forward is torch's fused kernel and whose backward is matrix products of its own.

    In bf16 the backward pass of the fused CPU kernel costs tens of milliseconds however small the input; recomputing the
    probabilities needs no more memory than it does. query, key, value: (batch, heads, tokens, head_dim).
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
        ctx.save_for_backward(query, key, value, mask)
        ctx.scale = scale
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        query, key, value, mask = ctx.saved_tensors
        (gradient,) = gradients
        scores = torch.matmul(query, key.transpose(-1, -2)).mul_(ctx.scale)
        if mask is not None:
            scores.add_(mask)
        probabilities = torch.softmax(scores, -1)
        to_value = torch.matmul(probabilities.transpose(-1, -2), gradient)
        to_probabilities = torch.matmul(gradient, value.transpose(-1, -2))
        to_scores = torch._softmax_backward_data(to_probabilities, probabilities, -1, probabilities.dtype).mul_(
            ctx.scale
        )
        to_query = torch.matmul(to_scores, key)
        return to_query, torch.matmul(to_scores.transpose(-1, -2), query), to_value, None, None


def _attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function as transformers wants it; steps aside for whatever is not plain bf16 self-attention."""
    causal = (
        bool(is_causal if is_causal is not None else getattr(module, "is_causal", False)) and attention_mask is None
    )
    grouped = query.shape[1] != key.shape[1]
    plain = query.dtype is torch.bfloat16 and dropout == 0.0 and not causal and not grouped
    if not (plain and module.training and torch.is_grad_enabled()):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **kwargs
        )
        return found
    mask = attention_mask
    if mask is not None and mask.dtype is torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, torch.finfo(query.dtype).min)
    elif mask is not None:
        mask = mask.to(query.dtype)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    return _Attention.apply(query, key, value, mask, scale).transpose(1, 2).contiguous(), None


@contextlib.contextmanager
def _attention(transformer: Any) -> Iterator[None]:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    before = getattr(transformer.config, "_attn_implementation", None)
    if before != "sdpa":  # eager or a kernel of the user's choice is left alone
        yield
        return
    AttentionInterface.register(_ATTENTION, _attention_forward)
    AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
    transformer.set_attn_implementation(_ATTENTION)
    try:
        yield
    finally:
        transformer.set_attn_implementation(before)


class _Lookup(torch.autograd.Function):  # type: ignore[misc]  # untyped base class
    """An embedding lookup whose gradient is added into `weight.grad` row by row.

    The stock backward pass fills and adds a gradient of the size of the whole vocabulary for every chunk of a batch.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, padding: int | None) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.weight, ctx.padding = weight, padding
        return F.embedding(ids, weight, padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (ids,) = ctx.saved_tensors
        weight = ctx.weight
        rows = gradients[0].reshape(-1, weight.shape[1]).to(weight.dtype)
        ids = ids.reshape(-1)
        if ctx.padding is not None:
            rows = rows.masked_fill((ids == ctx.padding).unsqueeze(1), 0.0)
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        weight.grad.index_add_(0, ids, rows)
        return None, None, None


@contextlib.contextmanager
def _word_embeddings(transformer: Any) -> Iterator[None]:
    table = transformer.get_input_embeddings()
    plain = type(table) is nn.Embedding and table.max_norm is None and not table.sparse
    if not plain or not table.weight.requires_grad or torch.distributed.is_initialized():
        yield
        return

    def lookup(ids: Tensor) -> Tensor:
        if not (table.training and torch.is_grad_enabled()):
            return F.embedding(ids, table.weight, table.padding_idx)
        found: Tensor = _Lookup.apply(table.weight, ids, table.padding_idx)
        return found

    with _forward(table, lookup):
        yield


@contextlib.contextmanager
def _dropout(model: nn.Module) -> Iterator[None]:
    """Dropout from one random byte an element, eight times fewer draws than stock; the rate is rounded to 1/256."""
    with contextlib.ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                stack.enter_context(_forward(module, _ByteDropout(module)))
        yield


class _ByteDropout:
    def __init__(self, module: nn.Dropout) -> None:
        self.module = module

    def __call__(self, x: Tensor) -> Tensor:
        dropped = round(self.module.p * 256)
        if not self.module.training or dropped == 0:
            return x
        words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        keep = words.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
        return x * keep.to(x.dtype).mul_(256 / (256 - dropped))


@contextlib.contextmanager
def _bf16_stream(transformer: nn.Module) -> Iterator[None]:
    """Hidden states in bf16 from the first layer to the last, so that autocast has nothing to convert between them."""
    layers = layers_of(transformer)
    if not layers:
        yield
        return

    def narrow(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not module.training:
            return None
        if args:
            return (args[0].to(torch.bfloat16), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"].to(torch.bfloat16)}

    def widen(module: nn.Module, args: Any, output: Any) -> Any:
        if not module.training:
            return None
        return (output[0].float(), *output[1:]) if isinstance(output, tuple) else output.float()

    handles = [
        layers[0].register_forward_pre_hook(narrow, with_kwargs=True),
        layers[-1].register_forward_hook(widen),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def layers_of(transformer: nn.Module) -> list[nn.Module]:
    """The transformer's layers, lowest first; empty when they are not in one list."""
    config: Any = getattr(transformer, "config", None)
    n_layers = getattr(config, "num_hidden_layers", 0)
    lists = [module for module in transformer.modules() if isinstance(module, nn.ModuleList)]
    return next((list(found) for found in lists if len(found) == n_layers), []) if n_layers else []


@contextlib.contextmanager
def _forward(module: nn.Module, replacement: Any) -> Iterator[None]:
    module.forward = replacement
    try:
        yield
    finally:
        del module.forward
