from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shoptalk.diagnosis import diagnose
from shoptalk.diagnosis.controls import CONTROL_QUERIES
from shoptalk.diagnosis.diagnosing import gather, read_controls
from shoptalk.errors import SourceError
from shoptalk.records import Dataset
from shoptalk.settings import Settings
from shoptalk.workspace import StageContext
from toy import toy_retrieval, toy_settings, toy_similarity

Diagnosed = Callable[..., StageContext]


@pytest.fixture
def diagnosed(run_to_diagnosis: Callable[..., StageContext]) -> Diagnosed:
    """Train, compare and diagnose; with `model`, that one instead of the trained one."""

    def run(folder: Path, dataset: Dataset, settings: Settings, model: Path | None = None) -> StageContext:
        stage = run_to_diagnosis(folder, dataset, settings, model)
        diagnose(stage)
        return stage

    return run


def written(stage: StageContext, name: str) -> Any:
    text = (stage.out / name).read_text(encoding="utf-8")
    return json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} in {name}"))


def test_a_run_that_learned_leaves_its_findings_and_the_drift_of_the_controls(
    diagnosed: Diagnosed, tmp_path: Path, tiny_bert: Path
) -> None:
    stage = diagnosed(tmp_path, toy_retrieval(), toy_settings(tiny_bert))
    names = [finding["name"] for finding in written(stage, "findings.json")]
    assert not {"unchanged-embeddings", "worse-than-base", "duplicates"} & set(names)
    drift = written(stage, "controls.json")
    assert drift["queries"] == len(CONTROL_QUERIES)
    assert drift["value"] == pytest.approx(drift["tuned"] - drift["base"])
    assert drift["made"] is None  # the toy vocabulary has too few words that the toy corpus does not use
    assert len(written(stage, "map.json")["points"]) == 132
    assert (stage.out / "map.json").stat().st_size < 100_000
    assert written(stage, "vocabulary.json").keys() == {"found", "asked", "terms", "uncovered"}


def test_evaluating_the_base_model_by_mistake_is_found(diagnosed: Diagnosed, tmp_path: Path, tiny_bert: Path) -> None:
    stage = diagnosed(tmp_path, toy_retrieval(), toy_settings(tiny_bert, train={"epochs": 1}), model=tiny_bert)
    assert written(stage, "findings.json")[0]["name"] == "unchanged-embeddings"


def test_a_run_on_scored_pairs_is_diagnosed_without_controls(
    diagnosed: Diagnosed, tmp_path: Path, tiny_bert: Path
) -> None:
    stage = diagnosed(tmp_path, toy_similarity(), toy_settings(tiny_bert, train={"epochs": 1}))
    assert written(stage, "controls.json") is None
    assert written(stage, "map.json") is None


def test_no_finding_may_look_at_the_test_split(diagnosed: Diagnosed, tmp_path: Path, tiny_bert: Path) -> None:
    stage = diagnosed(tmp_path, toy_retrieval(), toy_settings(tiny_bert, train={"epochs": 1}))
    (tmp_path / "dataset" / "qrels" / "test.tsv").unlink()
    assert set(gather(stage).dataset.qrels) == {"train", "dev"}


def test_both_models_get_the_same_prompts_whatever_the_run_folder_is_called(
    diagnosed: Diagnosed, tmp_path: Path, tiny_bert: Path
) -> None:
    folder = tmp_path / "e5-base"  # a family whose models want "query: " when their configuration has no prompt
    stage = diagnosed(folder, toy_retrieval(), toy_settings(tiny_bert, train={"epochs": 1}))
    evidence = gather(stage)
    assert evidence.tuned.loaded.model.prompts == evidence.base.loaded.model.prompts == {"query": "", "document": ""}


def test_a_users_controls_are_what_is_measured(diagnosed: Diagnosed, tmp_path: Path, tiny_bert: Path) -> None:
    path = tmp_path / "controls.txt"
    path.write_text("\n".join(f"question {i}" for i in range(7)), encoding="utf-8")
    settings = toy_settings(tiny_bert, train={"epochs": 1}, diagnose={"controls": str(path)})
    assert written(diagnosed(tmp_path / "run", toy_retrieval(), settings), "controls.json")["queries"] == 7


# Control queries from a file

FIVE = [f"What is thing {i}?" for i in range(5)]


def test_without_a_file_the_shipped_controls_are_used() -> None:
    assert read_controls("") == list(CONTROL_QUERIES)


def test_the_shipped_controls_are_many_and_different() -> None:
    assert len(set(CONTROL_QUERIES)) == len(CONTROL_QUERIES) >= 30
    assert all(query.strip() == query for query in CONTROL_QUERIES)


@pytest.mark.parametrize("key", ["query", "text"])
def test_controls_are_read_from_json_lines(tmp_path: Path, key: str) -> None:
    path = tmp_path / "controls.jsonl"
    path.write_text("\n".join(json.dumps({key: query, "more": 1}) for query in FIVE), encoding="utf-8")
    assert read_controls(str(path)) == FIVE


def test_controls_are_read_from_a_text_file_one_a_line(tmp_path: Path) -> None:
    path = tmp_path / "controls.txt"
    path.write_text("\n\n".join(f"  {query} " for query in [*FIVE, FIVE[0]]) + "\n", encoding="utf-8")
    assert read_controls(str(path)) == FIVE


@pytest.mark.parametrize("name", ["controls.txt", "controls.jsonl"])
def test_too_few_controls_are_refused_with_what_is_needed(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    row = json.dumps({"query": "What?"}) if name.endswith("jsonl") else "What?"
    path.write_text(f"{row}\n" * 9, encoding="utf-8")
    with pytest.raises(SourceError, match=rf"{name}: 1 control queries; give at least 5"):
        read_controls(str(path))


@pytest.mark.parametrize("name", ["controls.txt", "controls.jsonl"])
def test_a_missing_file_of_controls_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError, match=name):
        read_controls(str(tmp_path / name))


@pytest.mark.parametrize("name", ["controls.txt", "controls.jsonl"])
def test_controls_that_are_no_text_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\xff\xfe\x00binary\x81\n" * 6)
    with pytest.raises(SourceError, match=name):
        read_controls(str(tmp_path / name))
