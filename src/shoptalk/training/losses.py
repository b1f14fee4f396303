"""Losses by name: one builder a row, chosen from the shape of the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shoptalk.records import Task
from shoptalk.settings import TrainSettings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def _multiple_negatives(model: SentenceTransformer, settings: TrainSettings) -> Any:
    """Pairs and triplets. Source: Henderson et al. 2017; van den Oord et al. 2018 (InfoNCE)."""
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    return MultipleNegativesRankingLoss(model, scale=1 / settings.temperature)


def _cosent(model: SentenceTransformer, settings: TrainSettings) -> Any:
    """Scored pairs; only the order of the scores counts. Source: Su 2022."""
    from sentence_transformers.sentence_transformer.losses import CoSENTLoss

    return CoSENTLoss(model, scale=1 / settings.temperature)


LOSSES: dict[Task, Callable[[Any, TrainSettings], Any]] = {
    "retrieval": _multiple_negatives,
    "similarity": _cosent,
}
