from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, StaticEmbedding

from shoptalk.errors import ModelError, SourceError, TrainingFailed
from shoptalk.models import query_adapter as module
from shoptalk.models.encoder import TorchEncoder, load_encoder, unit
from shoptalk.models.hardware import Hardware
from shoptalk.models.query_adapter import AdapterSettings, AdapterTraining, Kind, QueryAdapter
from shoptalk.settings import ModelSettings
from shoptalk.training.query_adapter import train_query_adapter, with_query_adapter
from shoptalk.workspace import sha256_of
from toy import toy_retrieval

FP32 = Hardware("cpu", "fp32", "for this test")
TEXTS = ["what is the hotel booking", "on the price form of one week", "train", "", "unknown 退款"]
KINDS: list[Kind] = ["linear", "mlp"]
DIM = 16
Triple = tuple[np.ndarray, np.ndarray, list[list[int]]]


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def planted(rows: range, n_passages: int = 300, noise: float = 0.1) -> Triple:
    """Queries that are their passage turned by a rotation that is the same for all, with noise; query i belongs to passage i."""
    rng = np.random.default_rng(0)
    passages = unit(rng.standard_normal((n_passages, DIM)).astype(np.float32))
    turn = np.linalg.qr(np.eye(DIM) + 0.6 * rng.standard_normal((DIM, DIM)))[0].astype(np.float32)
    turned = unit(passages @ turn + noise * rng.standard_normal(passages.shape).astype(np.float32))
    return turned[list(rows)], passages, [[row] for row in rows]


def trained(kind: Kind, seed: int = 1, **changes: Any) -> AdapterTraining:
    settings = replace(AdapterSettings(batch_size=32, pull=0.01, patience=60), **changes)
    return train_query_adapter(*planted(range(200)), planted(range(200, 300)), kind, seed, settings)


def same(first: QueryAdapter, second: QueryAdapter) -> bool:
    return all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)


def size(adapter: QueryAdapter) -> float:
    return float(adapter.weights["W" if adapter.kind == "linear" else "V"].norm())


# What is learned


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_rotation_is_learned(kind: Kind) -> None:
    found = trained(kind)
    assert found.scores[0] < 0.5
    assert found.scores[found.best_epoch] == max(found.scores) > 0.9
    assert found.losses[-1] < 0.3 * found.losses[0]
    queries, passages, positives = planted(range(200, 300))
    moved = found.adapter(queries)
    assert (moved.shape, moved.dtype) == (queries.shape, np.float32)
    assert np.linalg.norm(moved, axis=1) == pytest.approx(1, abs=1e-5)
    first = np.argmax(moved @ passages.T, axis=1)
    assert np.mean(first == [row for (row,) in positives]) > 0.8


@pytest.mark.parametrize("kind", KINDS)
def test_the_words_of_one_list_are_answered_in_those_of_another(kind: Kind, tiny_bert: Path) -> None:
    encoder, dataset = load_encoder(str(tiny_bert), ModelSettings(device="cpu", precision="fp32")), toy_retrieval()
    place = {passage: row for row, passage in enumerate(dataset.passages)}
    passages = encoder.encode_passages([p.content for p in dataset.passages.values()])
    train, dev = (
        (
            encoder.encode_queries([dataset.queries[q].text for q in dataset.qrels[split]]),
            passages,
            [[place[p] for p in found] for found in dataset.qrels[split].values()],
        )
        for split in ("train", "dev")
    )
    found = train_query_adapter(
        *train, dev, kind, 1, AdapterSettings(batch_size=16, pull=0.001, epochs=100, patience=100)
    )
    assert found.scores[0] < 0.3
    assert max(found.scores) > 0.6


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_as_the_base_and_is_never_worse_than_it_on_dev(kind: Kind) -> None:
    queries, passages, _ = planted(range(100))
    rng = np.random.default_rng(3)
    hopeless = [[int(row)] for row in rng.integers(len(passages), size=100)]  # nothing that could be learned for others
    dev = planted(range(200, 300), noise=0.0)
    settled = (unit(dev[1][200:300]), dev[1], dev[2])  # the base answers everything
    found = train_query_adapter(queries, passages, hopeless, settled, kind, 1, AdapterSettings(patience=3))
    assert found.scores[0] == pytest.approx(1)
    assert found.best_epoch == 0
    assert size(found.adapter) == 0
    assert np.abs(found.adapter(queries) - queries).max() < 1e-6
    assert len(found.scores) == len(found.losses) + 1 == 4


