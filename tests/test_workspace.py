from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shoptalk.errors import DamagedArtifact, DiskFull, InputError, RunFolderBusy
from shoptalk.workspace import (
    Row,
    Workspace,
    digest_of,
    list_files,
    named_disk_errors,
    open_workspace,
    sha256_of,
    write_atomically,
)

HOLDER = """
import sys, time
from pathlib import Path
from shoptalk.workspace import open_workspace
with open_workspace(Path(sys.argv[1])):
    print("ready", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process_owning(root: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.stdin.close()
        process.wait(timeout=30)
        process.stdout.close()


def run_stage(workspace: Workspace, files: dict[str, str], stage: str = "ingest", artifact: str = "passages") -> None:
    """What the pipeline does for a stage that writes these files."""
    key = digest_of([stage, files])
    out, _ = workspace.begin(artifact, key)
    for name, text in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text, encoding="utf-8")
    written = list_files(out)
    workspace.commit(stage, Row(artifact, key, {}, "settings", written, digest_of(written), 0.1, {}))


def test_a_finished_stage_is_read_back_after_reopening(tmp_path):
    root = tmp_path / "runs" / "first"
    with open_workspace(root) as workspace:
        run_stage(workspace, {"corpus.jsonl": "{}\n", "deep/er.txt": "x"})
    with open_workspace(root) as workspace:
        folder = workspace.read("passages")
        assert folder == root / "passages"
        assert (folder / "deep" / "er.txt").read_text() == "x"
    manifest = json.loads((root / "manifest.json").read_text())
    assert manifest["stages"]["ingest"]["files"]["corpus.jsonl"]["bytes"] == 3
    assert not (root / ".work").exists()


def test_a_second_process_is_refused_with_the_owners_process_id(tmp_path):
    root = tmp_path / "run"
    with another_process_owning(root) as owner:
        with pytest.raises(
            RunFolderBusy, match=rf"in use by process {owner.pid}; wait for it, or choose another --out"
        ):
            open_workspace(root).__enter__()
        assert (root / ".owner").read_text() == str(owner.pid)  # the refused one leaves the owner's name alone
    with open_workspace(root):
        assert (root / ".owner").read_text() == str(os.getpid())
    assert not (root / ".owner").exists()


def test_a_second_owner_in_the_same_process_is_refused_too(tmp_path):
    with open_workspace(tmp_path / "run"), pytest.raises(RunFolderBusy, match=str(os.getpid())):
        open_workspace(tmp_path / "run").__enter__()


def test_the_lock_of_a_killed_owner_is_free_again(tmp_path):
    root = tmp_path / "run"
    with another_process_owning(root) as owner:
        owner.send_signal(signal.SIGKILL)
        owner.wait(timeout=30)
        assert (root / ".owner").exists()
        with open_workspace(root) as workspace:
            run_stage(workspace, {"a": "1"})


def test_the_folder_is_free_after_an_error_inside(tmp_path):
    with pytest.raises(ZeroDivisionError), open_workspace(tmp_path / "run"):
        _ = 1 / 0
    with open_workspace(tmp_path / "run"):
        pass


def test_a_changed_byte_is_named_with_what_to_do(tmp_path):
    with open_workspace(tmp_path / "run") as workspace:
        run_stage(workspace, {"corpus.jsonl": "abc", "other": "x"})
    (tmp_path / "run/passages/corpus.jsonl").write_text("abd")  # same size
    with (
        open_workspace(tmp_path / "run") as workspace,
        pytest.raises(DamagedArtifact, match=r"corpus\.jsonl: changed since it was written .* --from ingest"),
    ):
        workspace.read("passages")


def test_a_deleted_file_is_named(tmp_path):
    with open_workspace(tmp_path / "run") as workspace:
        run_stage(workspace, {"corpus.jsonl": "abc", "other": "x"})
    (tmp_path / "run/passages/other").unlink()
    with (
        open_workspace(tmp_path / "run") as workspace,
        pytest.raises(DamagedArtifact, match=r"passages/other: is gone; .* --from ingest"),
    ):
        workspace.read("passages")


def test_an_artifact_that_no_stage_finished_is_not_read_whatever_lies_there(tmp_path):
    with open_workspace(tmp_path / "run") as workspace:
        (tmp_path / "run/passages").mkdir()
        with pytest.raises(DamagedArtifact, match="has no finished passages"):
            workspace.read("passages")


def test_an_unfinished_stage_leaves_no_artifact_and_the_next_begins_clean(tmp_path):
    root = tmp_path / "run"
    with open_workspace(root) as workspace:
        out, _ = workspace.begin("passages", "key")
        (out / "half").write_text("half")
    assert not (root / "passages").exists()
    with open_workspace(root) as workspace:
        assert workspace.rows == {}
        out, _ = workspace.begin("passages", "key")
        assert list(out.iterdir()) == []


def test_an_unfinished_second_try_keeps_the_first_result(tmp_path):
    root = tmp_path / "run"
    with open_workspace(root) as workspace:
        run_stage(workspace, {"a": "old"})
        out, _ = workspace.begin("passages", "other key")
        (out / "a").write_text("half of the new")
    with open_workspace(root) as workspace:
        assert (workspace.read("passages") / "a").read_text() == "old"


def test_a_stage_that_runs_again_replaces_all_of_its_files(tmp_path):
    root = tmp_path / "run"
    with open_workspace(root) as workspace:
        run_stage(workspace, {"a": "1", "b": "1"})
        run_stage(workspace, {"a": "2"})
        assert list_files(workspace.read("passages")).keys() == {"a"}
    assert not (root / ".work").exists()


def test_scratch_survives_for_the_same_key_only(tmp_path):
    with open_workspace(tmp_path / "run") as workspace:
        _, scratch = workspace.begin("candidates", "a" * 64)
        (scratch / "checkpoint").write_text("x")
    with open_workspace(tmp_path / "run") as workspace:
        _, again = workspace.begin("candidates", "a" * 64)
        assert (again / "checkpoint").read_text() == "x"
        _, other = workspace.begin("candidates", "b" * 64)
        assert not list(other.iterdir())
        assert not scratch.exists()


def test_a_dropped_stage_must_run_again(tmp_path):
    with open_workspace(tmp_path / "run") as workspace:
        run_stage(workspace, {"a": "1"})
        workspace.drop("ingest")
        workspace.drop("never")
    with open_workspace(tmp_path / "run") as workspace, pytest.raises(DamagedArtifact):
        workspace.read("passages")


def test_the_reports_files_stand_at_the_top_and_are_verified_there(tmp_path):
    root = tmp_path / "run"
    with open_workspace(root) as workspace:
        run_stage(workspace, {"a": "1"})
        run_stage(workspace, {"report.html": "<p>", "result.json": "{}"}, "report", "report")
        assert workspace.read("report") == root
        assert (workspace.read("passages") / "a").read_text() == "1"
    (root / "report.html").write_text("<b>")
    with open_workspace(root) as workspace, pytest.raises(DamagedArtifact, match=r"report\.html: changed"):
        workspace.read("report")


CRASHES = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_workspace import run_stage
from shoptalk.workspace import open_workspace

os.fsync = lambda descriptor: None  # a killed process loses nothing that it wrote; only a power cut would
WATCHED = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "os.listdir", "os.scandir")
states = []
for moment in range(1, 200):
    root = Path(sys.argv[1]) / str(moment)
    with open_workspace(root) as workspace:
        run_stage(workspace, {"a": "1", "b": "1"}, "first", "earlier")
        run_stage(workspace, {"a": "old", "b": "old"})
    child = os.fork()
    if child == 0:
        seen = 0
        def die(event, arguments):
            global seen
            if event in WATCHED:
                seen += 1
                if seen == moment:
                    os._exit(9)
        with open_workspace(root) as workspace:
            sys.addaudithook(die)
            run_stage(workspace, {"a": "new", "b": "new"})
        os._exit(0)
    finished = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with open_workspace(root) as workspace:
        assert (workspace.read("earlier") / "a").read_text() == "1"
        if "ingest" in workspace.rows:
            folder = workspace.read("passages")
            a, b = ((folder / name).read_text() for name in "ab")
            assert a == b
            states.append(a)
        else:
            states.append("none")
        run_stage(workspace, {"a": "again", "b": "again"})
    with open_workspace(root) as workspace:
        assert (workspace.read("passages") / "a").read_text() == "again"
    if finished:
        break
print(json.dumps(states))
"""


