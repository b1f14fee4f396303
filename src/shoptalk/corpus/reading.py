"""From a source of documents to passages: find the files, unpack, parse in workers, take boilerplate out, chunk.

Every file ends in `Reading.files`: with its passages, or with the reason why it has none.
"""

from __future__ import annotations

import bisect
import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from shoptalk.corpus.archives import DEPTH, is_archive
from shoptalk.corpus.boilerplate import Repeated, find_repeated, without_repeated
from shoptalk.corpus.cache import ParseCache
from shoptalk.corpus.chunking import Chunker
from shoptalk.corpus.language import language_of, language_of_passage
from shoptalk.corpus.pool import Answer, Job, Pool, n_workers
from shoptalk.corpus.readers import READERS, Document
from shoptalk.corpus.sources import Entry, hidden_part, is_hidden, list_entries, name_problem, shown, without
from shoptalk.progress import task
from shoptalk.records import Passage, Rejected
from shoptalk.settings import IngestSettings


@dataclass(frozen=True, slots=True)
class Reading:
    """What became of a source: its passages, what gave none, a row for every file, and the boilerplate taken out."""

    passages: list[Passage]
    skipped: list[Rejected]
    files: list[dict[str, Any]]
    repeated: list[Repeated]


@dataclass(frozen=True, slots=True)
class _File:
    """A file and its document; or, with `reason`, why there is none. `key` is that of the parse cache."""

    entry: Entry
    size: int = 0
    sha256: str = ""
    key: str = ""
    document: Document | None = None
    reason: str = ""


_NO_SUFFIX = "files without a suffix"


def read_documents(
    source: Path,
    chunker: Chunker,
    settings: IngestSettings,
    cache: Path,
    scratch: Path,
    labels: Iterable[str] = (),
) -> Reading:
    """All passages of a folder, glob, document or archive, in path order.

    cache: folder for what was parsed before. scratch: folder in which archives are unpacked for a moment. labels: files that
    lie among the documents but are this run's labels. Raises nothing for a file that cannot be read: it is listed.
    """
    entries = list(without(list_entries(source), labels, "a file of labels of this run"))
    size = sum(_size(entry.path) for entry in entries if not entry.problem)
    scratch.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=scratch) as unpacked,
        ParseCache(cache) as parsed,
        Pool(settings, n_workers(settings, len(entries), size)) as pool,
    ):
        found = _unpacked(entries, pool, settings, Path(unpacked))
        items = (_opened(entry, parsed, settings) for entry in found if not entry.hidden)
        files: list[_File] = []
        with task("reading documents", sum(not entry.hidden for entry in found)) as bar:
            for file, answer in pool.run(items):
                files.append(_answered(file, answer, parsed))
                bar.advance()
    return _to_passages(files, _hidden_rows(found), chunker, settings)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # it says why when it is opened
        return 0


def _unpacked(entries: Iterable[Entry], pool: Pool, settings: IngestSettings, folder: Path) -> list[Entry]:
    """The entries with archives replaced by what they hold."""
    found: list[Entry] = []
    for entry in entries:
        if entry.problem or not is_archive(entry.name):
            found.append(entry)
        else:
            found += _inside(entry, pool, settings, folder, 1)
    return found


def _inside(archive: Entry, pool: Pool, settings: IngestSettings, folder: Path, depth: int) -> list[Entry]:
    """What an archive holds, sorted by name; archives in it too."""
    if depth > DEPTH:
        return [replace(archive, problem=f"an archive nested deeper than {DEPTH} levels")]
    arguments = {
        "path": str(archive.path),
        "kind": PurePosixPath(archive.name).suffix.lower(),
        "folder": tempfile.mkdtemp(dir=folder),
        "max_file": int(settings.max_file_mb * 1e6),
        "max_bytes": int(settings.max_archive_mb * 1e6),
        "max_files": settings.max_archive_files,
    }
    answer = pool.one(Job("", "", unpack=arguments))
    if "unreadable" in answer:
        return [replace(archive, problem=str(answer["unreadable"]))]
    found = [
        Entry(shown(f"{archive.name}/{name}".rstrip("/")), archive.path, reason) for name, reason in answer["rejected"]
    ]
    for name, path in answer["files"]:
        inner = f"{archive.name}/{PurePosixPath(name).as_posix()}"
        entry = Entry(shown(inner), Path(path), name_problem(inner), is_hidden(name))
        nested = is_archive(name) and not entry.problem and not entry.hidden
        found += _inside(entry, pool, settings, folder, depth + 1) if nested else [entry]
    return sorted(found, key=lambda entry: entry.name) or [replace(archive, problem="an empty archive")]


