"""What a person sees: progress on stderr, results on stdout."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Task as RichTask
from rich.text import Text

from shoptalk.progress import Task, reporting_to

_SHOW_AFTER_SECONDS = 1.0
_LINE_EVERY_SECONDS = 30.0


def stderr() -> Console:
    """The console that progress and notes go to."""
    return Console(stderr=True, highlight=False)


def stdout() -> Console:
    """The console that results go to."""
    return Console(highlight=False)


class _Count(MofNCompleteColumn):
    """How many of how many; nothing where the number is not known beforehand."""

    def render(self, task: RichTask) -> Text:
        """Called by Rich."""
        return Text("") if task.total is None else super().render(task)


class RichReporter:
    """Progress bars with the time left on a terminal; in a log file, a line at the end of what took long and every 30 s."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=30),
            _Count(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._running: TaskID | None = None

    def close(self) -> None:
        """Leave the terminal clean, whatever was running."""
        self._progress.stop()

    def stage(self, name: str, what: str) -> None:
        """One line a stage; while it runs, a terminal shows it moving."""
        if self._running is not None:
            self._progress.remove_task(self._running)
            self._running = None
        if self._progress.live.is_started:
            self._progress.stop()
        if what != "running" or not self.console.is_terminal:
            self.console.print(f"{name:<10} {what}", markup=False)
        else:
            self._running = self._progress.add_task(name, total=None, note="")
            self._progress.start()

    def start(self, label: str, total: int | None, done: int = 0) -> Task:
        """A bar; it appears when the work takes longer than a moment."""
        return _Bar(self, label, total, done)

    def finish(self, task: Task) -> None:
        """Take the bar away."""
        if isinstance(task, _Bar):
            task.close()


@contextmanager
def rich_progress() -> Iterator[None]:
    """Show progress on stderr while the block runs."""
    shown = RichReporter(stderr())
    with reporting_to(shown):
        try:
            yield
        finally:
            shown.close()


class _Bar:
    def __init__(self, owner: RichReporter, label: str, total: int | None, done: int) -> None:
        self._owner, self._label, self._total, self._done = owner, label, total, done
        self._begun_at = done  # finished in an earlier process: no measure of this one's speed
        self._started = self._spoke = time.monotonic()
        self._note = ""
        self._id: TaskID | None = None

    def advance(self, n: int = 1) -> None:
        self._done += n
        self._refresh()

    def note(self, text: str) -> None:
        self._note = text
        self._refresh()

    def _refresh(self) -> None:
        now = time.monotonic()
        if self._owner.console.is_terminal:
            if self._id is None and now - self._started > _SHOW_AFTER_SECONDS:
                self._owner._progress.start()  # a line that the stage said in between has stopped it
                self._id = self._owner._progress.add_task(self._label, total=self._total, completed=self._done, note="")
            if self._id is not None:
                self._owner._progress.update(self._id, completed=self._done, note=self._note)
        elif now - self._spoke > _LINE_EVERY_SECONDS:
            self._spoke = now
            self._say(now)

    def _say(self, now: float) -> None:
        rate = (self._done - self._begun_at) / max(1e-9, now - self._started)
        left = f", about {(self._total - self._done) / rate:.0f} s left" if self._total and rate else ""
        self._owner.console.print(
            f"  {self._label}: {self._done} of {self._total}{left}  {self._note}".rstrip(), markup=False
        )

    def close(self) -> None:
        if self._id is not None:
            self._owner._progress.remove_task(self._id)
