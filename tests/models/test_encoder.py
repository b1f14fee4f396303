from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from shoptalk.models import encoder as module
from shoptalk.models.encoder import CachedEncoder, TorchEncoder, load_encoder, token_batches, unit
from shoptalk.models.finding import find_model
from shoptalk.models.store import text_name
from shoptalk.settings import BUILTIN_MODEL, ModelSettings

FP32 = ModelSettings(device="cpu", precision="fp32")
TEXTS = [
    "how can you approve the travel request",
    "hotel",
    "the invoice of the member is not in the office, and the ticket price for one week is in the form " * 3,
    "",
    "退款 unknown?",
    "train ticket",
]


@pytest.fixture(scope="module")
def tiny(tiny_bert) -> TorchEncoder:
    return load_encoder(str(tiny_bert), FP32)


def test_vectors_are_float32_of_unit_length_one_a_text(tiny):
    vectors = tiny.encode_passages(TEXTS)
    assert (vectors.shape, vectors.dtype) == ((len(TEXTS), 32), np.float32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)


def test_no_texts_give_an_empty_matrix_of_the_models_dimension(tiny):
    assert tiny.encode_queries([]).shape == tiny.encode_passages([]).shape == (0, 32)


def test_the_order_of_the_texts_changes_nothing(tiny):
    forward, backward = tiny.encode_passages(TEXTS), tiny.encode_passages(TEXTS[::-1])
    assert np.abs(forward - backward[::-1]).max() <= 1e-6
    alone = np.concatenate([tiny.encode_passages([text]) for text in TEXTS])
    assert np.abs(forward - alone).max() <= 1e-6


def test_the_batches_change_nothing(tiny, monkeypatch):
    whole = tiny.encode_passages(TEXTS)
    monkeypatch.setattr(module, "_TOKENS_PER_BATCH", 40)
    assert np.abs(tiny.encode_passages(TEXTS) - whole).max() <= 1e-6


def test_a_text_that_comes_twice_is_encoded_once(tiny, monkeypatch):
    seen: list[str] = []
    real = tiny.model.encode
    monkeypatch.setattr(tiny.model, "encode", lambda texts, **options: seen.extend(texts) or real(texts, **options))
    vectors = tiny.encode_passages(["hotel", "train", "hotel", "hotel"])
    assert sorted(seen) == ["hotel", "train"]
    assert np.array_equal(vectors[0], vectors[2])
    assert np.array_equal(vectors[0], vectors[3])
    assert not np.allclose(vectors[0], vectors[1])


def test_equals_sentence_transformers_own_encoding_with_the_prompts(tiny_bert):
    encoder = load_encoder(
        str(tiny_bert), FP32.model_copy(update={"query_prompt": "ask: ", "passage_prompt": "text: "})
    )
    for ours, name in ((encoder.encode_queries(TEXTS), "query"), (encoder.encode_passages(TEXTS), "document")):
        theirs = encoder.model.encode(TEXTS, prompt_name=name, normalize_embeddings=True)
        assert np.abs(ours - theirs).max() <= 1e-5
        plain = encoder.model.encode(TEXTS, prompt="", normalize_embeddings=True)
        assert np.abs(ours - plain).max() > 1e-3


def test_the_builtin_model_equals_sentence_transformers_and_knows_what_is_alike():
    encoder = load_encoder(BUILTIN_MODEL, FP32)
    texts = ["How do I get my money back?", "Refunds are paid within a week.", "The train leaves at noon."]
    vectors = encoder.encode_queries(texts)
    assert np.abs(vectors - encoder.model.encode(texts, normalize_embeddings=True)).max() <= 1e-5
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


def test_what_lies_behind_the_maximum_length_is_cut_off(tiny):
    words = "travel " * 62  # 62 words and the two marks are the 64 tokens that the model takes
    same, longer = tiny.encode_passages([words, words + "hotel invoice " * 50])
    assert np.abs(same - longer).max() <= 1e-6
    shorter, _ = tiny.encode_passages([words.replace("travel", "hotel", 1), ""])
    assert np.abs(same - shorter).max() > 1e-4
    assert tiny.count_tokens([words, words + "hotel"]) == [64, 65]
    assert tiny.count_tokens(["hotel"], "ask: ")[0] == tiny.count_tokens(["ask: hotel"])[0]


def test_half_precision_stays_near_and_gives_unit_float32(tiny_bert, tiny):
    from shoptalk.models.hardware import Hardware

    half = TorchEncoder(tiny.model, Hardware("cpu", "bf16", "for this test"), "x")
    vectors = half.encode_passages(TEXTS)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    assert np.sum(vectors * tiny.encode_passages(TEXTS), axis=1).min() > 0.999


def test_a_model_in_training_stays_in_training(tiny):
    tiny.model.train()
    first, again = tiny.encode_passages(["hotel"]), tiny.encode_passages(["hotel"])
    assert tiny.model.training
    tiny.model.eval()
    assert np.array_equal(first, again)  # encoded without dropout all the same


