"""Archives unpacked into a folder of numbered files; runs in a worker, under its limits.

A member's own name is never a path on disk: it only says what the passages' source is called. Links, devices, absolute and
parent paths, what is encrypted, and what goes over a cap are listed with the reason.
"""

from __future__ import annotations

import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
DEPTH = 3
"""How deep archives in archives are unpacked."""

_MOST_RATIO = 200
_SMALL_BYTES = 1_000_000
_BLOCK_BYTES = 1 << 20


class _Full(Exception):
    """Raised when the archive as a whole goes over a cap; the message is the reason."""


@dataclass
class _Member:
    name: str
    size: int
    packed: int
    problem: str
    open: Callable[[], IO[bytes] | None]


def is_archive(name: str) -> bool:
    """Whether a file's name says that it is an archive."""
    return name.lower().endswith(SUFFIXES)


def unpack(path: str, kind: str, folder: str, max_file: int, max_bytes: int, max_files: int) -> dict[str, Any]:
    """Unpack an archive: {"files": [[name, path], ...], "rejected": [[name, reason], ...]} or {"unreadable": reason}.

    kind: ".zip", or a tar of whatever compression. max_file: bytes of one member. max_bytes and max_files: of all members;
    what comes after is rejected in one entry.
    """
    state = _State(Path(folder), max_file, max_bytes, max_files)
    try:
        if kind == ".zip":
            with zipfile.ZipFile(path) as packed:
                state.take(_zip_members(packed))
        else:
            with tarfile.open(path) as packed_tar:
                state.take(_tar_members(packed_tar, Path(path).stat().st_size))
    except _Full as full:
        state.rejected.append(["", str(full)])
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, ValueError, NotImplementedError) as error:
        reason = f"damaged, or not an archive: {' '.join(str(error).split())[:200]}"
        if not state.files and not state.rejected:
            return {"unreadable": reason}
        state.rejected.append(["", f"{reason}; what came before is read"])
    return {"files": state.files, "rejected": state.rejected}


@dataclass
class _State:
    folder: Path
    max_file: int
    max_bytes: int
    max_files: int

    def __post_init__(self) -> None:
        self.files: list[list[str]] = []
        self.rejected: list[list[str]] = []
        self._names: set[str] = set()
        self._bytes = 0

    def take(self, members: Iterator[_Member]) -> None:
        """Write every sound member. Raises _Full at a cap of the whole archive."""
        for number, member in enumerate(members):
            if number >= self.max_files:
                raise _Full(
                    f"holds more than {self.max_files:,} files (ingest.max_archive_files); the rest is left out"
                )
            reason = member.problem or _bad_name(member.name) or self._bad_size(member)
            if not reason and member.name in self._names:
                reason = "its name comes twice in the archive; the first one is read"
            if not reason:
                reason = self._write(member)
            if reason:
                self.rejected.append([_shown(member.name), reason])

    def _bad_size(self, member: _Member) -> str:
        if member.size > self.max_file:
            return f"{member.size / 1e6:.1f} MB unpacked; ingest.max_file_mb is {self.max_file / 1e6:g}"
        if member.size > _SMALL_BYTES and member.size > _MOST_RATIO * max(1, member.packed):
            return f"unpacks to more than {_MOST_RATIO} times its size"
        return ""

    def _write(self, member: _Member) -> str:
        """Write one member, counting what really comes out: a header may lie. Returns what is wrong with it, or ""."""
        target = self.folder / f"{len(self.files):06d}{PurePosixPath(member.name).suffix[:12]}"
        try:
            source = member.open()
            if source is None:
                return "not a plain file"
            with source, target.open("wb") as out:
                written = 0
                while block := source.read(_BLOCK_BYTES):
                    written += len(block)
                    self._bytes += len(block)
                    if self._bytes > self.max_bytes:
                        raise _Full(
                            f"unpacks to more than {self.max_bytes / 1e6:g} MB (ingest.max_archive_mb); the rest is left out"
                        )
                    if written > self.max_file:
                        return f"more than ingest.max_file_mb, {self.max_file / 1e6:g} MB"
                    out.write(block)
        except (RuntimeError, NotImplementedError, zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
            encrypted = "encrypted" in str(error) or "password" in str(error)
            return "encrypted" if encrypted else f"damaged: {' '.join(str(error).split())[:200]}"
        except Exception as error:  # zlib and lzma have errors of their own
            if isinstance(error, _Full):
                raise
            return f"damaged: {' '.join(str(error).split())[:200]}"
        self._names.add(member.name)
        self.files.append([member.name, str(target)])
        return ""


def _zip_members(packed: zipfile.ZipFile) -> Iterator[_Member]:
    for entry in packed.infolist():
        if entry.is_dir():
            continue
        kind = (entry.external_attr >> 16) & 0o170000
        problem = "a link; not followed" if kind == 0o120000 else ""
        if not problem and entry.flag_bits & 0x1:
            problem = "encrypted"
        yield _Member(entry.orig_filename, entry.file_size, entry.compress_size, problem, _opener(packed.open, entry))


def _tar_members(packed: tarfile.TarFile, archive_bytes: int) -> Iterator[_Member]:
    for entry in packed:
        if entry.isdir():
            continue
        linked = entry.issym() or entry.islnk()
        problem = "a link; not followed" if linked else ("" if entry.isreg() else "not a plain file")
        yield _Member(entry.name, entry.size, archive_bytes, problem, _opener(packed.extractfile, entry))
        packed.members = []  # type: ignore[attr-defined]  # tarfile keeps every header it has seen


def _opener(function: Callable[[Any], IO[bytes] | None], entry: Any) -> Callable[[], IO[bytes] | None]:
    return lambda: function(entry)


def _bad_name(name: str) -> str:
    if name.startswith(("/", "\\")) or re.match(r"^[A-Za-z]:", name):
        return "an absolute path"
    parts = re.split(r"[/\\]", name)
    if ".." in parts:
        return "a path that leaves the archive"
    if not name or "\x00" in name or len(name) > 1_000:
        return "a name that cannot be used"
    return ""


def _shown(name: str) -> str:
    return re.sub(r"[\x00-\x1f\ud800-\udfff]", "?", name)[:300]
