"""Vectors on disk, by name, in segments that are only ever added. Reading them takes little memory, however many there are.

A segment is an uncompressed .npz of `names` (n,), `vectors` (n, dim) float32 and `check`, the sha256 of both; it is written beside
its place, synced and renamed, so that a kill leaves all of it or nothing. Before it is used it is read through once against
its check; one that fails is removed, and what it held counts as missing. Vectors are then read through memory maps.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import struct
import tempfile
import time
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shoptalk.progress import Task, reporter, reporting_to, task
from shoptalk.workspace import write_atomically

logger = logging.getLogger(__name__)

Vectors: TypeAlias = NDArray[np.float32]
Names: TypeAlias = NDArray[np.bytes_]
_NAME = "S32"
_AT_ONCE = 4_096  # texts encoded before they are written: what a kill can cost
_ROWS = 16_384
_IN_MEMORY_BYTES = 64 << 20  # a larger answer lies in a file of its own, which vanishes with its last reader
_EFFORT = "effort.json"
_ENOUGH = 50


@dataclass(frozen=True, slots=True)
class Effort:
    """What the vectors of a store took to compute: texts, seconds (without loading the model), tokens that a provider counted."""

    texts: int = 0
    seconds: float = 0.0
    tokens: int = 0

    @property
    def seconds_per_1000(self) -> float | None:
        """Seconds for 1,000 texts; None before enough were encoded to tell."""
        return self.seconds / self.texts * 1_000 if self.texts >= _ENOUGH and self.seconds else None


class VectorStore:
    """Vectors by name in a folder of segments. Several processes may read and add at the same time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def index(self) -> Index:
        """What is there now, verified. A damaged segment is removed."""
        return Index(
            [segment for path in sorted(self.folder.glob("*.npz")) if (segment := _verified(path))], self.folder
        )

    def read(self, wanted: Collection[str]) -> dict[str, Vectors]:
        """The vectors of those names that are there, in memory: for few, or for small ones."""
        names = np.array(sorted(wanted), _NAME)
        index = self.index()
        rows = index.locate(names)
        there = np.flatnonzero(rows >= 0)
        return dict(zip((name.decode() for name in names[there].tolist()), index.gather(rows[there]), strict=True))

    def add(self, names: Sequence[str] | Names, vectors: Vectors) -> None:
        """Write a new segment. names: (n,), vectors: (n, dim)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        named, data = np.asarray(names, _NAME), np.ascontiguousarray(vectors, np.float32)
        check = hashlib.sha256(b"".join(named.tolist()))
        check.update(data.tobytes())
        path = self.folder / f"{len(list(self.folder.glob('*.npz'))):04d}-{check.hexdigest()[:12]}.npz"
        temporary = path.with_suffix(f".{os.getpid()}.new")
        with temporary.open("wb") as out:
            np.savez(out, names=named, vectors=data, check=np.array(check.hexdigest()))
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)

    @property
    def effort(self) -> Effort:
        """What was noted; zeros where nothing was, or where it cannot be read."""
        try:
            values = json.loads((self.folder / _EFFORT).read_text(encoding="utf-8"))
            return Effort(int(values["texts"]), float(values["seconds"]), int(values["tokens"]))
        except (OSError, ValueError, TypeError, KeyError):
            return Effort()

    def note(self, texts: int, seconds: float, tokens: int = 0) -> None:
        """Add to the effort."""
        self.folder.mkdir(parents=True, exist_ok=True)
        before = self.effort
        after = Effort(before.texts + texts, before.seconds + seconds, before.tokens + tokens)
        write_atomically(self.folder / _EFFORT, json.dumps(asdict(after)) + "\n")


@dataclass(frozen=True)
class _Segment:
    path: Path
    names: Names
    shape: tuple[int, int]
    offset: int

    def rows(self, rows: NDArray[np.int64]) -> Vectors:
        """(len(rows), dim) float32, copied out; the map is closed again."""
        mapped = np.memmap(self.path, np.float32, "r", self.offset, self.shape)
        return np.asarray(mapped[rows])


class Index:
    """The names of a store's verified segments, and where their vectors are. A row is the number of a vector over all segments."""

    def __init__(self, segments: Sequence[_Segment], folder: Path) -> None:
        self._segments = segments
        self._folder = folder
        self._starts = np.cumsum([0, *(len(segment.names) for segment in segments)]).astype(np.int64)
        names = np.concatenate([segment.names for segment in segments]) if segments else np.zeros(0, _NAME)
        self._order = np.argsort(names, kind="stable")
        self._sorted = names[self._order]

    def locate(self, names: Names) -> NDArray[np.int64]:
        """(n,) rows of the named vectors; -1 for a name that is not there."""
        rows = np.full(len(names), -1, np.int64)
        if len(self._sorted):
            places = np.minimum(np.searchsorted(self._sorted, names), len(self._sorted) - 1)
            found = self._sorted[places] == names
            rows[found] = self._order[places[found]]
        return rows

    def gather(self, rows: NDArray[np.int64]) -> Vectors:
        """(n, dim) float32 in the order of `rows`, none of which may be -1.

        Up to 64 MB in memory. More is written to a nameless file beside the segments and mapped, copy on write, so that the
        memory of the process stays small and the file is gone when nobody reads it any more.
        """
        dim = next((segment.shape[1] for segment in self._segments), 0)
        if len(rows) * dim * 4 <= _IN_MEMORY_BYTES:
            vectors = np.empty((len(rows), dim), np.float32)
            for start, block in self._blocks(rows, dim):
                vectors[start : start + len(block)] = block
            return vectors
        with tempfile.TemporaryFile(dir=self._folder, prefix=".gathered-") as spilled:
            for _, block in self._blocks(rows, dim):
                spilled.write(block.tobytes())
            spilled.flush()
            return np.memmap(spilled, np.float32, "c", shape=(len(rows), dim)).view(np.ndarray)

    def _blocks(self, rows: NDArray[np.int64], dim: int) -> Iterator[tuple[int, Vectors]]:
        for start in range(0, len(rows), _ROWS):
            part = rows[start : start + _ROWS]
            block = np.empty((len(part), dim), np.float32)
            owners = np.searchsorted(self._starts, part, side="right") - 1
            for owner in np.unique(owners):
                own = owners == owner
                block[own] = self._segments[owner].rows(part[own] - self._starts[owner])
            yield start, block


