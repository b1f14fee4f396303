"""The engine under sentence-transformers' trainer and losses: the same batch, the same gradients, in less time and memory.

It takes the place of the model's `forward` while a model trains. A batch is sorted by length and computed in chunks of about
equal numbers of tokens, each padded to its own width; a text that stands in it several times is computed once. The loss sees
all embeddings of the batch at once, so in-batch negatives are those of the unsplit batch. What does not fit in memory is
computed a second time in the backward pass (gradient caching, Gao et al. 2021, by way of gradient checkpointing a chunk).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from shoptalk.models.hardware import Hardware, autocast
from shoptalk.training.kernels import cpu_kernels

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from shoptalk.training.frozen import FrozenLayers

Features = dict[str, Any]
_CHUNK_TOKENS = {"cpu": 2_048, "cuda": 16_384}
MIN_CHUNK_TOKENS = 64
ENGINE_FILE = "engine.json"


@dataclass
class Engine:
    """How a batch is cut. `chunk_tokens`: padded tokens of one forward pass, at most (a single longer text may exceed it).
    `held_tokens`: tokens of a step whose activations are kept for the backward pass; None keeps all; beyond it they are
    computed again. `frozen`: lower layers that are read from disk. `tokens_done` counts real tokens, for whoever watches.
    """

    hardware: Hardware
    chunk_tokens: int
    held_tokens: int | None = None
    tokens_done: int = 0
    frozen: FrozenLayers | None = None
    _held: int = 0

    @classmethod
    def on(cls, hardware: Hardware, chunk_tokens: int | None = None, held_tokens: int | None = None) -> Engine:
        """An engine with the chunk that suits the device, or the one asked for."""
        kind = hardware.device.partition(":")[0]
        return cls(hardware, chunk_tokens or _CHUNK_TOKENS.get(kind, 16_384), held_tokens)

    def take_up(self, checkpoint: Path) -> None:
        """Cut batches as the run that wrote the checkpoint did: other chunks would round differently."""
        saved = json.loads((checkpoint / ENGINE_FILE).read_text(encoding="utf-8"))
        self.chunk_tokens, self.held_tokens = saved["chunk_tokens"], saved["held_tokens"]

    def save(self, checkpoint: Path) -> None:
        """Write into a checkpoint what `take_up` reads."""
        cut = {"chunk_tokens": self.chunk_tokens, "held_tokens": self.held_tokens}
        (checkpoint / ENGINE_FILE).write_text(json.dumps(cut), encoding="utf-8")

    def begin_step(self) -> None:
        """A new optimizer step: nothing is held yet."""
        self._held = 0

    def shrink(self) -> bool:
        """Halve the chunk and hold nothing, after running out of memory. False when it cannot get smaller."""
        if self.chunk_tokens <= MIN_CHUNK_TOKENS and self.held_tokens == 0:
            return False
        self.chunk_tokens = max(MIN_CHUNK_TOKENS, self.chunk_tokens // 2)
        self.held_tokens = 0
        return True

    def embed(self, forward: Callable[[Features], Features], features: Features) -> Tensor:
        """features: a tokenized batch of (n_texts, width). Returns (n_texts, dim), in the order given."""
        rows, inverse = _unique_rows(features)
        pieces, order = [], []
        with autocast(self.hardware):
            for index, chunk in _chunks(features, rows, self.chunk_tokens):
                self.tokens_done += int(chunk["attention_mask"].sum())
                pieces.append(self._chunk(forward, chunk).to(_result_type(self.hardware)))
                order.append(index)
        place = torch.empty(len(rows), dtype=torch.long, device=rows.device)
        place[torch.cat(order)] = torch.arange(len(rows), device=rows.device)
        return torch.cat(pieces)[place[inverse]]

    def _chunk(self, forward: Callable[[Features], Features], chunk: Features) -> Tensor:
        def run(inputs: Features) -> Tensor:
            whole = self.frozen.forward(forward, dict(inputs)) if self.frozen else forward(dict(inputs))
            found: Tensor = whole["sentence_embedding"]
            return found

        tokens = chunk["attention_mask"].numel()
        if not torch.is_grad_enabled() or self.held_tokens is None or self._held + tokens <= self.held_tokens:
            self._held += tokens
            return run(chunk)
        found: Tensor = checkpoint(run, chunk, use_reentrant=False)
        return found


@contextlib.contextmanager
def fast_training(model: SentenceTransformer, engine: Engine) -> Iterator[None]:
    """`model` computes its training batches through the engine while the block runs, under any loss that reads
    "sentence_embedding". Evaluation, and inputs that are no padded token matrix, go the stock way.
    """
    stock = model.forward

    def forward(features: Features, **kwargs: Any) -> Features:
        ids, mask = features.get("input_ids"), features.get("attention_mask")
        is_matrix = isinstance(ids, Tensor) and isinstance(mask, Tensor) and ids.ndim == 2 and ids.shape == mask.shape
        if not (model.training and is_matrix):
            with autocast(engine.hardware) if model.training else contextlib.nullcontext():
                whole: Features = stock(features, **kwargs)
                return whole
        return {**features, "sentence_embedding": engine.embed(lambda chunk: stock(chunk, **kwargs), features)}

    kernels = (
        cpu_kernels(model, engine.hardware.precision == "bf16")
        if engine.hardware.device == "cpu"
        else contextlib.nullcontext()
    )
    model.forward = forward
    try:
        with kernels, engine.frozen.installed() if engine.frozen else contextlib.nullcontext():
            yield
    finally:
        model.forward = stock


def _result_type(hardware: Hardware) -> torch.dtype | None:
    """Embeddings leave a narrow precision as fp32, for the loss; fp32 and fp64 stay."""
    return None if hardware.precision == "fp32" else torch.float32


def _unique_rows(features: Features) -> tuple[Tensor, Tensor]:
    """Indices of the first row of each different text, and for every row the place of its text among them."""
    ids, mask = features["input_ids"], features["attention_mask"]
    _, inverse = torch.unique(ids.masked_fill(mask == 0, -1), dim=0, return_inverse=True)
    first = torch.full((int(inverse.max()) + 1,), len(inverse), dtype=torch.long, device=ids.device)
    first.scatter_reduce_(0, inverse, torch.arange(len(inverse), device=ids.device), "amin")
    # In the order of the batch, not of the token ids: the same texts give the same chunks whatever their ids are.
    order = torch.argsort(first)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=ids.device)
    return first[order], place[inverse]


def _chunks(features: Features, rows: Tensor, chunk_tokens: int) -> Iterator[tuple[Tensor, Features]]:
    """Places in `rows`, longest text first, and their features, cut to the width that they need."""
    mask = features["attention_mask"][rows]
    n_texts, width = features["attention_mask"].shape
    lengths = mask.sum(1)
    order = torch.argsort(lengths, descending=True, stable=True)
    sizes: list[int] = lengths[order].tolist()
    start = 0
    while start < len(sizes):
        n = max(1, chunk_tokens // max(1, sizes[start]))
        index = order[start : start + n]
        used = mask[index].any(0).nonzero()
        left, right = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
        chosen = rows[index]
        yield (
            index,
            {
                name: _cut(value, chosen, n_texts, width, left, right) if isinstance(value, Tensor) else value
                for name, value in features.items()
            },
        )
        start += n


def _cut(value: Tensor, rows: Tensor, n_texts: int, width: int, left: int, right: int) -> Tensor:
    if value.ndim == 0 or value.shape[0] != n_texts:
        return value
    chosen = value[rows]
    return chosen[:, left:right] if value.ndim > 1 and value.shape[1] == width else chosen
