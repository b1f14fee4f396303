"""The stage ingest: a source of any kind to passages. Every file is accounted for: read, or skipped with a reason."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from shoptalk.beir import looks_like_beir, read_passages, write_jsonl, write_passages
from shoptalk.corpus.chunking import Chunker
from shoptalk.corpus.readers import READERS, Unreadable, reader_for
from shoptalk.errors import SourceError
from shoptalk.labelled import SUFFIXES, is_labelled_file, read_labelled
from shoptalk.models.finding import find_model
from shoptalk.progress import task
from shoptalk.records import Passage, Rejected
from shoptalk.settings import IngestSettings
from shoptalk.workspace import StageContext


def ingest(stage: StageContext) -> None:
    """Write passages/corpus.jsonl and passages/skipped.jsonl. Raises SourceError when there is nothing to read."""
    settings = stage.settings
    source = Path(settings.input.source)
    skipped: list[Rejected] = []
    if source.is_dir() and looks_like_beir(source):
        passages = read_passages(source / "corpus.jsonl")
    elif source.is_dir():
        chunker = Chunker(find_model(settings.model.base).path / "tokenizer.json", settings.ingest.passage_tokens)
        passages, skipped = read_documents(source, chunker, settings.ingest)
    elif source.is_file() and is_labelled_file(source):
        passages = passages_of_labels(source, settings.input.columns)
    else:
        raise SourceError(no_source(source))
    if not passages and not _is_scored(source, settings.input.columns):
        raise SourceError(_nothing(source, skipped))
    write_passages(stage.out / "corpus.jsonl", passages)
    write_jsonl(stage.out / "skipped.jsonl", map(asdict, skipped))


def no_source(source: Path) -> str:
    """Why a path is no source, and what would be."""
    kinds = (
        f"a folder of {', '.join(sorted(READERS))} documents, a BEIR folder, or a labelled file ({', '.join(SUFFIXES)})"
    )
    if not source.exists():
        return f"{source}: no such file or folder; a source is {kinds}"
    return f"{source}: not a source; that is {kinds}"


def _nothing(source: Path, skipped: list[Rejected]) -> str:
    if source.is_file():
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
    return source.is_file() and read_labelled(source, columns).shape == "scored"


def passages_of_labels(path: Path, columns: Mapping[str, str]) -> list[Passage]:
    """The distinct texts of a labelled file: its positives and its negatives, which together are the haystack."""
    texts = dict.fromkeys(
        text for label in read_labelled(path, columns).labels for text in (label.positive, *label.negatives) if text
    )
    return [Passage(text_id(text), text, source=path.name) for text in texts]


def text_id(text: str) -> str:
    """An id that depends on the text alone."""
    return "p-" + hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:12]


def read_documents(folder: Path, chunker: Chunker, settings: IngestSettings) -> tuple[list[Passage], list[Rejected]]:
    """All passages of a folder's documents, in path order, and every file that gave none, with the reason."""
    passages: list[Passage] = []
    skipped: list[Rejected] = []
    files = list(_files(folder))
    with task("reading documents", len(files)) as bar:
        for path in files:
            name = path.relative_to(folder).as_posix()
            try:
                if problem := _path_problem(path, name, folder):
                    name = re.sub(r"[\t\n\r\ud800-\udfff]", "?", name)
                    raise Unreadable(problem)
                found = _read_one(path, name, chunker, settings)
            except Unreadable as reason:
                skipped.append(Rejected(name, "unreadable", str(reason)))
            else:
                passages += found
                if not found:
                    skipped.append(Rejected(name, "empty", "no text"))
            bar.advance()
    return passages, skipped


def _read_one(path: Path, name: str, chunker: Chunker, settings: IngestSettings) -> list[Passage]:
    reader = reader_for(path.suffix)
    if reader is None:
        raise Unreadable(f"no reader for {path.suffix or 'files without a suffix'}")
    try:
        size = path.stat().st_size
        if size > settings.max_file_mb * 1e6:
            raise Unreadable(f"{size / 1e6:.1f} MB; ingest.max_file_mb is {settings.max_file_mb:g}")
        raw = path.read_bytes()
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from None
    if not raw.strip():
        return []
    return chunker.split(reader.read(raw, path.stem), name)


def _path_problem(path: Path, name: str, folder: Path) -> str:
    """Why a file is not even opened, or ""."""
    if re.search(r"[\t\n\r\ud800-\udfff]", name):
        return "its name holds a tab, a line break or bytes that are not UTF-8; rename it"
    if path.is_symlink() and not path.exists():
        return "a link to nothing"
    if not path.resolve().is_relative_to(folder.resolve()):
        return "a link that leaves the folder"
    if path.is_dir():
        return "a link to a folder; not followed"
    return "" if path.is_file() else "not a plain file"


def _files(folder: Path) -> Iterator[Path]:
    """Files below a folder in a stable order, and links to folders, which are not followed; hidden ones are left out."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        for name in sorted([*names, *links]):
            if not name.startswith("."):
                yield Path(parent) / name
