"""kill -9 at any moment: nothing that arrived is lost, and none of it is asked for again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_server import LLMServer, passages
from shoptalk.llm.journal import open_journal
from shoptalk.queries.llm import generate_with_llm
from shoptalk.settings import LLMSettings

CONCURRENCY = 4  # of the child


class Spawner:
    """Forks children of `generate_child.py`, one at a time."""

    def __init__(self) -> None:
        child = Path(__file__).with_name("generate_child.py")
        self.process = subprocess.Popen(
            [sys.executable, str(child)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(child.parent.parent)},  # for llm_server
        )

    def start(self, **values: Any) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(values) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def wait(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "gone\n"

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


@pytest.fixture(scope="module")
def spawner() -> Iterator[Spawner]:
    running = Spawner()
    yield running
    running.close()


def journalled(folder: Path) -> set[str]:
    """Keys whose answer is whole on disk, read with nothing but json."""
    path = folder / "journal.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return {row["key"] for row in map(json.loads, lines) if row["type"] == "answer"}


def alive(pid: int) -> bool:
    """Whether it still works: neither gone nor dead and not yet waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (OSError, IndexError):
        return False


def run_with_kills(spawner, n, folder, kills, longest_s, at_work, **values):
    """Kill a child at a random moment of its work, `kills` times, then let one run to the end; returns its result.

    at_work: a number that grows as soon as a child works.
    """
    rng = np.random.default_rng(5)
    done = folder.parent / "done.json"
    kept: set[str] = set()
    for _ in range(kills):
        before = at_work()
        pid = spawner.start(n=n, folder=str(folder), out=str(done), values=values)
        while at_work() == before and alive(pid):
            time.sleep(0.002)
        time.sleep(float(rng.uniform(0, longest_s)))
        assert alive(pid), "ended before its kill; give it more to do"
        os.kill(pid, signal.SIGKILL)
        spawner.wait()
        assert kept <= journalled(folder)  # what was whole stays whole
        kept = journalled(folder)
    assert not done.exists()
    spawner.start(n=n, folder=str(folder), out=str(done), values=values)
    spawner.wait()
    return json.loads(done.read_text())


@pytest.mark.parametrize(
    ("provider", "kills", "n"),
    [("openai", 5, 70), ("anthropic", 4, 50), pytest.param("openai", 20, 220, marks=pytest.mark.slow)],
)
def test_kills_lose_nothing_and_pay_nothing_twice(provider, kills, n, spawner, tmp_path):
    """A prompt is asked for again only when its call was under way at a kill. Shown three ways: an answer is known to have
    reached the client when the same connection carries the next call, and no such prompt ever comes again; the prompts paid
    for twice are at most the calls that can be under way at the kills; and everything paid for once is in the result.
    """
    with LLMServer(delay_s=0.02) as server:
        address = server.openai if provider == "openai" else server.anthropic
        result = run_with_kills(
            spawner, n, tmp_path / "llm", kills, 0.08, lambda: server.n_paid, provider=provider, base_url=address
        )
        assert server.asked_after_acknowledged == []
        twice = sum(count - 1 for count in server.paid.values())
        assert twice <= kills * CONCURRENCY
        assert len(server.paid) == n
        assert len(server.acknowledged) > n / 2  # the first of the three ways looked at something
        with LLMServer() as other:
            address = other.openai if provider == "openai" else other.anthropic
            settings = LLMSettings(provider=provider, model="m-1", base_url=address, price_in=1, price_out=4)
            calm = generate_with_llm(passages(n), settings, tmp_path / "calm")
        assert result["drafts"] == [[d.text, list(d.passage_ids), d.kind] for d in calm.drafts]
        with open_journal(tmp_path / "llm") as journal:
            assert len(journal.open) <= kills * CONCURRENCY  # under way at a kill: counted at their worst
            assert journal.spent.tokens >= 420 * n


def test_a_batch_is_taken_up_again_after_kills(spawner, tmp_path):
    with LLMServer() as server:
        server.polls_until_ended = 40
        result = run_with_kills(
            spawner, 10, tmp_path / "llm", 4, 0.15, lambda: sum(server.polls.values()), provider="anthropic",
            base_url=server.anthropic, batch=True,
        )  # fmt: skip
        assert len(server.batches) == 1
        assert set(server.paid.values()) == {1}
        assert len(result["drafts"]) == 40


def test_a_line_cut_at_a_kill_is_cut_off_and_its_call_counts_at_its_worst(generate, server, tmp_path):
    made = generate(3, concurrency=1)
    path = tmp_path / "llm" / "journal.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    again = generate(3, concurrency=1)
    assert again.drafts == made.drafts
    assert server.n_paid == 4
    assert again.usage.cached == 2
    assert again.usage.total.tokens > 4 * 420
    assert json.loads(path.read_bytes().split(b"\n")[-2])["type"] == "answer"


def test_every_prefix_of_a_journal_can_be_opened(generate, tmp_path):
    generate(2, concurrency=1)
    whole = (tmp_path / "llm" / "journal.jsonl").read_bytes()
    (tmp_path / "cut").mkdir()
    for size in range(0, len(whole), 37):
        (tmp_path / "cut" / "journal.jsonl").write_bytes(whole[:size])
        with open_journal(tmp_path / "cut") as journal:
            answers = whole[:size].count(b'"type": "answer"') - (not whole[:size].endswith(b"\n"))
            assert journal.counts["answer"] in (answers, answers + 1)


def test_damaged_lines_in_the_middle_are_left_out(generate, server, tmp_path, caplog):
    made = generate(3, concurrency=1)
    path = tmp_path / "llm" / "journal.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[1] = lines[1][:50] + b"\x00\xff" + lines[1][60:]
    path.write_bytes(b"\n".join(lines))
    assert generate(3, concurrency=1).drafts == made.drafts
    assert server.n_paid == 4
    assert "1 lines are damaged" in caplog.text
