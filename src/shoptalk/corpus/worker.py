"""The child process that parses: one request on stdin, one answer on stdout, until stdin ends.

A request is a line of JSON ({"suffix", "name", "bytes", "timeout_s"}, or {"unpack": ...}) and then that many bytes; an answer is a
line of JSON. JSON, not pickle: what a broken parser says may be hostile and is never executed. The process limits its own
memory and asks the system to end it when it takes far too long, so that none is left when the parent was killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from typing import Any, BinaryIO

_MOST_CHARS = 20_000_000
_GRACE_S = 5
MEMORY_EXIT = 66
"""The exit code of a worker that ran out of its memory; it is replaced, since what is left of its heap is unknown."""


def main() -> None:
    """Serve requests. The only argument is the memory limit in MiB."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not end up in an answer
    if hasattr(signal, "SIGINT"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    warnings.simplefilter("ignore")
    _limit_memory(int(sys.argv[1]))
    while line := sys.stdin.buffer.readline():
        try:
            answer = _answer(json.loads(line), sys.stdin.buffer)
        except MemoryError:
            os._exit(MEMORY_EXIT)
        answers.write(json.dumps(answer).encode("ascii") + b"\n")
        answers.flush()


def _answer(request: dict[str, Any], data: BinaryIO) -> dict[str, Any]:
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(request["timeout_s"]) + _GRACE_S)
    try:
        if "unpack" in request:
            from shoptalk.corpus.archives import unpack

            return unpack(**request["unpack"])
        return _parse(data.read(request["bytes"]), request["suffix"], request["name"])
    except MemoryError:
        raise
    except Exception as error:  # of any library: a bad file is listed with it and never stops the run
        return {"unreadable": f"could not be parsed ({type(error).__name__}: {_plain(str(error))[:200]})"}
    finally:
        if hasattr(signal, "alarm"):
            signal.alarm(0)


def _parse(raw: bytes, suffix: str, name: str) -> dict[str, Any]:
    from shoptalk.corpus.readers import Unreadable, reader_for
    from shoptalk.errors import MissingPart

    reader = reader_for(suffix)
    assert reader is not None, suffix
    try:
        document = reader.read(raw, name)
    except Unreadable as reason:
        return {"unreadable": _plain(str(reason))}
    except MissingPart as missing:
        return {"unreadable": str(missing), "transient": True}
    if len(document.text) > _MOST_CHARS:
        return {"unreadable": f"{len(document.text):,} characters of text; at most {_MOST_CHARS:,} are taken"}
    return {
        "title": _plain(document.title),
        "text": _writable(document.text),
        "page_starts": list(document.page_starts),
        "note": _plain(document.note),
    }


def _plain(text: str) -> str:
    return " ".join(_writable(text).split())


def _writable(text: str) -> str:
    """Without NUL and halves of character pairs, which no file and no tokenizer takes; as long as it was."""
    return text.encode("utf-8", "replace").decode().replace("\x00", " ")


def _limit_memory(mib: int) -> None:
    """At most so much memory beyond the program itself, where the system can enforce it (Linux counts it so)."""
    try:
        import resource

        limit = mib * 1024 * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):
        pass