def test_a_kill_at_any_step_leaves_the_old_result_the_new_one_or_none(tmp_path):
    """A child dies before its first file operation, its second, and so on until it gets through."""
    ran = subprocess.run(
        [sys.executable, "-c", CRASHES, str(tmp_path), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    states = json.loads(ran.stdout)
    assert len(states) > 20
    assert set(states) == {"old", "none", "new"}
    assert states == sorted(states, key=["old", "none", "new"].index)


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="is not empty and not a run folder; choose a new folder for --out"):
        open_workspace(tmp_path).__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_is_refused(tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(InputError, match="out: is a file; --out wants a folder"):
        open_workspace(tmp_path / "out").__enter__()


@pytest.mark.parametrize("name", ["file/run", "x" * 300])
def test_a_folder_that_cannot_be_made_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"cannot be written: .*; choose another folder for --out"):
        open_workspace(tmp_path / name).__enter__()


def test_an_empty_folder_and_a_folder_of_a_stopped_first_run_are_taken(tmp_path):
    with open_workspace(tmp_path):
        pass
    with open_workspace(tmp_path) as workspace:
        run_stage(workspace, {"a": "1"})
        assert len(workspace.rows) == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"stages": []}', b'{"stages": {"a": {}}}', b'{"stages": {"a": 1}}', b"\xff"],
)
def test_a_damaged_manifest_is_named(tmp_path, content):
    with open_workspace(tmp_path / "run"):
        pass
    (tmp_path / "run/manifest.json").write_bytes(content)
    with (
        pytest.raises(DamagedArtifact, match=r"manifest\.json: is damaged; move the run folder away"),
        open_workspace(tmp_path / "run"),
    ):
        pass
    with pytest.raises(DamagedArtifact), open_workspace(tmp_path / "run"):  # and the folder is not left locked
        pass


