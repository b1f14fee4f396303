"""Fixtures of the tests that ask a language model behind a server on this machine (llm_server.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_server import LLMServer, passages, settings_for
from shoptalk.queries.llm import Generated, generate_with_llm
from shoptalk.records import Passage


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "OPENAI_API_KEY",
        "ANTHROPIC_API_KEY",
        "OPENAI_BASE_URL",
        "ANTHROPIC_BASE_URL",
        "ANTHROPIC_AUTH_TOKEN",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own waits between tries, a hundredth of theirs; what a server asks for stays."""
    monkeypatch.setattr("shoptalk.llm.asking._FIRST_WAIT_S", 0.005)


@pytest.fixture
def server() -> Iterator[LLMServer]:
    with LLMServer() as running:
        yield running


@pytest.fixture
def generate(server: LLMServer, tmp_path: Path) -> Callable[..., Generated]:
    """generate(n, provider=..., **settings): queries for n passages from the server, in the test's folder."""

    def run(n: int = 3, provider: str = "openai", given: list[Passage] | None = None, few_shot: Any = (), confirm: Any = None,
            **values: Any) -> Generated:  # fmt: skip
        found = given if given is not None else passages(n)
        return generate_with_llm(found, settings_for(server, provider, **values), tmp_path / "llm", few_shot, confirm)

    return run