def test_the_callers_own_score_decides_which_epoch_is_kept_and_when_to_stop() -> None:
    said = iter([0.5, 0.4, 0.7, 0.7, 0.6, 0.9])
    shown: list[QueryAdapter] = []

    def score(adapter: QueryAdapter) -> float:
        shown.append(adapter)
        return next(said)

    found = train_query_adapter(*planted(range(50)), score, "linear", 1, AdapterSettings(patience=2))
    assert found.scores == [0.5, 0.4, 0.7, 0.7, 0.6]
    assert found.best_epoch == 2
    assert same(found.adapter, shown[2])
    assert 0 == size(shown[0]) < size(shown[1])
    assert not same(shown[2], shown[4])


def test_dev_queries_are_scored_by_ndcg_at_10() -> None:
    passages = np.eye(DIM, dtype=np.float32)
    dev = (passages[:2] * 0.9 + passages[[2, 3]] * 0.1, passages, [[0], [3]])  # first place; second place
    found = train_query_adapter(passages[:2], passages, [[0], [1]], dev, "linear", 1, AdapterSettings(epochs=1))
    assert found.scores[0] == pytest.approx((1 + 1 / np.log2(3)) / 2)


# The loss


def test_the_loss_is_infonce_with_known_positives_taken_out() -> None:
    rng = np.random.default_rng(4)
    scores, positives = rng.standard_normal((3, 6), np.float32), [[0], [1, 4], [2, 3, 5]]
    expected = []
    for row, found in zip(scores, positives, strict=True):
        others = np.exp([value for column, value in enumerate(row) if column not in found]).sum()
        expected.append(np.mean([-np.log(np.exp(row[c]) / (np.exp(row[c]) + others)) for c in found]))
    loss = module._info_nce(torch.from_numpy(scores), positives)
    assert loss.item() == pytest.approx(np.mean(expected))


def test_a_query_that_every_passage_answers_teaches_nothing() -> None:
    scores = torch.randn(2, 3, requires_grad=True)
    loss = module._info_nce(scores, [[0, 1, 2], [1]])
    loss.backward()
    assert scores.grad is not None
    assert scores.grad[0].tolist() == [0, 0, 0]
    assert scores.grad[1].abs().min() > 0


def test_a_passage_that_is_known_to_answer_is_not_pushed_away() -> None:
    """Two passages answer every query; told of one alone, the other is a negative that draws the query from both."""
    queries, passages, positives = planted(range(200))
    doubled = np.concatenate([passages, passages])
    dev = planted(range(200, 300))
    told = [[row, row + len(passages)] for (row,) in positives]
    losses = [
        train_query_adapter(queries, doubled, known, dev, "linear", 1, AdapterSettings(pull=0.01)).losses[-1]
        for known in (told, positives)
    ]
    assert losses[0] < 0.3
    assert losses[1] > np.log(2)


def test_many_passages_are_drawn_anew_at_every_step_with_the_positives_among_them() -> None:
    assert max(trained("linear", passages_per_step=40).scores) > 0.85
    rng = np.random.default_rng(5)
    positives = [[7], [250, 3], [299]]
    first, wanted = module._columns(np.array([2, 1]), positives, 300, 20, rng)
    second, _ = module._columns(np.array([2, 1]), positives, 300, 20, rng)
    assert first is not None
    assert [[int(first[place]) for place in found] for found in wanted] == [[299], [250, 3]]
    assert len(first) <= 23
    assert set(first.tolist()) != set(second.tolist())
    everything, wanted = module._columns(np.array([2, 1]), positives, 300, 300, rng)
    assert everything is None
    assert wanted == [[299], [250, 3]]


def test_a_passage_named_twice_counts_once() -> None:
    queries, passages, positives = planted(range(50))
    once, twice = (
        train_query_adapter(queries, passages, found, lambda _: 0.0, "linear", 1, AdapterSettings(epochs=3)).losses
        for found in (positives, [[row, row] for (row,) in positives])
    )
    assert once == twice


