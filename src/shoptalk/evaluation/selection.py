"""The stage select: which candidate is shipped. Today that is the checkpoint that training kept; later, the point between base
and tuned weights that keeps general ability (the stage exists so that this has its room).
"""

from __future__ import annotations

import json
import shutil

from shoptalk.models.finding import CARD
from shoptalk.workspace import StageContext


def select(stage: StageContext) -> None:
    """Write model/: a plain sentence-transformers folder, and shoptalk.json beside its files, which says where it came from."""
    candidates = stage.read("candidates")
    training = json.loads((candidates / "training.json").read_text(encoding="utf-8"))
    shutil.copytree(candidates / "best", stage.out, dirs_exist_ok=True)
    choice = {
        "base_model": stage.settings.model.base,
        "chosen": "checkpoint kept by training",
        "dev": training["best_dev"],
        "base_dev": training["base_dev"],
        "step": training["best_step"],
    }
    (stage.out / CARD).write_text(json.dumps(choice, indent=1) + "\n", encoding="utf-8")
