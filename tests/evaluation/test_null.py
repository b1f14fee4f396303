"""Where nothing changed, hardly ever `ship`: real per-query differences with base and tuned swapped at random, group by group."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from shoptalk.evaluation.verdict import judge
from shoptalk.retrieval.metrics import PRIMARY
from shoptalk.retrieval.significance import paired_delta
from shoptalk.settings import BaselineSettings, EvaluateSettings

DIFFERENCES = json.loads((Path(__file__).parent / "differences.json").read_text(encoding="utf-8"))


def verdicts(flips: int, resamples: int, least_queries: int | None = None) -> list[str]:
    """One verdict for every flip of the signs; with `least_queries`, over so many queries in whole groups."""
    base, tuned, groups = (DIFFERENCES[name] for name in ("base", "tuned", "groups"))
    rng = np.random.default_rng(7)
    names = list(dict.fromkeys(groups.values()))
    if least_queries is not None:
        names = names[
            : next(n for n in range(len(names)) if sum(groups[q] in names[:n] for q in groups) >= least_queries)
        ]
    kept = set(names)
    words = []
    for flip in range(flips):
        swap = dict(zip(names, rng.random(len(names)) < 0.5, strict=True))
        pairs = {q: (tuned[q], base[q]) if swap[groups[q]] else (base[q], tuned[q]) for q in base if groups[q] in kept}
        before, after = ({q: pair[side] for q, pair in pairs.items()} for side in (0, 1))
        delta = paired_delta(before, after, groups, resamples, flip)
        found = judge({PRIMARY: delta}, PRIMARY, len(pairs), "human", 2_000, EvaluateSettings(), BaselineSettings())
        words.append(found.word)
    return words


@pytest.mark.parametrize("least_queries", [None, 60])
def test_random_signs_are_hardly_ever_shipped(least_queries: int | None) -> None:
    words = verdicts(200, 200, least_queries)
    assert words.count("ship") <= 11  # a true share of 3% gives more than this in 2% of cases
    assert "inconclusive" in words


@pytest.mark.slow
def test_ten_thousand_random_signs_ship_under_three_percent() -> None:
    words = verdicts(10_000, 1_000)
    assert words.count("ship") / len(words) < 0.03
    assert words.count("do-not-ship") / len(words) < 0.04


def test_the_real_signs_are_no_gain_either_but_a_shift_of_all_is() -> None:
    base, groups = DIFFERENCES["base"], DIFFERENCES["groups"]
    better = {q: min(1.0, value + 0.05) for q, value in DIFFERENCES["base"].items()}
    delta = paired_delta(base, better, groups, 1_000, 1)
    found = judge({PRIMARY: delta}, PRIMARY, len(base), "human", 2_000, EvaluateSettings(), BaselineSettings())
    assert found.word == "ship"