def encode_once(
    store: VectorStore,
    texts: Sequence[str],
    load: Callable[[], Callable[[list[str]], Vectors]],
    label: str = "encoding",
    at_once: int = _AT_ONCE,
) -> Vectors:
    """The texts' vectors, of which only those that the store does not hold are encoded, and kept after every `at_once`.

    load: called when something is missing; gives what encodes, texts -> (n_texts, dim) float32. Returns (n_texts, dim) float32; a large
    answer is memory-mapped.
    """
    if not texts:
        return load()([])
    names = text_names(texts)
    index = store.index()
    rows = index.locate(names)
    unknown = np.flatnonzero(rows < 0)
    missing = unknown[np.sort(np.unique(names[unknown], return_index=True)[1])]
    if len(missing):
        encode = load()
        with _one_bar(label, len(missing), at_once):
            for start in range(0, len(missing), at_once):
                part = missing[start : start + at_once]
                started = time.perf_counter()
                vectors = encode([texts[place] for place in part])
                store.note(len(part), time.perf_counter() - started)
                store.add(names[part], vectors)
        index = store.index()
        rows = index.locate(names)
    return index.gather(rows)


def unit(vectors: Vectors) -> Vectors:
    """(n, dim) scaled to unit length; a zero vector stays zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Vectors = (vectors / np.maximum(norms, 1e-12)).astype(np.float32)
    return scaled


def text_name(text: str) -> str:
    """The name of a text's vector: 32 hexadecimal digits of its sha256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def text_names(texts: Sequence[str]) -> Names:
    """(n_texts,) of `text_name`."""
    return np.fromiter((text_name(text).encode() for text in texts), _NAME, len(texts))


@contextmanager
def _one_bar(label: str, total: int, at_once: int) -> Iterator[None]:
    """One progress bar over all parts: what an encoder reports of a part moves it on. A single part reports for itself."""
    if total <= at_once:
        yield
        return
    with task(label, total) as bar, reporting_to(Forwarding(bar)):
        yield


class Forwarding:
    """A reporter under which every task moves one bar on."""

    def __init__(self, bar: Task) -> None:
        self._bar, self._above = bar, reporter()

    def stage(self, name: str, what: str) -> None:
        """To whoever shows it above."""
        self._above.stage(name, what)

    def start(self, label: str, total: int | None, done: int = 0) -> Task:
        """The one bar."""
        return self._bar

    def finish(self, task: Task) -> None:
        """The bar goes on."""


def _verified(path: Path) -> _Segment | None:
    """A segment that is what was written; None, and the file removed, for any other."""
    try:
        return _opened(path)
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged archive makes numpy and zipfile raise a dozen kinds
        logger.warning("%s: damaged (%s); removed, its texts are encoded again", path, error)
        path.unlink(missing_ok=True)
        return None


def _opened(path: Path) -> _Segment:
    with zipfile.ZipFile(path) as archive:
        names = _array(archive, "names").astype(_NAME)
        check = hashlib.sha256(b"".join(names.tolist()))
        member = archive.getinfo("vectors.npy")
        with archive.open(member) as data:
            shape, fortran_order, kind = _header(data)
            header_bytes, size = data.tell(), 0
            while part := data.read(
                1 << 20
            ):  # to the end, where zipfile compares its own checksum, which covers the header
                check.update(part)
                size += len(part)
        stored = member.compress_type == zipfile.ZIP_STORED and kind == np.dtype("<f4") and not fortran_order
        fits = len(shape) == 2 and shape[0] == len(names) and shape[0] * shape[1] * 4 == size
        if not (stored and fits and check.hexdigest() == str(_array(archive, "check"))):
            raise ValueError("its vectors are not those that were written")
    with path.open("rb") as raw:
        raw.seek(member.header_offset + 26)
        name_bytes, extra_bytes = struct.unpack("<HH", raw.read(4))
    offset = member.header_offset + 30 + name_bytes + extra_bytes + header_bytes
    return _Segment(path, names, (shape[0], shape[1]), offset)


def _array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    array: NDArray[Any] = np.lib.format.read_array(io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False)
    return array


def _header(data: Any) -> tuple[tuple[int, ...], bool, Any]:
    version = np.lib.format.read_magic(data)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(data)
    return np.lib.format.read_array_header_2_0(data)
