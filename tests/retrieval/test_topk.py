from __future__ import annotations

import numpy as np
import pytest

from shoptalk.retrieval import topk
from shoptalk.retrieval.topk import as_ranking, search, top_k


def brute_force(queries: np.ndarray, passages: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-(queries @ passages.T), axis=1, kind="stable")[:, :k]


def whole_numbers(shape: tuple[int, int], seed: int) -> np.ndarray:
    """Small whole numbers: inner products are exact, and many of them are equal."""
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)


@pytest.mark.parametrize("k", [1, 7, 60, 61, 200])
def test_equals_a_full_stable_sort_with_ties_in_passage_order(k):
    queries, passages = whole_numbers((40, 4), 1), whole_numbers((60, 4), 2)
    indices, scores = top_k(queries, passages, k)

    expected = brute_force(queries, passages, k)
    assert indices.shape == (40, min(k, 60))
    assert np.array_equal(indices, expected)
    assert np.array_equal(scores, np.take_along_axis(queries @ passages.T, expected, axis=1))


@pytest.mark.parametrize("floats", [1, 130, 6_000, 10**9])
def test_the_answer_does_not_depend_on_the_block_size(monkeypatch, floats):
    queries, passages = whole_numbers((50, 4), 3), whole_numbers((60, 4), 4)
    monkeypatch.setattr(topk, "_BLOCK_FLOATS", floats)
    assert np.array_equal(top_k(queries, passages, 10)[0], brute_force(queries, passages, 10))


def test_all_passages_equal_gives_the_first_ones():
    indices, _ = top_k(np.ones((2, 3), np.float32), np.ones((9, 3), np.float32), 4)
    assert indices.tolist() == [[0, 1, 2, 3]] * 2


def test_no_queries_no_passages_or_no_depth_give_empty_answers():
    some, none = np.ones((3, 2), np.float32), np.zeros((0, 2), np.float32)
    assert top_k(none, some, 2)[0].shape == (0, 2)
    assert top_k(some, none, 2)[0].shape == (3, 0)
    assert top_k(some, some, 0)[0].shape == (3, 0)


def test_a_ranking_has_strictly_decreasing_scores_near_the_true_ones():
    queries, passages = whole_numbers((20, 3), 5), whole_numbers((50, 3), 6)
    ids = [f"p{i}" for i in range(50)]
    ranking = search([f"q{i}" for i in range(20)], queries, ids, passages, 50)

    exact = queries @ passages.T
    expected = brute_force(queries, passages, 50)
    for row in range(20):
        found = ranking[f"q{row}"]
        assert [passage_id for passage_id, _ in found] == [ids[i] for i in expected[row]]
        scores = np.array([score for _, score in found])
        assert np.all(np.diff(scores) < 0)
        assert np.all(np.diff(scores.astype(np.float32)) < 0)  # also for tools that keep single precision
        assert scores == pytest.approx(exact[row, expected[row]], abs=1e-4)


def test_a_ranking_of_nothing_is_empty():
    assert as_ranking(["q"], [], np.zeros((1, 0), np.int64), np.zeros((1, 0), np.float32)) == {"q": []}
