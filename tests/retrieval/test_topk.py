from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shoptalk.errors import ModelError
from shoptalk.retrieval import topk
from shoptalk.retrieval.topk import as_ranking, pair_scores, search, top_k


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


@pytest.mark.parametrize(("n_queries", "n_passages"), [(1, 1), (7, 13), (50, 5), (3, 60), (512, 16_384)])
def test_the_answer_does_not_depend_on_the_block_size(monkeypatch, n_queries, n_passages):
    queries, passages = whole_numbers((50, 4), 3), whole_numbers((60, 4), 4)
    monkeypatch.setattr(topk, "_BLOCK_QUERIES", n_queries)
    monkeypatch.setattr(topk, "_BLOCK_PASSAGES", n_passages)
    assert np.array_equal(top_k(queries, passages, 10)[0], brute_force(queries, passages, 10))


def unit_vectors(n: int, dim: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


# Few different values, so that vectors repeat and scores tie; the odd ones do not add up exactly in single precision.
VALUES = st.sampled_from([0.0, 1.0, -1.0, 0.1, -0.3, 1 / 3, 1e-4, 1e4])


@given(st.data())
@settings(deadline=None, max_examples=80)
def test_it_is_brute_force_over_exact_scores_whatever_the_blocks(data):
    """Brute force in whole fractions, rounded once to single precision; then a stable sort."""
    dim, n, m = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5)), data.draw(st.integers(1, 30))
    queries = data.draw(arrays(np.float32, (n, dim), elements=VALUES.map(np.float32)))
    passages = data.draw(arrays(np.float32, (m, dim), elements=VALUES.map(np.float32)))
    k = data.draw(st.integers(1, 12))
    exact = [
        [
            float(np.float32(float(sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(q, p, strict=True)))))
            for p in passages
        ]
        for q in queries
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topk, "_BLOCK_QUERIES", data.draw(st.integers(1, 6)))
        patch.setattr(topk, "_BLOCK_PASSAGES", data.draw(st.integers(1, 31)))
        patch.setattr(topk, "_PAIR_FLOATS", data.draw(st.integers(1, 40)))
        indices, scores = top_k(queries, passages, k)
    for row in range(n):
        best = sorted(range(m), key=lambda place: (-exact[row][place], place))[:k]
        # Double precision is not whole fractions: sums that cancel to the last bit may differ, by far less than they count.
        assert scores[row] == pytest.approx([exact[row][place] for place in best], rel=1e-6, abs=1e-7)
        own = pair_scores(queries, np.full(m, row), passages, np.arange(m))
        assert indices[row].tolist() == sorted(range(m), key=lambda place: (-own[place], place))[:k]


def test_real_vectors_with_copies_are_ranked_as_in_double_precision(monkeypatch):
    """Copies score the same to the last bit wherever they stand, which a matrix product in blocks does not promise."""
    monkeypatch.setattr(topk, "_BLOCK_QUERIES", 17)
    monkeypatch.setattr(topk, "_BLOCK_PASSAGES", 101)
    queries, once = unit_vectors(40, 384, 1), unit_vectors(500, 384, 2)
    passages = once[np.random.default_rng(3).integers(len(once), size=1_500)]
    whole = (queries.astype(np.float64) @ passages.T.astype(np.float64)).astype(np.float32)
    expected = np.argsort(-whole, axis=1, kind="stable")[:, :50]
    indices, scores = top_k(queries, passages, 50)
    assert np.array_equal(indices, expected)
    assert np.array_equal(scores, np.take_along_axis(whole, expected, axis=1))


def test_scores_that_differ_by_less_than_a_matrix_product_can_tell(monkeypatch):
    """All passages are one vector and a little noise: its products round to another order than the scores have."""
    monkeypatch.setattr(topk, "_BLOCK_PASSAGES", 700)
    noise = np.random.default_rng(8).standard_normal((2_000, 384)).astype(np.float32)
    queries, passages = unit_vectors(8, 384, 9), unit_vectors(1, 384, 10) + noise * np.float32(3e-8)
    own = np.stack([pair_scores(queries, np.full(2_000, row), passages, np.arange(2_000)) for row in range(8)])
    expected = np.argsort(-own, axis=1, kind="stable")[:, :20]
    assert not np.array_equal(np.argsort(-(queries @ passages.T), axis=1, kind="stable")[:, :20], expected)
    assert np.array_equal(top_k(queries, passages, 20)[0], expected)


def test_passages_that_get_better_and_better_are_found(monkeypatch):
    """The worst order for a running best: every block holds only better passages than all before."""
    monkeypatch.setattr(topk, "_BLOCK_PASSAGES", 100)
    passages = np.linspace(0, 1, 1_000, dtype=np.float32)[:, None]
    indices, _ = top_k(np.ones((2, 1), np.float32), passages, 5)
    assert indices.tolist() == [[999, 998, 997, 996, 995]] * 2


def test_vectors_may_lie_on_disk(tmp_path: Path):
    passages, queries = unit_vectors(300, 16, 4), unit_vectors(9, 16, 5)
    np.save(tmp_path / "passages.npy", passages)
    mapped = np.load(tmp_path / "passages.npy", mmap_mode="r")
    assert np.array_equal(top_k(queries, mapped, 7)[0], top_k(queries, passages, 7)[0])


def test_a_pair_scores_the_same_in_any_company():
    queries, passages = unit_vectors(30, 384, 6), unit_vectors(30, 384, 7)
    together = pair_scores(queries, np.arange(30), passages, np.arange(30))
    alone = [pair_scores(queries[i : i + 1], np.array([0]), passages[i : i + 1], np.array([0]))[0] for i in range(30)]
    assert together.tolist() == alone


def test_vectors_that_are_not_finite_are_refused():
    broken = np.ones((5, 2), np.float32)
    broken[3, 1] = np.nan
    with pytest.raises(ModelError, match="1 of 5 vectors are not finite"):
        top_k(np.ones((2, 2), np.float32), broken, 2)
    with pytest.raises(ModelError, match="not finite"):
        top_k(broken, np.ones((2, 2), np.float32), 2)


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
