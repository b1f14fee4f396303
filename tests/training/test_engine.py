"""The engine against the stock forward pass: the same loss and the same gradients for every objective, whatever the chunks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shoptalk.models.encoder import TorchEncoder
from shoptalk.models.finding import find_model
from shoptalk.models.hardware import Hardware
from shoptalk.models.loading import load_model, training_dropout
from shoptalk.records import Dataset, Example
from shoptalk.settings import Settings, make_settings
from shoptalk.training.engine import Engine, fast_training
from shoptalk.training.infonce import Known
from shoptalk.training.kernels import cpu_kernels, layers_of
from shoptalk.training.negatives import make_examples
from shoptalk.training.objectives import OBJECTIVES, Objective, ObjectiveContext, matryoshka
from toy import toy_retrieval, toy_similarity

FP32 = Hardware("cpu", "fp32", "")
BF16 = Hardware("cpu", "bf16", "")
N_ROWS = 12


@pytest.fixture
def model(tiny_bert: Path) -> Any:
    return load(tiny_bert)


def load(folder: Path) -> Any:
    return load_model(find_model(str(folder)), make_settings({}).model, "cpu")


def settings_for(folder: Path, dims: Any = "off") -> Settings:
    return make_settings({"model": {"base": str(folder)}, "train": {"matryoshka": dims}})


def uneven(examples: list[Example]) -> list[Example]:
    """Passages of very different lengths, two of them the same text."""
    longer = [" ".join([e.positive] * (1 + i % 5)) for i, e in enumerate(examples)]
    longer[3] = longer[8]
    return [
        Example(e.query_id, e.positive_id, e.anchor, text, e.negatives)
        for e, text in zip(examples, longer, strict=True)
    ]


def batch_for(objective: Objective, folder: Path, dims: Any = "off") -> tuple[Any, list[Any], Any]:
    """A model, one batch's texts by column, and its labels."""
    dataset: Dataset = toy_similarity() if objective.task == "similarity" else toy_retrieval(negatives=True)
    known = None
    if objective.task == "similarity":
        rows = objective.rows(dataset.pairs["train"][:N_ROWS])
    else:
        examples = uneven(objective.arrange(make_examples(dataset, {}, np.random.default_rng(1))[:N_ROWS]))
        known = Known.of(examples, dataset)
        scores = np.random.default_rng(2).normal(size=(len(examples), 2)).astype(np.float32)
        rows = objective.rows(examples, scores) if "teacher" in objective.needs else objective.rows(examples)
    model = load(folder)
    settings = settings_for(folder, dims)
    loss = matryoshka(objective.build(model, ObjectiveContext(settings, "cpu", known)), model, settings.train)
    label = next((rows[name] for name in ("label", "score") if name in rows), None)
    texts = [column for name, column in rows.items() if name not in ("label", "score")]
    return (
        (model, loss),
        texts,
        None if label is None else torch.tensor(label, dtype=torch.long if objective.name == "info-nce" else None),
    )


def gradients(model: Any, loss: Any, texts: list[Any], labels: Any) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    model.train()
    for module in loss.modules():
        module.to(next(model.parameters()).dtype)
    if labels is not None and labels.is_floating_point():
        labels = labels.to(next(model.parameters()).dtype)
    value = loss([model.preprocess(column) for column in texts], labels)
    value.backward()
    return value.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dims", ["off", (32, 16, 8)], ids=["whole", "matryoshka"])
@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_chunks_give_the_gradients_of_the_unsplit_batch(name: str, dims: Any, tiny_bert: Path) -> None:
    (model, loss), texts, labels = batch_for(OBJECTIVES[name], tiny_bert, dims)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        model.to(dtype)
        with training_dropout(model, 0.0, 0.0):
            said, stock = gradients(model, loss, texts, labels)
            assert any(g.abs().max() > 1e-4 for g in stock.values()), "the batch teaches something"
            for held in (None, 0, 40):
                with fast_training(model, Engine(FP32, 48, held)):
                    value, found = gradients(model, loss, texts, labels)
                assert value == pytest.approx(said, abs=tolerance)
                assert found.keys() == stock.keys()
                for parameter, gradient in stock.items():
                    torch.testing.assert_close(found[parameter], gradient, atol=tolerance, rtol=tolerance)


