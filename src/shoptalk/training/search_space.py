"""What a hyperparameter search chooses from, and what a trial of it costs on average. Needs no Optuna, so that a plan can ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shoptalk.records import Example
from shoptalk.settings import Settings
from shoptalk.training.batches import Batches, plan_training
from shoptalk.training.methods import METHODS, learning_rate

Values = Mapping[str, float | int]
"""Settings of the section train by name."""

BATCH_SIZES = (16, 32, 64, 128)
WITHOUT_TEMPERATURE = frozenset({"triplet", "margin-mse", "cosine-similarity"})
"""Losses that `train.temperature` does nothing to."""
_SLOWEST, _FASTEST = 1 / 6, 20 / 3  # of the method's own learning rate; of 3e-5 they are 5e-6 and 2e-4
_COLDEST, _WARMEST = 0.02, 0.1


@dataclass(frozen=True)
class Space:
    """What is tried: ranges with both ends, and `batch_size` a choice. None: nothing to choose. `own`: the run's settings."""

    learning_rate: tuple[float, float]
    batch_size: tuple[int, ...]
    epochs: tuple[int, int]
    temperature: tuple[float, float] | None
    negatives: tuple[int, int] | None
    own: Values

    def draw(self, trial: Any) -> dict[str, float | int]:
        """The values of an Optuna trial, drawn or, where it has them, its own."""
        values: dict[str, float | int] = {
            "learning_rate": trial.suggest_float("learning_rate", *self.learning_rate, log=True),
            "batch_size": trial.suggest_categorical("batch_size", self.batch_size),
            "epochs": trial.suggest_int("epochs", *self.epochs),
        }
        if self.temperature:
            values["temperature"] = trial.suggest_float("temperature", *self.temperature, log=True)
        if self.negatives:
            values["negatives"] = trial.suggest_int("negatives", *self.negatives)
        return values

    @property
    def cost(self) -> float:
        """What a trial costs on average, in trainings with the run's own settings, if none were pruned."""
        epochs = sum(self.epochs) / 2 / self.own["epochs"]
        if not self.negatives:
            return epochs
        return epochs * (2 + sum(self.negatives) / 2) / (2 + self.own["negatives"])


def search_space(settings: Settings, examples: Sequence[Example], batches: Batches) -> Space:
    """The space for a training set; every range holds the run's own setting. `batches` are those of the run's settings.

    Learning rates lie around the method's own, epochs between half and twice the planned number, batches within the rows that
    there are; temperature and negatives are left out where the loss or the data has none.
    """
    train, objective = settings.train, batches.objective
    rate, planned = METHODS[train.method].learning_rate, plan_training(batches.per_epoch, train).epochs
    own: dict[str, float | int] = {
        "learning_rate": learning_rate(settings),
        "batch_size": train.batch_size,
        "epochs": planned,
    }
    temperature = negatives = None
    if objective.name not in WITHOUT_TEMPERATURE:
        own["temperature"] = train.temperature
        temperature = _widened(_COLDEST, _WARMEST, train.temperature)
    mined = len(examples[0].negatives) if objective.task == "retrieval" else 0
    fewest = 1 if "negatives" in objective.needs else 0
    if mined > fewest:
        own["negatives"] = mined if train.negatives is None else min(mined, max(fewest, train.negatives))
        negatives = (fewest, mined)
    return Space(
        learning_rate=_widened(_SLOWEST * rate, _FASTEST * rate, own["learning_rate"]),
        batch_size=tuple(sorted({*(n for n in BATCH_SIZES if n <= batches.n_rows), train.batch_size})),
        epochs=(max(1, planned // 2), 2 * planned),
        temperature=temperature,
        negatives=negatives,
        own=own,
    )


def _widened(low: float, high: float, own: float) -> tuple[float, float]:
    return min(low, own), max(high, own)
