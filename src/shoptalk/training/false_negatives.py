"""Who may have the last word on a mined negative: a judge, which says whether a passage answers the query after all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

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


@dataclass(frozen=True)
class Ruling:
    """For every doubt and each of its candidates, in their order: why it is no negative, "" where it may be one.

    told: what audit.json says of the judging, with a sentence for people under "words"; empty where there is nothing to tell.
    """

    reasons: list[list[str]]
    told: dict[str, Any] = field(default_factory=dict)


class Judge(Protocol):
    """A reranker, a language model, a person: whoever can tell an answer from a near miss."""

    def rule(self, doubts: Sequence[Doubt]) -> Ruling:
        """Judge all candidates of all doubts."""


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

    def rule(self, doubts: Sequence[Doubt]) -> Ruling:
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
        reasons = []
        for doubt in doubts:
            positives = [next(log_probabilities) for _ in doubt.positives]
            least = min(positives, default=0.0) + float(np.log(self.share))
            reasons.append(["judge" if next(log_probabilities) >= least else "" for _ in doubt.candidates])
        return Ruling(reasons)


@dataclass(frozen=True)
class InTurn:
    """Judges one after the other; a later one, which may cost more, is not asked about what an earlier one threw out."""

    judges: tuple[Judge, ...]

    def rule(self, doubts: Sequence[Doubt]) -> Ruling:
        """See Judge."""
        reasons = [[""] * len(doubt.candidates) for doubt in doubts]
        told: dict[str, Any] = {}
        for judge in self.judges:
            left = [[i for i, reason in enumerate(row) if not reason] for row in reasons]
            asked = [
                replace(doubt, candidates=tuple(doubt.candidates[i] for i in places))
                for doubt, places in zip(doubts, left, strict=True)
            ]
            ruling = judge.rule(asked)
            told |= ruling.told
            for row, places, found in zip(reasons, left, ruling.reasons, strict=True):
                for place, reason in zip(places, found, strict=True):
                    row[place] = reason
        return Ruling(reasons, told)


def judge_from(settings: Settings, cache: Path, agree: Callable[[str], bool] | None = None) -> Judge | None:
    """The judge that `negatives.cross_encoder` and `negatives.llm_judge` name, or none. agree: shown what a language model will
    cost before it is asked; see `who_agrees`.
    """
    own = settings.negatives
    judges: list[Judge] = []
    if own.cross_encoder:
        judges.append(CrossEncoderJudge(own.cross_encoder, own.cross_encoder_share, settings.model, cache))
    if own.llm_judge:
        from shoptalk.training.llm_judge import LLMNegativeJudge

        judges.append(LLMNegativeJudge(settings.llm, cache / "llm", agree))
    return InTurn(tuple(judges)) if len(judges) > 1 else next(iter(judges), None)
