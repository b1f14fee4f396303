from __future__ import annotations

import os
from pathlib import Path

import pytest

from shoptalk.beir import read_jsonl, read_passages, write_passages
from shoptalk.corpus import ingest
from shoptalk.corpus.chunking import Chunker
from shoptalk.corpus.ingest import passages_of_labels, read_documents, text_id
from shoptalk.errors import SourceError
from shoptalk.records import Passage
from shoptalk.settings import IngestSettings

TEXT = "The manager approves every travel request within five days of its arrival at the office, without exception."


@pytest.fixture
def docs(tmp_path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "good.md").write_text(f"# Good\n\n{TEXT}\n")
    return folder


def read(folder: Path, **values: float) -> tuple[list[Passage], dict[str, str]]:
    passages, skipped = read_documents(folder, Chunker(None, 200), IngestSettings(**values))
    assert len({entry.item for entry in skipped}) == len(skipped)
    return passages, {entry.item: entry.reason for entry in skipped}


def test_documents_of_all_formats_below_a_folder_come_in_path_order(docs):
    (docs / "b/deep").mkdir(parents=True)
    (docs / "b/deep/page.HTML").write_text(f"<html><body><main><p>{TEXT}</p><p>{TEXT}</p></main></body></html>")
    (docs / "a").mkdir()
    (docs / "a/z.txt").write_text(TEXT)
    (docs / "a/a.markdown").write_text(TEXT)
    passages, skipped = read(docs)
    assert [p.passage_id for p in passages] == ["good.md#1", "a/a.markdown#1", "a/z.txt#1", "b/deep/page.HTML#1"]
    assert skipped == {}


def test_every_file_is_accounted_for(docs):
    (docs / "slides.pptx").write_bytes(b"PK")
    (docs / "Makefile").write_text("all:")
    (docs / "empty.md").write_text("")
    (docs / "blank.txt").write_text(" \n\t\n")
    (docs / "headings.md").write_text("# Only\n\n## Headings\n")
    (docs / "binary.txt").write_bytes(b"\x00\x01\x02" * 100)
    (docs / "large.txt").write_text(TEXT * 100)
    (docs / "moved.html").write_text('<html><head><meta http-equiv="refresh" content="0;url=/"></head></html>')
    passages, skipped = read(docs, max_file_mb=0.005)

    assert [p.source for p in passages] == ["good.md"]
    assert skipped == {
        "slides.pptx": "no reader for .pptx",
        "Makefile": "no reader for files without a suffix",
        "empty.md": "no text",
        "blank.txt": "no text",
        "headings.md": "no text",
        "binary.txt": "binary data, not text",
        "large.txt": "0.0 MB; ingest.max_file_mb is 0.005",
        "moved.html": "no text in the page (a redirect, or built by scripts)",
    }


def test_a_file_that_is_not_utf8_is_read(docs):
    (docs / "old.txt").write_bytes(
        ("Die Prüfung der Anträge für Bürgerinnen und Bürger dauert fünf Tage. " * 3).encode("latin-1")
    )
    passages, _ = read(docs)
    assert "Prüfung der Anträge" in passages[1].text


def test_hidden_files_and_folders_are_not_documents(docs):
    (docs / ".git").mkdir()
    (docs / ".git/config.txt").write_text(TEXT)
    (docs / ".notes.md").write_text(TEXT)
    passages, skipped = read(docs)
    assert [p.source for p in passages] == ["good.md"]
    assert skipped == {}


def test_links_are_followed_within_the_folder_only_and_the_others_are_listed(docs, tmp_path):
    (tmp_path / "secret.md").write_text("secret " * 30)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/secret.md").write_text("secret " * 30)
    (docs / "leaves.md").symlink_to(tmp_path / "secret.md")
    (docs / "leaves-far.md").symlink_to("../docs/../secret.md")
    (docs / "folder").symlink_to(tmp_path / "elsewhere")
    (docs / "loop").symlink_to(docs)
    (docs / "gone.md").symlink_to("nowhere.md")
    (docs / "inside.md").symlink_to("good.md")
    passages, skipped = read(docs)

    assert [p.source for p in passages] == ["good.md", "inside.md"]
    assert not any("secret" in p.text for p in passages)
    assert skipped == {
        "leaves.md": "a link that leaves the folder",
        "leaves-far.md": "a link that leaves the folder",
        "folder": "a link that leaves the folder",
        "loop": "a link to a folder; not followed",
        "gone.md": "a link to nothing",
    }


def test_a_pipe_is_listed_and_does_not_block(docs):
    os.mkfifo(docs / "pipe.md")
    _, skipped = read(docs)
    assert skipped == {"pipe.md": "not a plain file"}


