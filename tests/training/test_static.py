from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset as Table
from model2vec.distill import distillation, inference
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import normalizers

from shoptalk.errors import MissingPart, ModelError
from shoptalk.models.encoder import TorchEncoder, load_encoder
from shoptalk.models.finding import find_model
from shoptalk.models.hardware import Hardware
from shoptalk.progress import Task, reporting_to
from shoptalk.settings import ModelSettings
from shoptalk.training.dev import DevScore
from shoptalk.training.static import LEARNING_RATE, distil_static, domain_words
from toy import sentence_pairs, toy_retrieval

FP32 = Hardware("cpu", "fp32", "for this test")
TEXTS = [
    "the kubernetes cluster is in the office",
    "a Kubernetes policy for the hotel, 2024",
    "kubernetes and the sla of the train in 2024",
    "what is the sla of the hotel in 2024",
]


@pytest.fixture
def base(tiny_bert: Path) -> SentenceTransformer:
    return SentenceTransformer(str(tiny_bert), device="cpu")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(name: str) -> Any:
        raise AssertionError(f"the Hub was asked about {name!r}")

    monkeypatch.setattr(distillation, "model_info", ask)


def vector(model: SentenceTransformer, token: str) -> np.ndarray:
    """A token's own vector, without its length taken away."""
    return model[0].embedding.weight[model.tokenizer.token_to_id(token)].detach().numpy()


# The team's own words


def test_the_texts_own_words_are_those_that_the_tokenizer_cuts(base: SentenceTransformer) -> None:
    assert domain_words(base, TEXTS, 10, 2) == ["kubernetes", "sla"]
    assert domain_words(base, TEXTS, 10, 3) == ["kubernetes"]
    assert domain_words(base, TEXTS, 1, 1) == ["kubernetes"]
    assert domain_words(base, TEXTS, 10, 1) == ["kubernetes", "sla", "cluster"]  # "hotel" has a token, 2024 is a number
    assert domain_words(base, ["sla sla sla", "kubernetes"], 10, 2) == []  # texts are counted, not places


def test_where_the_tokenizer_keeps_capitals_they_make_another_word(base: SentenceTransformer) -> None:
    base.tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    assert domain_words(base, TEXTS, 10, 2) == ["kubernetes", "sla"]
    assert domain_words(base, TEXTS, 10, 3) == []


def test_a_word_of_the_texts_gets_a_vector_of_its_own(base: SentenceTransformer) -> None:
    bare, own = distil_static(base, dims=32), distil_static(base, TEXTS, dims=32, min_texts=3)
    for model, pieces in ((bare, 10), (own, 1)):
        tokens = model.tokenizer.encode("Kubernetes", add_special_tokens=False).tokens
        assert len(tokens) == pieces
    assert own[0].num_embeddings == bare[0].num_embeddings + 1
    inside = own.tokenizer.encode("the kubernetes hotel", add_special_tokens=False).tokens
    assert inside == ["the", "kubernetes", "hotel"]
    assert np.linalg.norm(vector(own, "kubernetes")) > 0


# What is distilled


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_tokens_vector_is_what_the_base_makes_of_it_alone(base: SentenceTransformer, pooling: str) -> None:
    """PCA to all dimensions moves and turns but keeps distances; the weights of Zipf's law can be divided out."""
    model = SentenceTransformer(modules=[base[0], Pooling(32, pooling_mode=pooling)], device="cpu")
    static = distil_static(model, dims=32)
    size = static[0].num_embeddings
    share = 1 / np.arange(2, size + 2)
    weights = 1e-4 / (1e-4 + share / share.sum())
    words = ["hotel", "train", "policy", "q"]
    rows = [static.tokenizer.token_to_id(word) for word in words]
    ours = np.stack([vector(static, word) for word in words]) / weights[rows][:, None]
    theirs = model.encode(words)
    distances = [np.linalg.norm(found[:, None] - found[None], axis=2) for found in (ours, theirs)]
    assert distances[1][np.triu_indices(4, 1)].min() > 0.01
    np.testing.assert_allclose(distances[0], distances[1], rtol=0.01, atol=1e-5)


