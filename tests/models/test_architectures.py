"""The base models that people bring: found, loaded, encoded and trained as they are laid out on the Hub, and refused when unsafe."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shoptalk.errors import ModelError, SettingsError
from shoptalk.models.encoder import TorchEncoder, load_encoder
from shoptalk.models.finding import find_model
from shoptalk.models.hardware import Hardware, choose_hardware
from shoptalk.models.loading import load_model, training_dropout
from shoptalk.settings import ModelSettings
from shoptalk.training.dev import DevScore
from tiny_models import DIM, MODELS, build_tiny
from toy import toy_retrieval, toy_settings, train_toy, training_of

FP32 = ModelSettings(device="cpu", precision="fp32")
TEXTS = ["what is the hotel room", "train ticket", "the invoice of the member " * 30, "two, three: 45?", ""]


@dataclass(frozen=True)
class Facts:
    """What the builder put into the folder."""

    model_type: str
    max_tokens: int
    pooling: str
    query: str
    passage: str
    positions: int | None = None


FACTS = {
    "bert": Facts("bert", 64, "cls", "Search for this: ", "", 64),
    "xlm_roberta": Facts("xlm-roberta", 64, "mean", "query: ", "passage: ", 64),
    "mpnet": Facts("mpnet", 48, "mean", "", "", 64),
    "modernbert": Facts("modernbert", 64, "mean", "search_query: ", "search_document: "),
    "gemma3": Facts("gemma3_text", 64, "mean", "task: search result | query: ", "title: none | text: "),
}
every_architecture = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of an architecture, built once; not to be changed."""
    root, built = tmp_path_factory.mktemp("architectures"), {}

    def folder(name: str) -> Path:
        if name not in built:
            built[name] = build_tiny(name, root / name)
        return built[name]

    return folder


