from __future__ import annotations

import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest
from samples import pdf

from shoptalk.beir import read_jsonl, read_passages, write_passages
from shoptalk.corpus import ingest
from shoptalk.corpus.cache import ParseCache
from shoptalk.corpus.chunking import Chunker
from shoptalk.corpus.ingest import holds_documents, passages_of_labels, source_digest, text_id
from shoptalk.corpus.reading import Reading, read_documents
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


def reading(source: Path, *labels: str, **values: float) -> Reading:
    """What becomes of a source; every file that is no hidden one must be read or skipped."""
    beside = Path(tempfile.mkdtemp())
    limits = IngestSettings.model_validate(values)
    found = read_documents(source, Chunker(None, 200), limits, beside / "cache", beside / "scratch", labels)
    assert list((beside / "scratch").iterdir()) == []
    shutil.rmtree(beside)
    status = {row["file"]: row["status"] for row in found.files}
    assert len(status) == len(found.files)
    assert {name for name, what in status.items() if what == "skipped"} == {entry.item for entry in found.skipped}
    assert {name for name, what in status.items() if what == "read"} == {p.source for p in found.passages}
    return found


def read(source: Path, *labels: str, **values: float) -> tuple[list[Passage], dict[str, str]]:
    found = reading(source, *labels, **values)
    return found.passages, {entry.item: entry.reason for entry in found.skipped}


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
    (docs / "notes.odt").write_bytes(b"PK")
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
        "notes.odt": "no reader for .odt",
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
    (docs / "__MACOSX").mkdir()
    (docs / "__MACOSX/good.md").write_text(TEXT)
    (docs / ".git/objects").mkdir()
    (docs / ".git/objects/1").write_text(TEXT)
    found = reading(docs)
    assert [p.source for p in found.passages] == ["good.md"]
    assert found.skipped == []
    assert [(row["file"], row["files"]) for row in found.files if row["status"] == "hidden"] == [
        (".git", 2), (".notes.md", 1), ("__MACOSX", 1),
    ]  # fmt: skip


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
    (docs / "notes.odt").write_bytes(b"PK")
    stage = make_stage({"input": {"source": str(docs)}})
    ingest(stage)
    (passage,) = read_passages(stage.out / "corpus.jsonl")
    assert (passage.passage_id, passage.title, passage.text) == ("good.md#1", "Good", TEXT)
    assert list(read_jsonl(stage.out / "skipped.jsonl")) == [
        (1, {"item": "notes.odt", "check": "unreadable", "reason": "no reader for .odt"})
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
        (lambda path: None, "no such file or folder; a source is a folder of .* documents, a glob, .* a BEIR folder, or a labelled"),
        (lambda path: path.write_bytes(b"%PDF"), r"none of its 1 files could be read: source\.pdf: not a PDF"),
        (lambda path: path.mkdir(), r"holds no documents; shoptalk reads .*\.md, .*\.txt"),
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
        (tmp_path / f"docs/{number}.odt").write_bytes(b"PK")
    with pytest.raises(
        SourceError, match=r"none of its 7 files could be read: 0\.odt: no reader for \.odt; .*; and 2 more"
    ):
        ingest(make_stage({"input": {"source": str(tmp_path / "docs")}}))


def test_a_single_document_is_a_source(docs, make_stage):
    stage = make_stage({"input": {"source": str(docs / "good.md")}})
    ingest(stage)
    assert [p.source for p in read_passages(stage.out / "corpus.jsonl")] == ["good.md"]


def test_what_is_neither_a_document_nor_a_source_says_so(tmp_path, make_stage):
    (tmp_path / "source.odt").write_bytes(b"PK")
    assert not holds_documents(tmp_path / "source.odt")
    with pytest.raises(SourceError, match=r"source\.odt: not a source; that is a folder of"):
        ingest(make_stage({"input": {"source": str(tmp_path / "source.odt")}}))


def test_a_glob_is_a_source_and_its_names_count_from_the_last_plain_folder(docs):
    (docs / "deep/er").mkdir(parents=True)
    (docs / "deep/er/one.md").write_text(TEXT)
    (docs / "deep/two.txt").write_text(TEXT)
    (docs / "deep/.hidden.md").write_text(TEXT)
    assert [p.source for p in read(docs / "**/*.md")[0]] == ["deep/er/one.md", "good.md"]
    assert [p.source for p in read(docs / "deep/*")[0]] == ["er/one.md", "two.txt"]
    assert [p.source for p in read(docs / "g??d.md")[0]] == ["good.md"]
    assert not holds_documents(docs / "*.pdf")


def test_a_file_whose_name_looks_like_a_glob_is_that_file(docs):
    (docs / "notes[1].md").write_text(TEXT)
    assert [p.source for p in read(docs / "notes[1].md")[0]] == ["notes[1].md"]


def test_a_glob_that_finds_nothing_says_so(docs, make_stage):
    with pytest.raises(SourceError, match="no file matches"):
        ingest(make_stage({"input": {"source": str(docs / "*.pdf")}}))


def test_the_digest_of_a_source_follows_what_it_holds(docs):
    before = [source_digest(docs / name) for name in ("", "*.md", "good.md")]
    (docs / "other.txt").write_text(TEXT)
    assert [source_digest(docs / name) for name in ("*.md", "good.md")] == before[1:]
    assert source_digest(docs) != before[0]
    (docs / "good.md").write_text(TEXT)
    assert source_digest(docs / "*.md") != before[1]


def zipped(path: Path, **members: str | bytes) -> Path:
    with zipfile.ZipFile(path, "w") as out:
        for name, data in members.items():
            out.writestr(name if "/" in name else name.replace("_", "."), data)
    return path


def test_archives_are_folders_also_in_archives(docs):
    inner = zipped(docs.parent / "inner.zip", deep_md=f"# Deep\n\n{TEXT}")
    members = {"__MACOSX/._one.md": TEXT, ".hidden/x.md": TEXT}
    zipped(docs / "a.zip", one_md=TEXT, inner_zip=inner.read_bytes(), image_png=b"PNG", **members)
    passages, skipped = read(docs)
    assert [p.source for p in passages] == ["a.zip/inner.zip/deep.md", "a.zip/one.md", "good.md"]
    assert passages[0].title == "Deep"
    assert skipped == {"a.zip/image.png": "no reader for .png"}
    assert [p.source for p in read(docs / "a.zip")[0]] == ["a.zip/inner.zip/deep.md", "a.zip/one.md"]


def test_archives_nested_too_deep_empty_or_damaged_are_listed(docs):
    path = zipped(docs.parent / "0.zip", one_md=TEXT)
    for number in range(1, 5):
        path = zipped(docs.parent / f"{number}.zip", **{f"{number - 1}_zip": path.read_bytes()})
    path.rename(docs / "nested.zip")
    zipped(docs / "empty.zip")
    (docs / "damaged.tar.gz").write_bytes(b"not packed at all")
    passages, skipped = read(docs)
    assert [p.source for p in passages] == ["good.md"]
    assert skipped["nested.zip/3.zip/2.zip/1.zip"] == "an archive nested deeper than 3 levels"
    assert skipped["empty.zip"] == "an empty archive"
    assert skipped["damaged.tar.gz"].startswith("damaged, or not an archive")


def test_this_runs_own_labels_are_no_documents(docs, make_stage):
    (docs / "labels.jsonl").write_text('{"query": "who?", "positive": "the manager"}')
    stage = make_stage({"input": {"source": str(docs), "queries": str(docs / "labels.jsonl")}})
    ingest(stage)
    assert [p.source for p in read_passages(stage.out / "corpus.jsonl")] == ["good.md"]
    assert "a file of labels of this run" in (stage.out / "skipped.jsonl").read_text()
    assert [p.source for p in read(docs)[0]] == ["good.md", "labels.jsonl"]


def test_pages_languages_and_places_are_kept_with_the_passages(docs):
    body = "The manager approves every travel request within five days of its arrival at the office. "
    pages = [[(f"{body} {word}.", 700 - 14 * n, 11) for n in range(4)] for word in ("one", "two", "three", "four")]
    (docs / "guide.pdf").write_bytes(pdf([[*page, ("Acme guide", 30, 9)] for page in pages]))
    found = [p for p in read(docs)[0] if p.source == "guide.pdf"]
    assert [p.page for p in found] == sorted(p.page for p in found)
    assert {p.language for p in found} == {"en"}
    assert found[0].page == 1
    assert found[-1].page > 1
    assert not any("Acme" in p.text for p in found)


def test_boilerplate_of_a_folder_goes_and_is_listed_and_places_stay_those_of_the_file(docs):
    footer = "Questions? Ask in the channel of the people team."
    (docs / "good.md").unlink()
    for number in range(10):
        (docs / f"{number}.md").write_text(f"# Page {number}\n\n{footer}\n\nNumber {number}: {TEXT}\n")
    found = reading(docs)
    assert [(entry.text, entry.files) for entry in found.repeated] == [(footer, 10)]
    assert all(p.text == f"Number {n}: {TEXT}" for n, p in enumerate(found.passages))
    assert {p.start for p in found.passages} == {f"# Page 0\n\n{footer}\n\n".__len__()}
    assert reading(docs, repeated_share=1).repeated == found.repeated


def test_an_unchanged_file_is_not_parsed_again(docs, make_stage, monkeypatch):
    (docs / "page.html").write_text(f"<body><main><p>{TEXT}</p></main></body>")
    (docs / "bad.pdf").write_bytes(b"%PDF-1.7")
    stage = make_stage({"input": {"source": str(docs)}, "ingest": {"workers": 1}})
    ingest(stage)
    first = (stage.out / "corpus.jsonl").read_bytes()
    with monkeypatch.context() as without:
        without.setattr(sys, "executable", "/no/such/python")  # no worker can start
        ingest(stage)
        assert (stage.out / "corpus.jsonl").read_bytes() == first
        (docs / "new.md").write_text(TEXT)
        with pytest.raises(FileNotFoundError):
            ingest(stage)
        (docs / "new.md").unlink()
    (docs / "good.md").write_text(f"# Changed\n\n{TEXT}")
    ingest(stage)
    assert {p.title for p in read_passages(stage.out / "corpus.jsonl")} == {"Changed", "page"}


def test_a_cache_that_is_damaged_is_made_anew(docs, make_stage):
    stage = make_stage({"input": {"source": str(docs)}})
    (stage.cache / "parsed.sqlite").write_bytes(b"not a database " * 100)
    ingest(stage)
    assert len(read_passages(stage.out / "corpus.jsonl")) == 1


def test_a_cached_answer_goes_with_its_file_and_a_slow_one_is_asked_again(tmp_path):
    for kept in (True, False):
        with ParseCache(tmp_path) as cache:
            key, slow = cache.key("0" * 64, ".md", "name"), cache.key("1" * 64, ".md", "name")
            if kept:
                cache.put(key, {"text": "a"})
                cache.put(slow, {"unreadable": "took longer", "transient": True})
                assert cache.get(key) == {"text": "a"}
            assert cache.get(slow) is None
    with ParseCache(tmp_path) as cache:
        assert cache.get(key) is None
        assert cache.key("0" * 64, ".html", "name") != key != cache.key("0" * 64, ".md", "other")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_listed(docs):
    (docs / "locked").mkdir(mode=0)
    assert read(docs)[1] == {"locked/": "a folder that cannot be read: Permission denied"}


def test_a_file_that_is_too_slow_is_listed_and_the_others_are_read(docs):
    (docs / "slow.rst").write_text("".join(f"*word* {n}\n\n" for n in range(600_000)))
    passages, skipped = read(docs, timeout_s=3)
    assert [p.source for p in passages] == ["good.md"]
    assert skipped == {"slow.rst": "took longer than 3 s to parse (ingest.timeout_s)"}
