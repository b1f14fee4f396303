from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from shoptalk.errors import SettingsError
from shoptalk.models.finding import find_model
from shoptalk.models.hardware import Hardware
from shoptalk.models.loading import load_model, training_dropout
from shoptalk.settings import make_settings
from shoptalk.training.engine import Engine, fast_training
from shoptalk.training.frozen import FrozenLayers
from tiny_models import build_tiny
from toy import toy_retrieval, toy_settings, train_toy, training_of

FP32 = Hardware("cpu", "fp32", "")
TEXTS = ["hotel room", "plane ticket " * 8, "report", "hotel room"]


@pytest.fixture(scope="module", params=["bert", "mpnet", "modernbert", "gemma3", "xlm_roberta"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(request.param, tmp_path_factory.mktemp("frozen") / request.param)


def step(model: Any, engine: Engine) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    model.train()
    with training_dropout(model, 0.0, 0.0), fast_training(model, engine):
        vectors = model(model.preprocess(TEXTS))["sentence_embedding"]
        (vectors * torch.linspace(-1, 1, vectors.shape[1])).pow(2).sum().backward()
    return vectors.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_the_cached_way_gives_the_vectors_and_gradients_of_the_long_one(folder: Path, tmp_path: Path) -> None:
    model = load_model(find_model(str(folder)), make_settings({}).model, "cpu")
    frozen = FrozenLayers(model, 1, FP32, tmp_path)
    frozen.freeze()
    assert 0 < sum(not p.requires_grad for p in model.parameters()) < len(list(model.parameters()))
    wanted, gradients = step(model, Engine(FP32, 64))
    engine = Engine(FP32, 64, frozen=frozen)
    for _ in range(2):  # computed, then read
        vectors, found = step(model, engine)
        torch.testing.assert_close(vectors, wanted, atol=1e-5, rtol=1e-4)
        assert found.keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-3)
    assert len(frozen._place) == 3, "each different text once"


def test_the_second_epoch_runs_no_frozen_layer(tiny_bert: Path, tmp_path: Path) -> None:
    model = load_model(find_model(str(tiny_bert)), make_settings({}).model, "cpu")
    engine = Engine(FP32, 64, frozen=FrozenLayers(model, 1, FP32, tmp_path))
    calls: list[int] = []
    model[0].auto_model.encoder.layer[0].attention.register_forward_hook(lambda *given: calls.append(1))
    step(model, engine)
    assert len(calls) == 3
    calls.clear()
    step(model, engine)
    assert not calls


def test_gradient_caching_reads_the_same_states(tiny_bert: Path, tmp_path: Path) -> None:
    model = load_model(find_model(str(tiny_bert)), make_settings({}).model, "cpu")
    frozen = FrozenLayers(model, 1, FP32, tmp_path)
    frozen.freeze()
    _, held = step(model, Engine(FP32, 16, None, frozen=frozen))
    _, cached = step(model, Engine(FP32, 16, 0, frozen=frozen))
    for name, gradient in held.items():
        torch.testing.assert_close(cached[name], gradient, atol=0, rtol=0)


def test_evaluation_uses_all_layers(tiny_bert: Path, tmp_path: Path) -> None:
    model = load_model(find_model(str(tiny_bert)), make_settings({}).model, "cpu")
    wanted = model.encode(TEXTS)
    engine = Engine(FP32, 64, frozen=FrozenLayers(model, 1, FP32, tmp_path))
    step(model, engine)
    with fast_training(model, engine):
        assert (model.encode(TEXTS) == wanted).all()
    assert (model.encode(TEXTS) == wanted).all()


def test_more_layers_than_there_are_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    model = load_model(find_model(str(tiny_bert)), make_settings({}).model, "cpu")
    with pytest.raises(SettingsError, match=r"train\.frozen_layers is 2, but the model has 2 layers; use 0 to 1"):
        FrozenLayers(model, 2, FP32, tmp_path)


def test_a_run_with_frozen_layers_learns_and_leaves_them_alone(tiny_bert: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    settings = toy_settings(tiny_bert, train={"frozen_layers": 1, "epochs": 40, "learning_rate": 1e-2})
    stage = train_toy(tmp_path, toy_retrieval(), settings)
    said = training_of(stage)
    assert said["best_dev"] > said["base_dev"] + 0.3
    before, after = (load_file(path / "model.safetensors") for path in (tiny_bert, stage.out / "best"))
    changed = {name for name, weights in after.items() if not (weights == before[name]).all()}
    assert changed
    assert not [name for name in changed if "embeddings" in name or "layer.0" in name]
