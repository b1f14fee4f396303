"""What a training step will take in memory, measured before step 1, and how the engine is set so that it fits.

On Linux running out of memory on a CPU is a SIGKILL and not an exception, so the estimate has to come first. The batch, and so
its negatives, never changes: what does not fit is computed a second time in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch

from shoptalk.models.hardware import memory_limit_bytes
from shoptalk.training.engine import MIN_CHUNK_TOKENS, Engine, fast_training

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_SAMPLE = 512
_SHARE = 0.8  # of what is free; the rest is for what no estimate sees


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes: `fixed` for gradients and optimizer, `step` for the activations of a whole batch, `available` for both.

    `step_tokens` are those of a batch, `held_tokens` is the engine's; `notice` says in words what was done to fit, and is
    empty when nothing was.
    """

    fixed: int
    step: int
    step_tokens: int
    available: int
    chunk_tokens: int
    held_tokens: int | None
    notice: str = ""


def plan_memory(
    model: SentenceTransformer, engine: Engine, texts: Sequence[Sequence[str]], batch_size: int, limit_gib: float | None
) -> MemoryPlan:
    """texts: rows as they will be trained on, each the texts of its columns. Measures one chunk and sets the engine by it."""
    available = int(limit_gib * 2**30) if limit_gib else int(_SHARE * _free_bytes(engine.hardware.device))
    fixed = 3 * sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    longest = max((text for row in texts[:_SAMPLE] for text in row), key=len)
    if "attention_mask" not in model.preprocess([longest]):  # a static model: a sum of rows, nothing to keep
        return MemoryPlan(fixed, 0, 0, available, engine.chunk_tokens, None)
    per_token = _activation_bytes(model, engine, longest) / max(1, _length(model, longest))
    tokens_a_row = _tokens(model, texts)
    tokens = batch_size * (tokens_a_row.mean() + 2 * tokens_a_row.std() / np.sqrt(batch_size))
    step, room = int(tokens * per_token), available - fixed
    if step <= room:
        return MemoryPlan(fixed, step, int(tokens), available, engine.chunk_tokens, None)
    chunk = engine.chunk_tokens
    while chunk > MIN_CHUNK_TOKENS and chunk * per_token > room:
        chunk //= 2
    engine.chunk_tokens = chunk
    engine.held_tokens = max(0, int(room / per_token) - chunk)
    held = min(1.0, engine.held_tokens / tokens)
    notice = (
        f"a step of {batch_size} wants {(step + fixed) / 2**30:.1f} GiB and {available / 2**30:.1f} GiB may be used: keeping "
        f"{held:.0%} of the activations and computing the rest twice, in chunks of {chunk} tokens. The negatives stay the same"
    )
    return MemoryPlan(fixed, step, int(tokens), available, chunk, engine.held_tokens, notice)


def _free_bytes(device: str) -> int:
    if device.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info(torch.device(device))
        return int(free)
    used = psutil.Process().memory_info().rss
    return min(psutil.virtual_memory().available, memory_limit_bytes() - used)


def _tokens(model: SentenceTransformer, texts: Sequence[Sequence[str]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Tokens of each row of an evenly drawn sample, all columns together."""
    sample = texts[:: max(1, len(texts) // _SAMPLE)][:_SAMPLE]
    return np.array([sum(_length(model, text) for text in row) for row in sample], float)


def _length(model: SentenceTransformer, text: str) -> int:
    return int(model.preprocess([text])["attention_mask"].sum())


def _activation_bytes(model: SentenceTransformer, engine: Engine, text: str) -> int:
    """Bytes that autograd keeps for one text, counted without running a backward pass. Leaves the random state alone."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # itself, it would hold the graph that holds it, and nothing would ever be freed

    def same(tensor: Any) -> Any:
        return tensor

    features = {
        name: value.to(model.device) if isinstance(value, torch.Tensor) else value
        for name, value in model.preprocess([text]).items()
    }
    was_training = model.training
    with _untouched_random(model), torch.enable_grad(), fast_training(model, Engine.on(engine.hardware, 1 << 30)):
        model.train()
        with torch.autograd.graph.saved_tensors_hooks(pack, same):
            output = model(features)["sentence_embedding"]
    model.train(was_training)
    del output
    return sum(kept.values())


def _untouched_random(model: SentenceTransformer) -> Any:
    devices = [model.device] if model.device.type == "cuda" else []
    fork: Callable[..., Any] = torch.random.fork_rng
    return fork(devices=devices)
