"""bf16 weights for inference beside the fp32 weights, which stay what they are: training's small steps would be lost in bf16."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from shoptalk.models.hardware import Hardware, autocast

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer


def numeric_path(hardware: Hardware) -> str:
    """The arithmetic of inference in words; what vectors are kept by, for another arithmetic gives other vectors."""
    return {"fp32": "fp32", "bf16": "bf16 weights", "fp16": "fp16 autocast"}[hardware.precision]


class InferenceWeights:
    """Lets a model compute in the precision of the hardware. The transformers inside it get bf16 weights; what stands behind them
    (pooling, projections, adapters) and every buffer (such as rotary frequencies) keeps fp32, which costs nothing and rounds less.

    The bf16 copy is made when it is first needed, and again when the fp32 weights have changed. fp16 is autocast, which keeps in
    fp32 what would overflow.
    """

    def __init__(self, model: SentenceTransformer, hardware: Hardware) -> None:
        self.model = model
        self.hardware = hardware
        self._made_from: list[tuple[int, int]] = []
        self._copies: list[torch.Tensor] = []

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        """The model computes so while the block runs. One thread at a time."""
        if self.hardware.precision != "bf16":
            with autocast(self.hardware):
                yield
            return
        from sentence_transformers.base.modules import Transformer

        transformers = [module for module in self.model.modules() if isinstance(module, Transformer)]
        places = [
            (module._parameters, name, parameter)
            for transformer in transformers
            for module in transformer.modules()
            for name, parameter in module._parameters.items()
            if parameter is not None and parameter.is_floating_point()
        ]
        copies = self._current([parameter for _, _, parameter in places])
        hooks = [transformer.register_forward_hook(_widen) for transformer in transformers]
        try:
            # The entries of the modules are exchanged, never the parameters' own data: optimizers, gradient hooks and whoever else
            # holds the parameters see nothing of it.
            for (table, name, _), copy in zip(places, copies, strict=True):
                table[name] = copy
            yield
        finally:
            for table, name, parameter in places:
                table[name] = parameter
            for hook in hooks:
                hook.remove()

    def _current(self, parameters: list[torch.nn.Parameter]) -> list[torch.Tensor]:
        import torch

        made_from = [(parameter.data_ptr(), parameter._version) for parameter in parameters]
        if made_from != self._made_from:
            self._copies = []
            once: dict[int, torch.Tensor] = {}  # weights that are tied stay tied
            for parameter in parameters:
                if id(parameter) not in once:
                    half = parameter.detach().to(torch.bfloat16)
                    once[id(parameter)] = torch.nn.Parameter(half, requires_grad=False)
                self._copies.append(once[id(parameter)])
            self._made_from = made_from
        return self._copies


def _widen(module: Any, inputs: Any, features: dict[str, Any]) -> dict[str, Any]:
    """What a transformer gives, as fp32."""
    import torch

    return {
        name: value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in features.items()
    }
