from __future__ import annotations

import io
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from rich.console import Console

from shoptalk.cli import console
from shoptalk.cli.console import RichReporter
from shoptalk.progress import reporting_to, task


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Move the console's clock on."""
    now = [1_000.0]
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def seconds(n: float) -> None:
        now[0] += n

    return seconds


def log_file() -> tuple[RichReporter, io.StringIO]:
    text = io.StringIO()
    return RichReporter(Console(file=text, width=200)), text


def test_a_log_file_gets_a_line_when_a_stage_begins_and_ends() -> None:
    reporter, text = log_file()
    reporter.stage("ingest", "running")
    reporter.stage("ingest", "done in 0.3 s")
    reporter.stage("queries", "unchanged")
    assert text.getvalue() == "ingest     running\ningest     done in 0.3 s\nqueries    unchanged\n"


def test_short_work_is_silent_in_a_log_file(wait: Callable[[float], None]) -> None:
    reporter, text = log_file()
    with reporting_to(reporter), task("encoding", 100) as bar:
        for _ in range(100):
            wait(0.2)
            bar.advance()
    assert text.getvalue() == ""


def test_long_work_says_every_half_minute_how_far_it_is(wait: Callable[[float], None]) -> None:
    reporter, text = log_file()
    with reporting_to(reporter), task("encoding", 100) as bar:
        for _ in range(62):
            wait(1)
            bar.advance()
    assert text.getvalue().splitlines() == [
        "  encoding: 31 of 100, about 69 s left",
        "  encoding: 62 of 100, about 38 s left",
    ]


def test_what_an_earlier_process_did_is_no_measure_of_the_time_left(wait: Callable[[float], None]) -> None:
    reporter, text = log_file()
    with reporting_to(reporter), task("training", 1_000, done=900) as bar:
        for _ in range(31):
            wait(1)
            bar.advance()
    assert text.getvalue() == "  training: 931 of 1000, about 69 s left\n"


def test_notes_stand_beside_the_count_and_are_no_markup(wait: Callable[[float], None]) -> None:
    reporter, text = log_file()
    with reporting_to(reporter), task("training [1/2]", None) as bar:
        wait(31)
        bar.note("loss [red]0.5")
    assert text.getvalue() == "  training [1/2]: 0 of None  loss [red]0.5\n"


def test_a_terminal_shows_a_bar_for_long_work_and_is_left_clean(wait: Callable[[float], None]) -> None:
    text = io.StringIO()
    reporter = RichReporter(Console(file=text, width=120, force_terminal=True, highlight=False))
    reporter.stage("train", "running")
    with reporting_to(reporter), task("training", 40, done=10) as bar:
        bar.advance()
        assert not any(shown.description == "training" for shown in reporter._progress.tasks)
        wait(2)
        bar.advance()
        shown = next(shown for shown in reporter._progress.tasks if shown.description == "training")
        assert (shown.completed, shown.total) == (12, 40)
    reporter.stage("train", "done in 2.0 s")
    assert not reporter._progress.tasks
    assert not reporter._progress.live.is_started
    assert "done in 2.0 s" in text.getvalue()


def test_a_terminal_shows_bars_after_a_line_that_was_said_within_the_stage(wait: Callable[[float], None]) -> None:
    text = io.StringIO()
    reporter = RichReporter(Console(file=text, width=120, force_terminal=True, highlight=False))
    reporter.stage("train", "running")
    reporter.stage("train", "20 trials, about 9 minutes here")
    with reporting_to(reporter), task("training", 40) as bar:
        wait(2)
        bar.advance()
        reporter._progress.refresh()
        assert "training" in text.getvalue()
    reporter.stage("train", "done in 2.0 s")
    assert not reporter._progress.live.is_started