def test_the_base_stays_as_it_is_and_nobody_is_asked(
    base: SentenceTransformer, offline: None, capfd: pytest.CaptureFixture[str]
) -> None:
    base[0].model.name_or_path = "nobody/no-such-model"
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    vectors, size, bar = base.encode(TEXTS), len(base.tokenizer), inference.tqdm
    capfd.readouterr()
    first, again = distil_static(base, TEXTS, dims=16, min_texts=1), distil_static(base, TEXTS, dims=16, min_texts=1)
    assert capfd.readouterr() == ("", "")
    assert torch.equal(first[0].embedding.weight, again[0].embedding.weight)
    after = base.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert np.array_equal(base.encode(TEXTS), vectors)
    assert len(base.tokenizer) == size
    assert base[0].model.name_or_path == "nobody/no-such-model"
    assert inference.tqdm is bar
    assert logging.getLogger("model2vec").level == logging.NOTSET


def test_progress_counts_the_tokens(base: SentenceTransformer) -> None:
    class Counting:
        n = 0

        def stage(self, name: str, what: str) -> None: ...
        def start(self, label: str, total: int | None, done: int = 0) -> Task:
            assert label == "distilling tokens"
            return self

        def finish(self, task: Task) -> None: ...
        def note(self, text: str) -> None: ...
        def advance(self, n: int = 1) -> None:
            self.n += n

    counting = Counting()
    with reporting_to(counting):
        model = distil_static(base)
    assert counting.n == model[0].num_embeddings > 100


def test_the_dimensions_are_as_asked_but_never_more_than_the_bases(base: SentenceTransformer) -> None:
    assert distil_static(base, dims=16).encode(TEXTS).shape == (4, 16)
    assert distil_static(base, dims=400).encode(TEXTS).shape == (4, 32)


def test_unknown_words_count_for_nothing(base: SentenceTransformer) -> None:
    model = distil_static(base, dims=16)
    known, mixed, unknown, empty = model.encode(["the hotel", "the 退款 hotel", "退款", ""])
    assert np.abs(known - mixed).max() < 1e-6
    assert np.linalg.norm(known) == pytest.approx(1, abs=1e-6)
    assert not unknown.any()
    assert not empty.any()


def test_a_text_has_no_maximum_length_whatever_the_base_encoded_last(base: SentenceTransformer) -> None:
    base.encode(["hotel " * 100, "train"])  # leaves truncation and padding switched on in the tokenizer
    model = distil_static(base, dims=16)
    short, long = model.encode(["hotel " * 100, "hotel " * 100 + "train " * 100])
    assert short @ long < 0.99
    assert len(model.tokenizer.encode("hotel", add_special_tokens=False).ids) == 1


# Saved and loaded


@pytest.fixture
def saved(base: SentenceTransformer, tmp_path: Path) -> tuple[SentenceTransformer, Path]:
    base.prompts = {"query": "travel: ", "document": "report: "}
    model = distil_static(base, TEXTS, dims=16, min_texts=2)
    model.save_pretrained(str(tmp_path / "static"), create_model_card=False)
    return model, tmp_path / "static"


def test_a_saved_model_is_plain_and_needs_no_model2vec(
    saved: tuple[SentenceTransformer, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder = saved
    for name in ("model2vec", "model2vec.distill"):
        monkeypatch.setitem(sys.modules, name, None)
    plain = SentenceTransformer(str(folder), device="cpu")
    assert np.array_equal(plain.encode(TEXTS), model.encode(TEXTS))
    assert np.linalg.norm(plain.encode(TEXTS), axis=1) == pytest.approx(1, abs=1e-5)
    assert plain.prompts == {"query": "", "document": ""}  # a prompt would only be more words in the mean
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"model.safetensors", "tokenizer.json", "modules.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl", ".py"))]


