"""Callbacks that watch a training run: progress, early stopping, a loss that is not a number."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from shoptalk.errors import TrainingFailed
from shoptalk.progress import Task
from shoptalk.training.choosing import METRIC, DevScores, should_stop

if TYPE_CHECKING:
    from shoptalk.training.engine import Engine


class Watch(TrainerCallback):  # type: ignore[misc]  # untyped base class
    """Moves the progress bar, with the latest loss, dev score and speed beside it, and writes the same as a line of JSON a
    logging step. That file is for whoever follows a run; it is no part of its result, since it depends on the clock.
    """

    def __init__(self, bar: Task, engine: Engine, live: Path, steps: int) -> None:
        self.bar = bar
        self.engine = engine
        self.live = live
        self.steps = steps
        self._seen: dict[str, float] = {}
        self._in_steps = 0.0  # seconds inside training steps: evaluations are not counted
        self._steps = 0
        self._began = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer."""
        self._began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer."""
        self._in_steps += time.monotonic() - self._began
        self._steps += 1
        self.bar.advance()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Called by the trainer."""
        for key, name in (("loss", "loss"), (f"eval_{METRIC}", "dev")):
            if logs and key in logs:
                self._seen[name] = logs[key]
        speed = self._speed(args.train_batch_size, state.global_step)
        shown = [f"{name} {value:.4f}" for name, value in self._seen.items()]
        if speed:
            shown.append(f"{speed['examples_per_s']:.0f} examples/s  {speed['tokens_per_s']:,.0f} tokens/s")
        self.bar.note("  ".join(shown))
        with self.live.open("a", encoding="utf-8") as out:
            out.write(json.dumps({"step": state.global_step, "of": self.steps, **self._seen, **speed}) + "\n")

    def _speed(self, batch_size: int, step: int) -> dict[str, float]:
        if not self._steps or not self._in_steps:
            return {}
        a_step = self._in_steps / self._steps
        return {
            "examples_per_s": round(batch_size / a_step, 2),
            "tokens_per_s": round(self.engine.tokens_done / self._in_steps, 1),
            "seconds_left": round((self.steps - step) * a_step, 1),
        }


class EvaluateAt(TrainerCallback):  # type: ignore[misc]  # untyped base class
    """Evaluates and saves a checkpoint after the steps named; in long runs saves in between, so that a kill costs little."""

    def __init__(self, steps: Sequence[int]) -> None:
        self.steps = frozenset(steps)
        self.save_every = max(50, max(steps) // 20)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer."""
        control.should_evaluate = state.global_step in self.steps
        control.should_save = control.should_evaluate or state.global_step % self.save_every == 0
        # The trainer forgets, when it is resumed, the losses since the last line of its log: so none before a checkpoint.
        control.should_log = control.should_log or control.should_save


class EarlyStop(TrainerCallback):  # type: ignore[misc]  # untyped base class
    """Stops when `patience` evaluations lie clearly under the best. What is on disk alone decides, so a resumed run stops where
    the undisturbed one does.
    """

    def __init__(self, patience: int, scores: DevScores) -> None:
        self.patience = patience
        self.scores = scores

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer."""
        if should_stop(state.log_history, self.scores, self.patience):
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