def test_the_digest_follows_everything_that_changes_a_vector(tiny_bert, tiny):
    digests = [tiny.digest] + [
        load_encoder(str(tiny_bert), FP32.model_copy(update=change)).digest
        for change in ({"query_prompt": "ask: "}, {"passage_prompt": "text: "}, {"max_tokens": 32})
    ]
    assert len(set(digests)) == 4
    assert load_encoder(str(tiny_bert), FP32).digest == tiny.digest


def test_batches_hold_similar_lengths_within_the_budget():
    lengths = np.array([5, 100, 7, 300, 20, 20, 3, 6])
    batches = token_batches(lengths, 60)
    assert sorted(index for batch in batches for index in batch) == list(range(8))
    assert [lengths[batch].tolist() for batch in batches] == [[300], [100], [20, 20, 7], [6, 5, 3]]
    assert token_batches(np.zeros(0, int), 60) == []


def test_unit_leaves_a_zero_vector_zero():
    scaled = unit(np.array([[3, 4], [0, 0]], np.float32))
    assert scaled.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 0]]
    assert scaled.dtype == np.float32


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def cached(tiny_bert, cache):
    """Encoders over one cache, each as a new process would make it."""
    found = find_model(str(tiny_bert))
    return lambda settings=FP32: CachedEncoder(found, settings, cache)


def test_what_is_cached_needs_no_model(cached, tiny):
    first = cached()
    vectors = first.encode_passages(TEXTS)
    assert np.abs(vectors - tiny.encode_passages(TEXTS)).max() <= 1e-6

    second = cached()
    assert np.array_equal(second.encode_passages(TEXTS), vectors)
    assert np.array_equal(second.encode_passages([TEXTS[2], TEXTS[0], TEXTS[2]]), vectors[[2, 0, 2]])
    assert second._loaded is None
    assert first._loaded is not None


def test_only_what_is_missing_is_encoded(cached):
    vectors = cached().encode_passages(TEXTS)
    second = cached()
    seen: list[str] = []
    real = second.loaded.encode_passages
    second.loaded.encode_passages = lambda texts: seen.extend(texts) or real(texts)
    found = second.encode_passages(["new", *TEXTS, "new"])
    assert seen == ["new"]
    assert np.array_equal(found[1:-1], vectors)
    assert np.array_equal(found[0], found[-1])


def test_queries_and_passages_and_other_settings_do_not_share_vectors(cached):
    prompted = FP32.model_copy(update={"query_prompt": "ask: "})
    passages, queries = cached(prompted).encode_passages(TEXTS), cached(prompted).encode_queries(TEXTS)
    assert not np.allclose(passages, queries)
    assert not np.allclose(queries, cached().encode_queries(TEXTS))


def test_a_copy_whose_name_brings_prompts_does_not_share_vectors(cached, cache, tiny_bert, tmp_path):
    vectors = cached().encode_queries(TEXTS)
    copy = find_model(shutil.copytree(tiny_bert, str(tmp_path / "e5-small-v2")))
    assert not np.allclose(CachedEncoder(copy, FP32, cache).encode_queries(TEXTS), vectors)


def test_another_model_does_not_share_vectors(cached, cache, tmp_path, make_tiny_bert):
    vectors = cached().encode_passages(TEXTS)
    other = find_model(str(make_tiny_bert(tmp_path / "other", seed=8)))
    assert not np.allclose(CachedEncoder(other, FP32, cache).encode_passages(TEXTS), vectors)


def test_no_texts_have_the_models_dimension(cached):
    assert cached().encode_passages([]).shape == (0, 32)


def damages(raw: bytes) -> list[bytes]:
    middle = len(raw) // 2
    flipped = bytes([raw[middle] ^ 1])
    return [
        b"",
        raw[:middle],
        raw[:-1],
        raw[:middle] + flipped + raw[middle + 1 :],
        b"PK\x03\x04",
        b"\x93NUMPY",
        b"text",
        raw[4:],
    ]


@pytest.mark.parametrize("kind", range(8))
def test_a_damaged_file_is_encoded_again(cached, cache, kind):
    vectors = cached().encode_passages(TEXTS)
    (path,) = cache.rglob("*.npz")
    path.write_bytes(damages(path.read_bytes())[kind])
    again = cached()
    assert np.abs(again.encode_passages(TEXTS) - vectors).max() <= 1e-6
    assert again._loaded is not None
    third = cached()
    assert np.abs(third.encode_passages(TEXTS) - vectors).max() <= 1e-6
    assert third._loaded is None


def test_a_whole_file_that_says_other_vectors_is_encoded_again(cached, cache):
    vectors = cached().encode_passages(TEXTS)
    (path,) = cache.rglob("*.npz")
    with np.load(path) as stored:
        np.savez(path, **{**stored, "vectors": stored["vectors"][::-1]})
    assert np.abs(cached().encode_passages(TEXTS) - vectors).max() <= 1e-6


def test_any_flipped_byte_is_noticed(cached, cache):
    vectors = cached().encode_passages(TEXTS[:2])
    (path,) = cache.rglob("*.npz")
    raw = path.read_bytes()
    store = module.VectorStore(path.parent)
    names = {text_name(text): row for row, text in enumerate(TEXTS[:2])}
    for place in range(0, len(raw), 7):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 0x10]) + raw[place + 1 :])
        for name, vector in store.read(set(names)).items():
            assert np.array_equal(vector, vectors[names[name]]), place