def _opened(entry: Entry, cache: ParseCache, settings: IngestSettings) -> tuple[_File, Job | Answer]:
    """A file with its job; or, where that is known without parsing it, with its answer."""
    path = PurePosixPath(entry.name)
    problem = entry.problem or ("" if path.suffix.lower() in READERS else f"no reader for {path.suffix or _NO_SUFFIX}")
    if problem:
        return _File(entry), {"unreadable": problem}
    try:
        size = entry.path.stat().st_size
        if size > settings.max_file_mb * 1e6:
            too_large = f"{size / 1e6:.1f} MB; ingest.max_file_mb is {settings.max_file_mb:g}"
            return _File(entry, size), {"unreadable": too_large}
        raw = entry.path.read_bytes()
    except OSError as error:
        return _File(entry), {"unreadable": f"cannot be read: {error.strerror}"}
    sha256 = hashlib.sha256(raw).hexdigest()
    if not raw.strip():
        return _File(entry, size, sha256), {"title": "", "text": ""}
    key = cache.key(sha256, path.suffix, path.stem)
    file = _File(entry, size, sha256, key)
    return file, cache.get(key) or Job(path.suffix, path.stem, raw)


def _answered(file: _File, answer: Answer, cache: ParseCache) -> _File:
    """The file with the document of its answer, or with the reason why there is none."""
    if file.key:
        cache.put(file.key, answer)
    if "unreadable" in answer:
        return replace(file, reason=str(answer["unreadable"]))
    title, text, starts = str(answer["title"]), str(answer["text"]), answer.get("page_starts", ())
    return replace(file, document=Document(title, text, tuple(starts), str(answer.get("note", ""))))


def _to_passages(
    files: Sequence[_File], hidden_rows: list[dict[str, Any]], chunker: Chunker, settings: IngestSettings
) -> Reading:
    texts = [(file.entry.name, file.document.text) for file in files if file.document is not None]
    repeated = find_repeated(texts, settings.repeated_share)
    reading = Reading([], [], [], [entry for found in repeated.values() for entry in found])
    with task("cutting into passages", len(files)) as bar:
        for file in files:
            name, document, passages = file.entry.name, file.document, list[Passage]()
            row = {"file": name, "bytes": file.size, "sha256": file.sha256}
            if document is not None:
                cleaned = without_repeated(name, document.text, repeated)
                language = language_of(cleaned.text)
                cut = chunker.split(replace(document, text=cleaned.text), name)
                passages = [_placed(passage, cleaned.origin(passage.start), document, language) for passage in cut]
                row |= {"title": document.title, "pages": len(document.page_starts), "language": language}
                row |= {"note": document.note} if document.note else {}
            if passages:
                reading.passages.extend(passages)
                reading.files.append(row | {"status": "read", "passages": len(passages)})
            else:
                reason = file.reason or "no text"
                reading.skipped.append(Rejected(name, "unreadable" if file.reason else "empty", reason))
                reading.files.append(row | {"status": "skipped", "reason": reason})
            bar.advance()
    reading.files.extend(hidden_rows)
    return reading


def _placed(passage: Passage, start: int, document: Document, language: str) -> Passage:
    """The passage with its place in the document as it was read, its page and its language."""
    page = bisect.bisect_right(document.page_starts, start)
    return replace(passage, start=start, page=page, language=language_of_passage(passage.text, language))


def _hidden_rows(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """One row for every hidden file or folder, with how many files that are."""
    counts = Counter(hidden_part(entry.name) for entry in entries if entry.hidden)
    return [{"file": name, "status": "hidden", "files": n, "reason": "hidden"} for name, n in sorted(counts.items())]
