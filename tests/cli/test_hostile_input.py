"""Whatever is handed over: exit code 2, one message that says where, what and what to do, and never a traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from commandline import Done, call

from toy import sentence_pairs, write_beir, write_pairs

Build = Callable[[Path], None]


def refused(done: Done, *words: str) -> None:
    assert done.code == 2, done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    assert "unexpected" not in done.err
    said = [line for line in done.err.splitlines() if line.lower().startswith("error: ")]
    assert len(said) == 1
    for word in words:
        assert word in done.err, done.err


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


# Sources


def nothing(_: Path) -> None:
    return


def empty_folder(folder: Path) -> None:
    (folder / "source").mkdir()


def binary_text(folder: Path) -> None:
    (folder / "source").mkdir()
    (folder / "source" / "report.txt").write_bytes(bytes(range(256)) * 40)


def huge_text(folder: Path) -> None:
    (folder / "source").mkdir()
    (folder / "source" / "one-line.txt").write_bytes(b"word " * 10_000_000)


def only_other_formats(folder: Path) -> None:
    (folder / "source").mkdir()
    (folder / "source" / "film.mp4").write_bytes(b"\x00\x01" * 99)


def pairs_in_latin_1(folder: Path) -> None:
    rows = "".join(
        json.dumps({"query": q, "positive": f"{a} für"}, ensure_ascii=False) + "\n" for q, a in sentence_pairs()
    )
    (folder / "source.jsonl").write_bytes(rows.encode("latin-1"))


def pairs_in_one_huge_line(folder: Path) -> None:
    (folder / "source.jsonl").write_bytes(b'{"query": "what", "positive": "' + b"a" * 50_000_000 + b'"}\n')


def pairs_cut_off(folder: Path) -> None:
    (folder / "source.jsonl").write_text(
        lines({"query": "what", "positive": "that"}) + '{"query": "wh', encoding="utf-8"
    )


def rows_that_are_lists(folder: Path) -> None:
    (folder / "source.jsonl").write_text('["what", "that"]\n', encoding="utf-8")


def deeply_nested(folder: Path) -> None:
    (folder / "source.jsonl").write_text("[" * 100_000 + "\n", encoding="utf-8")


def empty_pairs(folder: Path) -> None:
    (folder / "source.jsonl").write_text("\n\n", encoding="utf-8")


def unknown_columns(folder: Path) -> None:
    (folder / "source.jsonl").write_text(lines({"frage": "what", "absatz": "that"}), encoding="utf-8")


def unusable_rows(folder: Path) -> None:
    (folder / "source.jsonl").write_text(lines({"query": "", "positive": "that"}), encoding="utf-8")


def one_pair(folder: Path) -> None:
    (folder / "source.jsonl").write_text(lines({"query": "what", "positive": "that one"}), encoding="utf-8")


def scores_that_are_no_numbers(folder: Path) -> None:
    row = '{"sentence1": "one", "sentence2": "two", "score": NaN}\n'
    (folder / "source.jsonl").write_text(row * 30, encoding="utf-8")


def ragged_table(folder: Path) -> None:
    (folder / "source.csv").write_text("query,positive\nwhat,that, and more\n", encoding="utf-8")


def broken_parquet(folder: Path) -> None:
    (folder / "source.parquet").write_bytes(b"PAR1 not really")


def other_file(folder: Path) -> None:
    (folder / "source.odt").write_bytes(b"%PDF-1.7")


def beir_with_an_id_twice(folder: Path) -> None:
    write_beir(folder / "source")
    with (folder / "source" / "corpus.jsonl").open("a", encoding="utf-8") as corpus:
        corpus.write(lines({"_id": "p5", "text": "again"}))


def beir_with_a_query_twice(folder: Path) -> None:
    write_beir(folder / "source")
    with (folder / "source" / "queries.jsonl").open("a", encoding="utf-8") as queries:
        queries.write(lines({"_id": "q5", "text": "again"}))


def beir_with_dangling_judgements(folder: Path) -> None:
    write_beir(folder / "source")
    with (folder / "source" / "qrels" / "test.tsv").open("a", encoding="utf-8") as judgements:
        judgements.write("q1\tno-such-passage\t1\n")


def beir_without_judgements(folder: Path) -> None:
    write_beir(folder / "source")
    shutil.rmtree(folder / "source" / "qrels")


def beir_with_words_for_grades(folder: Path) -> None:
    write_beir(folder / "source")
    (folder / "source" / "qrels" / "test.tsv").write_text("q1\tp1\tgood\n", encoding="utf-8")


def beir_without_texts(folder: Path) -> None:
    write_beir(folder / "source")
    (folder / "source" / "corpus.jsonl").write_text(lines({"_id": "p1", "body": "that"}), encoding="utf-8")


@pytest.mark.parametrize(
    ("build", "source", "words"),
    [
        (nothing, "nowhere", ["nowhere: no such file or folder", "a BEIR folder, or a labelled file"]),
        (empty_folder, "source", ["source: holds no documents", ".md"]),
        (binary_text, "source", ["none of its 1 files could be read", "report.txt: binary data"]),
        (huge_text, "source", ["one-line.txt: 50.0 MB", "ingest.max_file_mb is 10"]),
        (only_other_formats, "source", ["film.mp4: no reader for .mp4"]),
        (other_file, "source.odt", ["source.odt: not a source", ".jsonl"]),
        (pairs_in_latin_1, "source.jsonl", ["source.jsonl, line 1: not UTF-8 (byte", "0xfc", "save the file as UTF-8"]),
        (pairs_in_one_huge_line, "source.jsonl", ["line 1: 50,000,034 bytes", "at most 2,000,000"]),
        (pairs_cut_off, "source.jsonl", ["source.jsonl, line 2: not JSON", "each line is one JSON object"]),
        (rows_that_are_lists, "source.jsonl", ["source.jsonl, line 1: a list, not a JSON object"]),
        (deeply_nested, "source.jsonl", ["source.jsonl, line 1: not JSON"]),
        (empty_pairs, "source.jsonl", ["source.jsonl: holds no rows"]),
        (unknown_columns, "source.jsonl", ["columns frage, absatz", "--set input.columns.query="]),
        (unusable_rows, "source.jsonl", ["none of its 1 rows can be used", "the query is empty"]),
        (one_pair, "source.jsonl", ["at least one in each split is needed"]),
        (scores_that_are_no_numbers, "source.jsonl", ["none of its 30 rows can be used", "score nan is not a finite"]),
        (ragged_table, "source.csv", ["source.csv, line 2: more cells than the header has columns"]),
        (broken_parquet, "source.parquet", ["source.parquet: not readable as parquet"]),
        (beir_with_an_id_twice, "source", ["corpus.jsonl, line 133: _id 'p5' was already used in line 6"]),
        (beir_with_a_query_twice, "source", ["queries.jsonl, line 133: _id 'q5' was already used in line 6"]),
        (
            beir_with_dangling_judgements,
            "source",
            ["corpus.jsonl has no 'no-such-passage'", "--set input.dangling=drop"],
        ),
        (beir_without_judgements, "source", ["source: a BEIR folder without qrels/train.tsv"]),
        (beir_with_words_for_grades, "source", ["test.tsv, line 1: expected query-id, corpus-id", "good"]),
        (beir_without_texts, "source", ["corpus.jsonl, line 1: a passage needs _id and text; this has _id, body"]),
    ],
)
def test_a_source_that_cannot_be_used(
    tmp_path: Path, tiny_bert: Path, build: Build, source: str, words: list[str]
) -> None:
    build(tmp_path)
    done = call("run", source, "--out", "run", "--base-model", tiny_bert, "--until", "dataset", cwd=tmp_path)
    refused(done, *words)


def test_dangling_judgements_may_be_left_out(tmp_path: Path, tiny_bert: Path) -> None:
    beir_with_dangling_judgements(tmp_path)
    (tmp_path / "source" / "qrels" / "train.tsv").write_text(
        "".join(f"q{i}\tp{i}\t1\n" for i in range(40, 132)), encoding="utf-8"
    )
    options = ["--out", "run", "--base-model", tiny_bert, "--set", "input.dangling=drop", "--json"]
    done = call("dataset", "source", *options, cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.record["rejected"]["dangling"] == 1


def test_what_is_skipped_in_a_folder_is_listed_and_the_rest_is_read(tmp_path: Path, tiny_bert: Path) -> None:
    huge_text(tmp_path)
    (tmp_path / "source" / "guide.md").write_text("# Travel policy\n\nThe hotel is on you.\n", encoding="utf-8")
    done = call("ingest", "source", "--out", "run", "--base-model", tiny_bert, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.record["passages"] == 1
    assert done.record["skipped"] == ["one-line.txt: 50.0 MB; ingest.max_file_mb is 10"]


def test_after_a_mistake_is_mended_the_same_command_works(tmp_path: Path, tiny_bert: Path) -> None:
    unknown_columns(tmp_path)
    command = ["dataset", "source.jsonl", "--out", "run", "--base-model", tiny_bert]
    refused(call(*command, cwd=tmp_path))
    write_pairs(tmp_path / "source.jsonl")
    assert call(*command, cwd=tmp_path).code == 0


# Options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--set", "train.epoch=3"], ["there is no setting train.epoch", "did you mean train.epochs?"]),
        (["--set", "train.epochs"], ["--set train.epochs: write it as section.key=value"]),
        (["--set", "train.epochs=many"], ["train.epochs", "'many'"]),
        (["--set", "train.batch_size=0"], ["train.batch_size is 0"]),
        (["--set", "train.epochs={"], ["is not a YAML value"]),
        (["--set", "input.columns.nonsense=x"], ["input.columns: nonsense is not one of ours"]),
        (["--set", "input.columns.query=nonsense"], ["has no column 'nonsense'", "it has query, positive"]),
        (["--until", "lunch"], ["--until lunch: there is no such stage; the stages are ingest, queries"]),
        (["--from", "lunch"], ["--from lunch: there is no such stage"]),
        (["--out", "pairs.jsonl"], ["pairs.jsonl: is a file; --out wants a folder"]),
        (["--out", "foreign"], ["foreign: is not empty and not a run folder; choose a new folder"]),
        (["--gate", "open"], ["--gate", "'open' is not one of advise, strict"]),
        (["--fail-on", "rain"], ["--fail-on", "'rain' is not one of ship, do-not-ship, inconclusive"]),
        (["--fail-on", "ship", "--until", "evaluate"], ["--fail-on", "there is no verdict with --until evaluate"]),
        (["--config", "none.yaml"], ["none.yaml: no such settings file; `shoptalk init` writes one"]),
        (["--config", "pairs.jsonl"], ["pairs.jsonl"]),
        (["--queries", "none.jsonl"], ["none.jsonl: no such file"]),
        (["--test-queries", "none.jsonl"], ["none.jsonl: no such file"]),
        (["--controls", "none.txt"], ["none.txt: no such file"]),
        (["--nonsense"], ["No such option: --nonsense"]),
        (["--base-model", "all-MiniLM-L6-v3"], ["all-MiniLM-L6-v3: no such folder", "builtin:all-MiniLM-L6-v2"]),
        (["--base-model", "./models/mine"], ["./models/mine: no such folder, and not a Hub id (owner/name)"]),
        (["--base-model", "builtin:e5"], ["builtin:e5: there is one builtin model, builtin:all-MiniLM-L6-v2"]),
        (["--base-model", "pairs.jsonl"], ["pairs.jsonl: a file; a model is a folder"]),
        (["--base-model", "foreign"], ["foreign: holds no config.json or modules.json; not a model folder"]),
        (["--set", "model.device=cuda:7"], ["model.device"]),
    ],
)
def test_an_option_that_cannot_be_meant(tmp_path: Path, tiny_bert: Path, options: list[str], words: list[str]) -> None:
    if "model.device=cuda:7" in options and has_cuda():
        pytest.skip("this machine may have it")
    write_pairs(tmp_path / "pairs.jsonl")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "letter.txt").write_text("mine", encoding="utf-8")
    base = [] if "--base-model" in options else ["--base-model", tiny_bert]
    done = call("run", "pairs.jsonl", "--out", "run", *base, *options, cwd=tmp_path)
    refused(done, *words)
    assert (tmp_path / "foreign" / "letter.txt").read_text(encoding="utf-8") == "mine"
    assert not (tmp_path / "run" / "candidates").exists()


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def test_a_hub_id_without_a_network_names_what_needs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_pairs(tmp_path / "pairs.jsonl")
    done = call("run", "pairs.jsonl", "--base-model", "nobody/no-such-model", cwd=tmp_path)
    refused(done, "nobody/no-such-model", "HF_HUB_OFFLINE is set", "builtin:all-MiniLM-L6-v2")


def test_a_run_of_another_source_is_not_built_over(tmp_path: Path, tiny_bert: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    write_pairs(tmp_path / "others.jsonl", sentence_pairs()[:60])
    options = ["--out", "run", "--base-model", tiny_bert, "--until", "dataset", "--json"]
    first = call("run", "pairs.jsonl", *options, cwd=tmp_path)
    refused(call("run", "others.jsonl", *options, cwd=tmp_path), "run: holds a run of ", "--yes")
    assert call("run", "pairs.jsonl", *options, cwd=tmp_path).record == first.record
    assert call("run", "others.jsonl", *options, "--yes", cwd=tmp_path).record["passages"] == 60


def test_nothing_to_run_is_said_so(tmp_path: Path) -> None:
    refused(call("run", "--out", "run", cwd=tmp_path), "no source: name a folder or file")


def test_a_settings_file_with_a_mistake_is_named(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    (tmp_path / "shoptalk.yaml").write_text("train:\n  epoch: 3\n", encoding="utf-8")
    done = call("run", "pairs.jsonl", cwd=tmp_path)
    refused(done, "shoptalk.yaml: there is no setting train.epoch", "did you mean train.epochs?")


# Models that are not safe to load


def pickle_only(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def custom_code(model: Path) -> None:
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {"AutoModel": "modeling.Mine"}
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (model / "modeling.py").write_text("raise SystemExit('this must not run')\n", encoding="utf-8")


def custom_module(model: Path) -> None:
    modules = json.loads((model / "modules.json").read_text(encoding="utf-8"))
    modules[0]["type"] = "modeling.Mine"
    (model / "modules.json").write_text(json.dumps(modules), encoding="utf-8")


def damaged_weights(model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"\x00" * 100)


def damaged_config(model: Path) -> None:
    (model / "config.json").write_text('{"model_type": ', encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (pickle_only, ["weights only as pickle (pytorch_model.bin)", "can run code", "safe_serialization=True"]),
        (custom_code, ["asks for custom code (auto_map)", "never runs a model's own code"]),
        (custom_module, ["module 'modeling.Mine' is custom code"]),
        (damaged_weights, ["cannot be loaded"]),
        (damaged_config, ["config.json: not readable as JSON"]),
    ],
)
def test_a_model_that_cannot_be_trusted_is_refused(
    tmp_path: Path, tiny_bert: Path, spoil: Build, words: list[str]
) -> None:
    shutil.copytree(tiny_bert, tmp_path / "spoiled")
    spoil(tmp_path / "spoiled")
    write_pairs(tmp_path / "pairs.jsonl")
    refused(call("baseline", "pairs.jsonl", "--base-model", "spoiled", cwd=tmp_path), "spoiled", *words)
    write_beir(tmp_path / "beir")
    refused(call("compare", "bm25", "spoiled", "--data", "beir", cwd=tmp_path), "spoiled", *words)


# The traceback


def test_the_traceback_is_shown_when_it_is_asked_for(tmp_path: Path) -> None:
    plain = call("run", "nowhere", cwd=tmp_path)
    shown = call("--debug", "run", "nowhere", cwd=tmp_path)
    behind = call("run", "nowhere", "--debug", cwd=tmp_path)
    assert plain.code == shown.code == behind.code == 2
    assert "Traceback" not in plain.err
    assert "Traceback" in shown.err
    assert "Traceback" in behind.err
    assert "SourceError" in shown.err
    assert plain.err in shown.err


def test_what_nobody_expected_is_one_line_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from shoptalk.cli import doctor

    monkeypatch.setattr(doctor, "gather", lambda: 1 / 0)
    done = call("doctor", cwd=tmp_path)
    assert done.code == 1
    assert done.err == (
        "error: ZeroDivisionError: division by zero (unexpected; the same command with --debug shows where)\n"
    )
    assert "Traceback" in call("doctor", "--debug", cwd=tmp_path).err