# Chance and pull


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_adapter_and_another_another(kind: Kind) -> None:
    first, again, other = (trained(kind, seed, epochs=3) for seed in (1, 1, 2))
    assert same(first.adapter, again.adapter)
    assert first.scores == again.scores
    assert first.losses == again.losses
    assert not same(first.adapter, other.adapter)


@pytest.mark.parametrize("kind", KINDS)
def test_the_pull_keeps_it_near_the_base(kind: Kind) -> None:
    sizes = [size(trained(kind, pull=pull, epochs=15).adapter) for pull in (0.0, 0.1, 0.5)]
    assert sizes[0] > 1.3 * sizes[1] > 1.3 * sizes[2] > 0


def test_the_width_of_the_mlp_can_be_chosen() -> None:
    weights = trained("mlp", hidden=5, epochs=1).adapter.weights
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == {"U": (5, DIM), "b": (5,), "V": (DIM, 5)}


# What cannot be


@pytest.mark.parametrize(
    ("positives", "message"),
    [
        ([[0]], "2 queries, 1 lists"),
        ([[0], []], r"query 1: .* \[\], not indices of 3"),
        ([[0], [3]], r"query 1: .* \[3\]"),
        ([[-1], [0]], r"query 0: .* \[-1\]"),
    ],
)
def test_data_that_does_not_fit_together_is_refused(positives: list[list[int]], message: str) -> None:
    vectors = np.eye(3, dtype=np.float32)
    with pytest.raises(SourceError, match=message):
        train_query_adapter(vectors[:2], vectors, positives, lambda _: 0.0, "linear", 1)
    with pytest.raises(SourceError, match=message):
        train_query_adapter(vectors[:2], vectors, [[0], [1]], (vectors[:2], vectors, positives), "linear", 1)


def test_no_queries_and_other_dimensions_are_refused() -> None:
    vectors = np.eye(3, dtype=np.float32)
    with pytest.raises(SourceError, match="0 queries"):
        train_query_adapter(vectors[:0], vectors, [], lambda _: 0.0, "linear", 1)
    with pytest.raises(SourceError, match="3 and passages of 2 dimensions"):
        train_query_adapter(vectors, vectors[:, :2], [[0], [1], [2]], lambda _: 0.0, "linear", 1)


def test_vectors_that_are_no_numbers_end_training() -> None:
    vectors = np.eye(3, dtype=np.float32)
    with pytest.raises(TrainingFailed, match="not finite"):
        train_query_adapter(vectors * np.nan, vectors, [[0], [1], [2]], lambda _: 0.0, "linear", 1)


# In a model


