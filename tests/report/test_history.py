"""The list of runs, and finished runs side by side: what is read, what is compared, and what is not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from report.finished import STAGE_SECONDS, commit, finished_run
from report.runs import FINDING, Kind, make_run, make_similarity_run
from shoptalk.beir import read_jsonl
from shoptalk.errors import DamagedArtifact, InputError
from shoptalk.pipeline import NAMES
from shoptalk.report.history import Run, is_run_folder, list_runs, look_at
from shoptalk.report.runs_compared import compare_runs, figures, pairs_in_words
from shoptalk.retrieval.significance import paired_delta, spearman_delta
from shoptalk.workspace import list_files, open_workspace

BETTER = Kind(ranks=((1, 1), (4, 1), (9, 1), (2, 1), (25, 1), (30, 2)))
"""The same queries as Kind(), ranked higher after tuning."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two finished runs, one below another folder, one that stands at train, and things that are no runs."""
    root = tmp_path_factory.mktemp("runs")
    finished_run(root / "first", Kind(findings=(FINDING,)))
    finished_run(root / "team" / "second", BETTER, {"train": {"epochs": 7}, "seed": 5})
    finished_run(root / "stopped", until="negatives")
    (root / "notes").mkdir()
    (root / "notes" / "manifest.json").write_text('{"name": "a web page"}', encoding="utf-8")
    (root / "empty").mkdir()
    (root / "file.txt").write_text("no run", encoding="utf-8")
    for age, name in enumerate(("stopped", "team/second", "first")):
        os.utime(root / name / "manifest.json", (1_700_000_000 + 60 * age,) * 2)
    return root


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """The finished run `first`, to be damaged."""
    return Path(shutil.copytree(folder / "first", tmp_path / "runs" / "first"))


def listed(root: Path) -> dict[str, Run]:
    return {run.folder.relative_to(root).as_posix(): run for run in list_runs(root, NAMES)}


def result_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "result.json").read_text(encoding="utf-8")))


# The list


def test_the_runs_of_a_folder_and_one_level_below_are_listed_the_oldest_first(folder: Path) -> None:
    assert list(listed(folder)) == ["stopped", "team/second", "first"]


def test_a_finished_run_says_what_its_result_says(folder: Path) -> None:
    record, result = listed(folder)["first"].as_json(), result_of(folder / "first")
    assert record["state"] == "finished"
    assert record["verdict"] == result["verdict"] == "ship"
    assert (record["base"], record["tuned"]) == (result["base"]["ndcg@10"], result["tuned"]["ndcg@10"])
    assert record["delta"] == result["delta"]["ndcg@10"]
    assert (record["findings"], record["gate"], record["source"]) == ({"warning": 1}, "tune", "docs")
    assert record["minutes"] == pytest.approx(len(NAMES) * STAGE_SECONDS / 60, abs=0.01)
    assert record["date"].startswith("2023-11-1")
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_a_run_that_was_stopped_says_where_it_stands_and_what_the_gate_said(folder: Path) -> None:
    record = listed(folder)["stopped"].as_json()
    assert (record["state"], record["stage"], record["gate"]) == ("unfinished", "train", "tune")
    assert record["words"] == f"stands at train, 5 of {len(NAMES)} stages done"
    assert record["verdict"] is record["delta"] is record["findings"] is None


def test_a_run_before_its_first_stage_is_done_stands_at_the_first(tmp_path: Path) -> None:
    with open_workspace(tmp_path / "new"):
        (tmp_path / "new" / "shoptalk.yaml").write_text("seed: 1\n", encoding="utf-8")
        (run,) = list_runs(tmp_path, NAMES)  # the lock is held meanwhile
    assert (run.state, run.stage, run.gate) == ("unfinished", "ingest", None)


def test_a_result_from_before_its_inputs_were_made_again_does_not_count(copied: Path) -> None:
    stage = make_run(copied.parents[1] / "again")
    with open_workspace(copied) as workspace:
        commit(workspace, "evaluate", stage, note="made again")
    assert look_at(copied, NAMES).stage == "diagnose"
    assert (copied / "result.json").is_file()


def changed_result(run: Path) -> None:
    path = run / "result.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"ship"', '"do-not-ship"'), encoding="utf-8")


