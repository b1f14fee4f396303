from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer

from shoptalk.models.finding import find_model
from shoptalk.models.interpolation import interpolate
from shoptalk.settings import ModelSettings

TEXTS = ["the refund policy", "book a hotel room"]
PLAIN = ModelSettings(precision="fp32", device="cpu")


def vectors(folder: Path) -> np.ndarray:
    return SentenceTransformer(str(folder), device="cpu").encode(TEXTS)


def test_every_weight_lies_between_and_the_ends_are_the_models(
    tmp_path: Path, tiny_bert: Path, make_tiny_bert: Callable[..., Path]
) -> None:
    other = make_tiny_bert(tmp_path / "other", seed=8)
    found = interpolate(
        find_model(str(tiny_bert)), find_model(str(other)), (0.0, 0.25, 1.0), PLAIN, tmp_path / "between"
    )
    start, end = (SentenceTransformer(str(path), device="cpu").state_dict() for path in (tiny_bert, other))
    quarter = SentenceTransformer(str(found[0.25]), device="cpu").state_dict()
    for name, value in quarter.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.75 * start[name] + 0.25 * end[name])
    np.testing.assert_array_equal(vectors(found[0.0]), vectors(tiny_bert))
    np.testing.assert_array_equal(vectors(found[1.0]), vectors(other))
    assert np.abs(vectors(found[0.25]) - vectors(tiny_bert)).max() > 0.01


def test_a_prompt_and_a_length_that_were_asked_for_are_saved(tmp_path: Path, tiny_bert: Path) -> None:
    settings = ModelSettings(precision="fp32", device="cpu", query_prompt="ask: ", max_tokens=16)
    found = interpolate(find_model(str(tiny_bert)), find_model(str(tiny_bert)), (0.5,), settings, tmp_path)
    model = SentenceTransformer(str(found[0.5]), device="cpu")
    assert model.prompts["query"] == "ask: "
    assert model.max_seq_length == 16


def test_models_with_other_weights_have_nothing_between(tmp_path: Path, tiny_bert: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_bert / "tokenizer.json"))
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)]).save(str(tmp_path / "static"))
    static = find_model(str(tmp_path / "static"))
    assert interpolate(find_model(str(tiny_bert)), static, (0.5,), PLAIN, tmp_path / "between") == {}
    assert not (tmp_path / "between").exists()
