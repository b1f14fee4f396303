"""Scored pairs: Spearman's correlation between the scores and the cosines, with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from shoptalk.models.encoder import Encoder
from shoptalk.records import ScoredPair
from shoptalk.retrieval.ranking import pair_cosines
from shoptalk.retrieval.significance import correlation, spearman_delta
from shoptalk.settings import Settings


def spearman_with_interval(
    pairs: Sequence[ScoredPair], encoder: Encoder, groups: Mapping[str, str], settings: Settings
) -> tuple[float, tuple[float, float]]:
    """Spearman of a model on scored pairs and its 95% interval over groups."""
    gold = [pair.score for pair in pairs]
    cosines = pair_cosines(encoder, pairs)
    # The interval of one system is that of its difference from a constant, whose correlation is 0.
    delta = spearman_delta(
        gold,
        [0.0] * len(gold),
        list(cosines),
        _groups(pairs, groups),
        settings.evaluate.resamples,
        settings.seed,
    )
    return correlation(np.asarray(gold), cosines), delta.ci95


def _groups(pairs: Sequence[ScoredPair], groups: Mapping[str, str]) -> list[str]:
    return [groups.get(pair.pair_id, pair.pair_id) for pair in pairs]