def cut_manifest(run: Path) -> None:
    path = run / "manifest.json"
    path.write_text(path.read_text(encoding="utf-8")[:300], encoding="utf-8")


def other_result(run: Path) -> None:
    """A result.json that its manifest vouches for and that has another shape."""
    with open_workspace(run) as workspace:
        out, _ = workspace.begin("report", "report")
        (out / "result.json").write_text('{"verdict": "ship", "metric": "ndcg@10"}', encoding="utf-8")
        workspace.commit("report", replace(workspace.rows["report"], files=list_files(out)))


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "changed": (changed_result, "result.json: changed since it was written"),
    "gone": (lambda run: (run / "result.json").unlink(), "result.json: is gone"),
    "manifest": (cut_manifest, "manifest.json: is damaged"),
    "shape": (other_result, "not what shoptalk writes"),
    "settings": (
        lambda run: (run / "shoptalk.yaml").write_bytes(b"\xff\xfe: ["),
        "shoptalk.yaml: not readable as YAML",
    ),
    "no settings": (lambda run: (run / "shoptalk.yaml").unlink(), "shoptalk.yaml: is gone"),
    "a list": (lambda run: (run / "shoptalk.yaml").write_text("- 1\n"), "shoptalk.yaml: holds a list, not settings"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_says_so_and_does_not_stop_the_list(copied: Path, damage: str) -> None:
    shutil.copytree(copied, copied.with_name("whole"))
    harm, said = DAMAGES[damage]
    harm(copied)
    runs = listed(copied.parent)
    assert {name: run.state for name, run in runs.items()} == {"first": "damaged", "whole": "finished"}
    assert said in runs["first"].words
    assert "Traceback" not in runs["first"].words
    assert runs["first"].as_json()["verdict"] is None


def test_a_folder_that_is_not_there_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such folder; name the folder that holds your runs"):
        list_runs(tmp_path / "none", NAMES)


def test_a_run_folder_itself_is_a_list_of_one(folder: Path) -> None:
    assert [run.folder for run in list_runs(folder / "first", NAMES)] == [folder / "first"]


def test_what_is_a_run_folder_and_what_is_not(folder: Path, tmp_path: Path) -> None:
    assert is_run_folder(folder / "first")
    assert is_run_folder(folder / "stopped")
    assert not is_run_folder(folder)
    assert not is_run_folder(folder / "notes")
    assert not is_run_folder(folder / "file.txt")
    assert not is_run_folder(tmp_path / "none")
    (tmp_path / "shoptalk.yaml").write_text("seed: 1\n", encoding="utf-8")
    (tmp_path / "manifest.json").write_text('{"stages": 3}', encoding="utf-8")
    assert not is_run_folder(tmp_path), "settings and a web page's manifest beside documents"


def test_listing_writes_nothing(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    list_runs(folder, NAMES)
    compare_runs([folder / "first", folder / "team" / "second"], NAMES)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


# Side by side


@pytest.fixture(scope="module")
def record(folder: Path) -> dict[str, Any]:
    return compare_runs([folder / "first", folder / "team" / "second"], NAMES)


def tuned_of(run: Path) -> dict[str, float]:
    return {row["query_id"]: row["tuned"]["ndcg@10"] for _, row in read_jsonl(run / "evaluation" / "per_query.jsonl")}


def test_tuned_models_are_paired_on_the_queries_that_both_tests_have(folder: Path, record: dict[str, Any]) -> None:
    (pair,) = record["paired"]
    before, after = tuned_of(folder / "first"), tuned_of(folder / "team" / "second")
    expected = paired_delta(before, after, {}, 200, 12)
    assert pair["comparable"] is True
    assert (pair["queries"], pair["groups"], pair["left_out"]) == (60, 60, [0, 0])
    assert pair["delta"] == expected.as_json()
    assert pair["delta"]["value"] > 0.1
    assert pair["tuned"]["run"] - pair["tuned"]["against"] == pytest.approx(pair["delta"]["value"])
    assert (pair["won"], pair["lost"], pair["unchanged"]) == (30, 0, 30)
    (words,) = pairs_in_words(record)
    assert words.startswith(f"{folder / 'team' / 'second'} against {folder / 'first'}: better. nDCG@10 +")
    assert words.endswith("on the same 60 test queries; 30 better, 0 worse, 30 unchanged")


def test_the_other_way_round_the_sign_turns(folder: Path, record: dict[str, Any]) -> None:
    turned = compare_runs([folder / "team" / "second", folder / "first"], NAMES)
    assert turned["paired"][0]["delta"]["value"] == pytest.approx(-record["paired"][0]["delta"]["value"])
    assert ": worse. " in pairs_in_words(turned)[0]


def test_only_settings_that_differ_are_named(folder: Path, record: dict[str, Any]) -> None:
    first, second = str(folder / "first"), str(folder / "team" / "second")
    assert record["settings"] == {"seed": {first: 12, second: 5}, "train.epochs": {first: "auto", second: 7}}


def test_a_setting_that_an_older_version_did_not_know_is_left_out_for_it(copied: Path, folder: Path) -> None:
    path = copied / "shoptalk.yaml"
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.startswith("  min_gain:")] + ["forgotten: 3"]
    path.write_text("\n".join(kept), encoding="utf-8")
    settings = compare_runs([copied, folder / "first"], NAMES)["settings"]
    assert settings == {"evaluate.min_gain": {str(folder / "first"): 0.01}, "forgotten": {str(copied): 3}}


def test_findings_that_differ_and_figures_of_both_are_shown(folder: Path, record: dict[str, Any]) -> None:
    assert record["findings"] == {"one-sided-bias": {str(folder / "first"): "warning"}}
    table = dict(figures(record))
    assert table["verdict"] == ["ship", "ship"]
    assert table["findings"] == ["1 warning", "none"]
    assert table["test"] == ["60 (human)", "60 (human)"]
    result = result_of(folder / "first")
    assert table["base"][0] == f"{result['base']['ndcg@10']:.3f}"
    assert table["gain"][0] == f"{result['delta']['ndcg@10']['value']:+.3f}"


def test_a_copy_of_a_run_differs_in_nothing(copied: Path, folder: Path) -> None:
    record = compare_runs([folder / "first", copied], NAMES)
    assert (record["settings"], record["findings"]) == ({}, {})
    assert record["paired"][0]["delta"] == {"value": 0.0, "ci95": [0.0, 0.0], "p": 1.0}
    assert "no difference can be told from chance" in pairs_in_words(record)[0]


def test_part_of_the_queries_is_compared_when_only_part_is_the_same(folder: Path, tmp_path: Path) -> None:
    """Same passages and ids, but the first 20 queries ask something else."""

    def make(root: Path, kind: Kind | None) -> Any:
        stage = make_run(root, kind)
        rows = [row for _, row in read_jsonl(root / "evaluation" / "per_query.jsonl")]
        for row in rows[:20]:
            row["text"] = f"something else about {row['query_id']}"
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (root / "evaluation" / "per_query.jsonl").write_text(text, encoding="utf-8")
        return stage

    other = finished_run(tmp_path / "other", BETTER, make=make)
    (pair,) = compare_runs([folder / "first", other], NAMES)["paired"]
    before, after = tuned_of(folder / "first"), tuned_of(other)
    common = [f"q{i}" for i in range(20, 60)]
    expected = sum(after[q] - before[q] for q in common) / 40
    assert (pair["queries"], pair["left_out"]) == (40, [20, 20])
    assert pair["delta"]["value"] == pytest.approx(expected)
    assert f"20 of {folder / 'first'} and 20 of {other} are left out" in pair["words"]


def test_the_same_words_with_other_judgements_are_not_the_same_query(folder: Path, tmp_path: Path) -> None:
    def make(root: Path, kind: Kind | None) -> Any:
        stage = make_run(root, kind)
        path = root / "dataset" / "qrels" / "test.tsv"
        path.write_text(path.read_text(encoding="utf-8").replace("\tp1\t1", "\tp1\t2"), encoding="utf-8")
        return stage

    other = finished_run(tmp_path / "other", BETTER, make=make)
    assert compare_runs([folder / "first", other], NAMES)["paired"][0]["left_out"] == [1, 1]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Kind(query="How is room {i} booked?"), "the test queries are not the same"),
        (Kind(title="Rooms {i}"), "60 with another text): nDCG@10 over different haystacks cannot be compared"),
        (Kind(n_queries=61), "1 only in "),
    ],
)
def test_what_cannot_be_compared_is_not_and_says_why(folder: Path, tmp_path: Path, kind: Kind, said: str) -> None:
    other = finished_run(tmp_path / "other", kind)
    record = compare_runs([folder / "first", other], NAMES)
    (pair,) = record["paired"]
    assert pair.keys() == {"run", "against", "comparable", "words"}
    assert pair["comparable"] is False
    assert said in pair["words"]
    assert pair["words"].endswith("Each gain stands for its own test only")
    assert said in pairs_in_words(record)[0]


