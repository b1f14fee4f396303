"""Which checkpoint is kept, worked by hand: chance of a few dev queries does not decide, a clear difference does."""

import json
from pathlib import Path

import numpy as np
import pytest

from shoptalk.retrieval.significance import paired_difference
from shoptalk.training.choosing import DevScores, kept_step, should_stop, write_scores

FEW = [f"q{i}" for i in range(8)]
ALONE = {query: query for query in FEW}


@pytest.fixture
def told(tmp_path: Path):
    """Writes scores of queries by step and returns the trainer's log with them."""

    def tell(by_step: dict[int, list[float]], groups: dict[str, str] = ALONE):
        (tmp_path / "eval").mkdir(exist_ok=True)
        for step, values in by_step.items():
            write_scores(str(tmp_path / "eval"), step, dict(zip(FEW, values, strict=True)))
        history = [{"step": step, "eval_dev": float(np.mean(values))} for step, values in by_step.items()]
        return [{"step": 0, "loss": 1.0}, *history], DevScores(tmp_path, groups)

    return tell


def test_the_error_of_a_paired_difference_by_hand():
    one, two = dict(zip("abcd", [1, 1, 1, 0], strict=True)), dict(zip("abcd", [1, 0, 1, 0], strict=True))
    mean, error = paired_difference(one, two, {})
    assert mean == 0.25
    assert error == pytest.approx(np.std([0, 1, 0, 0], ddof=1) / 2)  # each query is a group: the usual standard error
    assert paired_difference(one, one, {}) == (0.0, 0.0)


def test_queries_of_one_group_count_as_one():
    values = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    one, two = dict(zip("abcdef", values, strict=True)), dict.fromkeys("abcdef", 0.0)
    groups = {"a": "x", "b": "x", "c": "x", "d": "y", "e": "y", "f": "y"}
    mean, error = paired_difference(one, two, groups)
    assert (mean, error) == (0.5, pytest.approx((2 * (1.5**2) * 2) ** 0.5 / 6))
    assert error > 2 * paired_difference(one, two, {})[1]
    assert paired_difference(one, two, dict.fromkeys("abcdef", "x"))[1] == float("inf")


def test_a_lucky_query_does_not_keep_an_early_checkpoint(told):
    history, scores = told({5: [1, 1, 1, 1, 1, 1, 1, 1.0], 50: [1, 1, 1, 1, 1, 1, 1, 0.4]})
    assert not scores.clearly_better(5, 50)
    assert kept_step(history, scores) == 50


def test_a_clearly_better_checkpoint_is_kept(told):
    history, scores = told({5: [1] * 8, 20: [1, 1, 1, 1, 0.6, 0.6, 0.6, 0.6], 50: [1, 1, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6]})
    assert kept_step(history, scores) == 5


def test_of_equals_the_last_is_kept(told):
    history, scores = told({5: [0.5] * 8, 20: [0.4] * 8, 50: [0.5] * 8})
    assert kept_step(history, scores) == 50


def test_nothing_evaluated_means_nothing_to_keep(tmp_path):
    assert kept_step([{"step": 3, "loss": 0.1}], DevScores(tmp_path, {})) is None


def test_without_scores_of_queries_the_highest_is_kept(tmp_path):
    history = [{"step": 4, "eval_dev": 0.7}, {"step": 8, "eval_dev": 0.69}]  # scored pairs
    assert kept_step(history, DevScores(tmp_path, {})) == 4


def test_training_stops_only_when_it_has_clearly_fallen(told):
    fallen, lucky = [0.5] * 8, [1, 1, 1, 1, 1, 1, 1, 0.4]
    history, scores = told({1: [1] * 8, 2: fallen, 3: fallen, 4: fallen})
    assert should_stop(history, scores, patience=3)
    assert not should_stop(history, scores, patience=4)
    history, scores = told({1: [1] * 8, 2: fallen, 3: lucky, 4: fallen})
    assert not should_stop(history, scores, patience=3)
    assert not should_stop(history[:1], scores, patience=1)


def test_the_scores_are_plain_json_beside_the_checkpoints(told, tmp_path):
    told({5: [0.25] * 8})
    assert json.loads((tmp_path / "eval" / "dev-5.json").read_text()) == dict.fromkeys(FEW, 0.25)
