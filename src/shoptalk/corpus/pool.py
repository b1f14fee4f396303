"""Worker processes that parse documents under limits of time and memory, and are replaced when they break one.

Workers are plain subprocesses, neither forked (threads and locks of torch) nor spawned by multiprocessing (which would run the
user's own script again), so they start with the readers and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from shoptalk.corpus.worker import MEMORY_EXIT
from shoptalk.settings import IngestSettings

_SERVE = "from shoptalk.corpus.worker import main; main()"
_FILES_A_WORKER = 12
_BYTES_A_WORKER = 1_000_000


Answer = dict[str, Any]
Tag = TypeVar("Tag")


@dataclass(frozen=True, slots=True)
class Job:
    """A file to parse: what kind it is and its bytes; or, with `unpack`, the arguments of `archives.unpack`."""

    suffix: str
    name: str
    raw: bytes = b""
    unpack: Mapping[str, Any] | None = None


class Pool:
    """Use as a context manager; leaving it, however, ends all workers."""

    def __init__(self, settings: IngestSettings, n_workers: int) -> None:
        self._workers = [Worker(settings) for _ in range(n_workers)]

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.stop()

    def one(self, job: Job) -> Answer:
        """The answer to a single job."""
        return next(self.run([(None, job)]))[1]

    def run(self, items: Iterable[tuple[Tag, Job | Answer]]) -> Iterator[tuple[Tag, Answer]]:
        """The answers in the order of the items, which are read a few ahead: {"title", "text", ...} or {"unreadable": reason}.

        An item that has its answer already passes through. Raises what broke a worker's thread.
        """
        todo: queue.Queue[tuple[int, Job] | None] = queue.Queue()
        done: queue.Queue[tuple[int, Answer | BaseException]] = queue.Queue()
        threads = [threading.Thread(target=_serve, args=(worker, todo, done), daemon=True) for worker in self._workers]
        for thread in threads:
            thread.start()
        try:
            yield from self._in_order(iter(items), todo, done)
        finally:
            for _ in threads:
                todo.put(None)

    def _in_order(
        self,
        items: Iterator[tuple[Tag, Job | Answer]],
        todo: queue.Queue[tuple[int, Job] | None],
        done: queue.Queue[tuple[int, Answer | BaseException]],
    ) -> Iterator[tuple[Tag, Answer]]:
        tags: dict[int, Tag] = {}
        ready: dict[int, Answer] = {}
        read = shown = pending = 0
        more = True
        while more or shown < read:
            while more and pending < 2 * len(self._workers):
                item = next(items, None)
                if item is None:
                    more = False
                    break
                tags[read], work = item
                if isinstance(work, Job):
                    todo.put((read, work))
                    pending += 1
                else:
                    ready[read] = work
                read += 1
            if pending and shown not in ready:
                number, answer = done.get()
                pending -= 1
                if isinstance(answer, BaseException):
                    raise answer
                ready[number] = answer
            while shown in ready:
                yield tags.pop(shown), ready.pop(shown)
                shown += 1


def n_workers(settings: IngestSettings, n_files: int, n_bytes: int) -> int:
    """As many workers as are set; else as there are cores, but no more than the work is worth starting."""
    if settings.workers:
        return settings.workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, max(n_files // _FILES_A_WORKER, n_bytes // _BYTES_A_WORKER)))


def _serve(
    worker: Worker,
    todo: queue.Queue[tuple[int, Job] | None],
    done: queue.Queue[tuple[int, Answer | BaseException]],
) -> None:
    while (item := todo.get()) is not None:
        number, job = item
        try:
            done.put((number, worker.parse(job)))
        except BaseException as error:  # handed to the thread that waits
            done.put((number, error))


class Worker:
    """One child process, started at its first job and again after it was killed."""

    def __init__(self, settings: IngestSettings) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._starting = threading.Lock()
        self._stopped = False

    def parse(self, job: Job) -> Answer:
        """What the child answers, or {"unreadable": reason, "transient": True} when it hung, crashed or ran out of memory."""
        process = self._started()
        late = threading.Event()
        timer = threading.Timer(self._settings.timeout_s, _kill, (process, late))
        timer.daemon = True
        timer.start()
        try:
            answer = self._ask(process, job)
        finally:
            timer.cancel()
            timer.join()
        if answer is not None and not late.is_set():
            return answer
        code = process.wait()
        self._close()
        return {"unreadable": self._why(code, late.is_set()), "transient": True}

    def _started(self) -> subprocess.Popen[bytes]:
        with self._starting:
            if self._stopped:
                raise RuntimeError("the pool is closed")
            if self._process is None or self._process.poll() is not None:
                self._close()
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _SERVE, str(self._settings.memory_mb)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=_environment(),
                )
            return self._process

    def _ask(self, process: subprocess.Popen[bytes], job: Job) -> Answer | None:
        assert process.stdin is not None
        assert process.stdout is not None
        request: dict[str, Any] = {"timeout_s": self._settings.timeout_s}
        if job.unpack is not None:
            request["unpack"] = dict(job.unpack)
        else:
            request |= {"suffix": job.suffix, "name": job.name, "bytes": len(job.raw)}
        try:
            process.stdin.write(json.dumps(request).encode("ascii") + b"\n")
            process.stdin.write(job.raw)
            process.stdin.flush()
            line = process.stdout.readline()
            answer = json.loads(line) if line.endswith(b"\n") else None
        except (OSError, ValueError):
            _kill(process, None)
            return None
        if answer is None:
            return None
        return answer if isinstance(answer, dict) else {"unreadable": "the parser gave no answer", "transient": True}

    def _why(self, code: int, late: bool) -> str:
        alarm = -getattr(signal, "SIGALRM", 0)
        if late or (alarm and code == alarm):
            return f"took longer than {self._settings.timeout_s:g} s to parse (ingest.timeout_s)"
        if code == MEMORY_EXIT:
            return f"needs more than {self._settings.memory_mb} MB to parse (ingest.memory_mb)"
        if code < 0:
            return f"crashed its parser ({_signal_name(-code)})"
        return f"ended its parser (exit code {code})"

    def stop(self) -> None:
        """End the child, whatever it is doing."""
        with self._starting:
            self._stopped = True
            if self._process is not None:
                _kill(self._process, None)
                self._process.wait()

    def _close(self) -> None:
        process, self._process = self._process, None
        for pipe in (process.stdin, process.stdout) if process is not None else ():
            if pipe is not None:
                with contextlib.suppress(OSError):  # what was written last did not reach a child that is gone
                    pipe.close()


def _kill(process: subprocess.Popen[bytes], late: threading.Event | None) -> None:
    if late is not None:
        late.set()
    process.kill()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _environment() -> dict[str, str]:
    """The parent's own, with its module search path and one thread a worker; keys and tokens are not a parser's business."""
    kept = {name: value for name, value in os.environ.items() if not _is_secret(name)}
    path = os.pathsep.join(entry for entry in sys.path if entry)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return kept | threads | {"PYTHONPATH": path, "PYTHONHASHSEED": "0"}


def _is_secret(name: str) -> bool:
    return any(word in name.upper() for word in ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL"))