@pytest.fixture
def copy(tiny: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy that a test may change."""
    return lambda name: Path(shutil.copytree(tiny(name), tmp_path / "model"))


def edit(file: Path, **values: Any) -> None:
    """Change a JSON file; None takes a key away."""
    content = {**json.loads(file.read_text(encoding="utf-8")), **values}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}), encoding="utf-8")


def load(folder: Path, **settings: Any) -> Any:
    return load_model(find_model(str(folder)), ModelSettings(**settings), "cpu")


def by_hand(folder: Path, texts: list[str], pooling: str, max_tokens: int = 64) -> np.ndarray:
    """Vectors from the transformer alone: one text at a time, pooled, projected and scaled as the definitions say."""
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    pool = {
        "cls": lambda tokens: tokens[0],
        "lasttoken": lambda tokens: tokens[-1],
        "mean": lambda tokens: tokens.mean(0),
        "max": lambda tokens: tokens.max(0).values,
    }[pooling]
    rows = []
    for text in texts:
        marked = tokenizer(text, truncation=True, max_length=max_tokens, return_tensors="pt")
        with torch.no_grad():
            vector = pool(model(**marked).last_hidden_state[0])
        for dense in sorted(folder.glob("*_Dense")):
            vector = load_file(dense / "model.safetensors")["linear.weight"] @ vector
        rows.append(vector / vector.norm())
    return torch.stack(rows).numpy()


# Finding, loading, encoding


@every_architecture
def test_it_is_found_and_loaded_as_it_was_laid_out(tiny, name):
    facts, model = FACTS[name], load(tiny(name))
    assert find_model(str(tiny(name))).model_type == facts.model_type
    assert model.max_seq_length == facts.max_tokens
    assert (model.prompts["query"], model.prompts["document"]) == (facts.query, facts.passage)
    assert model.get_embedding_dimension() == DIM


@every_architecture
def test_vectors_are_what_the_transformer_the_pooling_and_the_prompts_make_by_hand(tiny, name):
    facts, encoder = FACTS[name], load_encoder(str(tiny(name)), FP32)
    queries, passages = encoder.encode_queries(TEXTS), encoder.encode_passages(TEXTS)
    for ours, prompt in ((queries, facts.query), (passages, facts.passage)):
        theirs = by_hand(tiny(name), [prompt + text for text in TEXTS], facts.pooling, facts.max_tokens)
        assert np.abs(ours - theirs).max() <= 1e-5
    apart = np.abs(queries - passages).max()
    assert apart == 0 if facts.query == facts.passage else apart > 1e-2


@every_architecture
def test_vectors_are_sentence_transformers_own_in_any_order(tiny, name):
    from sentence_transformers import SentenceTransformer

    facts, encoder = FACTS[name], load_encoder(str(tiny(name)), FP32)
    plain = SentenceTransformer(str(tiny(name)), device="cpu")
    for encode, prompt in ((encoder.encode_queries, facts.query), (encoder.encode_passages, facts.passage)):
        ours = encode(TEXTS)
        assert np.abs(ours - plain.encode(TEXTS, prompt=prompt, normalize_embeddings=True)).max() <= 1e-5
        assert np.abs(ours - encode(TEXTS[::-1])[::-1]).max() <= 1e-5


@pytest.mark.parametrize("mode", ["cls", "mean", "max", "lasttoken"])
@pytest.mark.parametrize("legacy", [False, True], ids=["today's keys", "legacy keys"])
def test_the_pooling_of_the_folder_is_used(copy, mode, legacy):
    folder = copy("bert")
    own = {"pooling_mode": mode}
    if legacy:
        names = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "lasttoken": "lasttoken"}
        own = {f"pooling_mode_{key}": key == names[mode] for key in names.values()}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": DIM, **own}))
    ours = load_encoder(str(folder), FP32).encode_passages(TEXTS)
    assert np.abs(ours - by_hand(folder, TEXTS, mode)).max() <= 1e-5
    others = {"cls", "mean", "max", "lasttoken"} - {mode}
    assert all(np.abs(ours - by_hand(folder, TEXTS, other)).max() > 1e-2 for other in others)


@pytest.mark.parametrize("name", ["bert", "gemma3"])
def test_a_folder_without_modules_is_pooled_by_the_mean(copy, name):
    folder = copy(name)
    for extra in ["modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"]:
        (folder / extra).unlink()
    for part in folder.glob("*_*/"):
        shutil.rmtree(part)
    assert {file.name for file in folder.iterdir()} == {
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md")
    }
    ours = load_encoder(str(folder), FP32).encode_passages(TEXTS)
    assert np.abs(ours - by_hand(folder, TEXTS, "mean")).max() <= 1e-5


def test_embeddinggemma_looks_both_ways_and_may_pad_on_either_side(tiny, copy):
    seen = by_hand(tiny("gemma3"), ["hotel room one", "hotel room two"], "cls")
    assert np.abs(seen[0] - seen[1]).max() > 1e-4  # the first token knows the last
    folder = copy("gemma3")
    edit(folder / "tokenizer_config.json", padding_side="left")
    right, left = (load_encoder(str(path), FP32) for path in (tiny("gemma3"), folder))
    assert [encoder.model.tokenizer.padding_side for encoder in (right, left)] == ["right", "left"]
    assert np.abs(right.encode_queries(TEXTS) - left.encode_queries(TEXTS)).max() <= 1e-5


@every_architecture
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_weights_saved_in_half_are_computed_and_trained_in_fp32(copy, tmp_path, name, dtype):
    from sentence_transformers import SentenceTransformer

    folder = tmp_path / "half"
    SentenceTransformer(str(copy(name)), device="cpu").to(dtype).save(str(folder))
    model = load(folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    model.save(str(tmp_path / "again"))
    again = load(tmp_path / "again")
    assert np.array_equal(model.encode(TEXTS), again.encode(TEXTS))


@every_architecture
def test_half_precision_stays_near(tiny, name):
    encoder = load_encoder(str(tiny(name)), FP32)
    half = TorchEncoder(encoder.model, Hardware("cpu", "bf16", "for this test"), "")
    vectors = half.encode_queries(TEXTS)
    assert vectors.dtype == np.float32
    cosines = np.sum(vectors * encoder.encode_queries(TEXTS), axis=1)
    assert 0.999 < cosines.min() < cosines.max() <= 1 + 1e-6
    assert np.abs(vectors - encoder.encode_queries(TEXTS)).max() > 1e-4  # it was half precision


# Prompts


def test_the_prompts_of_other_tasks_stay_with_the_model(tiny, tmp_path):
    model = load(tiny("gemma3"), query_prompt="ask: ")
    model.save(str(tmp_path / "saved"))
    saved = json.loads((tmp_path / "saved" / "config_sentence_transformers.json").read_text(encoding="utf-8"))
    assert saved["prompts"] == {
        "query": "ask: ",
        "document": "title: none | text: ",
        "Clustering": "task: clustering | query: ",
        "STS": "task: sentence similarity | query: ",
    }


def test_another_name_for_a_prompt_of_retrieval_does_not_outlive_it(tiny, tmp_path):
    model = load(tiny("xlm_roberta"), passage_prompt="")
    assert model.prompts == {"query": "query: ", "document": ""}
    model.save(str(tmp_path / "saved"))
    assert load(tmp_path / "saved").prompts == {"query": "query: ", "document": ""}


@pytest.mark.parametrize("default", ["query", "passage"])
def test_a_default_prompt_never_gets_before_what_has_none(copy, tmp_path, default):
    folder = copy("bert")
    prompts = {"query": "query: ", "passage": "", "document": ""}
    edit(folder / "config_sentence_transformers.json", prompts=prompts, default_prompt_name=default)
    encoder = load_encoder(str(folder), FP32)
    assert np.abs(encoder.encode_passages(TEXTS) - by_hand(folder, TEXTS, "cls")).max() <= 1e-5
    encoder.model.save(str(tmp_path / "saved"))
    assert load(tmp_path / "saved").default_prompt_name == ("query" if default == "query" else None)


# Length


@pytest.mark.parametrize("name", [name for name, facts in FACTS.items() if facts.positions])
def test_more_tokens_than_there_are_positions_is_a_wrong_setting(tiny, name):
    positions = FACTS[name].positions
    with pytest.raises(
        SettingsError, match=rf"model\.max_tokens is {positions + 1}, but .*{name} has positions for 64"
    ):
        load(tiny(name), max_tokens=positions + 1)
    most = load(tiny(name), max_tokens=positions)
    assert most.max_seq_length == positions
    assert np.isfinite(most.encode(["hotel " * 500])).all()


@pytest.mark.parametrize("name", ["modernbert", "gemma3"])
def test_rotary_positions_have_no_such_end(tiny, name):
    model = load(tiny(name), max_tokens=300)
    assert model.max_seq_length == 300
    longer = load_encoder(str(tiny(name)), FP32.model_copy(update={"max_tokens": 300})).encode_passages(
        ["hotel " * 250]
    )
    assert np.abs(longer - by_hand(tiny(name), [FACTS[name].passage + "hotel " * 250], "mean", 300)).max() <= 1e-5


@every_architecture
def test_a_tokenizer_that_knows_no_length_is_held_to_the_positions(copy, name):
    folder = copy(name)
    edit(folder / "tokenizer_config.json", model_max_length=None)
    model = load(folder)
    assert model.max_seq_length == (FACTS[name].positions or 256)
    assert np.isfinite(model.encode(["hotel " * 500])).all()


# Dropout


@contextmanager
def recorded_dropout(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, set[float]]]:
    """What reaches torch: the dropout of attention's probabilities, which have four axes, and of hidden states, which have three."""
    seen: dict[str, set[float]] = {"attention": set(), "hidden": set()}
    fused, plain = torch.nn.functional.scaled_dot_product_attention, torch.nn.functional.dropout

    def attend(*args: Any, dropout_p: float = 0.0, **options: Any) -> torch.Tensor:
        seen["attention"].add(dropout_p)
        return fused(*args, dropout_p=dropout_p, **options)

    def drop(values: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        seen["attention" if values.ndim == 4 else "hidden"].add(p)
        return plain(values, p, training, inplace)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)
        patch.setattr(torch.nn.functional, "dropout", drop)
        yield seen


def dropout_at_work(model: Any, forward: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, set[float]]:
    model.train()
    with recorded_dropout(monkeypatch) as seen:
        forward()
    model.eval()
    return seen


@every_architecture
def test_dropout_is_what_training_asks_for_where_torch_computes_it(copy, tmp_path, monkeypatch, name):
    folder = copy(name)
    own = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    own = {key: 0.4 if "attention" in key else 0.3 for key in own if "dropout" in key and "classifier" not in key}
    edit(folder / "config.json", **own)
    model = load(folder)

    def at_work() -> dict[str, set[float]]:
        return dropout_at_work(model, lambda: model(model.preprocess(TEXTS[:2])), monkeypatch)

    before = at_work()
    assert before["attention"] == {0.4}
    hidden = name != "gemma3"  # which has none
    for attention, other in ((0.0, 0.1), (0.25, 0.0)):
        with training_dropout(model, attention, other):
            assert at_work() == {"attention": {attention}, "hidden": {other} if hidden else set()}
            model.save(str(tmp_path / "saved"))
        saved = json.loads((tmp_path / "saved" / "config.json").read_text(encoding="utf-8"))
        assert {key: saved[key] for key in own} == own
    with training_dropout(model, None, 0.1):
        assert at_work()["attention"] == {0.4}
    with training_dropout(model, 0.0, None):
        assert at_work()["hidden"] == ({0.3} if hidden else set()) | (before["hidden"] & {0.4})
    assert at_work() == before


@pytest.mark.parametrize("kind", ["distilbert", "albert", "deberta-v2", "t5", "nomic_bert", "qwen3", "electra"])
def test_dropout_of_other_families(monkeypatch, kind):
    from transformers import AutoConfig, AutoModel, T5EncoderModel

    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 16}
    own = {
        "albert": {"embedding_size": 16},
        "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
        "qwen3": {"head_dim": 8, "num_key_value_heads": 1},
        "t5": {"d_kv": 8, "d_ff": 16},
    }
    config = AutoConfig.for_model(kind, vocab_size=30, pad_token_id=0, **sizes, **own.get(kind, {}))
    model = T5EncoderModel(config) if kind == "t5" else AutoModel.from_config(config)
    tokens = torch.arange(1, 9).reshape(2, 4)
    with training_dropout(model, 0.25, 0.125):
        found = dropout_at_work(model, lambda: model(input_ids=tokens), monkeypatch)
    assert found == {"attention": {0.25}, "hidden": {0.125} if kind != "qwen3" else set()}