def test_each_different_evaluation_counts_as_one_look(tmp_path):
    with open_workspace(tmp_path / "run") as workspace:
        assert workspace.evaluations() == 0
        assert [workspace.note_evaluation(key) for key in ("a", "a", "b")] == [1, 1, 2]
    with open_workspace(tmp_path / "run") as workspace:
        assert workspace.evaluations() == 2


@pytest.mark.parametrize("content", ["", "{", "null", "3"])
def test_a_damaged_count_of_looks_starts_again(tmp_path, content):
    with open_workspace(tmp_path / "run") as workspace:
        (tmp_path / "run/evaluations.json").write_text(content)
        assert workspace.evaluations() == 0
        assert workspace.note_evaluation("a") == 1


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of one megabyte."""
    mount = tmp_path / "disk"
    mount.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)], check=True, capture_output=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError) as reason:
        pytest.skip(f"a file system cannot be mounted here: {reason}")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True, timeout=20)


def test_a_full_disk_is_named_and_finished_stages_are_intact(full_disk):
    root = full_disk / "run"
    with open_workspace(root) as workspace:
        run_stage(workspace, {"a": "1"})
    with (
        pytest.raises(DiskFull, match=r"no space left on the device \(\d+ MB free\); finished stages are intact"),
        open_workspace(root) as workspace,
    ):
        run_stage(workspace, {"big": "x" * 2_000_000}, "dataset", "dataset")

    with open_workspace(root) as workspace:  # though the disk is still full
        assert (workspace.read("passages") / "a").read_text() == "1"
        run_stage(workspace, {"small": "x"}, "dataset", "dataset")
        assert (workspace.read("dataset") / "small").read_text() == "x"


def test_a_disk_that_is_full_from_the_start_is_named(full_disk):
    with pytest.raises(OSError, match="No space left"):
        (full_disk / "filler").write_bytes(b"x" * 2_000_000)
    with pytest.raises(DiskFull), open_workspace(full_disk / "run") as workspace:
        run_stage(workspace, {"a": "x" * 5_000})


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux' /dev/full")
def test_no_space_for_the_manifest_keeps_what_it_said_before(tmp_path):
    root = tmp_path / "run"
    with open_workspace(root) as workspace:
        run_stage(workspace, {"a": "1"})
    (root / ".manifest.json.new").symlink_to("/dev/full")
    with pytest.raises(DiskFull), open_workspace(root) as workspace:
        run_stage(workspace, {"b": "2"}, "dataset", "dataset")
    (root / ".manifest.json.new").unlink()
    with open_workspace(root) as workspace:
        assert list(workspace.rows) == ["ingest"]
        assert (workspace.read("passages") / "a").read_text() == "1"


def test_no_space_is_known_in_whichever_librarys_words(tmp_path):
    for error in (
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 128 vs 22"),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
    ):
        with pytest.raises(DiskFull) as caught, named_disk_errors(tmp_path):
            raise error
        assert caught.value.__cause__ is error


def test_other_errors_pass_as_they_are(tmp_path):
    with pytest.raises(PermissionError), named_disk_errors(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(KeyboardInterrupt), named_disk_errors(tmp_path):
        raise KeyboardInterrupt


def test_a_failed_atomic_write_keeps_the_old_text(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \ud800")
    assert path.read_text() == "old"
    write_atomically(path, "new")
    assert path.read_text() == "new"


def test_the_digest_of_a_value_does_not_depend_on_the_order_of_its_keys():
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1}) != digest_of({"a": 2, "b": 1})


def test_a_files_digest_is_its_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert list_files(tmp_path) == {"a": {"bytes": 3, "sha256": sha256_of(tmp_path / "a")}}
