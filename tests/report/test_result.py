"""result.json: the shape that docs/design.md promises."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from report.runs import FINDING, Kind, make_run, make_similarity_run
from shoptalk.report import build_report
from shoptalk.workspace import StageContext


def result_of(stage: StageContext) -> dict[str, Any]:
    build_report(stage)

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads((stage.out / "result.json").read_text(encoding="utf-8"), parse_constant=refuse)


def test_result_has_the_promised_shape(tmp_path: Path) -> None:
    result = result_of(make_run(tmp_path, Kind(findings=(FINDING,), evaluations=3)))
    assert result["verdict"] == "ship"
    assert result["reasons"][0].startswith("the tuned model is better: nDCG@10 +")
    assert result["gate"]["decision"] == "tune"
    assert result["gate"]["reasons"] == ["120 training pairs: 500 is a sensible minimum"]
    assert {"ndcg@10", "mrr@10", "recall@10", "recall@100", "map@100"} <= result["base"].keys()
    assert result["base"].keys() == result["tuned"].keys() == result["delta"].keys() == result["bm25"].keys()
    delta = result["delta"]["ndcg@10"]
    assert delta["ci95"][0] < delta["value"] < delta["ci95"][1]
    assert delta["value"] == pytest.approx(result["tuned"]["ndcg@10"] - result["base"]["ndcg@10"])
    assert 0 < delta["p"] < 0.05
    assert result["dataset"]["queries"] == {"train": 120, "dev": 20, "test": 60}
    assert (result["dataset"]["passages"], result["dataset"]["test_origin"]) == (60, "human")
    assert result["findings"] == [FINDING]
    assert result["model"] == "model"
    assert result["base_model"]["name"] == "builtin:all-MiniLM-L6-v2"
    assert len(result["base_model"]["sha256"]) == 64
    assert result["test_evaluations"] == 3


def test_what_the_gate_and_the_retention_measured_is_for_programs_too(tmp_path: Path) -> None:
    result = result_of(make_run(tmp_path))
    assert [system["name"] for system in result["gate"]["systems"]] == ["base", "bm25", "fused", "models/candidate"]
    assert result["gate"]["power"]["for_gain"] == 0.02
    assert result["retention"]["general"]["delta"]["value"] == -0.008
    assert {row["by"] for row in result["slices"]} == {"query length", "query language", "source"}


def test_a_run_of_an_earlier_version_has_no_such_keys(tmp_path: Path) -> None:
    result = result_of(make_run(tmp_path, Kind(assessed=False)))
    assert result["gate"].keys() == {"decision", "reasons"}
    assert not {"retention", "slices"} & result.keys()


def test_seconds_are_those_of_the_stages_before(tmp_path: Path) -> None:
    assert result_of(make_run(tmp_path))["seconds"] == {"dataset": 0.4, "train": 12.25}


def test_won_lost_and_unchanged_are_all_queries(tmp_path: Path) -> None:
    result = result_of(make_run(tmp_path))
    assert (result["won"], result["lost"], result["unchanged"]) == (30, 10, 20)


def test_scored_pairs_have_spearman_and_no_bm25(tmp_path: Path) -> None:
    result = result_of(make_similarity_run(tmp_path))
    assert result["metric"] == "spearman"
    assert result["base"].keys() == result["tuned"].keys() == result["delta"].keys() == {"spearman"}
    assert "bm25" not in result


def test_same_artifacts_give_the_same_bytes(tmp_path: Path) -> None:
    stage = make_run(tmp_path)
    build_report(stage)
    first = {path.name: path.read_bytes() for path in stage.out.iterdir()}
    build_report(stage)
    assert {path.name: path.read_bytes() for path in stage.out.iterdir()} == first
    assert first.keys() == {"report.html", "result.json"}
