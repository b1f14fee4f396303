"""The stage ingest: a source of any kind to passages. Every file is accounted for: read, or skipped with a reason."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from shoptalk.beir import looks_like_beir, read_passages, write_jsonl, write_passages
from shoptalk.corpus.archives import SUFFIXES as ARCHIVES
from shoptalk.corpus.chunking import Chunker
from shoptalk.corpus.readers import READERS
from shoptalk.corpus.reading import Reading, read_documents
from shoptalk.corpus.sources import glob_matches, is_document, is_glob
from shoptalk.errors import SourceError
from shoptalk.labelled import SUFFIXES, is_labelled_file, read_labelled
from shoptalk.models.finding import find_model
from shoptalk.records import Passage, Rejected
from shoptalk.settings import Settings
from shoptalk.workspace import StageContext, digest_of, sha256_of


def ingest(stage: StageContext) -> None:
    """Write passages/corpus.jsonl, skipped.jsonl, files.jsonl (every file with what became of it) and repeated.jsonl.

    Raises SourceError when there is nothing to read.
    """
    settings = stage.settings
    source = Path(settings.input.source)
    reading = Reading([], [], [], [])
    if source.is_dir() and looks_like_beir(source):
        reading.passages.extend(read_passages(source / "corpus.jsonl"))
    elif source.is_file() and is_labelled_file(source):
        reading.passages.extend(passages_of_labels(source, settings.input.columns))
    elif holds_documents(source):
        reading = _documents(source, settings, stage.cache, stage.scratch)
    else:
        raise SourceError(no_source(source))
    if not reading.passages and not _is_scored(source, settings.input.columns):
        raise SourceError(_nothing(source, reading.skipped))
    write_passages(stage.out / "corpus.jsonl", reading.passages)
    write_jsonl(stage.out / "skipped.jsonl", map(asdict, reading.skipped))
    write_jsonl(stage.out / "files.jsonl", reading.files)
    write_jsonl(stage.out / "repeated.jsonl", map(asdict, reading.repeated))


def _documents(source: Path, settings: Settings, cache: Path, scratch: Path) -> Reading:
    chunker = Chunker(
        find_model(settings.model.base).path / "tokenizer.json",
        settings.ingest.passage_tokens,
        settings.ingest.overlap_tokens,
    )
    chosen = settings.input
    labels = (
        *(chosen.queries, chosen.dev_queries, chosen.test_queries, chosen.clicks),
        *(settings.queries.review, settings.diagnose.controls),
    )
    return read_documents(source, chunker, settings.ingest, cache, scratch, labels)


def holds_documents(source: Path) -> bool:
    """Whether a source is read as documents: a folder, a glob that finds something, a document or an archive."""
    return source.is_dir() or is_document(source, READERS) or (is_glob(source) and bool(glob_matches(source)))


def source_digest(source: Path) -> str:
    """The digest of what a source holds now: of a file, of all files of a folder, or of all that a glob finds."""
    if is_glob(source):
        return digest_of({str(path): _digest(path) for path in glob_matches(source)})
    return digest_of(_digest(source))


def _digest(path: Path) -> object:
    if path.is_dir():
        return {file.relative_to(path).as_posix(): _digest(file) for file in sorted(path.rglob("*")) if file.is_file()}
    try:
        return sha256_of(path)
    except OSError as error:  # such a file is listed when documents are read; it is no reason to fail here
        return str(error.strerror)


def no_source(source: Path) -> str:
    """Why a path is no source, and what would be."""
    kinds = (
        f"a folder of {', '.join(sorted(READERS))} documents, a glob, one document, an archive ({', '.join(ARCHIVES)}), "
        f"a BEIR folder, or a labelled file ({', '.join(SUFFIXES)})"
    )
    if is_glob(source):
        return f"{source}: no file matches; a source is {kinds}"
    if not source.exists():
        return f"{source}: no such file or folder; a source is {kinds}"
    return f"{source}: not a source; that is {kinds}"


def _nothing(source: Path, skipped: list[Rejected]) -> str:
    if source.is_file() and is_labelled_file(source):
        return (
            f"{source}: holds no passages; its labels name them by id or document, so the source is the folder that has them, "
            "with this file as --queries"
        )
    if not skipped:
        return f"{source}: holds no documents; shoptalk reads {', '.join(sorted(READERS))}"
    some = "; ".join(f"{entry.item}: {entry.reason}" for entry in skipped[:5])
    more = f"; and {len(skipped) - 5} more" if len(skipped) > 5 else ""
    return f"{source}: none of its {len(skipped)} files could be read: {some}{more}"


def _is_scored(source: Path, columns: Mapping[str, str]) -> bool:
    return source.is_file() and is_labelled_file(source) and read_labelled(source, columns).shape == "scored"


def passages_of_labels(path: Path, columns: Mapping[str, str]) -> list[Passage]:
    """The distinct texts of a labelled file: its positives and its negatives, which together are the haystack."""
    texts = dict.fromkeys(
        text for label in read_labelled(path, columns).labels for text in (label.positive, *label.negatives) if text
    )
    return [Passage(text_id(text), text, source=path.name) for text in texts]


def text_id(text: str) -> str:
    """An id that depends on the text alone."""
    return "p-" + hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:12]
