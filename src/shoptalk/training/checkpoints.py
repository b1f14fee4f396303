"""Checkpoints that can be trusted: complete, durable, and looked for from the newest backwards.

The trainer writes a checkpoint file by file. Only when all is on disk does a callback add a seal with every file's
digest; a checkpoint without an intact seal was cut off by a kill and is removed.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from shoptalk.workspace import list_files, write_atomically

_SEAL = "sealed.json"


class SealCheckpoints(TrainerCallback):  # type: ignore[misc]  # untyped base class
    """Seals every checkpoint after the trainer has written it."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer."""
        seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def seal(checkpoint: Path) -> None:
    """Make a checkpoint durable and mark it complete."""
    for path in checkpoint.rglob("*"):
        if path.is_file():
            with path.open("rb") as written:
                os.fsync(written.fileno())
    write_atomically(checkpoint / _SEAL, json.dumps(list_files(checkpoint)))


def newest_complete(folder: Path) -> Path | None:
    """The newest sealed and intact checkpoint; broken ones are removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for checkpoint in found:
        if is_intact(checkpoint):
            return checkpoint
        shutil.rmtree(checkpoint)
    return None


def is_intact(checkpoint: Path) -> bool:
    """Whether a checkpoint is sealed and holds exactly what was sealed."""
    try:
        sealed = json.loads((checkpoint / _SEAL).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    files = list_files(checkpoint)
    files.pop(_SEAL, None)
    return bool(files == sealed)