# Training


@every_architecture
def test_it_learns_and_the_saved_model_is_the_trained_one(tiny, tmp_path, monkeypatch, name):
    from sentence_transformers import SentenceTransformer

    facts, probes = FACTS[name], TEXTS[:2]
    scored: list[tuple[float, np.ndarray]] = []
    score = DevScore.__call__

    def recording(self: DevScore, model: Any, *args: Any, **options: Any) -> dict[str, float]:
        result = score(self, model, *args, **options)
        scored.append((result["dev"], TorchEncoder(model, self.hardware, "").encode_queries(probes)))
        return result

    monkeypatch.setattr(DevScore, "__call__", recording)
    stage = train_toy(tmp_path, toy_retrieval(), toy_settings(tiny(name)))
    summary = training_of(stage)
    assert summary["base_dev"] < 0.2
    assert summary["best_dev"] > summary["base_dev"] + 0.3

    tuned = SentenceTransformer(str(stage.out / "best"), device="cpu")
    best = next(vectors for value, vectors in scored if value == max(value for value, _ in scored))
    vectors = tuned.encode_query(probes, normalize_embeddings=True)
    assert np.abs(vectors - best).max() <= 1e-5
    assert np.abs(vectors - load_encoder(str(tiny(name)), FP32).encode_queries(probes)).max() > 1e-2
    assert (
        np.abs(vectors - by_hand(stage.out / "best", [facts.query + text for text in probes], facts.pooling)).max()
        <= 1e-5
    )
    assert tuned.max_seq_length == facts.max_tokens
    assert (tuned.prompts["query"], tuned.prompts["document"]) == (facts.query, facts.passage)
    assert find_model(str(stage.out / "best")).model_type == facts.model_type


