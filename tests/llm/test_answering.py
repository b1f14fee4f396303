"""The client with jobs that are no passages: plain texts, each asked about until its answer can be used."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from llm_server import TOKENS_IN, TOKENS_OUT, LLMServer, settings_for
from shoptalk.llm.answering import answer_jobs, estimate_answers
from shoptalk.llm.journal import Journal, Usage, open_journal
from shoptalk.llm.messages import Fault, Request, json_object
from shoptalk.llm.providers import Provider, connect
from shoptalk.settings import LLMSettings

SCHEMA = {"type": "object", "properties": {"echo": {"type": "string"}}}


def request_for(job: str) -> Request:
    return Request("Say it back.", job, SCHEMA, "echoes", 1, 100, f"key of {job}")


class Asked:
    """Asks for each text once."""

    def __init__(self, settings: LLMSettings, journal: Journal) -> None:
        self.settings, self.journal = settings, journal
        self.provider: Provider = connect(settings)

    def next_request(self, job: str) -> Request | None:
        return None if request_for(job).key in self.journal else request_for(job)

    def all(self, jobs: list[str]) -> dict[str, Fault]:
        return answer_jobs(jobs, self.next_request, self.settings, self.journal, self.provider, "asking")

    def said(self, job: str) -> str:
        body = self.journal.body(request_for(job).key)
        reply = self.provider.read(body) if body is not None else None
        return reply.text if reply is not None else ""


@pytest.fixture
def server() -> LLMServer:
    with LLMServer(lambda system, user: {"echo": user}) as running:
        yield running


@pytest.mark.parametrize(("provider", "batch"), [("openai", False), ("anthropic", False), ("anthropic", True)])
def test_every_job_gets_its_answer_once(provider: str, batch: bool, server: LLMServer, tmp_path: Path) -> None:
    settings = settings_for(server, provider, batch=batch, batch_poll_s=0.01)
    for _ in range(2):
        with open_journal(tmp_path) as journal:
            asked = Asked(settings, journal)
            assert asked.all(["one", "two", "three"]) == {}
            assert [json_object(asked.said(job), "echo") for job in ("one", "two")] == [
                {"echo": "one"},
                {"echo": "two"},
            ]
            assert journal.usage("key of one").tokens == TOKENS_IN + TOKENS_OUT
            assert journal.usage("no such key") == Usage()
    assert server.n_paid == 3


def test_providers_are_told_what_the_answer_is_called(server: LLMServer, tmp_path: Path) -> None:
    for provider in ("openai", "anthropic"):
        with open_journal(tmp_path / provider) as journal:
            Asked(settings_for(server, provider), journal).all(["one"])
    assert server.bodies[0]["response_format"]["json_schema"] == {"name": "echoes", "strict": True, "schema": SCHEMA}
    assert [tool["name"] for tool in server.bodies[1]["tools"]] == [server.bodies[1]["tool_choice"]["name"]]
    assert server.bodies[1]["tools"][0] | {"name": ""} == {
        "name": "", "description": "Hand over the echoes.", "input_schema": SCHEMA,
    }  # fmt: skip


def test_a_job_without_an_answer_comes_back_with_its_reason(server: LLMServer, tmp_path: Path) -> None:
    server.script = lambda prompt, nth: "status 500" if prompt == "two" else None
    with open_journal(tmp_path) as journal:
        faults = Asked(settings_for(server, max_retries=1, concurrency=1), journal).all(["one", "two", "three"])
    assert {job: fault.check for job, fault in faults.items()} == {"two": "no-answer"}
    assert "500" in faults["two"].reason


def test_a_notebook_s_own_event_loop_is_no_hindrance(server: LLMServer, tmp_path: Path) -> None:
    async def cell() -> dict[str, Fault]:
        with open_journal(tmp_path) as journal:
            return Asked(settings_for(server), journal).all(["one"])

    assert asyncio.run(cell()) == {}
    assert server.n_paid == 1


def test_the_estimate_counts_what_is_not_on_disk(server: LLMServer, tmp_path: Path) -> None:
    settings = settings_for(server, max_total_tokens=90_000)
    with open_journal(tmp_path) as journal:
        asked = Asked(settings, journal)
        asked.all(["one"])
        found = estimate_answers(["one", "two", "three"], asked.next_request, settings, journal, "texts", 1)
    assert (found.calls, found.cached, found.n_jobs) == (2, 1, 3)
    assert "2 calls for 3 texts (1 answers on disk)" in found.words
    assert "stops before 90,000 tokens" in found.words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1}', {"a": 1}),
        ('Here: ```json\n{"b": 2}\n``` and {"a": {"c": 1}}', {"a": {"c": 1}}),
        ('<think>{"a": 0}</think>{"a": 1}', {"a": 1}),
        ('{"b": 2', None),
        ("[1, 2]", None),
    ],
)
def test_the_object_is_found_among_words(text: str, found: object) -> None:
    assert json_object(text, "a") == found
