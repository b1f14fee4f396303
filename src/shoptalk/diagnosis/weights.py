"""How far the weights of a model folder are from those of another, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Moved:
    """Weights of one folder held against another's.

    shared: tensors that both have in the same shape; same: those of them that are equal bit for bit; relative: the length of the
    difference of all shared weights over the length of the first folder's; own: the largest absolute weight of each tensor
    that only the second folder has, by name.
    """

    shared: int
    same: int
    relative: float
    own: dict[str, float]

    @property
    def is_equal(self) -> bool:
        """Whether every weight that both have is the same."""
        return self.shared > 0 and self.same == self.shared


def moved(base: Path, other: Path) -> Moved:
    """Compare the .safetensors of two model folders; precision does not count, names and shapes do."""
    import torch

    with ExitStack() as stack:
        left, right = _tensors(base, stack), _tensors(other, stack)
        # A base saved with a head has its encoder's names under "bert." or the like.
        left = {(folder, name.partition(".")[2]): tensor for (folder, name), tensor in left.items()} | left
        shared, same, square, length = 0, 0, 0.0, 0.0
        own: dict[str, float] = {}
        for name, tensor in right.items():
            after = tensor().float()
            before = left[name]().float() if name in left else None
            if before is None or before.shape != after.shape:
                own[name[1]] = float(after.abs().max()) if after.numel() else 0.0
                continue
            shared += 1
            same += bool(torch.equal(before, after))
            square += float((after - before).double().square().sum())
            length += float(before.double().square().sum())
    return Moved(shared, same, (square / length) ** 0.5 if length else 0.0, own)


def _tensors(folder: Path, stack: ExitStack) -> dict[tuple[str, str], Callable[[], Any]]:
    """(the module's folder, the tensor's name) -> what reads it."""
    from safetensors import safe_open

    found: dict[tuple[str, str], Callable[[], Any]] = {}
    for path in sorted(folder.rglob("*.safetensors")):
        file = stack.enter_context(safe_open(str(path), framework="pt"))
        module = path.parent.relative_to(folder).as_posix()
        found |= {(module, name): partial(file.get_tensor, name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    return found