def recorded(model: Any, run: Callable[[], Any]) -> list[tuple[int, int]]:
    """(texts, width) of every pass through the transformer while `run` runs."""
    shapes: list[tuple[int, int]] = []
    handle = model[0].register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0]["input_ids"].shape)))
    run()
    handle.remove()
    return shapes


def test_a_batch_is_cut_by_length_and_no_text_is_computed_twice(model: Any) -> None:
    texts = ["hotel " * n for n in (1, 30, 2, 30, 1, 12, 1)]
    features = model.preprocess(texts)
    model.train()
    with fast_training(model, Engine(FP32, 40)):
        shapes = recorded(model, lambda: model(dict(features)))
    assert shapes == [(1, 32), (2, 14), (1, 3)]  # 30; 12 and 2; 1 - the doubles once, each chunk at its own width


def test_embeddings_come_back_in_the_order_given(model: Any) -> None:
    texts = ["hotel " * n for n in (1, 30, 2, 30, 1, 12, 1)]
    features = model.preprocess(texts)
    with training_dropout(model, 0.0, 0.0):
        model.train()
        stock = model(dict(features))["sentence_embedding"]
        with fast_training(model, Engine(FP32, 40)):
            found = model(dict(features))["sentence_embedding"]
    torch.testing.assert_close(found, stock, atol=1e-6, rtol=1e-5)


def test_left_padding_is_cut_as_well(model: Any) -> None:
    """A tokenizer that pads on the left: the columns that only pad are not computed."""
    features = model.preprocess(["hotel", "hotel ticket plane"])
    left = {name: torch.nn.functional.pad(value, (5, 0)) for name, value in features.items() if torch.is_tensor(value)}
    model.train()
    with fast_training(model, Engine(FP32, 4_000)):
        shapes = recorded(model, lambda: model(left))
    assert shapes == [(2, 5)]


def test_what_is_not_held_is_computed_again_and_nothing_else(model: Any) -> None:
    features = model.preprocess(["hotel " * n for n in (20, 18, 16)])
    model.train()

    def step(held: int | None) -> int:
        engine = Engine(FP32, 24, held)
        with fast_training(model, engine):
            return len(recorded(model, lambda: model(dict(features))["sentence_embedding"].sum().backward()))

    assert step(None) == 3  # 22, 20 and 18 tokens
    assert step(0) == 6
    assert step(24) == 5  # the first chunk is held


def test_dropout_is_the_same_when_a_chunk_is_computed_again(model: Any) -> None:
    features = model.preprocess(["hotel " * n for n in (20, 10, 5)])

    def step(held: int | None) -> torch.Tensor:
        model.zero_grad()
        model.train()
        torch.manual_seed(3)
        with training_dropout(model, 0.0, 0.3), fast_training(model, Engine(FP32, 24, held)):
            model(dict(features))["sentence_embedding"].pow(2).sum().backward()
        found: torch.Tensor = model[0].auto_model.encoder.layer[0].output.dense.weight.grad.clone()
        return found

    assert step(None).abs().max() > 0
    torch.testing.assert_close(step(None), step(0), atol=0, rtol=0)


def test_evaluation_is_the_stock_computation(model: Any) -> None:
    texts = ["hotel ticket", "plane " * 20]
    model.eval()
    stock = TorchEncoder(model, BF16, "").encode_passages(texts)
    with fast_training(model, Engine(BF16, 16)):
        found = TorchEncoder(model, BF16, "").encode_passages(texts)
    np.testing.assert_array_equal(found, stock)


def test_the_model_is_as_it_was_when_training_is_over(model: Any) -> None:
    before = {name: vars(module).get("forward") for name, module in model.named_modules()}
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    kernel = model[0].auto_model.config._attn_implementation

    def fails() -> None:
        with fast_training(model, Engine(BF16, 100)):
            assert model[0].auto_model.config._attn_implementation != kernel
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fails()
    assert model[0].auto_model.config._attn_implementation == kernel
    assert {name: vars(module).get("forward") for name, module in model.named_modules() if name} == {
        name: found for name, found in before.items() if name
    }
    assert [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()] == hooks


# The CPU kernels