@pytest.mark.parametrize("settings", [{}, {"max_tokens": 32}], ids=["plain", "max_tokens"])
def test_shoptalk_finds_loads_and_encodes_it(
    saved: tuple[SentenceTransformer, Path], settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder = saved
    found = find_model(str(folder))
    assert found.model_type == ""
    encoder = load_encoder(found, ModelSettings(device="cpu", precision="fp32", **settings))
    assert encoder.count_tokens(["the kubernetes hotel", ""]) == [3, 0]
    monkeypatch.setattr(encoder, "count_tokens", None)  # nothing is padded, so nothing need be counted
    texts = [*TEXTS, TEXTS[0], ""]
    vectors = encoder.encode_passages(texts)
    assert (vectors.shape, vectors.dtype) == ((6, 16), np.float32)
    assert np.abs(vectors - model.encode(texts)).max() < 1e-6
    assert np.array_equal(encoder.encode_queries(texts), vectors)
    assert encoder.encode_passages([]).shape == (0, 16)
    assert encoder.digest == load_encoder(str(folder), ModelSettings(device="cpu", precision="fp32", **settings)).digest


# Trained


def test_it_is_trained_like_any_other_model(base: SentenceTransformer, tmp_path: Path) -> None:
    dev = DevScore(toy_retrieval(), FP32)
    model = distil_static(base)
    before = dev(model)["dev"]
    pairs = sentence_pairs()[:92]
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "run"), max_steps=300, per_device_train_batch_size=16, learning_rate=LEARNING_RATE, seed=3,
        use_cpu=True, save_strategy="no", report_to="none", disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=Table.from_dict(
            {"anchor": [asked for asked, _ in pairs], "positive": [said for _, said in pairs]}
        ),
        loss=MultipleNegativesRankingLoss(model),
    ).train()
    learned = dev(model)["dev"]
    assert before < 0.3
    assert learned > before + 0.5
    model.save_pretrained(str(tmp_path / "kept"), create_model_card=False)
    kept = TorchEncoder(SentenceTransformer(str(tmp_path / "kept"), device="cpu"), FP32, digest="")
    assert dev.score(kept) == learned


# What cannot be


def test_without_model2vec_the_command_is_named(base: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "model2vec.distill", None)
    with pytest.raises(MissingPart, match=r"pip install 'shoptalk\[static\]'"):
        distil_static(base)


def test_what_is_static_already_is_not_distilled(base: SentenceTransformer) -> None:
    with pytest.raises(ModelError, match=r"train\.method=full"):
        distil_static(distil_static(base))


# Tokenizers of other kinds


def unigram(corpus: list[str], special: list[str]) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=80, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def byte_level(corpus: list[str], special: list[str]) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


@pytest.mark.parametrize("build", [unigram, byte_level])
def test_the_words_of_other_kinds_of_tokenizers_get_vectors_too(
    build: Callable[[list[str], list[str]], Any], base: SentenceTransformer
) -> None:
    from tokenizers import processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>"]
    corpus = ["the hotel booking is in the travel policy", "the ticket of the train in the office"] * 50
    tokenizer = build(corpus, special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"bos_token": "<s>", "cls_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    base[0].processor = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    base[0].model = BertModel(BertConfig(vocab_size=len(base.tokenizer), **sizes))
    model, bare = distil_static(base, ["kubernetes"] * 3, dims=16), distil_static(base, dims=16)
    cut, whole = (len(m.tokenizer.encode("the kubernetes", add_special_tokens=False).ids) for m in (bare, model))
    alone = model.tokenizer.encode("kubernetes", add_special_tokens=False)
    assert cut - whole >= 4
    assert len(alone.ids) == 1
    assert alone.ids[0] >= bare[0].num_embeddings
    assert np.linalg.norm(model.encode("kubernetes")) == pytest.approx(1, abs=1e-5)
    others = [m.tokenizer.encode("the hotel in the travel", add_special_tokens=False).tokens for m in (bare, model)]
    assert others[0] == others[1]