def test_documents_that_lie_elsewhere_are_the_same_passages(folder: Path, tmp_path: Path) -> None:
    def make(root: Path, kind: Kind | None) -> Any:
        stage = make_run(root, kind)
        path = root / "dataset" / "corpus.jsonl"
        path.write_text(path.read_text(encoding="utf-8").replace("doc1.md", "moved/doc1.md"), encoding="utf-8")
        return stage

    other = finished_run(tmp_path / "other", BETTER, make=make)
    assert "moved/doc1.md" in (other / "dataset" / "corpus.jsonl").read_text(encoding="utf-8")
    assert compare_runs([folder / "first", other], NAMES)["paired"][0]["comparable"] is True


def test_scored_pairs_are_compared_by_spearman(tmp_path: Path) -> None:
    def better(root: Path, kind: Kind | None) -> Any:
        stage = make_similarity_run(root, kind)
        path = root / "evaluation" / "per_query.jsonl"
        rows = [row for _, row in read_jsonl(path)]
        for row in rows:
            row["tuned"]["cosine"] = 0.1 + 0.8 * row["score"]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return stage

    one = finished_run(tmp_path / "one", make=make_similarity_run)
    two = finished_run(tmp_path / "two", make=better)
    (pair,) = compare_runs([one, two], NAMES)["paired"]
    rows = [[row for _, row in read_jsonl(run / "evaluation" / "per_query.jsonl")] for run in (one, two)]
    cosines = [[row["tuned"]["cosine"] for row in side] for side in rows]
    gold, groups = [row["score"] for row in rows[0]], [row["group"] for row in rows[0]]
    assert pair["delta"] == spearman_delta(gold, *cosines, groups, 200, 12).as_json()
    assert (pair["metric"], pair["queries"]) == ("spearman", 60)
    assert "Spearman +" in pairs_in_words(compare_runs([one, two], NAMES))[0]


