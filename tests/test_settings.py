from __future__ import annotations

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from shoptalk.errors import SettingsError
from shoptalk.settings import (
    Settings,
    commented_yaml,
    make_settings,
    read_settings,
    resolved_yaml,
    with_values,
)


def test_an_unknown_key_names_the_nearest_one():
    with pytest.raises(SettingsError, match=r"there is no setting train\.epoch; did you mean train\.epochs\?"):
        make_settings({"train": {"epoch": 3}})
    with pytest.raises(SettingsError, match=r"there is no setting sed; did you mean seed\?"):
        make_settings({"sed": 3})
    with pytest.raises(SettingsError, match="there is no setting zzzz; `shoptalk init` writes all of them"):
        make_settings({"zzzz": 3})


def test_every_problem_has_its_own_line_with_place_and_value():
    with pytest.raises(SettingsError) as caught:
        make_settings({"train": {"batch_size": 0, "epoch": 3}, "seed": "x"}, where="my.yaml")
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("my.yaml: ") for line in lines)
    assert "my.yaml: train.batch_size is 0; input should be greater than or equal to 2" in lines


def test_values_of_the_command_line_are_yaml():
    settings = with_values(
        Settings(),
        [
            "train.learning_rate=3e-5",
            "train.epochs=auto",
            "queries.kinds=[faq, heading]",
            "model.max_tokens=null",
            "model.query_prompt='query: '",
            "seed=5",
            "input.columns.query=frage",
        ],
    )
    assert settings.train.learning_rate == 3e-5
    assert settings.train.epochs == "auto"
    assert settings.queries.kinds == ("faq", "heading")
    assert settings.model.max_tokens is None
    assert settings.model.query_prompt == "query: "
    assert settings.seed == 5
    assert settings.input.columns == {"query": "frage"}


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("query: ", "query: "),
        ("task: search result | query: ", "task: search result | query: "),
        ("'query: '", "query: "),
        ('"query: "', "query: "),
        ("no", "no"),
        ("", ""),
        ("null", None),
    ],
)
def test_a_prompt_is_taken_as_it_is_written(text, prompt):
    """A shell has taken the quotes away, and YAML would read a mapping."""
    assert with_values(Settings(), [f"model.query_prompt={text}"]).model.query_prompt == prompt


def test_a_later_value_wins_and_the_given_settings_stay():
    before = Settings()
    after = with_values(before, ["train.epochs=3", "train.epochs=4"])
    assert (before.train.epochs, after.train.epochs) == ("auto", 4)


def test_a_text_that_looks_like_a_number_stays_a_text_where_a_text_is_wanted():
    assert with_values(Settings(), ["report.title='2024'"]).report.title == "2024"
    assert with_values(Settings(), ["report.title=2024"]).report.title == "2024"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.epochs", "write it as section.key=value"),
        ("=3", "write it as section.key=value"),
        ("train.epoch=3", r"there is no setting train\.epoch; did you mean train\.epochs\?"),
        ("trian.epochs=3", r"did you mean train\.epochs\?"),
        ("train.epochs.deep=3", "there is no setting"),
        ("train.epochs=[", "is not a YAML value"),
        ("train.epochs=-1.5", r"--set: train\.epochs"),
        ("train=3", r"--set: train is 3"),
        ("train.learning_rate=nan", "train.learning_rate is nan"),
        ("baseline.fine_above=nan", "baseline.fine_above is nan"),
        ("baseline.fine_above=.inf", "baseline.fine_above is inf"),
    ],
)
def test_a_wrong_assignment_says_what_to_write(assignment, message):
    with pytest.raises(SettingsError, match=message):
        with_values(Settings(), [assignment])


def test_the_commented_file_is_the_defaults(tmp_path):
    path = tmp_path / "shoptalk.yaml"
    path.write_text(commented_yaml(), encoding="utf-8")
    assert read_settings(path) == Settings()


def test_the_commented_file_names_and_explains_every_setting():
    text = commented_yaml()
    values = yaml.safe_load(text)
    for name, section in Settings():
        if isinstance(section, BaseModel):
            fields = type(section).model_fields
            assert set(values.get(name, {})) == set(fields)
            assert all(field.description in text for field in fields.values() if field.description)


def test_a_section_whose_lines_were_all_deleted_is_its_defaults(tmp_path):
    path = tmp_path / "shoptalk.yaml"
    path.write_text("seed: 3\ntrain:\n# epochs: 4\ndataset:\n", encoding="utf-8")
    assert read_settings(path) == Settings(seed=3)


def test_written_settings_read_back_the_same(tmp_path):
    settings = with_values(
        Settings(), ["train.epochs=7", "report.title=Über uns: 100%", "input.columns.query=Frage", "train.threads=2"]
    )
    (tmp_path / "shoptalk.yaml").write_text(resolved_yaml(settings), encoding="utf-8")
    assert read_settings(tmp_path / "shoptalk.yaml") == settings


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"train: [", "not readable as YAML"),
        (b"\xff\xfe\x00", "not readable as YAML"),
        (b"- train", "holds a list, not settings by name"),
        (b"train: 3", "train is 3"),
        (b"1: 2", "1"),
        (b"train:\n  epochs: three", r"train\.epochs"),
    ],
)
def test_a_file_that_is_no_settings_is_named(tmp_path, content, message):
    path = tmp_path / "shoptalk.yaml"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=message) as caught:
        read_settings(path)
    assert str(path) in str(caught.value)


def test_an_empty_file_is_the_defaults_and_no_file_says_how_to_get_one(tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    assert read_settings(tmp_path / "empty.yaml") == Settings()
    with pytest.raises(SettingsError, match="no such settings file; `shoptalk init` writes one"):
        read_settings(tmp_path / "none.yaml")


def test_settings_are_frozen():
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.seed = 3
    with pytest.raises(ValidationError):
        settings.train.epochs = 3


def test_yaml_cannot_run_code(tmp_path):
    path = tmp_path / "shoptalk.yaml"
    path.write_text("seed: !!python/object/apply:os.getpid []")
    with pytest.raises(SettingsError, match="not readable as YAML"):
        read_settings(path)
