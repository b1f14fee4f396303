from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commandline import Done, call, quickly, stages_of

from shoptalk.pipeline import NAMES, run
from shoptalk.settings import read_settings
from toy import sentence_pairs, write_pairs, write_scored

COMMANDS = [name for name in NAMES if name != "select"]


def files_below(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> tuple[Path, Done]:
    """A folder with pairs.jsonl and a finished run of it in `run`, and what the command did."""
    folder = tmp_path_factory.mktemp("finished")
    write_pairs(folder / "pairs.jsonl")
    return folder, call("run", "pairs.jsonl", "--out", "run", *quickly(tiny_bert), "--json", cwd=folder)


@pytest.fixture
def again(finished: tuple[Path, Done], tiny_bert: Path) -> list[object]:
    """The same command as `finished`, without --json."""
    return ["run", "pairs.jsonl", "--out", "run", *quickly(tiny_bert)]


# A whole run


def test_a_whole_run_ends_with_its_result_on_the_last_line_of_stdout(finished: tuple[Path, Done]) -> None:
    folder, done = finished
    assert done.code == 0, done.err
    assert done.out.count("\n") == 1
    assert done.record == json.loads((folder / "run" / "result.json").read_text(encoding="utf-8"))
    assert done.record["tuned"]["ndcg@10"] > done.record["base"]["ndcg@10"] + 0.3
    assert {"verdict", "reasons", "gate", "base", "tuned", "delta", "dataset", "findings", "seconds", "model"} <= (
        done.record.keys()
    )


def test_everything_else_goes_to_stderr_a_line_a_stage(finished: tuple[Path, Done]) -> None:
    _, done = finished
    for name in NAMES:
        assert f"{name:<10} done in" in done.err
    assert "Traceback" not in done.err


def test_a_run_folder_holds_what_the_design_says(finished: tuple[Path, Done]) -> None:
    folder, done = finished
    run = folder / "run"
    assert stages_of(run) == list(NAMES)
    for name in ("shoptalk.yaml", "report.html", "result.json", "dataset/qrels/test.tsv", "evaluation/tuned.trec"):
        assert (run / name).is_file()
    assert (run / done.record["model"] / "model.safetensors").is_file()
    assert read_settings(run / "shoptalk.yaml").train.learning_rate == 5e-3


def test_the_same_command_again_does_nothing_again(finished: tuple[Path, Done], again: list[object]) -> None:
    folder, first = finished
    before = files_below(folder / "run" / "candidates")
    done = call(*again, "--json", cwd=folder)
    assert (done.code, done.record) == (0, first.record)
    assert all(f"{name:<10} unchanged" in done.err for name in NAMES)
    assert files_below(folder / "run" / "candidates") == before


def test_people_are_shown_the_table_and_last_the_verdict(finished: tuple[Path, Done], again: list[object]) -> None:
    folder, first = finished
    done = call(*again, cwd=folder)
    assert f"nDCG@10     {first.record['base']['ndcg@10']:.3f}  {first.record['tuned']['ndcg@10']:.3f}" in done.out
    said = done.out.rstrip().splitlines()
    verdict = said.index("verdict: inconclusive")
    assert [line.removeprefix("  - ") for line in said[verdict + 1 :] if line.startswith("  - ")] == first.record[
        "reasons"
    ]
    assert said[-2:] == ["model   run/model", "report  run/report.html"]


@pytest.mark.parametrize(("word", "code"), [("inconclusive", 3), ("ship", 0), ("do-not-ship", 0)])
def test_fail_on_gives_3_on_the_verdict_it_names(
    finished: tuple[Path, Done], again: list[object], word: str, code: int
) -> None:
    folder, first = finished
    assert first.record["verdict"] == "inconclusive"
    done = call(*again, "--fail-on", word, "--json", cwd=folder)
    assert (done.code, done.record) == (code, first.record)


def test_a_verdict_that_is_not_reached_is_not_taken_from_an_older_run(
    finished: tuple[Path, Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished[0])
    stopped = run(out="run", until="ingest")
    assert (stopped.result, stopped.verdict) == (None, None)


def test_without_a_source_the_run_in_out_goes_on(finished: tuple[Path, Done]) -> None:
    folder, first = finished
    done = call("run", "--out", "run", "--json", cwd=folder)
    assert (done.code, done.record) == (0, first.record)


def test_from_runs_a_stage_and_all_after_it_again(
    finished: tuple[Path, Done], again: list[object], tmp_path: Path
) -> None:
    folder, first = finished
    shutil.copytree(folder, tmp_path / "copy")
    done = call(*again, "--from", "diagnose", "--json", cwd=tmp_path / "copy")
    assert [name for name in NAMES if f"{name:<10} done in" in done.err] == ["diagnose", "report"]
    assert done.record["delta"] == first.record["delta"]


def test_a_setting_that_changes_runs_what_depends_on_it(
    finished: tuple[Path, Done], again: list[object], tmp_path: Path
) -> None:
    shutil.copytree(finished[0], tmp_path / "copy")
    done = call(*again, "--set", "report.title=Ours", "--json", cwd=tmp_path / "copy")
    assert [name for name in NAMES if f"{name:<10} done in" in done.err] == ["report"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_stages_command_shows_the_stage_as_json_and_to_people(
    finished: tuple[Path, Done], tiny_bert: Path, name: str
) -> None:
    folder, _ = finished
    command = [name, "pairs.jsonl", "--out", "run", *quickly(tiny_bert)]
    as_json, for_people = call(*command, "--json", cwd=folder), call(*command, cwd=folder)
    assert as_json.code == for_people.code == 0
    assert as_json.out.count("\n") == 1
    assert as_json.record
    assert for_people.out.strip()
    assert not for_people.out.startswith("{")


# Stopping on the way


def test_every_stages_command_stops_at_its_stage(tmp_path: Path, tiny_bert: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    for name in COMMANDS:
        done = call(name, "pairs.jsonl", "--out", "run", *quickly(tiny_bert, "train.epochs=1"), "--json", cwd=tmp_path)
        assert done.code == 0, done.err
        assert stages_of(tmp_path / "run") == list(NAMES[: NAMES.index(name) + 1])


def test_until_stops_a_run_too(tmp_path: Path, tiny_bert: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    done = call("run", "pairs.jsonl", *quickly(tiny_bert), "--until", "queries", "--json", cwd=tmp_path)
    assert done.record["queries"] == {"labelled": 132}
    assert stages_of(tmp_path / "runs" / "pairs") == ["ingest", "queries"]


def test_a_strict_gate_that_says_no_stops_with_1_and_trains_nothing(tmp_path: Path, tiny_bert: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    command = ["run", "pairs.jsonl", "--out", "run", *quickly(tiny_bert)]
    done = call(*command, "--gate", "strict", cwd=tmp_path)
    assert (done.code, done.out) == (1, "")
    assert "the gate says collect-more-data" in done.err
    assert "nothing was trained" in done.err
    assert "Traceback" not in done.err
    assert stages_of(tmp_path / "run") == ["ingest", "queries", "dataset", "baseline"]


def test_a_strict_gate_that_says_yes_lets_the_run_go_on(tmp_path: Path, tiny_bert: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    options = quickly(tiny_bert, "baseline.too_few_pairs=10")
    done = call(
        "run", "pairs.jsonl", "--out", "run", *options, "--gate", "strict", "--until", "negatives", cwd=tmp_path
    )
    assert done.code == 0, done.err
    assert stages_of(tmp_path / "run")[-1] == "negatives"


# Planning


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path, tiny_bert: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    before = files_below(tmp_path)
    done = call("run", "pairs.jsonl", "--out", "run", *quickly(tiny_bert), "--dry-run", cwd=tmp_path)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert [line.split()[0] for line in lines[1 : len(NAMES) + 1]] == list(NAMES)
    assert lines[len(NAMES) + 1].startswith("in all")
    said = " ".join(lines[len(NAMES) + 2 :])
    assert re.search(
        r"\d+ steps of \d+ pairs in \d+ epochs, about \d+ negatives a query, \d\.\d GiB, \d\.\d minutes here", said
    )
    assert all(gpu in said for gpu in ("T4", "L4", "A100", "H100"))
    assert "under 100 pairs" in said
    assert files_below(tmp_path) == before
    assert not (tmp_path / "run").exists()


def test_a_plan_as_json_ends_at_the_stage_that_is_asked_for(tmp_path: Path, tiny_bert: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    options = ["--dry-run", "--until", "dataset", "--json"]
    plan = call("run", "pairs.jsonl", *quickly(tiny_bert), *options, cwd=tmp_path).record
    assert [stage["name"] for stage in plan["stages"]] == ["ingest", "queries", "dataset"]
    assert plan["minutes"] == pytest.approx(sum(stage["minutes"] for stage in plan["stages"]))
    assert plan["training"] is None


def test_a_plan_counts_mining_a_second_round_and_the_points_between(tmp_path: Path, tiny_bert: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    plain, mined = (
        call("run", "pairs.jsonl", *quickly(tiny_bert, *more), "--dry-run", "--json", cwd=tmp_path).record
        for more in ((), ("negatives.mine=2", "negatives.rounds=2", "select.weights=[1]"))
    )
    what = [{stage["name"]: stage["what"] for stage in plan["stages"]} for plan in (plain, mined)]
    assert "mined" not in what[0]["negatives"]
    assert "2 mined negatives each from" in what[1]["negatives"]
    assert what[1]["train"].startswith("twice ")
    assert (what[0]["select"][:8], what[1]["select"][:8]) == ("4 models", "1 models")


def test_a_plan_says_what_a_language_model_would_cost_and_asks_it_nothing(tmp_path: Path, tiny_bert: Path) -> None:
    documents = tmp_path / "documents"
    documents.mkdir()
    for i, (_, said) in enumerate(sentence_pairs()):
        text = f"# The {said}\n\n" + f"Whoever needs the {said} asks the office for it. " * 4
        (documents / f"{i}.md").write_text(text, encoding="utf-8")
    nobody = "http://127.0.0.1:9/v1"  # where no server listens
    options = quickly(
        tiny_bert, "llm.provider=openai", "llm.model=m", f"llm.base_url={nobody}", "llm.price_in=1", "llm.price_out=2"
    )
    command = ["run", "documents", *options, "--dry-run", "--json", "--until", "queries"]
    plan = call(*command, cwd=tmp_path).record
    assert re.match(r"openai m: .*likely ", plan["stages"][1]["what"])
    assert not (tmp_path / "runs").exists()


def test_train_has_a_plan_of_its_own(tmp_path: Path, tiny_bert: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    plan = call("train", "pairs.jsonl", *quickly(tiny_bert), "--dry-run", "--json", cwd=tmp_path).record
    assert plan["stages"][-1]["name"] == "train"
    training = plan["training"]
    assert training["steps"] % training["epochs"] == 0
    assert training["negatives_a_query"] == round(training["pairs"] / (training["steps"] / training["epochs"]) - 1, 1)
    assert training["seconds"] > 0
    assert not (tmp_path / "runs").exists()


# Searching


def test_train_with_search_keeps_the_best_and_says_what_was_tried(tmp_path: Path, tiny_bert: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    options = quickly(tiny_bert, "train.epochs=2")
    done = call("train", "pairs.jsonl", "--out", "run", *options, "--search", 2, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    assert read_settings(tmp_path / "run" / "shoptalk.yaml").train.search == 2
    lines = (tmp_path / "run" / "candidates" / "search.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["number"] for row in rows] == [0, 1]
    assert rows[0]["values"]["learning_rate"] == 5e-3
    assert done.record["best_dev"] == max(row["dev"] for row in rows)
    assert done.record["search"].startswith("best of 2 trials, 2 of them complete, is ")
    assert "search: 2 trials, about" in done.err
    assert (tmp_path / "run" / "search.db").is_file()
    assert not (tmp_path / "run" / ".work").exists()

    again = call("train", "pairs.jsonl", "--out", "run", *options, "--search", 2, "--json", cwd=tmp_path)
    assert again.record == done.record
    assert "train      unchanged" in again.err


def test_run_takes_search_too_and_plans_it(tmp_path: Path, tiny_bert: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    command = ["run", "pairs.jsonl", "--out", "run", *quickly(tiny_bert), "--search", 7]
    assert call(*command, "--until", "ingest", cwd=tmp_path).code == 0
    assert read_settings(tmp_path / "run" / "shoptalk.yaml").train.search == 7
    plan = call(*command, "--dry-run", "--until", "train", "--json", cwd=tmp_path).record
    assert plan["stages"][-1]["what"].startswith("7 trials around 50 steps of ")


def test_fewer_trials_than_none_are_refused(tmp_path: Path) -> None:
    done = call("train", "pairs.jsonl", "--search", -1, cwd=tmp_path)
    assert done.code == 2
    assert "--search" in done.err


# Scored pairs


def test_a_whole_run_on_scored_pairs(tmp_path: Path, tiny_bert: Path) -> None:
    write_scored(tmp_path / "scored.jsonl")
    command = ["run", "scored.jsonl", "--out", "run", *quickly(tiny_bert)]
    done = call(*command, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.record["delta"].keys() == {"spearman"}
    assert done.record["delta"]["spearman"]["value"] > 0.2
    assert done.record["dataset"]["queries"]["test"] >= 50
    shown = call(*command, cwd=tmp_path)
    assert "Spearman" in shown.out
    assert f"verdict: {done.record['verdict']}" in shown.out


def test_a_plan_for_scored_pairs_ends_too(tmp_path: Path, tiny_bert: Path) -> None:
    write_scored(tmp_path / "scored.jsonl")
    done = call("run", "scored.jsonl", *quickly(tiny_bert), "--dry-run", "--json", cwd=tmp_path)
    assert [stage["name"] for stage in done.record["stages"]] == list(NAMES)


# Interrupted


def test_ctrl_c_says_that_it_goes_on_and_the_same_command_does(tmp_path: Path, tiny_bert: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", sentence_pairs())
    options = quickly(tiny_bert, "train.epochs=60", "train.evaluations=6", "train.patience=9")
    command = ["run", "pairs.jsonl", "--out", "run", *map(str, options), "--until", "select"]
    process = subprocess.Popen(
        [sys.executable, "-m", "shoptalk", *command],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        # A shell has its background jobs ignore Ctrl-C, and their children with them.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "run").glob(".work/*/checkpoint-*/sealed.json")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), err
    assert "stopped; what is finished is kept, and the same command goes on from there" in err
    assert "Traceback" not in err
    assert stages_of(tmp_path / "run") == list(NAMES[: NAMES.index("train")])

    done = call(*command, cwd=tmp_path)
    assert done.code == 0, done.err
    assert f"{'negatives':<10} unchanged" in done.err
    assert stages_of(tmp_path / "run")[-1] == "select"


def test_ctrl_c_during_a_command_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from shoptalk.cli import doctor

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "gather", interrupted)
    done = call("doctor", cwd=tmp_path)
    assert done.code == 130
    assert done.err.strip() == "stopped; what is finished is kept, and the same command goes on from there"