def test_scored_pairs_against_rankings_have_nothing_in_common(folder: Path, tmp_path: Path) -> None:
    scored = finished_run(tmp_path / "scored", make=make_similarity_run)
    (pair,) = compare_runs([folder / "first", scored], NAMES)["paired"]
    assert pair["comparable"] is False
    assert "one run is decided by nDCG@10, the other by Spearman" in pair["words"]


def test_several_runs_are_held_against_the_first_with_holms_correction(folder: Path, copied: Path) -> None:
    record = compare_runs([folder / "first", folder / "team" / "second", copied], NAMES)
    better, same = (pair["delta"] for pair in record["paired"])
    assert better["p_holm"] == pytest.approx(min(1.0, 2 * better["p"]))
    assert same["p_holm"] == 1
    assert [pair["against"] for pair in record["paired"]] == [str(folder / "first")] * 2


def test_an_unfinished_run_is_refused_with_the_command_that_finishes_it(folder: Path) -> None:
    with pytest.raises(InputError, match=r"stands at train, .*; finish it with `shoptalk run --out .*stopped`"):
        compare_runs([folder / "first", folder / "stopped"], NAMES)


def test_a_run_named_twice_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="first: named twice"):
        compare_runs([folder / "first", folder / "first"], NAMES)


def test_a_file_that_changed_since_is_an_error_and_no_comparison(copied: Path, folder: Path) -> None:
    with (copied / "evaluation" / "per_query.jsonl").open("a", encoding="utf-8") as out:
        out.write("{}\n")
    with pytest.raises(DamagedArtifact, match=r"per_query\.jsonl: changed since it was written"):
        compare_runs([folder / "first", copied], NAMES)