# Weights in several files


def shard(folder: Path) -> list[str]:
    """Put the transformer's weights into several files; returns their names."""
    from transformers import AutoModel

    AutoModel.from_pretrained(folder).save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    parts = sorted(file.name for file in folder.glob("model-*.safetensors"))
    assert len(parts) > 2
    return parts


@every_architecture
def test_a_sharded_checkpoint_is_the_same_model(tiny, copy, name):
    folder = copy(name)
    shard(folder)
    ours = load_encoder(str(folder), FP32).encode_queries(TEXTS)
    assert np.array_equal(ours, load_encoder(str(tiny(name)), FP32).encode_queries(TEXTS))


def test_a_sharded_checkpoint_is_trained(copy, tmp_path):
    folder = copy("xlm_roberta")
    shard(folder)
    summary = training_of(train_toy(tmp_path, toy_retrieval(), toy_settings(folder, train={"epochs": 6})))
    assert summary["best_dev"] > summary["base_dev"] + 0.3


def test_a_missing_shard_is_named_before_anything_is_loaded(copy):
    folder = copy("gemma3")
    parts = shard(folder)
    (folder / parts[1]).unlink()
    with pytest.raises(
        ModelError, match=rf"index\.json: 1 of the files it names are not there \({parts[1]}\); download"
    ):
        find_model(str(folder))


