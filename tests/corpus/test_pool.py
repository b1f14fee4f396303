"""Workers under limits: real processes that hang, crash or take too much memory never stop the others."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import psutil
import pytest

from shoptalk.corpus.pool import Job, Pool, n_workers
from shoptalk.settings import IngestSettings

TEXT = "The manager approves every travel request."


def limits(**values: float) -> IngestSettings:
    return IngestSettings.model_validate(values)


def markdown(text: str = TEXT) -> Job:
    return Job(".md", "name", text.encode())


def workers() -> list[psutil.Process]:
    found = psutil.Process().children(recursive=True)
    return [process for process in found if "shoptalk.corpus.worker" in " ".join(process.cmdline())]


def bomb() -> bytes:
    """A Word document of a few hundred KB whose text is larger than the memory limit of the test."""
    out = io.BytesIO()
    word = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(
            "[Content_Types].xml",
            '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
            f'<Override PartName="/word/document.xml" ContentType="{word}"/></Types>',
        )
        kind = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
        packed.writestr(
            "_rels/.rels",
            '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
            f'<Relationship Id="r" Type="{kind}" Target="word/document.xml"/></Relationships>',
        )
        packed.writestr("word/document.xml", b"<a>" + b"x" * 300_000_000 + b"</a>")
    return out.getvalue()


def test_answers_come_in_the_order_of_the_items_and_known_ones_pass_through():
    items = [(n, markdown(f"text {n}") if n % 3 else {"unreadable": f"known {n}"}) for n in range(30)]
    with Pool(limits(), 3) as pool:
        answers = list(pool.run(items))
    assert [tag for tag, _ in answers] == list(range(30))
    for n, answer in answers:
        assert answer == (
            {"title": "name", "text": f"text {n}", "page_starts": [], "note": ""}
            if n % 3
            else {"unreadable": f"known {n}"}
        )


def test_a_worker_that_hangs_is_ended_and_replaced():
    with Pool(limits(timeout_s=1.5), 1) as pool:
        pool.one(markdown())
        (worker,) = workers()
        worker.suspend()
        started = time.monotonic()
        answer = pool.one(markdown())
        assert answer == {"unreadable": "took longer than 1.5 s to parse (ingest.timeout_s)", "transient": True}
        assert time.monotonic() - started < 10
        assert pool.one(markdown())["text"] == TEXT
        assert worker.pid not in [process.pid for process in workers()]


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_a_worker_that_crashes_is_replaced(number):
    with Pool(limits(), 1) as pool:
        pool.one(markdown())
        (worker,) = workers()
        worker.suspend()
        threading.Timer(0.3, lambda: (worker.send_signal(number), worker.resume())).start()
        assert pool.one(markdown())["unreadable"] == f"crashed its parser ({signal.Signals(number).name})"
        assert pool.one(markdown())["text"] == TEXT


def test_a_worker_that_died_between_two_files_is_replaced():
    with Pool(limits(), 1) as pool:
        pool.one(markdown())
        (worker,) = workers()
        worker.kill()
        worker.wait()
        assert pool.one(markdown())["text"] == TEXT


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts a process's memory so")
def test_a_file_that_takes_too_much_memory_is_listed_and_the_next_one_read():
    with Pool(limits(memory_mb=128), 1) as pool:
        reason = pool.one(Job(".docx", "bomb", bomb()))["unreadable"]
        assert reason == "needs more than 128 MB to parse (ingest.memory_mb)"
        assert pool.one(markdown())["text"] == TEXT


def test_what_a_parser_raises_is_a_reason():
    deep = b"<html><body>" + b"<div>" * 100_000 + b"x"
    with Pool(limits(), 1) as pool:
        assert "no text" in pool.one(Job(".html", "deep", deep))["unreadable"]
        assert pool.one(Job(".pdf", "bad", b"%PDF-1.7 bad"))["unreadable"].startswith("not a PDF")
        assert pool.one(markdown())["text"] == TEXT


def test_workers_load_neither_torch_nor_transformers():
    with Pool(limits(), 1) as pool:
        pool.one(Job(".html", "page", f"<body><main><p>{TEXT}</p></main></body>".encode()))
        (worker,) = workers()
        loaded = " ".join(entry.path for entry in worker.memory_maps())
    assert "torch" not in loaded
    assert "tokenizers" not in loaded


def test_no_worker_sees_a_key(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "canary-secret")
    with Pool(limits(), 1) as pool:
        pool.one(markdown())
        assert "canary-secret" not in workers()[0].environ().values()


def test_leaving_the_pool_ends_all_workers_also_in_the_middle():
    pool = Pool(limits(), 2)

    def interrupted() -> None:
        with pool:
            for number, _ in pool.run((n, markdown()) for n in range(100)):
                if number == 5:
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert workers() == []


def test_small_sources_get_one_worker_and_a_setting_is_obeyed():
    assert n_workers(limits(), 5, 10_000) == 1
    assert n_workers(limits(workers=7), 5, 10_000) == 7
    assert 1 <= n_workers(limits(), 10_000, 10**9) <= (os.cpu_count() or 1)


SCRIPT = """
import sys, time
from shoptalk.corpus.pool import Job, Pool
from shoptalk.settings import IngestSettings
with Pool(IngestSettings(), 2) as pool:
    for n, answer in pool.run((n, Job(".md", "name", b"text")) for n in range(10**9)):
        if n == 20:
            print("running", flush=True)
        time.sleep(0.001)
"""


def hear_interrupts() -> None:
    """A shell has its background jobs ignore Ctrl-C, and their children with them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_parent(tmp_path: Path, number):
    script = tmp_path / "script.py"  # a plain script without the guard that multiprocessing wants
    script.write_text(SCRIPT)
    parent = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=hear_interrupts
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"running\n"
    children = psutil.Process(parent.pid).children(recursive=True)
    assert len(children) == 2
    parent.send_signal(number)
    parent.wait(20)
    parent.stdout.close()
    assert psutil.wait_procs(children, timeout=10)[1] == []
