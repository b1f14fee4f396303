"""Progress without printing: the library reports, whoever installed a reporter shows.

The command line installs a Rich reporter; in a program or a test nothing is shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Task(Protocol):
    """One running piece of work."""

    def advance(self, n: int = 1) -> None:
        """Say that `n` more units are done."""

    def note(self, text: str) -> None:
        """Replace the short text beside the bar (a loss, a score)."""


class Reporter(Protocol):
    """Shows work; see `shoptalk.cli.console.RichReporter`."""

    def stage(self, name: str, what: str) -> None:
        """Say that a stage did something: "skipped", "done in 3.1 s", ..."""

    def start(self, label: str, total: int | None, done: int = 0) -> Task:
        """Begin a task of `total` units, `done` of which were finished earlier."""

    def finish(self, task: Task) -> None:
        """End a task, whether complete or not."""


class _Silent:
    def stage(self, name: str, what: str) -> None: ...
    def start(self, label: str, total: int | None, done: int = 0) -> Task:
        return self

    def finish(self, task: Task) -> None: ...
    def advance(self, n: int = 1) -> None: ...
    def note(self, text: str) -> None: ...


_reporter: ContextVar[Reporter | None] = ContextVar("shoptalk_reporter", default=None)
_SILENT = _Silent()


def reporter() -> Reporter:
    """The reporter in force."""
    return _reporter.get() or _SILENT


@contextmanager
def reporting_to(new: Reporter) -> Iterator[None]:
    """Show progress through `new` while the block runs."""
    token = _reporter.set(new)
    try:
        yield
    finally:
        _reporter.reset(token)


@contextmanager
def task(label: str, total: int | None, done: int = 0) -> Iterator[Task]:
    """A piece of work with `total` units; call `.advance()` on what it yields."""
    owner = reporter()
    running = owner.start(label, total, done)
    try:
        yield running
    finally:
        owner.finish(running)
