from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from shoptalk.models.finding import find_model
from shoptalk.models.hardware import Hardware
from shoptalk.models.loading import load_model
from shoptalk.progress import Task, reporting_to
from shoptalk.settings import make_settings
from shoptalk.training.engine import Engine
from shoptalk.training.memory import plan_memory
from shoptalk.workspace import sha256_of
from toy import toy_retrieval, toy_settings, train_toy, training_of

FP32 = Hardware("cpu", "fp32", "")
ROWS = [("hotel room", "on the price form " * (i % 8 + 1)) for i in range(200)]
MIB = 2**20


@pytest.fixture
def model(tiny_bert: Path) -> Any:
    return load_model(find_model(str(tiny_bert)), make_settings({}).model, "cpu")


def plan(model: Any, limit_mib: float, batch: int = 32, chunk: int = 1_024) -> tuple[Any, Engine]:
    engine = Engine(FP32, chunk)
    return plan_memory(model, engine, ROWS, batch, limit_mib / 1024), engine


def test_what_fits_is_held_whole_and_nothing_is_said(model: Any) -> None:
    found, engine = plan(model, 10_000)
    assert found.notice == ""
    assert engine.held_tokens is None
    assert engine.chunk_tokens == 1_024


def test_the_estimate_grows_with_the_batch_and_is_near_the_truth(model: Any) -> None:
    small, _ = plan(model, 10_000, batch=16)
    large, _ = plan(model, 10_000, batch=64)
    assert 3.0 < large.step / small.step < 4.1
    # 2 layers, 32 dimensions: what BERT keeps for a token, by hand, is some 30 vectors of 32 to 64 floats a layer.
    texts = [text for row in ROWS[:64] for text in row]
    tokens = int(model.preprocess(texts)["attention_mask"].sum())
    assert 2 * 32 * 4 * 10 < large.step / tokens < 2 * 64 * 4 * 60
    trained = sum(p.numel() for p in model.parameters())
    assert large.fixed == 3 * 4 * trained  # a gradient and Adam's two moments


def test_what_does_not_fit_is_computed_twice_with_a_notice(model: Any) -> None:
    whole, _ = plan(model, 10_000)
    room = (whole.fixed + whole.step / 2) / MIB
    found, engine = plan(model, room)
    assert engine.held_tokens is not None
    assert engine.held_tokens > 0
    assert "computing the rest twice" in found.notice
    assert "negatives stay the same" in found.notice


def test_the_chunk_gets_smaller_and_the_batch_never(model: Any) -> None:
    found, engine = plan(model, 0.5)
    assert engine.chunk_tokens == found.chunk_tokens == 64
    assert engine.held_tokens == 0


def test_measuring_changes_neither_the_model_nor_chance(model: Any) -> None:
    before = {name: p.clone() for name, p in model.named_parameters()}
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    plan(model, 10_000)
    assert torch.equal(torch.rand(3), wanted)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())
    assert "forward" not in vars(model[0].auto_model.get_input_embeddings())


def test_a_run_short_of_memory_says_so_and_gives_the_same_weights(tiny_bert: Path, tmp_path: Path) -> None:
    said: list[str] = []

    class Listening:
        def stage(self, name: str, what: str) -> None:
            said.append(what)

        def start(self, label: str, total: int | None, done: int = 0) -> Task:
            return self

        def finish(self, task: Task) -> None: ...
        def advance(self, n: int = 1) -> None: ...
        def note(self, text: str) -> None: ...

    # One chunk size for both, so that only what is held differs: the numbers must not.
    common = {"epochs": 2, "chunk_tokens": 64, "hidden_dropout": 0.1}
    rich = train_toy(tmp_path / "rich", toy_retrieval(), toy_settings(tiny_bert, train=common))
    assert not said
    with reporting_to(Listening()):
        poor = train_toy(
            tmp_path / "poor", toy_retrieval(), toy_settings(tiny_bert, train={**common, "memory_gib": 0.0005})
        )
    assert any("computing the rest twice" in words for words in said)
    weights = [sha256_of(stage.out / "best" / "model.safetensors") for stage in (rich, poor)]
    assert weights[0] == weights[1]
    assert training_of(poor)["chunk_tokens"] == 64