def moving(kind: Kind, dim: int, seed: int = 6) -> QueryAdapter:
    """An adapter with random weights, so that nothing passes because it is zero."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"W": (dim, dim)} if kind == "linear" else {"U": (7, dim), "b": (7,), "V": (dim, 7)}
    return QueryAdapter(kind, {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()})


def plain(tiny_bert: Path) -> SentenceTransformer:
    return SentenceTransformer(
        str(tiny_bert), device="cpu", prompts={"query": "travel: ", "document": "report: ", "other": "on "}
    )


def without_unit_length(tiny_bert: Path) -> SentenceTransformer:
    model = plain(tiny_bert)
    return SentenceTransformer(modules=list(model.children())[:-1], device="cpu", prompts=model.prompts)


def with_a_head(tiny_bert: Path) -> SentenceTransformer:
    torch.manual_seed(8)
    model = plain(tiny_bert)
    transformer, pooling, normalize = model.children()
    modules = [transformer, pooling, Dense(32, 24), normalize]
    return SentenceTransformer(modules=modules, device="cpu", prompts=model.prompts)


def static(tiny_bert: Path) -> SentenceTransformer:
    torch.manual_seed(8)
    model = plain(tiny_bert)
    words = StaticEmbedding(model.tokenizer._tokenizer, embedding_dim=24)
    return SentenceTransformer(modules=[words], device="cpu", prompts=model.prompts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("build", [plain, without_unit_length, with_a_head, static])
def test_queries_go_through_the_adapter_and_passages_through_what_they_always_did(
    build: Callable[[Path], SentenceTransformer], kind: Kind, tiny_bert: Path, tmp_path: Path
) -> None:
    base = build(tiny_bert).eval()
    asked, said, neither = base.encode_query(TEXTS), base.encode_document(TEXTS), base.encode(TEXTS)
    adapter = moving(kind, asked.shape[1])
    expected = adapter(unit(asked))
    assert np.abs(expected - unit(asked)).max() > 0.05

    routed = with_query_adapter(base, adapter)
    routed.save_pretrained(str(tmp_path), create_model_card=False)
    for model in (routed, SentenceTransformer(str(tmp_path), device="cpu")):
        assert np.array_equal(model.encode_document(TEXTS), said)
        assert np.array_equal(model.encode(TEXTS), neither)
        assert np.abs(model.encode_query(TEXTS) - expected).max() < 1e-5
        assert model.prompts == base.prompts
        assert model.max_seq_length == base.max_seq_length
        assert model.get_embedding_dimension() == asked.shape[1]
        assert not model.training
    assert np.array_equal(base.encode_query(TEXTS), asked)  # the base itself is what it was


@pytest.mark.parametrize("kind", KINDS)
def test_the_saved_folder_holds_the_transformer_once_and_no_code(kind: Kind, tiny_bert: Path, tmp_path: Path) -> None:
    with_query_adapter(plain(tiny_bert), moving(kind, 32)).save_pretrained(str(tmp_path), create_model_card=False)
    assert sha256_of(tmp_path / "model.safetensors") == sha256_of(tiny_bert / "model.safetensors")
    own = sum(file.stat().st_size for file in (tmp_path / "2_Router").rglob("*.safetensors"))
    assert own < {"linear": 6_000, "mlp": 20_000}[kind] < (tmp_path / "model.safetensors").stat().st_size
    types = [entry["type"] for entry in json.loads((tmp_path / "modules.json").read_text(encoding="utf-8"))]
    routes = json.loads((tmp_path / "2_Router" / "router_config.json").read_text(encoding="utf-8"))
    assert all(kind.startswith("sentence_transformers.") for kind in [*types, *routes["types"].values()])
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".py", ".bin", ".pt")]


@pytest.mark.parametrize("kind", KINDS)
def test_shoptalks_own_encoder_finds_loads_and_routes_it(kind: Kind, tiny_bert: Path, tmp_path: Path) -> None:
    settings = ModelSettings(device="cpu", precision="fp32", query_prompt="travel: ", passage_prompt="report: ")
    base = load_encoder(str(tiny_bert), settings)
    adapter = moving(kind, 32)
    with_query_adapter(base.model, adapter).save_pretrained(str(tmp_path), create_model_card=False)
    routed = load_encoder(str(tmp_path), settings)
    assert np.array_equal(routed.encode_passages(TEXTS), base.encode_passages(TEXTS))
    assert np.abs(routed.encode_queries(TEXTS) - adapter(base.encode_queries(TEXTS))).max() < 1e-5
    assert routed.encode_queries([]).shape == (0, 32)
    assert routed.digest != base.digest


def test_plain_models_do_not_care_which_task_they_encode_for(tiny_bert: Path) -> None:
    for model in (plain(tiny_bert), static(tiny_bert)):
        model.prompts = {"query": "", "document": ""}
        encoder = TorchEncoder(model, FP32, digest="")
        assert np.array_equal(encoder.encode_queries(TEXTS), encoder.encode_passages(TEXTS))


@pytest.mark.parametrize("kind", KINDS)
def test_under_autocast_an_adapter_that_does_nothing_changes_next_to_nothing(kind: Kind, tiny_bert: Path) -> None:
    base = plain(tiny_bert)
    nothing = QueryAdapter(kind, {name: torch.zeros_like(weight) for name, weight in moving(kind, 32).weights.items()})
    half = Hardware("cpu", "bf16", "for this test")
    before, after = (
        TorchEncoder(model, half, digest="").encode_queries(TEXTS)
        for model in (base, with_query_adapter(base, nothing))
    )
    assert np.abs(before - after).max() < {"linear": 1e-6, "mlp": 3e-3}[kind]


def test_an_adapter_of_other_dimensions_is_refused(tiny_bert: Path) -> None:
    with pytest.raises(ModelError, match="24 dimensions does not fit a model with 32"):
        with_query_adapter(plain(tiny_bert), moving("linear", 24))
    short = SentenceTransformer(str(tiny_bert), device="cpu", truncate_dim=24)
    with pytest.raises(ModelError, match=r"24 \(cut off\)"):
        with_query_adapter(short, moving("linear", 24))
