"""What this machine can do: device, precision, memory. torch is imported only when asked for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil

from shoptalk.errors import SettingsError

if TYPE_CHECKING:
    from shoptalk.settings import ModelSettings

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Hardware:
    """Where to compute and how, with the reason in words."""

    device: str
    precision: Precision
    why: str


def choose_hardware(settings: ModelSettings, model_type: str = "") -> Hardware:
    """Device and arithmetic for a model. bf16 and fp16 are always autocast over fp32 weights. Raises SettingsError.

    fp16 overflows in Gemma 3, which therefore runs in fp32 where there is no bf16.
    """
    import torch

    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SettingsError(
            f"model.device is {device}, but torch sees no CUDA device here; use auto or cpu (`shoptalk doctor`)"
        )
    if settings.precision == "fp32":
        return Hardware(device, "fp32", "model.precision is fp32")
    if device.startswith("cuda"):
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Hardware(device, "bf16", "the GPU has bf16")
        if "gemma3" in model_type:
            return Hardware(device, "fp32", "the GPU has no bf16 and Gemma 3 overflows in fp16")
        return Hardware(device, "fp16", "the GPU has no bf16")
    if device == "cpu" and cpu_has_bf16():
        return Hardware(device, "bf16", "the CPU multiplies bf16 matrices (AVX512_BF16 or AMX)")
    return Hardware(
        device,
        "fp32",
        "the CPU has no fast bf16" if device == "cpu" else f"no faster precision known for {device}",
    )


def cpu_has_bf16() -> bool:
    """Whether the CPU has bf16 matrix instructions, so that bf16 is faster and not emulated."""
    import torch

    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, lambda: False)()) for name in names)


def autocast(hardware: Hardware) -> Any:
    """The context in which a model computes on this hardware."""
    import torch

    kind = hardware.device.partition(":")[0]
    if hardware.precision == "fp32":
        return torch.autocast(kind, enabled=False)
    return torch.autocast(kind, torch.bfloat16 if hardware.precision == "bf16" else torch.float16)


def memory_limit_bytes() -> int:
    """Memory that this process may use: the smaller of the machine's and the cgroup's limit."""
    limits = [psutil.virtual_memory().total]
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(name).read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue
    return min(limits)
