from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoptalk.errors import DiskFull, InputError, RunFolderBusy, SourceError
from shoptalk.models import to_file as module
from shoptalk.models.encoder import TorchEncoder, load_encoder
from shoptalk.models.texts import TextFile
from shoptalk.models.to_file import EncodedFile, encode_to_file
from shoptalk.settings import ModelSettings

FP32 = ModelSettings(device="cpu", precision="fp32")
WORDS = (
    "hotel travel policy refund invoice member office room train plane ticket price form manager approve report".split()
)


def some_texts(n: int, seed: int = 1) -> list[tuple[str, str]]:
    drawn = random.Random(seed)
    return [(f"p{i}", " ".join(drawn.choices(WORDS, k=drawn.randint(1, 50)))) for i in range(n)]


@pytest.fixture(scope="module")
def tiny(tiny_bert: Path) -> TorchEncoder:
    return load_encoder(str(tiny_bert), FP32)


class Stops(Exception):
    pass


class Stopping:
    """Texts whose reading fails behind row `at`, as a process that is killed there would stop."""

    def __init__(self, rows: list[tuple[str, str]], at: int) -> None:
        self.rows, self.at = rows, at

    def __iter__(self) -> Any:
        for index, row in enumerate(self.rows):
            if index == self.at:
                raise Stops
            yield row


class Counting:
    """An encoder's `encode` that remembers what it was given."""

    def __init__(self, encoder: TorchEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
        self.texts: list[str] = []
        real = encoder.encode

        def encode(texts: Any, role: Any) -> Any:
            self.texts += texts
            return real(texts, role)

        monkeypatch.setattr(encoder, "encode", encode)


def check(found: EncodedFile, rows: list[tuple[str, str]], encoder: TorchEncoder) -> None:
    vectors = np.load(found.vectors, mmap_mode="r")
    assert isinstance(vectors, np.memmap)
    assert (vectors.shape, vectors.dtype) == ((len(rows), 32), np.float32)
    assert np.abs(vectors - encoder.encode_passages([text for _, text in rows])).max() <= 1e-6
    assert found.ids.read_text(encoding="utf-8").splitlines() == [name for name, _ in rows]
    about = json.loads(found.facts.read_text(encoding="utf-8"))
    assert about == found.about
    assert (about["rows"], about["dim"]) == (len(rows), 32)


def test_a_file_of_vectors_with_ids_and_facts(tiny: TorchEncoder, tmp_path: Path) -> None:
    rows = [*some_texts(57), ("long", "hotel " * 100)]
    found = encode_to_file(tiny, rows, tmp_path / "vectors.npy", block=10, model_name="tiny")
    check(found, rows, tiny)
    assert (found.resumed, found.restarted) == (0, "")
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")) == [
        "vectors.ids.txt",
        "vectors.json",
        "vectors.npy",
    ]
    about = found.about
    assert (about["model"], about["model_digest"], about["role"]) == ("tiny", tiny.digest, "document")
    assert (about["precision"], about["prompt"], about["truncated"], about["max_tokens"]) == ("fp32", "", 1, 64)


