"""Vectors on disk: what is added is found, what is damaged is not trusted, what was encoded is never encoded again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from shoptalk.models import store as module
from shoptalk.models.store import VectorStore, encode_once, text_name, text_names
from shoptalk.progress import Task, reporting_to

TEXTS = [f"text {i}" for i in range(10)]


def vectors_of(texts: list[str], dim: int = 6) -> np.ndarray:
    seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little") for text in texts]
    return np.array([np.random.default_rng(seed).standard_normal(dim) for seed in seeds], np.float32).reshape(-1, dim)


@pytest.fixture
def store(tmp_path: Path) -> VectorStore:
    return VectorStore(tmp_path / "vectors")


def encoded(store: VectorStore, texts: list[str], seen: list[str] | None = None, at_once: int = 4) -> np.ndarray:
    def encode(new: list[str]) -> np.ndarray:
        if seen is not None:
            seen.extend(new)
        return vectors_of(new)

    return encode_once(store, texts, lambda: encode, at_once=at_once)


def test_vectors_of_several_segments_come_in_the_order_asked_for(store: VectorStore) -> None:
    for part in (TEXTS[:3], TEXTS[3:4], TEXTS[4:]):
        store.add(text_names(part), vectors_of(part))
    index = store.index()
    wanted = [TEXTS[9], TEXTS[0], TEXTS[3], TEXTS[0], TEXTS[5]]
    rows = index.locate(text_names([*wanted, "never seen"]))
    assert rows[-1] == -1
    assert np.array_equal(index.gather(rows[:-1]), vectors_of(wanted))


def test_an_empty_store_knows_nothing(store: VectorStore) -> None:
    assert store.index().locate(text_names(TEXTS)).tolist() == [-1] * 10
    assert store.index().gather(np.zeros(0, np.int64)).shape == (0, 0)
    assert store.read({text_name("a")}) == {}


def test_reading_by_name_gives_what_is_there(store: VectorStore) -> None:
    store.add([text_name(text) for text in TEXTS], vectors_of(TEXTS))
    found = store.read({text_name(TEXTS[4]), "0" * 32})
    assert list(found) == [text_name(TEXTS[4])]
    assert np.array_equal(found[text_name(TEXTS[4])], vectors_of(TEXTS[4:5])[0])


def test_a_large_answer_is_mapped_and_leaves_no_file(store: VectorStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(module, "_ROWS", 3)
    first = encoded(store, TEXTS)
    assert isinstance(first.base, np.memmap)
    assert type(first) is np.ndarray
    assert np.array_equal(first, vectors_of(TEXTS))
    assert {path.suffix for path in store.folder.iterdir()} == {".npz", ".json"}
    first[0] = 0  # copy on write: whoever changes it changes nobody else's
    assert np.array_equal(encoded(store, TEXTS), vectors_of(TEXTS))


def test_every_text_is_encoded_once(store: VectorStore) -> None:
    seen: list[str] = []
    asked = [*TEXTS[:6], TEXTS[2], TEXTS[0]]
    assert np.array_equal(encoded(store, asked, seen), vectors_of(asked))
    assert seen == TEXTS[:6]
    assert np.array_equal(encoded(store, TEXTS[::-1], seen), vectors_of(TEXTS[::-1]))
    assert seen == [*TEXTS[:6], *TEXTS[:5:-1]]


def test_what_was_encoded_before_a_failure_is_kept(store: VectorStore) -> None:
    calls = []

    def fails_late(new: list[str]) -> np.ndarray:
        calls.append(new)
        if len(calls) == 3:
            raise RuntimeError("the power is gone")
        return vectors_of(new)

    with pytest.raises(RuntimeError):
        encode_once(store, TEXTS, lambda: fails_late, at_once=4)
    seen: list[str] = []
    encoded(store, TEXTS, seen)
    assert seen == TEXTS[8:]


def test_nothing_is_loaded_when_nothing_is_missing(store: VectorStore) -> None:
    encoded(store, TEXTS)

    def load() -> None:
        raise AssertionError("loaded")

    assert len(encode_once(store, TEXTS, load)) == 10


def test_half_a_segment_is_no_segment(store: VectorStore) -> None:
    encoded(store, TEXTS, at_once=100)
    (segment,) = store.folder.glob("*.npz")
    (store.folder / "0001-abc.77.new").write_bytes(segment.read_bytes()[:100])
    assert np.array_equal(encoded(store, TEXTS), vectors_of(TEXTS))
    segment.write_bytes(segment.read_bytes()[:-40])
    assert not len(store.index().locate(text_names(TEXTS))[store.index().locate(text_names(TEXTS)) >= 0])
    assert not segment.exists()


def test_a_segment_of_another_shape_or_type_is_not_trusted(store: VectorStore) -> None:
    names, vectors = text_names(TEXTS[:2]), vectors_of(TEXTS[:2])
    good = hashlib.sha256(b"".join(names.tolist()) + vectors.tobytes()).hexdigest()
    store.folder.mkdir()
    for number, data in enumerate(
        (vectors.reshape(1, 12), vectors.reshape(-1), vectors.view(np.int32), vectors.T.copy().T)
    ):
        np.savez(store.folder / f"{number}.npz", names=names, vectors=data, check=np.array(good))
    np.savez_compressed(store.folder / "9.npz", names=names, vectors=vectors, check=np.array(good))
    assert store.index().locate(names).tolist() == [-1, -1]
    assert not list(store.folder.glob("*.npz"))


def test_segments_with_names_as_text_are_read(store: VectorStore) -> None:
    """So they were written before; their names were joined for the check in the same way."""
    names, vectors = [text_name(text) for text in TEXTS], vectors_of(TEXTS)
    check = hashlib.sha256("".join(names).encode() + vectors.tobytes()).hexdigest()
    store.folder.mkdir()
    np.savez(store.folder / "0000-old.npz", names=np.array(names), vectors=vectors, check=np.array(check))
    seen: list[str] = []
    assert np.array_equal(encoded(store, TEXTS, seen), vectors)
    assert seen == []


def test_two_processes_that_add_the_same_do_no_harm(store: VectorStore) -> None:
    other = VectorStore(store.folder)
    store.add(text_names(TEXTS), vectors_of(TEXTS))
    other.add(text_names(TEXTS[::-1]), vectors_of(TEXTS[::-1]))
    assert np.array_equal(encoded(store, TEXTS), vectors_of(TEXTS))


def test_effort_adds_up_and_a_damaged_note_is_none(store: VectorStore) -> None:
    assert store.effort.seconds_per_1000 is None
    encoded(store, TEXTS)
    assert store.effort.texts == 10
    assert store.effort.seconds_per_1000 is None  # too few to tell
    store.note(90, 1.0, 7)
    assert (store.effort.texts, store.effort.tokens) == (100, 7)
    assert store.effort.seconds_per_1000 == pytest.approx(10, rel=0.2)
    (store.folder / "effort.json").write_text("{", encoding="utf-8")
    assert store.effort.texts == 0
    assert json.loads(json.dumps(store.effort.seconds)) == 0


def test_parts_move_one_bar(store: VectorStore) -> None:
    bars: list[tuple[str, int | None]] = []
    moved: list[int] = []

    class Bar:
        def advance(self, n: int = 1) -> None:
            moved.append(n)

        def note(self, text: str) -> None: ...

    class Reporter:
        def stage(self, name: str, what: str) -> None: ...
        def start(self, label: str, total: int | None, done: int = 0) -> Task:
            bars.append((label, total))
            return Bar()

        def finish(self, task: Task) -> None: ...

    def encode(new: list[str]) -> np.ndarray:
        with module.task("inner", len(new)) as bar:
            bar.advance(len(new))
        return vectors_of(new)

    with reporting_to(Reporter()):
        encode_once(store, TEXTS, lambda: encode, "all texts", at_once=4)
    assert bars == [("all texts", 10)]
    assert sum(moved) == 10
