"""Frozen lower layers, computed once for every text and kept on disk across epochs.

The word embeddings and the lowest layers stay as they are, so that what they make of a text never changes: it is computed the
first time that the text is trained on, without dropout, and read from a memory-mapped file from then on. Whether that costs
quality is measured in docs/experiments.md, frozen-layers.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from shoptalk.errors import SettingsError
from shoptalk.models.hardware import Hardware, autocast
from shoptalk.training.kernels import layers_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Features = dict[str, Any]


class FrozenLayers:
    """The lowest `n` layers of a model in training. Used by the engine, chunk by chunk, inside `installed()`.

    folder: where the hidden states go; what an earlier process left there is computed again. Texts are computed one at a time,
    so that a text's states depend on nothing but the text, and a resumed run has the same. Raises SettingsError.
    """

    def __init__(self, model: SentenceTransformer, n: int, hardware: Hardware, folder: Path) -> None:
        self.model = model
        self.hardware = hardware
        self.transformer: Any = model.transformers_model
        layers = layers_of(self.transformer) if self.transformer is not None else []
        if n >= len(layers):
            have = f"the model has {len(layers)} layers" if layers else "the model has no layers in one list"
            raise SettingsError(f"train.frozen_layers is {n}, but {have}; use 0 to {max(0, len(layers) - 1)}")
        self.lower, self.first = layers[:n], layers[n]
        self._free = {id(p) for layer in layers[n:] for p in layer.parameters()}
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "hidden.bin"
        self._file.write_bytes(b"")
        self._place: dict[bytes, tuple[int, int]] = {}
        self._size = 0
        self._dtype = torch.bfloat16 if hardware.precision == "bf16" else torch.float32
        self._given: Tensor | None = None
        self._tuples = False  # whether layers return their output in a tuple, as MPNet's do

    def freeze(self) -> None:
        """No gradients below the first free layer; norms and poolers above the layers stay free. Call before the optimizer
        is made.
        """
        above = ("norm", "pooler")
        for name, parameter in self.transformer.named_parameters():
            top = name.split(".")[0].lower()
            if id(parameter) not in self._free and not any(part in top for part in above):
                parameter.requires_grad_(False)

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """While the block runs, `forward` may be called."""
        handle = self.first.register_forward_pre_hook(self._hand_over, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def forward(self, forward: Callable[[Features], Features], chunk: Features) -> Features:
        """The model on a chunk, from the first free layer upwards."""
        hidden = self._hidden_states(forward, chunk)
        with contextlib.ExitStack() as stack:
            for layer in self.lower:
                stack.enter_context(_skipped(layer, self._tuples))
            self._given = hidden
            try:
                return forward(chunk)
            finally:
                self._given = None

    def _hand_over(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._given is None:
            return None
        if args:
            return (self._given, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self._given}

    def _hidden_states(self, forward: Callable[[Features], Features], chunk: Features) -> Tensor:
        """(n_texts, width, dim), zero where there is only padding."""
        ids, mask = chunk["input_ids"], chunk["attention_mask"].bool()
        found = []
        for row in range(len(ids)):
            name = hashlib.sha256(ids[row][mask[row]].cpu().numpy().tobytes()).digest()
            if name not in self._place:
                self._compute(forward, {k: _row(v, row, mask) for k, v in chunk.items()}, name)
            found.append(self._read(name))
        hidden = torch.zeros((*mask.shape, found[0].shape[1]), dtype=self._dtype, device=ids.device)
        hidden[mask] = torch.cat(found).to(ids.device)
        return hidden

    def _compute(self, forward: Callable[[Features], Features], features: Features, name: bytes) -> None:
        def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            raise _Reached(args[0] if args else kwargs["hidden_states"])

        def look(module: nn.Module, args: Any, output: Any) -> None:
            self._tuples = isinstance(output, tuple)

        handles = [self.first.register_forward_pre_hook(stop, with_kwargs=True)]
        handles += [layer.register_forward_hook(look) for layer in self.lower]
        self.model.eval()
        try:
            with torch.no_grad(), autocast(self.hardware):
                forward(features)
        except _Reached as reached:
            states = reached.hidden[0].to(self._dtype).cpu().contiguous()
        finally:
            for handle in handles:
                handle.remove()
            self.model.train()
        content = states.view(torch.uint8).numpy().tobytes()
        with self._file.open("ab") as out:
            out.write(content)
        self._place[name] = (self._size, states.shape[0])
        self._size += len(content)

    def _read(self, name: bytes) -> Tensor:
        start, n_tokens = self._place[name]
        width = self.transformer.config.hidden_size * self._dtype.itemsize
        stored = np.memmap(self._file, np.uint8, "r", offset=start, shape=(n_tokens * width,))
        return torch.from_numpy(np.array(stored)).view(self._dtype).view(n_tokens, -1)


class _Reached(Exception):  # no error: the way out of a forward pass
    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


def _row(value: Any, row: int, mask: Tensor) -> Any:
    """One text of a tokenized batch, without its padding."""
    if not isinstance(value, Tensor) or value.shape[:1] != mask.shape[:1]:
        return value
    return value[row][mask[row]].unsqueeze(0) if value.shape == mask.shape else value[row : row + 1]


@contextlib.contextmanager
def _skipped(layer: nn.Module, as_tuple: bool) -> Iterator[None]:
    """A layer that hands its input on."""

    def hand_on(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (hidden_states,) if as_tuple else hidden_states

    layer.forward = hand_on
    try:
        yield
    finally:
        del layer.forward
