"""Who may have the last word on a mined negative: a judge, which says whether a passage answers the query after all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from shoptalk.errors import SettingsError
from shoptalk.models.finding import find_model
from shoptalk.settings import ModelSettings, Settings
from shoptalk.training.teacher import is_cross_encoder, teacher_scores


@dataclass(frozen=True, slots=True)
class Doubt:
    """A query, the contents of the passages known to answer it, and those of passages that perhaps do."""

    query: str
    positives: tuple[str, ...]
    candidates: tuple[str, ...]


class Judge(Protocol):
    """A reranker, a language model, a person: whoever can tell an answer from a near miss."""

    def answered(self, doubts: Sequence[Doubt]) -> list[list[bool]]:
        """For every doubt and each of its candidates, in their order: whether it answers the query."""


@dataclass(frozen=True)
class CrossEncoderJudge:
    """A reranker as judge: a candidate answers when its probability is `share` of that of the lowest positive, or more.

    Logits have no zero to take a share of, so they go through the logistic function first. Scores are kept in `cache`.
    Source: Qu et al. 2021 (RocketQA: a cross-encoder denoises mined negatives); the share in the place of their fixed
    threshold, since not every reranker is calibrated.
    """

    name: str
    share: float
    model: ModelSettings
    cache: Path

    def answered(self, doubts: Sequence[Doubt]) -> list[list[bool]]:
        """Every pair of query and text is scored once. Raises ModelError, SettingsError for a model that is no cross-encoder."""
        if not is_cross_encoder(find_model(self.name)):
            raise SettingsError(
                f"negatives.cross_encoder is {self.name}, which does not read query and passage together; use a reranker such "
                "as cross-encoder/ms-marco-MiniLM-L6-v2, or leave it empty"
            )
        doubts = [doubt if doubt.candidates else Doubt(doubt.query, (), ()) for doubt in doubts]
        pairs = [(doubt.query, text) for doubt in doubts for text in (*doubt.positives, *doubt.candidates)]
        logits = teacher_scores(self.name, pairs, self.model, self.cache).astype(np.float64) if pairs else np.zeros(0)
        log_probabilities = iter((-np.logaddexp(0, -logits)).tolist())
        verdicts = []
        for doubt in doubts:
            positives = [next(log_probabilities) for _ in doubt.positives]
            least = min(positives, default=0.0) + float(np.log(self.share))
            verdicts.append([next(log_probabilities) >= least for _ in doubt.candidates])
        return verdicts


def judge_from(settings: Settings, cache: Path) -> Judge | None:
    """The judge that `negatives.cross_encoder` names, or none."""
    own = settings.negatives
    if not own.cross_encoder:
        return None
    return CrossEncoderJudge(own.cross_encoder, own.cross_encoder_share, settings.model, cache)
