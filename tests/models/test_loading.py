from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from shoptalk.errors import ModelError
from shoptalk.models.finding import CARD, find_model
from shoptalk.models.loading import load_model, model_prompts, training_dropout
from shoptalk.settings import ModelSettings


def load(folder: Path, **settings: object):
    return load_model(find_model(str(folder)), ModelSettings(**settings), "cpu")


def dropouts(model) -> dict[str, float]:
    return {name: module.p for name, module in model.named_modules() if isinstance(module, torch.nn.Dropout)}


@pytest.fixture(scope="module")
def loaded(tiny_bert):
    return load(tiny_bert)


def test_a_model_comes_with_its_own_length_and_without_prompts(loaded):
    assert loaded.max_seq_length == 64
    assert loaded.prompts == {"query": "", "document": ""}


def test_prompts_and_length_can_be_set(tiny_bert):
    model = load(tiny_bert, query_prompt="ask: ", passage_prompt="text: ", max_tokens=32)
    assert model.prompts == {"query": "ask: ", "document": "text: "}
    assert model.max_seq_length == 32


def test_prompts_that_were_saved_are_used_again(tiny_bert, tmp_path):
    load(tiny_bert, query_prompt="ask: ", passage_prompt="text: ").save(str(tmp_path / "saved"))
    again = load(tmp_path / "saved")
    assert again.prompts == {"query": "ask: ", "document": "text: "}
    assert (
        model_prompts(again, find_model(str(tmp_path / "saved")), ModelSettings()).origin
        == "the model's own configuration"
    )


def test_the_folders_name_tells_the_family(tiny_bert, tmp_path):
    shutil.copytree(tiny_bert, tmp_path / "e5-small-v2")
    assert load(tmp_path / "e5-small-v2").prompts == {"query": "query: ", "document": "passage: "}


def test_a_folder_that_shoptalk_wrote_says_its_prompts_itself_whatever_its_path_is_called(tiny_bert, tmp_path):
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "e5-small-v2"))
    (folder / CARD).write_text("{}")
    assert load(folder).prompts == {"query": "", "document": ""}
    load(folder, query_prompt="ask: ").save(str(folder))
    assert load(folder).prompts == {"query": "ask: ", "document": ""}


def test_a_model_that_cannot_be_loaded_is_named_in_one_line(tiny_bert, tmp_path):
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "broken"))
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match="broken: cannot be loaded: ") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_padding_token_says_how_to_set_one(tiny_bert, tmp_path):
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "no-pad"))
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["pad_token"] = None
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="its tokenizer has no padding token"):
        load(folder)


def test_no_network_is_asked_and_no_pickle_read(tiny_bert, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "both"))
    (folder / "pytorch_model.bin").write_bytes(b"a pickle that would fail")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert load(folder).get_embedding_dimension() == 32


def test_dropout_is_set_for_training_and_given_back(loaded):
    before = dropouts(loaded)
    assert set(before.values()) == {0.1}
    with training_dropout(loaded, attention=0.0, hidden=0.3):
        inside = dropouts(loaded)
        attention = {name for name, p in inside.items() if p == 0.0}
        assert attention == {name for name in before if ".attention." in name and ".output." not in name}
        assert len(attention) == 2  # one a layer
        assert set(inside.values()) == {0.0, 0.3}
    assert dropouts(loaded) == before


def test_dropout_that_is_none_is_left(loaded):
    with training_dropout(loaded, attention=None, hidden=None):
        assert set(dropouts(loaded).values()) == {0.1}
    with training_dropout(loaded, attention=None, hidden=0.2):
        assert sorted(set(dropouts(loaded).values())) == [0.1, 0.2]


def test_dropout_is_given_back_after_an_error(loaded):
    before = dropouts(loaded)
    with pytest.raises(ZeroDivisionError), training_dropout(loaded, 0.0, 0.0):
        _ = 1 / 0
    assert dropouts(loaded) == before


def test_without_dropout_two_training_passes_agree_and_with_it_they_differ(loaded):
    def passes() -> tuple[torch.Tensor, torch.Tensor]:
        loaded.train()
        features = loaded.preprocess(["how can you approve the travel request"])
        try:
            return tuple(loaded(dict(features))["sentence_embedding"] for _ in range(2))
        finally:
            loaded.eval()

    with training_dropout(loaded, attention=0.0, hidden=0.0):
        assert torch.equal(*passes())
    with training_dropout(loaded, attention=0.0, hidden=0.5):
        assert not torch.allclose(*passes())
    with training_dropout(loaded, attention=0.5, hidden=0.0):
        assert not torch.allclose(*passes())


def test_a_model_saved_during_training_keeps_its_own_dropout(loaded, tmp_path):
    with training_dropout(loaded, 0.0, 0.0):
        loaded.save(str(tmp_path / "saved"))
    assert set(dropouts(load(tmp_path / "saved")).values()) == {0.1}
