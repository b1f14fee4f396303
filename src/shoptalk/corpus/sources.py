"""What a source holds: a folder, a glob, a single file, and archives in it or as it. Every entry comes out, readable or not."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from shoptalk.corpus.archives import is_archive

_BAD_NAME = re.compile(r"[\t\n\r\ud800-\udfff]")
_MAGIC = re.compile(r"[*?\[]")
_HIDDEN_NAMES = ("__MACOSX", "Thumbs.db", "desktop.ini")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a source. `name` is its path within it. `problem` says why it is not opened; `hidden`, that nobody meant it."""

    name: str
    path: Path
    problem: str = ""
    hidden: bool = False


def is_glob(source: Path) -> bool:
    """Whether a source is a pattern: it has a wildcard and no file or folder is called so."""
    return _MAGIC.search(str(source)) is not None and not source.exists()


def glob_matches(pattern: Path) -> list[Path]:
    """The files and folders that a pattern names, in order; "**" stands for any depth."""
    return [Path(found) for found in sorted(glob.glob(str(pattern), recursive=True))]  # noqa: PTH207


def list_entries(source: Path) -> Iterator[Entry]:
    """All entries of a folder, a glob or a single file, in a stable order."""
    if is_glob(source):
        yield from _matching(source)
    elif source.is_dir():
        yield from _below(source, source)
    else:
        yield _entry(source, source.name, source.parent)


def is_hidden(name: str) -> bool:
    """Whether a path has a part that systems hide or leave behind."""
    return bool(hidden_part(name))


def hidden_part(name: str) -> str:
    """A path up to its first part that systems hide or leave behind ("docs/.git"), or ""."""
    parts = name.split("/")
    first = next((n for n, part in enumerate(parts) if part.startswith(".") or part in _HIDDEN_NAMES), None)
    return "" if first is None else "/".join(parts[: first + 1])


def shown(name: str) -> str:
    """A name as it can be written into a file."""
    return _BAD_NAME.sub("?", name)


def name_problem(name: str) -> str:
    """Why no data set can hold a name, or ""."""
    return "its name holds a tab, a line break or bytes that are not UTF-8; rename it" if _BAD_NAME.search(name) else ""


def without(entries: Iterable[Entry], files: Iterable[str], reason: str) -> Iterator[Entry]:
    """The entries, where those that are one of `files` are not read, for `reason`."""
    kept_out = {Path(file).resolve() for file in files if file}
    for entry in entries:
        out = bool(kept_out) and not entry.problem and entry.path.resolve() in kept_out
        yield replace(entry, problem=reason) if out else entry


def _matching(pattern: Path) -> Iterator[Entry]:
    """Files that match, and all files of folders that match; names count from the last folder without a wildcard."""
    parts = pattern.parts
    first = next(number for number, part in enumerate(parts) if _MAGIC.search(part))
    base = Path(*parts[:first]) if first else Path()
    seen: set[str] = set()
    for found in glob_matches(pattern):
        in_order = _below(found, base) if found.is_dir() else [_entry(found, _relative(found, base), base)]
        for entry in in_order:
            if entry.name not in seen:
                seen.add(entry.name)
                yield entry


def _below(folder: Path, base: Path) -> Iterator[Entry]:
    failed: list[OSError] = []
    for parent, folders, names in os.walk(folder, onerror=failed.append):
        for error in failed:
            name = _relative(Path(os.fsdecode(error.filename)), base)
            yield Entry(shown(name) + "/", Path(parent), f"a folder that cannot be read: {error.strerror}")
        failed.clear()
        folders.sort()
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        for name in sorted([*names, *links]):
            path = Path(parent) / name
            yield _entry(path, _relative(path, base), base)
    for error in failed:
        name = _relative(Path(os.fsdecode(error.filename)), base)
        yield Entry(shown(name) + "/", folder, f"a folder that cannot be read: {error.strerror}")


def _relative(path: Path, base: Path) -> str:
    name = path.relative_to(base).as_posix()
    return path.name if name == "." else name


def _entry(path: Path, name: str, base: Path) -> Entry:
    if is_hidden(name):
        return Entry(shown(name), path, "hidden", hidden=True)
    return Entry(shown(name), path, name_problem(name) or _path_problem(path, base))


def _path_problem(path: Path, base: Path) -> str:
    """Why a file is not even opened, or ""."""
    if path.is_symlink() and not path.exists():
        return "a link to nothing"
    if not path.resolve().is_relative_to(base.resolve()):
        return "a link that leaves the folder"
    if path.is_dir():
        return "a link to a folder; not followed"
    return "" if path.is_file() else "not a plain file"


def is_document(source: Path, suffixes: Iterable[str]) -> bool:
    """Whether a single file is a source of its own: a document of one of `suffixes`, or an archive."""
    return source.is_file() and (source.suffix.lower() in suffixes or is_archive(source.name))
