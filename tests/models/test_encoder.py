from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from shoptalk.models import encoder as module
from shoptalk.models.encoder import CachedEncoder, TorchEncoder, load_encoder, token_batches, unit
from shoptalk.models.finding import find_model
from shoptalk.models.hardware import Hardware
from shoptalk.models.store import text_name
from shoptalk.settings import BUILTIN_MODEL, ModelSettings
from shoptalk.workspace import digest_of

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


PASSAGES = [
    "Refunds are paid to the card that was charged, usually within five working days of the cancellation.",
    "The committee meets on the first Tuesday of every month. Minutes are sent to all members within a week.",
    "Aspirin reduces fever and relieves mild pain; people with stomach ulcers should ask a doctor first.",
    "To reset the router, hold the small button on the back for ten seconds until the light turns amber.",
    "Photosynthesis turns carbon dioxide and water into sugar and oxygen with the energy of light.",
    "A purchase above 5,000 needs two offers and the signature of the head of department. Smaller ones are "
    "ordered in the catalogue, where the budget of the cost centre is checked before the order is sent. "
    "Anything that is delivered damaged goes back with the form that lies in every parcel.",
    "Bread rises because yeast makes gas, which the gluten of the dough holds.",
    "hotel",
    "",
]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_any_order_of_the_texts_gives_the_same_bits(tiny, precision):
    encoder = TorchEncoder(tiny.model, Hardware("cpu", precision, "for this test"), "x")
    texts = [f"{text} {i}" for i in range(40) for text in (*TEXTS, *PASSAGES)]
    vectors = encoder.encode_passages(texts)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(texts))
        assert np.array_equal(encoder.encode_passages([texts[i] for i in order]), vectors[order])
    assert len(np.unique(vectors.round(6), axis=0)) > 40


def test_in_fp32_the_other_texts_change_next_to_nothing():
    """Bit-identical with one thread on AVX-512; what every machine keeps to is asserted here."""
    encoder = load_encoder(BUILTIN_MODEL, FP32)
    vectors = encoder.encode_passages(PASSAGES)
    for start in range(0, len(PASSAGES), 2):
        part = slice(start, start + 2)
        assert np.abs(encoder.encode_passages(PASSAGES[part]) - vectors[part]).max() <= 5e-7


def test_bf16_weights_of_the_builtin_model_keep_its_vectors():
    exact = load_encoder(BUILTIN_MODEL, FP32)
    half = TorchEncoder(exact.model, Hardware("cpu", "bf16", "for this test"), "x")
    before = [(p, p.data_ptr(), p.dtype) for p in exact.model.parameters()]
    vectors, wanted = half.encode_passages(PASSAGES), exact.encode_passages(PASSAGES)
    cosines = np.sum(vectors * wanted, axis=1)
    assert cosines.mean() >= 0.9995
    assert cosines.min() >= 0.999
    assert not np.array_equal(vectors, wanted)
    assert [(p, p.data_ptr(), p.dtype) for p in exact.model.parameters()] == before
    assert np.array_equal(exact.encode_passages(PASSAGES), wanted)


def test_the_transformer_computes_in_bf16_and_what_follows_in_fp32(tiny):
    half = TorchEncoder(tiny.model, Hardware("cpu", "bf16", "for this test"), "x")
    seen = {}
    hooks = [
        tiny.model[0]
        .auto_model.encoder.layer[0]
        .output.dense.register_forward_hook(lambda module, given, out: seen.update(layer=out.dtype)),
        tiny.model[1].register_forward_pre_hook(
            lambda module, given: seen.update(pooled=given[0]["token_embeddings"].dtype)
        ),
    ]
    half.encode_passages(TEXTS)
    for hook in hooks:
        hook.remove()
    assert seen == {"layer": torch.bfloat16, "pooled": torch.float32}


def test_the_bf16_copy_follows_the_weights_and_an_error_leaves_them_in_place(tiny_bert, monkeypatch):
    model = load_encoder(str(tiny_bert), FP32).model
    half = TorchEncoder(model, Hardware("cpu", "bf16", "for this test"), "x")
    before = half.encode_passages(TEXTS)
    with torch.no_grad():
        for parameter in model[0].parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    after = half.encode_passages(TEXTS)
    assert np.abs(after - before).max() > 1e-2
    fresh = TorchEncoder(model, Hardware("cpu", "bf16", "for this test"), "x")
    assert np.array_equal(fresh.encode_passages(TEXTS), after)

    own = list(model.parameters())
    with monkeypatch.context() as patched:
        patched.setattr(model, "encode", lambda *given, **named: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            half.encode_passages(TEXTS)
    assert all(now is then for now, then in zip(model.parameters(), own, strict=True))
    assert not model[0]._forward_hooks
    model.train()
    features = model.preprocess(["hotel"])
    model(features)["sentence_embedding"].sum().backward()
    assert own[0].grad is not None
    assert own[0].grad.dtype == torch.float32


def test_what_is_cut_off_is_counted(tiny, caplog):
    long = "travel " * 63
    with caplog.at_level("INFO", "shoptalk.models.encoder"):
        found = tiny.encode(["travel " * 62, long, "hotel", long], "document")
    assert (found.truncated, found.n_unique, found.vectors.shape) == (2, 3, (4, 32))
    assert "2 of 4 texts are longer than 64 tokens" in caplog.text
    assert tiny.encode(TEXTS[:2], "query").truncated == tiny.encode([], "query").truncated == 0


def test_the_prompt_counts_when_a_text_is_cut_off(tiny_bert):
    prompted = load_encoder(str(tiny_bert), FP32.model_copy(update={"passage_prompt": "hotel "}))
    assert prompted.encode(["travel " * 62], "document").truncated == 1
    assert prompted.encode(["travel " * 62], "query").truncated == 0


@pytest.mark.parametrize("max_tokens", [None, 50, 33])
def test_a_limit_that_is_no_multiple_of_the_batch_width_holds(tiny_bert, max_tokens):
    encoder = load_encoder(str(tiny_bert), FP32.model_copy(update={"max_tokens": max_tokens}))
    texts = [*TEXTS, "travel hotel " * 24, "travel hotel " * 40]
    theirs = encoder.model.encode(texts, prompt="", normalize_embeddings=True)
    assert np.abs(encoder.encode_passages(texts) - theirs).max() <= 1e-5


def test_the_arithmetic_is_in_the_digests(tiny):
    by_precision = {
        TorchEncoder(tiny.model, Hardware("cpu", precision, ""), "x").digest for precision in ("fp32", "bf16", "fp16")
    }
    assert len(by_precision) == 3
    old = digest_of(["x", tiny.model.prompts, tiny.model.max_seq_length, "bf16"])  # of vectors made under autocast
    assert old not in by_precision


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