def test_a_name_that_no_data_set_can_hold_is_listed(docs):
    (docs / "tab\there.md").write_text(TEXT)
    (docs / "line\nbreak.md").write_text(TEXT)
    os.makedirs(os.path.join(os.fsencode(docs), b"caf\xe9"))  # noqa: PTH103, PTH118
    Path(os.fsdecode(os.path.join(os.fsencode(docs), b"caf\xe9", b"menu.md"))).write_text(TEXT)  # noqa: PTH118
    passages, skipped = read(docs)
    assert [p.source for p in passages] == ["good.md"]
    assert skipped.keys() == {"tab?here.md", "line?break.md", "caf?/menu.md"}
    assert set(skipped.values()) == {"its name holds a tab, a line break or bytes that are not UTF-8; rename it"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_listed(docs):
    (docs / "locked.md").write_text(TEXT)
    (docs / "locked.md").chmod(0)
    assert read(docs)[1] == {"locked.md": "cannot be read: Permission denied"}


def test_the_stage_writes_passages_and_what_was_skipped(docs, make_stage):
    (docs / "slides.pptx").write_bytes(b"PK")
    stage = make_stage({"input": {"source": str(docs)}})
    ingest(stage)
    (passage,) = read_passages(stage.out / "corpus.jsonl")
    assert (passage.passage_id, passage.title, passage.text) == ("good.md#1", "Good", TEXT)
    assert list(read_jsonl(stage.out / "skipped.jsonl")) == [
        (1, {"item": "slides.pptx", "check": "unreadable", "reason": "no reader for .pptx"})
    ]


def test_the_stage_counts_in_the_base_models_tokens(docs, make_stage):
    (docs / "good.md").write_text(TEXT * 10)
    stage = make_stage({"input": {"source": str(docs)}, "ingest": {"passage_tokens": 64}})
    ingest(stage)
    lengths = [len(p.content.split()) for p in read_passages(stage.out / "corpus.jsonl")]
    assert 30 < max(lengths) <= 64


def test_a_beir_folder_is_taken_with_its_own_passages(tmp_path, make_stage):
    passages = [Passage("p1", "one text", "T"), Passage("p2", "two")]
    write_passages(tmp_path / "beir/corpus.jsonl", passages)
    (tmp_path / "beir/queries.jsonl").write_text("")
    stage = make_stage({"input": {"source": str(tmp_path / "beir")}})
    ingest(stage)
    assert read_passages(stage.out / "corpus.jsonl") == passages


def test_the_passages_of_a_labelled_file_are_its_distinct_texts(write_rows):
    path = write_rows(
        "labels.jsonl",
        [
            {"query": "a", "positive": "yes", "negatives": ["no", "never"]},
            {"query": "b", "positive": "yes", "negatives": ["yes  and no"]},
        ],
    )
    passages = passages_of_labels(path, {})
    assert [p.text for p in passages] == ["yes", "no", "never", "yes  and no"]
    assert [p.passage_id for p in passages] == [text_id(p.text) for p in passages]
    assert text_id("yes and no") == text_id("yes  and\nno") != text_id("yes and not")


def test_the_stage_takes_a_labelled_file(write_rows, make_stage):
    stage = make_stage({"input": {"source": str(write_rows("labels.jsonl", [{"query": "a", "positive": "yes"}]))}})
    ingest(stage)
    assert [p.text for p in read_passages(stage.out / "corpus.jsonl")] == ["yes"]


def test_scored_pairs_need_no_passages(write_rows, make_stage):
    path = write_rows("scored.jsonl", [{"sentence1": "a", "sentence2": "b", "score": 1}])
    stage = make_stage({"input": {"source": str(path)}})
    ingest(stage)
    assert read_passages(stage.out / "corpus.jsonl") == []


def test_labels_without_texts_need_documents(write_rows, make_stage):
    path = write_rows("labels.jsonl", [{"query": "a", "passage_id": "p1"}])
    with pytest.raises(SourceError, match=r"labels\.jsonl: holds no passages; its labels name them by id or document"):
        ingest(make_stage({"input": {"source": str(path)}}))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file or folder; a source is a folder of .* documents, a BEIR folder, or a labelled"),
        (lambda path: path.write_bytes(b"%PDF"), r"not a source; that is a folder of"),
        (lambda path: path.mkdir(), r"holds no documents; shoptalk reads .*\.md, \.txt"),
    ],
)  # fmt: skip
def test_a_source_that_is_none_says_what_would_be(tmp_path, make_stage, make, message):
    path = tmp_path / "source.pdf"
    make(path)
    with pytest.raises(SourceError, match=message):
        ingest(make_stage({"input": {"source": str(path)}}))


def test_a_folder_without_a_readable_document_lists_the_first_reasons(tmp_path, make_stage):
    (tmp_path / "docs").mkdir()
    for number in range(7):
        (tmp_path / f"docs/{number}.pptx").write_bytes(b"PK")
    with pytest.raises(
        SourceError, match=r"none of its 7 files could be read: 0\.pptx: no reader for \.pptx; .*; and 2 more"
    ):
        ingest(make_stage({"input": {"source": str(tmp_path / "docs")}}))