@pytest.mark.parametrize("part", ["gone.safetensors", "../model/config.json", "/model.safetensors", 3])
def test_an_index_that_names_what_is_not_in_the_folder_is_refused(copy, part):
    folder = copy("bert")
    shard(folder)
    index = folder / "model.safetensors.index.json"
    parts = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    edit(index, weight_map=parts | {"pooler.dense.bias": part})
    with pytest.raises(ModelError, match=rf"1 of the files it names are not there \({part}\)"):
        find_model(str(folder))


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": {}}', '{"weight_map": []}'])
def test_an_index_that_says_nothing_is_refused(copy, content):
    folder = copy("bert")
    shard(folder)
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelError, match=r"index\.json: does not say which file holds which weight"):
        find_model(str(folder))


def test_an_index_left_beside_whole_weights_is_not_read(copy):
    folder = copy("bert")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone.safetensors"}}')
    assert load(folder).get_embedding_dimension() == DIM


# What is refused


@every_architecture
def test_custom_code_is_refused(copy, name):
    folder = copy(name)
    edit(folder / "config.json", auto_map={"AutoModel": "modeling.Model"})
    with pytest.raises(ModelError, match=r"config\.json: asks for custom code \(auto_map\)"):
        find_model(str(folder))


@every_architecture
def test_pickles_alone_are_refused(copy, name):
    folder = copy(name)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"weights only as pickle \(pytorch_model\.bin\)"):
        find_model(str(folder))


@every_architecture
def test_a_tokenizer_without_padding_is_explained(copy, name):
    folder = copy(name)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"pad_token": None}))
    with pytest.raises(
        ModelError, match=r"model: its tokenizer has no padding token, so texts cannot be batched\. Set one"
    ):
        load(folder)


@every_architecture
def test_a_model_without_tokenizer_is_refused_rather_than_given_an_empty_one(copy, name):
    folder = copy(name)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"its tokenizer has no vocabulary|cannot be loaded: .* a tokenizer"):
        load(folder)
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(
        ModelError, match=r"model: holds no tokenizer \(tokenizer\.json, vocab\.txt or a \.model file\)"
    ):
        find_model(str(folder))


# Modules in folders of their own


