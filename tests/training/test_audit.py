"""The audit of mined negatives, with numbers worked by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from placed import PlacedEncoder, dataset_with

from shoptalk.records import Dataset
from shoptalk.settings import NegativeSettings
from shoptalk.training import audit as auditing
from shoptalk.training.audit import audit
from shoptalk.training.mining import mine

COSINE = {"high answer": 0.9, "hard": 0.8, "low answer": 0.7, "soft": 0.5}


def audited(dataset: Dataset, cosine: dict[str, float], **values: object) -> dict[str, Any]:
    settings = NegativeSettings.model_validate({"mine": 1, "bm25_share": 0, **values})
    mining = mine(dataset, PlacedEncoder(cosine), settings, np.random.default_rng(1))
    found = audit(mining, dataset, settings, np.random.default_rng(2))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    return found


def taken(found: dict[str, Any], what: str) -> dict[float | None, int]:
    return {row["margin"]: row["taken"] for row in found["false_negatives"][what]["by_margin"]}


def test_each_answer_is_held_back_in_turn() -> None:
    """Held back, the high answer (0.9, the other scores 0.7) is taken only without a margin. The low one (0.7, the other scores
    0.9) is behind "hard" (0.8) unless the margin leaves that out and not the answer: 0.8 times 0.9 is 0.72.
    """
    found = audited(dataset_with({"q1": ["high answer", "low answer"]}, list(COSINE)), COSINE)
    tested = found["false_negatives"]["other_answers"]
    assert tested["trials"] == 2
    assert taken(found, "other_answers") == {0.8: 1, 0.9: 0, 0.95: 0, 0.98: 0, 1.0: 0, None: 1}
    at = tested["by_margin"][0]
    assert (at["rate"], at["mined"], at["share_of_mined"]) == (0.5, 2, 0.5)
    assert at["ci95"] == pytest.approx([0.0945, 0.9055], abs=1e-4)  # Wilson's interval of 1 in 2


def test_more_negatives_reach_more_hidden_answers() -> None:
    """Two are mined. The low answer stands second behind "hard" for every margin that leaves "hard" in."""
    found = audited(dataset_with({"q1": ["high answer", "low answer"]}, list(COSINE)), COSINE, mine=2)
    assert taken(found, "other_answers") == {0.8: 1, 0.9: 1, 0.95: 1, 0.98: 1, 1.0: 1, None: 2}


def test_the_margin_of_the_settings_is_among_those_tried() -> None:
    found = audited(dataset_with({"q1": ["high answer", "low answer"]}, list(COSINE)), COSINE, margin=0.85)
    assert taken(found, "other_answers") == {0.8: 1, 0.85: 1, 0.9: 0, 0.95: 0, 0.98: 0, 1.0: 0, None: 1}


def test_near_duplicates_are_held_back_as_if_nobody_knew() -> None:
    """The twin (0.8) is taken where it scores under the margin: 0.9 times 0.9 is 0.81, 0.8 times 0.9 is 0.72."""
    cosine = {"answer": 0.9, "twin": 0.8, "hard": 0.7}
    found = audited(dataset_with({"q1": ["answer"]}, list(cosine), {"answer": "c", "twin": "c"}), cosine)
    assert found["false_negatives"]["near_duplicates"]["trials"] == 1
    assert taken(found, "near_duplicates") == {0.8: 0, 0.9: 1, 0.95: 1, 0.98: 1, 1.0: 1, None: 1}
    assert found["mined"] == 1  # in the mining itself it is left out
    assert found["candidates_left_out"] == {"judged": 1, "near-duplicate": 1}


def test_answers_that_are_copies_of_each_other_say_nothing() -> None:
    cosine = {"answer": 0.9, "twin": 0.8, "hard": 0.7}
    found = audited(dataset_with({"q1": ["answer", "twin"]}, list(cosine), {"answer": "c", "twin": "c"}), cosine)
    tested = found["false_negatives"]
    assert tested["other_answers"] == tested["near_duplicates"] == {"trials": 0, "by_margin": []}
    assert "No training query has two different answers" in found["sentence"]


def test_ranks_and_shares_are_counted() -> None:
    """Three mined, at ranks 2, 3 and 12 of the ranking, scoring 0.80, 0.75 and 0.30 of 1.0."""
    cosine = {"answer": 1.0, "a": 0.8, "b": 0.75} | {f"t{i}": 0.6 - i / 100 for i in range(8)} | {"last": 0.3}
    clusters = {f"t{i}": "answer" for i in range(8)}
    found = audited(dataset_with({"q1": ["answer"]}, list(cosine), clusters), cosine, mine=3)
    assert found["ranks"] == {
        "median": 3.0,
        "counts": [
            {"up_to": 1, "count": 0},
            {"up_to": 3, "count": 2},
            {"up_to": 5, "count": 0},
            {"up_to": 10, "count": 0},
            {"up_to": 12, "count": 1},
        ],
    }
    counts = dict(zip(found["shares"]["edges"], found["shares"]["counts"], strict=False))
    assert {edge: count for edge, count in counts.items() if count} == {0.3: 1, 0.75: 1, 0.8: 1}
    assert found["shares"]["mean"] == pytest.approx((0.8 + 0.75 + 0.3) / 3)
    assert found["by_source"] == {"base": 3}
    assert found["queries_with_fewer"] == 0


def test_it_is_said_in_words() -> None:
    found = audited(dataset_with({"q1": ["high answer", "low answer"]}, list(COSINE)), COSINE, margin=0.8)
    assert found["sentence"] == (
        "1 hard negatives for 1 queries, found at a median rank of 4, scoring 71% of their query's answer on average. "
        "With another known answer of a query held back 2 times, mining would have taken it 1 times (50.0%, 95% interval "
        "9.5% to 90.5%; without the margin 50.0%), which is 50.0% of what it would have mined."
    )


def test_that_nothing_was_mined_is_said_too() -> None:
    cosine = {"answer": 0.9, "too near": 0.89}
    found = audited(dataset_with({"q1": ["answer"]}, list(cosine)), cosine)
    assert found["mined"] == 0
    assert found["queries_with_fewer"] == 1
    assert found["ranks"] == {"median": None, "counts": []}
    assert found["sentence"].startswith("No hard negative was found")


def test_many_trials_are_sampled_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = dataset_with({f"q{i}": ["high answer", "low answer"] for i in range(30)}, list(COSINE))
    monkeypatch.setattr(auditing, "_MOST_TRIALS", 7)
    first, second = audited(dataset, COSINE), audited(dataset, COSINE)
    assert first["false_negatives"]["other_answers"]["trials"] == 7
    assert first == second
