"""Callbacks that watch a training run: progress, early stopping, a loss that is not a number."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from shoptalk.errors import TrainingFailed
from shoptalk.progress import Task
from shoptalk.training.dev import METRIC


class Watch(TrainerCallback):  # type: ignore[misc]  # untyped base class
    """Moves the progress bar and shows the latest loss and dev score."""

    def __init__(self, bar: Task) -> None:
        self.bar = bar
        self._seen: dict[str, float] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer."""
        self.bar.advance()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Called by the trainer."""
        for key, name in (("loss", "loss"), (f"eval_{METRIC}", "dev")):
            if logs and key in logs:
                self._seen[name] = logs[key]
        self.bar.note("  ".join(f"{name} {value:.4f}" for name, value in self._seen.items()))


class EarlyStop(TrainerCallback):  # type: ignore[misc]  # untyped base class
    """Stops after `patience` evaluations without a better dev score. Keeps no state: the log alone decides, so a resumed
    run stops where the undisturbed one does.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience

    @staticmethod
    def is_due(history: Sequence[dict[str, Any]], patience: int) -> bool:
        """Whether the best evaluation lies `patience` evaluations back."""
        scores = [row[f"eval_{METRIC}"] for row in history if f"eval_{METRIC}" in row]
        return bool(scores) and len(scores) - 1 - scores.index(max(scores)) >= patience

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer."""
        if self.is_due(state.log_history, self.patience):
            control.should_training_stop = True


class StopOnNonFinite(TrainerCallback):  # type: ignore[misc]  # untyped base class
    """Ends training when the loss or the gradient is not finite, with what is known written to disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Called by the trainer."""
        for name in ("loss", "grad_norm"):
            value = (logs or {}).get(name, 0.0)
            if not math.isfinite(value):
                note = self.folder / "not-finite.json"
                note.write_text(
                    json.dumps(
                        {
                            "step": state.global_step,
                            name: str(value),
                            "log": [str(row) for row in state.log_history[-5:]],
                        }
                    )
                )
                raise TrainingFailed(
                    f"{name} is {value} at step {state.global_step}; lower train.learning_rate or set "
                    f"model.precision=fp32 (details: {note})"
                )
