"""Vectors in fewer bytes: every form held against brute force over what would be stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shoptalk.retrieval import topk
from shoptalk.retrieval.compression import (
    Form,
    calibrated,
    decoded,
    encoded,
    forms,
    search_form,
    signs,
    truncated,
)

RNG = np.random.default_rng(4)


def unit_vectors(n: int, dim: int = 64) -> np.ndarray:
    vectors = RNG.standard_normal((n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


PASSAGES, QUERIES = unit_vectors(700), unit_vectors(9)


def best(scores: np.ndarray, k: int) -> np.ndarray:
    """The k highest, ties in the order of the passages."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def test_full_size_float32_is_the_search_itself() -> None:
    indices, scores = search_form(QUERIES, PASSAGES, Form(64), 20)
    expected = topk.top_k(QUERIES, PASSAGES, 20)
    assert np.array_equal(indices, expected[0])
    assert np.array_equal(scores, expected[1])


def test_fewer_dimensions_are_the_first_ones_at_unit_length() -> None:
    short_q, short_p = (
        (v[:, :16] / np.linalg.norm(v[:, :16], axis=1, keepdims=True)).astype(np.float32) for v in (QUERIES, PASSAGES)
    )
    assert truncated(PASSAGES, 16) == pytest.approx(short_p, abs=1e-7)
    indices, scores = search_form(QUERIES, PASSAGES, Form(16), 20)
    cosines = short_q.astype(np.float64) @ short_p.T.astype(np.float64)
    assert np.array_equal(indices, best(cosines, 20))
    assert scores == pytest.approx(np.take_along_axis(cosines, indices, 1), abs=1e-6)


@pytest.mark.parametrize("dimensions", [64, 16])
def test_int8_ranks_by_what_its_codes_stand_for(dimensions: int) -> None:
    short_q, short_p = truncated(QUERIES, dimensions), truncated(PASSAGES, dimensions)
    low, high = short_p.min(axis=0), short_p.max(axis=0)
    step = (high - low) / 255
    codes = np.rint((short_p - low) / step)
    assert codes.min() == 0
    assert codes.max() == 255
    values = codes * step + low
    assert np.abs(values - short_p).max() <= step.max() / 2 + 1e-6
    indices, _ = search_form(QUERIES, PASSAGES, Form(dimensions, "int8"), 20)
    assert np.array_equal(indices, best(short_q.astype(np.float64) @ values.T.astype(np.float64), 20))


def test_int8_of_a_dimension_that_never_changes_and_of_values_outside() -> None:
    flat = PASSAGES.copy()
    flat[:, 3] = 0.25
    low, step = calibrated(flat)
    back = decoded(encoded(flat, low, step), low, step)
    assert back[:, 3] == pytest.approx(0.25)
    assert encoded(np.full((1, 64), 9, np.float32), low, step).max() == 255
    assert encoded(np.full((1, 64), -9, np.float32), low, step).min() == 0


def test_binary_ranks_by_hamming_distance_ties_by_place() -> None:
    bits_q, bits_p = QUERIES > 0, PASSAGES > 0
    hamming = (bits_q[:, None, :] != bits_p[None, :, :]).sum(axis=2)
    indices, scores = search_form(QUERIES, PASSAGES, Form(64, "binary", rescore=False), 50)
    assert np.array_equal(indices, best(-hamming, 50))
    assert np.array_equal(scores, 64 - 2 * np.take_along_axis(hamming, indices, 1))


def test_rescoring_orders_the_nearest_by_the_whole_query() -> None:
    bits_q, bits_p = signs(QUERIES), signs(PASSAGES)
    nearest = best(bits_q @ bits_p.T, 80)
    exact = np.einsum("qd,qkd->qk", QUERIES.astype(np.float64), bits_p[nearest])
    expected = np.take_along_axis(nearest, np.lexsort((nearest, -exact), axis=-1)[:, :20], 1)
    indices, _ = search_form(QUERIES, PASSAGES, Form(64, "binary"), 20)
    assert np.array_equal(indices, expected)


def test_rescoring_helps_and_every_form_stays_near_the_truth() -> None:
    near = (PASSAGES[:200] + 0.07 * RNG.standard_normal((200, 64))).astype(np.float32)
    near /= np.linalg.norm(near, axis=1, keepdims=True)

    def first(form: Form) -> float:
        return float(np.mean(search_form(near, PASSAGES, form, 1)[0][:, 0] == np.arange(200)))

    assert first(Form(64)) > 0.95
    assert first(Form(64, "int8")) >= first(Form(64)) - 0.02
    assert first(Form(64, "binary")) > first(Form(64, "binary", rescore=False))


@pytest.mark.parametrize(
    "form", [Form(64), Form(16), Form(64, "int8"), Form(16, "int8"), Form(64, "binary"), Form(16, "binary", False)]
)
def test_blocks_and_memory_maps_change_nothing(form: Form, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = search_form(QUERIES, PASSAGES, form, 30)
    np.save(tmp_path / "passages.npy", PASSAGES)
    mapped = np.load(tmp_path / "passages.npy", mmap_mode="r")
    monkeypatch.setattr(topk, "_BLOCK_PASSAGES", 37)
    monkeypatch.setattr(topk, "_BLOCK_QUERIES", 4)
    monkeypatch.setattr("shoptalk.retrieval.compression._ROWS", 41)
    indices, scores = search_form(QUERIES, mapped, form, 30)
    assert np.array_equal(indices, expected[0])
    assert np.array_equal(scores, expected[1])


def test_fewer_passages_than_asked_for() -> None:
    for form in (Form(64), Form(16, "int8"), Form(64, "binary")):
        assert search_form(QUERIES, PASSAGES[:3], form, 10)[0].shape == (9, 3)


def test_bytes_of_a_passage() -> None:
    assert [Form(384, precision).bytes_per_passage for precision in ("float32", "int8", "binary")] == [1536, 384, 48]
    assert Form(100, "binary").bytes_per_passage == 13


def test_forms_are_the_full_size_and_then_the_smaller_ones() -> None:
    assert forms(384, "off", ["float32", "int8"]) == [Form(384), Form(384, "int8")]
    assert [form.dimensions for form in forms(384, "halves", ["float32"])] == [384, 192, 96, 48]
    assert [form.dimensions for form in forms(96, [64, 384, 32, 64], ["float32"])] == [96, 64, 32]