def test_what_is_complete_is_not_encoded_again(
    tiny: TorchEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, out = some_texts(20), tmp_path / "v.npy"
    encode_to_file(tiny, rows, out, block=8)
    before = out.stat().st_mtime_ns
    seen = Counting(tiny, monkeypatch)
    found = encode_to_file(tiny, rows, out, block=8)
    assert (seen.texts, found.resumed, found.restarted, out.stat().st_mtime_ns) == ([], 20, "", before)


def test_a_stopped_job_goes_on_behind_its_last_block(
    tiny: TorchEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, out = some_texts(35), tmp_path / "v.npy"
    with pytest.raises(Stops):
        encode_to_file(tiny, Stopping(rows, 27), out, block=10)
    assert not out.exists()
    seen = Counting(tiny, monkeypatch)
    found = encode_to_file(tiny, rows, out, block=10)
    assert (found.resumed, found.restarted) == (20, "")
    assert seen.texts == [text for _, text in rows[20:]]
    check(found, rows, tiny)


@pytest.mark.parametrize("garbage", ["vectors.npy", "ids.txt", "journal.jsonl"])
def test_what_a_kill_left_behind_the_last_block_is_cut_off(tiny: TorchEncoder, tmp_path: Path, garbage: str) -> None:
    rows, out = some_texts(35), tmp_path / "v.npy"
    with pytest.raises(Stops):
        encode_to_file(tiny, Stopping(rows, 27), out, block=10)
    with (tmp_path / ".v.npy.part" / garbage).open("ab") as half_written:
        half_written.write(b'{"rows": 3')
    found = encode_to_file(tiny, rows, out, block=10)
    assert found.resumed == 20
    check(found, rows, tiny)


def test_a_damaged_block_and_those_behind_it_are_encoded_again(tiny: TorchEncoder, tmp_path: Path) -> None:
    rows, out = some_texts(45), tmp_path / "v.npy"
    with pytest.raises(Stops):
        encode_to_file(tiny, Stopping(rows, 40), out, block=10)
    part = tmp_path / ".v.npy.part" / "vectors.npy"
    raw = bytearray(part.read_bytes())
    raw[-32 * 4 * 15] ^= 1  # in the third of four blocks
    part.write_bytes(raw)
    found = encode_to_file(tiny, rows, out, block=10)
    assert found.resumed == 20
    check(found, rows, tiny)


def change_texts(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [*rows[:5], ("p5", "other words"), *rows[6:]]


@pytest.mark.parametrize("finished", [True, False])
def test_changed_texts_start_again_and_it_is_said(tiny: TorchEncoder, tmp_path: Path, finished: bool) -> None:
    rows, out = some_texts(25), tmp_path / "v.npy"
    if finished:
        encode_to_file(tiny, rows, out, block=10)
    else:
        with pytest.raises(Stops):
            encode_to_file(tiny, Stopping(rows, 20), out, block=10)
    changed = change_texts(rows)
    found = encode_to_file(tiny, changed, out, block=10)
    assert (found.resumed, found.restarted) == (0, "the texts have changed; starting again")
    check(found, changed, tiny)


@pytest.mark.parametrize("finished", [True, False])
def test_another_model_starts_again_and_it_is_said(
    tiny: TorchEncoder, tiny_bert: Path, tmp_path: Path, finished: bool
) -> None:
    rows, out = some_texts(25), tmp_path / "v.npy"
    other = load_encoder(str(tiny_bert), FP32.model_copy(update={"passage_prompt": "text: "}))
    if finished:
        encode_to_file(other, rows, out, block=10)
    else:
        with pytest.raises(Stops):
            encode_to_file(other, Stopping(rows, 20), out, block=10)
    found = encode_to_file(tiny, rows, out, block=10)
    assert found.resumed == 0
    assert found.restarted.endswith("; starting again")
    check(found, rows, tiny)


@pytest.mark.parametrize("damaged", ["v.npy", "v.json"])
def test_a_damaged_output_is_made_again(tiny: TorchEncoder, tmp_path: Path, damaged: str) -> None:
    rows, out = some_texts(12), tmp_path / "v.npy"
    encode_to_file(tiny, rows, out)
    raw = bytearray((tmp_path / damaged).read_bytes())
    raw[len(raw) // 2 if damaged == "v.npy" else 0] ^= 1
    (tmp_path / damaged).write_bytes(raw)
    found = encode_to_file(tiny, rows, out)
    assert "damaged; starting again" in found.restarted
    check(found, rows, tiny)


@pytest.mark.parametrize("at", range(6))
def test_a_stop_between_the_last_block_and_the_end_loses_nothing(
    tiny: TorchEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Each step of publishing fails in turn; the next run only finishes."""
    rows, out = some_texts(25), tmp_path / "v.npy"
    steps = {"n": 0}

    def failing(real: Any) -> Any:
        def step(*given: Any, **named: Any) -> Any:
            steps["n"] += 1
            if steps["n"] == at + 1:
                raise Stops
            return real(*given, **named)

        return step

    with monkeypatch.context() as patched:
        real_publish = module._Job._publish

        def publish(job: Any) -> None:
            with monkeypatch.context() as inner:
                inner.setattr(Path, "unlink", failing(Path.unlink))
                inner.setattr(Path, "replace", failing(Path.replace))
                inner.setattr(module.shutil, "rmtree", failing(module.shutil.rmtree))
                real_publish(job)

        patched.setattr(module._Job, "_publish", publish)
        with pytest.raises(Stops):
            encode_to_file(tiny, rows, out, block=10)
    seen = Counting(tiny, monkeypatch)
    found = encode_to_file(tiny, rows, out, block=10)
    assert (seen.texts, found.resumed, found.restarted) == ([], 25, "")
    check(found, rows, tiny)
    assert not (tmp_path / ".v.npy.part").exists()


CHILD = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}, {models!r}]
from shoptalk.models.encoder import load_encoder
from shoptalk.models.texts import TextFile
from shoptalk.models.to_file import encode_to_file
from shoptalk.settings import ModelSettings
import torch
torch.set_num_threads(1)
encoder = load_encoder({model!r}, ModelSettings(device="cpu", precision="fp32"))
print("ready", flush=True)
encode_to_file(encoder, TextFile(Path({texts!r})), Path({out!r}), block=40)
print("done", flush=True)
"""


def blocks_written(folder: Path) -> int:
    try:
        return (folder / ".v.npy.part" / "journal.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 1  # of the journal that a first run is about to make


def kill_while_encoding(model: Path, folder: Path, kills: int, seed: int) -> tuple[int, list[tuple[str, str]], Path]:
    """How many processes were killed before one came through."""
    rows = some_texts(6_000, seed)
    texts, out = folder / "texts.jsonl", folder / "v.npy"
    texts.write_text("".join(json.dumps({"_id": name, "text": text}) + "\n" for name, text in rows), encoding="utf-8")
    code = CHILD.format(
        tests=str(Path(__file__).parent.parent),
        models=str(Path(__file__).parent),
        model=str(model),
        texts=str(texts),
        out=str(out),
    )
    drawn, done = random.Random(seed), 0
    while done < kills:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        wanted = blocks_written(folder) + drawn.randint(1, 4)
        while blocks_written(folder) < wanted and process.poll() is None:
            time.sleep(0.001)
        time.sleep(drawn.uniform(0, 0.02))  # anywhere in the next block or its writing
        os.kill(process.pid, signal.SIGKILL)
        rest = process.stdout.read()
        process.wait()
        if "done" in rest:
            break
        done += 1
    return done, rows, out


# Each of the thirty imports torch anew: minutes on a busy core.
@pytest.mark.parametrize("kills", [2, pytest.param(30, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_nothing_is_lost_or_doubled_by_kills(tiny: TorchEncoder, tiny_bert: Path, tmp_path: Path, kills: int) -> None:
    killed = 0
    while killed < kills:  # a fresh output whenever one came to its end
        folder = tmp_path / str(killed)
        folder.mkdir(exist_ok=True)
        done, rows, out = kill_while_encoding(tiny_bert, folder, kills - killed, seed=killed)
        killed += done
        found = encode_to_file(tiny, TextFile(folder / "texts.jsonl"), out, block=40)
        assert found.restarted == ""
        assert found.resumed >= 40 * done
        check(found, rows, tiny)
        if not done:
            pytest.fail("a process came through before it was killed: the sample is too small for this machine")


def test_two_processes_do_not_write_one_output(tiny: TorchEncoder, tmp_path: Path) -> None:
    from filelock import FileLock

    with FileLock(tmp_path / ".v.npy.lock"), pytest.raises(RunFolderBusy, match="another process is writing it"):
        encode_to_file(tiny, some_texts(3), tmp_path / "v.npy")


def test_a_full_disk_is_said_and_what_is_encoded_is_kept(
    tiny: TorchEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, out = some_texts(35), tmp_path / "v.npy"
    real, calls = os.fsync, {"n": 0}

    def full(descriptor: int) -> None:
        calls["n"] += 1
        if calls["n"] > 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(DiskFull, match=r"v\.npy: no space left on the device .* what is encoded is kept"):
            encode_to_file(tiny, rows, out, block=10)
    found = encode_to_file(tiny, rows, out, block=10)
    assert found.resumed >= 10
    check(found, rows, tiny)


def test_what_cannot_be_written_is_refused(tiny: TorchEncoder, tmp_path: Path) -> None:
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "file").write_text("x")
    for out, why in (
        (tmp_path / "v.bin", "ends in .npy"),
        (tmp_path / "folder.npy", "is a folder"),
        (tmp_path / "file" / "v.npy", "cannot be written"),
    ):
        with pytest.raises(InputError, match=why):
            encode_to_file(tiny, some_texts(3), out)
    with pytest.raises(InputError, match="there are no texts"):
        encode_to_file(tiny, [], tmp_path / "v.npy")
    with pytest.raises(InputError, match="can be read only once"):
        encode_to_file(tiny, iter(some_texts(3)), tmp_path / "v.npy")


# Files of texts


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_every_format_gives_ids_and_texts(tmp_path: Path) -> None:
    jsonl = write(
        tmp_path / "a.jsonl", '{"_id": "d1", "title": "T", "text": "one"}\n\n{"id": 7, "text": ""}\n{"text": "x"}\n'
    )
    assert list(TextFile(jsonl)) == [("d1", "T one"), ("7", ""), ("3", "x")]
    assert list(TextFile(write(tmp_path / "b.jsonl", '{"q": "one", "title": "T"}'), "q")) == [("1", "one")]
    assert list(TextFile(write(tmp_path / "a.txt", "\ufeffone\r\n\ntwo"))) == [("1", "one"), ("2", ""), ("3", "two")]
    assert list(TextFile(write(tmp_path / "a.csv", '_id,text\na,"one, two\nthree"\nb,four\n'))) == [
        ("a", "one, two\nthree"),
        ("b", "four"),
    ]
    assert list(TextFile(write(tmp_path / "a.tsv", "question\tid\nwhy\tq1\n"), "question")) == [("q1", "why")]


@pytest.mark.parametrize(
    ("name", "content", "field", "why"),
    [
        (
            "a.jsonl",
            '{"text": "x"}\n{"body": "x"}\n',
            None,
            r"line 2: no field 'text'; it has body. Choose one with --field",
        ),
        ("a.jsonl", '{"text": ["x"]}\n', None, "line 1: 'text' is a list, not a text"),
        ("a.jsonl", '{"text": "x"}\n{"text":', None, "line 2: not JSON"),
        ("a.jsonl", '{"_id": "a\\nb", "text": "x"}', None, "the id 'a\\\\nb' holds a line break"),
        ("a.txt", b"fine\n\xff\xfe\n", None, "line 2: not UTF-8"),
        ("a.txt", "x" * 2_000_001, None, "line 1: more than 2,000,000 bytes in one line"),
        ("a.txt", "x", "text", "a .txt has no fields"),
        ("a.csv", "text\na,b\n", None, "line 2: more cells than the header"),
        ("a.csv", b"text\n\xff\n", None, "not UTF-8"),
        ("a.csv", 'text\n"open', None, "not readable as csv"),
        ("a.pdf", "x", None, "not a file of texts"),
    ],
)
def test_damaged_texts_are_named_with_their_line(
    tmp_path: Path, name: str, content: str | bytes, field: str | None, why: str
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(SourceError, match=why):
        list(TextFile(path, field))


def test_no_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        TextFile(tmp_path / "none.txt")
    with pytest.raises(SourceError, match="a folder, not a file"):
        TextFile(tmp_path)