def nest(folder: Path) -> Path:
    """The layout of older models: the transformer in a folder of its own."""
    (folder / "0_Transformer").mkdir()
    for file in folder.glob("*"):
        if file.name.startswith(("config.json", "model.", "tokenizer", "sentence_bert")):
            file.rename(folder / "0_Transformer" / file.name)
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def route(folder: Path, transformer: Path, **prompts: str) -> Path:
    """Queries through a static embedding, documents through the transformer, as in models made for fast queries."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Router, StaticEmbedding, Transformer
    from tokenizers import Tokenizer

    torch.manual_seed(3)
    static = StaticEmbedding(Tokenizer.from_file(str(transformer / "tokenizer.json")), embedding_dim=DIM)
    document = [Transformer(str(transformer)), Pooling(DIM, pooling_mode="mean")]
    router = Router.for_query_document([static], document)
    SentenceTransformer(modules=[router], prompts=prompts, device="cpu").save(str(folder))
    return folder


@every_architecture
def test_a_transformer_in_a_folder_of_its_own_is_the_same_model(tiny, copy, name):
    folder = nest(copy(name))
    assert find_model(str(folder)).model_type == FACTS[name].model_type
    ours = load_encoder(str(folder), FP32).encode_queries(TEXTS)
    assert np.array_equal(ours, load_encoder(str(tiny(name)), FP32).encode_queries(TEXTS))


def test_gemma_3_never_computes_in_fp16_wherever_its_transformer_lies(tiny, copy, tmp_path, monkeypatch):
    routed = route(tmp_path / "routed", tiny("gemma3"))
    legacy = Path(shutil.copytree(routed, tmp_path / "legacy"))
    (legacy / "router_config.json").rename(
        legacy / "config.json"
    )  # a configuration in the root, but not the transformer's
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    for folder in (tiny("gemma3"), nest(copy("gemma3")), routed, legacy):
        assert choose_hardware(ModelSettings(), find_model(str(folder)).model_type).precision == "fp32"
    assert choose_hardware(ModelSettings(), find_model(str(tiny("bert"))).model_type).precision == "fp16"


def test_a_router_sends_queries_and_passages_their_own_way(tiny, tmp_path):
    from safetensors.torch import load_file

    folder = route(tmp_path / "routed", tiny("modernbert"), query="ask: ", document="text: ")
    encoder = load_encoder(str(folder), FP32)
    assert encoder.model.get_embedding_dimension() == DIM
    assert encoder.encode_queries(TEXTS[:2]).shape == encoder.encode_passages(TEXTS[:2]).shape == (2, DIM)
    passages = by_hand(folder / "document_0_Transformer", ["text: " + text for text in TEXTS], "mean")
    assert np.abs(encoder.encode_passages(TEXTS) - passages).max() <= 1e-5
    table = load_file(folder / "query_0_StaticEmbedding" / "model.safetensors")["embedding.weight"].numpy()
    ids = encoder.model.tokenizer.encode("ask: " + TEXTS[0], add_special_tokens=False).ids
    mean = table[ids].mean(0)
    assert np.abs(encoder.encode_queries(TEXTS[:1]) - mean / np.linalg.norm(mean)).max() <= 1e-5


def test_a_router_is_checked_as_deeply_as_a_list_of_modules(tiny, tmp_path):
    folder = route(tmp_path / "routed", tiny("bert"))
    config = json.loads((folder / "router_config.json").read_text(encoding="utf-8"))
    types = config["types"] | {"document_1_Pooling": "modeling.Pooling"}
    (folder / "router_config.json").write_text(json.dumps(config | {"types": types}))
    with pytest.raises(ModelError, match=r"router_config\.json: module 'modeling\.Pooling' is custom code"):
        find_model(str(folder))
    (folder / "router_config.json").write_text(json.dumps(config))
    weights = folder / "query_0_StaticEmbedding" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(ModelError, match=r"weights only as pickle \(query_0_StaticEmbedding/pytorch_model\.bin\)"):
        find_model(str(folder))


def test_the_length_of_a_router_is_its_transformers(tiny, tmp_path):
    folder = route(tmp_path / "routed", tiny("bert"))
    encoder = load_encoder(str(folder), FP32.model_copy(update={"max_tokens": 16}))
    words = TEXTS[2]
    assert (
        np.abs(encoder.encode_passages([words]) - by_hand(folder / "document_0_Transformer", [words], "mean", 16)).max()
        <= 1e-5
    )
    with pytest.raises(SettingsError, match=r"model\.max_tokens is 65, but .*routed has positions for 64 tokens"):
        load(folder, max_tokens=65)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
def test_a_static_embedding_has_vectors_too(tiny, tmp_path, dtype):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    static = StaticEmbedding(Tokenizer.from_file(str(tiny("bert") / "tokenizer.json")), embedding_dim=12).to(dtype)
    SentenceTransformer(modules=[static], device="cpu").save(str(tmp_path / "static"))
    encoder = load_encoder(str(tmp_path / "static"), FP32)
    assert find_model(str(tmp_path / "static")).model_type == ""
    assert encoder.encode_passages(TEXTS[:3]).shape == (3, 12)
    assert encoder.count_tokens(["hotel room"]) == [4]
    assert len(encoder.digest) == 64
    ids = encoder.model.tokenizer.encode("hotel room", add_special_tokens=False).ids
    mean = static.embedding.weight.detach().float().numpy()[ids].mean(0)
    assert np.abs(encoder.encode_queries(["hotel room"]) - mean / np.linalg.norm(mean)).max() <= 1e-5


def test_a_projection_decides_the_dimension(tiny, tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer

    modules = [Transformer(str(tiny("mpnet"))), Pooling(DIM), Dense(DIM, 8, bias=False, activation_function=None)]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "projected"))
    encoder = load_encoder(str(tmp_path / "projected"), FP32)
    assert encoder.model.get_embedding_dimension() == 8
    assert encoder.encode_queries([]).shape == (0, 8)
    assert np.abs(encoder.encode_queries(TEXTS) - by_hand(tmp_path / "projected", TEXTS, "mean", 48)).max() <= 1e-5
