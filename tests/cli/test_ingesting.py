"""`shoptalk ingest`: what is said of the files, and passages shown as a person wants to see them."""

from __future__ import annotations

from pathlib import Path

import pytest
from commandline import call

TEXT = "The manager approves every travel request within five days of its arrival at the office, without exception."


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for name in "abcdef":
        (folder / f"{name}.md").write_text(
            f"# Page {name}\n\n## Booking\n\n{TEXT} [bold] is no mark-up, and this is {name}.\n"
        )
    (folder / "notes.odt").write_bytes(b"PK")
    (folder / ".hidden.md").write_text(TEXT)
    return folder


def test_every_file_is_counted(docs, tmp_path, tiny_bert):
    done = call("ingest", "docs", "--out", "run", "--base-model", tiny_bert, "--json", cwd=tmp_path)
    assert done.code == 0
    assert done.record["passages"] == 6
    assert done.record["files"] == {"read": 6, "skipped": 1, "hidden": 1}
    assert done.record["formats"] == {".md": 6}
    assert done.record["languages"] == {"en": 6}
    assert done.record["skipped"] == ["notes.odt: no reader for .odt"]


def test_passages_are_shown_with_where_they_come_from(docs, tmp_path, tiny_bert):
    done = call("ingest", "docs", "--out", "run", "--base-model", tiny_bert, "--show", 3, cwd=tmp_path)
    assert done.code == 0
    assert done.out.count("· en ·") == 3
    assert done.out.count("> Booking\n") == 3
    assert done.out.count("[bold] is no mark-up") == 3
    assert "tokens\n" in done.out
    first, second, third = (line.split(".md")[0] for line in done.out.splitlines() if "tokens" in line)
    assert first in "ab"
    assert second in "cd"
    assert third in "ef"


def test_a_finished_run_is_shown_without_its_source(docs, tmp_path, tiny_bert):
    call("ingest", "docs", "--out", "run", "--base-model", tiny_bert, cwd=tmp_path)
    docs.rename(tmp_path / "gone")
    shown = [
        call("ingest", "--out", "run", "--show", 2, "--seed", seed, "--json", cwd=tmp_path).record["shown"]
        for seed in (1, 1, 2, 3, 4)
    ]
    assert shown[0] == shown[1]
    assert len({row[0]["id"] for row in shown}) > 1
    row = shown[0][0]
    assert row["title"] == f"Page {row['source'][0]} > Booking"
    assert row["language"] == "en"
    assert row["tokens"] > 10
    assert row["text"].startswith(TEXT)


def test_more_than_there_are_shows_all(docs, tmp_path, tiny_bert):
    done = call("ingest", "docs", "--out", "run", "--base-model", tiny_bert, "--show", 99, "--json", cwd=tmp_path)
    assert [row["source"] for row in done.record["shown"]] == [f"{name}.md" for name in "abcdef"]


def test_a_folder_without_a_run_says_so(tmp_path):
    done = call("ingest", "--out", "none", "--show", 2, cwd=tmp_path)
    assert done.code == 2
    assert "no source" in done.err