def test_bf16_gradients_point_where_fp32_ones_do(tiny_bert: Path) -> None:
    (model, loss), texts, labels = batch_for(OBJECTIVES["info-nce"], tiny_bert)
    with training_dropout(model, 0.0, 0.0):
        said, stock = gradients(model, loss, texts, labels)
        with fast_training(model, Engine(BF16, 48)):
            value, found = gradients(model, loss, texts, labels)
    assert value == pytest.approx(said, rel=0.05)
    for parameter, gradient in stock.items():
        if gradient.norm() > 1e-3:
            cosine = torch.cosine_similarity(found[parameter].flatten(), gradient.flatten(), dim=0)
            assert cosine > 0.95, parameter
    assert all(p.dtype is torch.float32 for p in model.parameters()), "master weights stay fp32"


def test_the_attention_of_our_own_has_the_fused_kernels_gradient() -> None:
    from shoptalk.training.kernels import _Attention

    torch.manual_seed(1)
    shape = (3, 2, 10, 8)
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    mask = torch.zeros(3, 1, 10, 10, dtype=torch.float64)
    mask[1, :, :, 6:] = -1e9
    weight = torch.randn(shape, dtype=torch.float64)
    stock = torch.nn.functional.scaled_dot_product_attention(*inputs, attn_mask=mask, scale=0.3)
    wanted = torch.autograd.grad((stock * weight).sum(), inputs)
    for given in (mask, None):
        if given is None:
            stock = torch.nn.functional.scaled_dot_product_attention(*inputs, scale=0.3)
            wanted = torch.autograd.grad((stock * weight).sum(), inputs)
        found = torch.autograd.grad((_Attention.apply(*inputs, given, 0.3) * weight).sum(), inputs)
        for ours, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-9)


def test_own_attention_is_taken_in_bf16_training_only(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from shoptalk.training import kernels

    calls: list[int] = []
    apply = kernels._Attention.apply
    monkeypatch.setattr(kernels._Attention, "apply", lambda *given: (calls.append(1), apply(*given))[1])
    features = model.preprocess(["hotel", "plane ticket"])
    for hardware, training, expected in ((BF16, True, 2), (FP32, True, 0), (BF16, False, 0)):
        calls.clear()
        model.train(training)
        with training_dropout(model, 0.0, 0.0), fast_training(model, Engine(hardware, 100)):
            model(dict(features))
        assert len(calls) == expected


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    layer = torch.nn.Sequential(torch.nn.Dropout(0.1))
    torch.manual_seed(4)
    with cpu_kernels(layer, bf16=False):  # type: ignore[arg-type]
        layer.train()
        found = layer(torch.ones(400, 1_001))
        again = layer(torch.ones(400, 1_001))
        layer.eval()
        assert torch.equal(layer(torch.ones(3)), torch.ones(3))
    assert (found == 0).float().mean().item() == pytest.approx(26 / 256, abs=0.002)
    assert found.mean().item() == pytest.approx(1.0, abs=0.003)
    assert not torch.equal(found, again)
    columns = (found == 0).float().mean(0)
    assert columns.max() < 0.2, "no column is dropped more than chance has it"


def test_padding_learns_nothing_and_words_learn_what_they_do_in_stock(model: Any) -> None:
    table = model[0].auto_model.get_input_embeddings()
    assert table.padding_idx == 0
    features = model.preprocess(["hotel", "plane ticket hotel hotel"])

    def step() -> torch.Tensor:
        model.zero_grad()
        model.train()
        model(dict(features))["sentence_embedding"].pow(3).sum().backward()
        found: torch.Tensor = table.weight.grad.clone()
        return found

    with training_dropout(model, 0.0, 0.0):
        stock = step()
        with fast_training(model, Engine(FP32, 4_000)):
            found = step()
    assert stock.abs().max() > 0
    assert found[0].abs().max() == 0
    torch.testing.assert_close(found, stock, atol=1e-6, rtol=1e-5)


def test_frozen_word_embeddings_stay_frozen(model: Any) -> None:
    table = model[0].auto_model.get_input_embeddings()
    table.weight.requires_grad_(False)
    model.train()
    with fast_training(model, Engine(FP32, 4_000)):
        model(model.preprocess(["hotel"]))["sentence_embedding"].sum().backward()
    assert table.weight.grad is None


def test_the_layers_of_a_transformer_are_found(model: Any) -> None:
    assert len(layers_of(model[0].auto_model)) == 2


def test_engines_shrink_to_an_end() -> None:
    engine = Engine(FP32, 200)
    assert engine.shrink()
    assert (engine.chunk_tokens, engine.held_tokens) == (100, 0)
    assert engine.shrink()
    assert engine.chunk_tokens == 64
    assert not engine.shrink()
