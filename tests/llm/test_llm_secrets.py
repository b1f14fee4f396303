"""Keys come from the environment and go nowhere but into the request: canaries in every place that could hold one."""

from __future__ import annotations

import json
import logging
import traceback
from urllib.parse import quote

import pytest

from shoptalk.errors import SettingsError, ShoptalkError
from shoptalk.models.scrubbing import scrub
from shoptalk.settings import LLMSettings, make_settings, resolved_yaml, with_values

CANARY = 'canary/8d"f7+a61c=='
NAMES = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}


def holds_key(text: str) -> bool:
    return any(form in text for form in (CANARY, quote(CANARY, safe=""), json.dumps(CANARY)[1:-1]))


@pytest.mark.parametrize(("provider", "batch"), [("openai", False), ("anthropic", False), ("anthropic", True)])
@pytest.mark.parametrize(
    "event", [None, "status 401", "status 429 0.1", "status 500", "garbage", "cut", "hang 1", "status 400"]
)
def test_a_key_is_in_no_log_no_error_and_no_file(
    provider, event, batch, generate, server, tmp_path, monkeypatch, caplog, capfd
):
    """The server is hostile: it says the key back in every header, message and answer."""
    monkeypatch.setenv(NAMES[provider], CANARY)
    caplog.set_level(logging.DEBUG)
    for name in ("openai", "anthropic", "httpx2", "httpcore2", "httpx", "httpcore", "asyncio"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    server.echo = CANARY
    happens = [event]
    server.script = lambda prompt, nth: happens.pop() if happens else None
    said = ""
    original = server.respond

    def echoes(system: str, user: str) -> dict:
        answer = original(system, user)
        answer["queries"][0]["text"] += f" {CANARY}"
        answer["queries"][1]["text"] = f"is {CANARY} good?"
        return answer

    server.respond = echoes
    try:
        made = generate(2, provider, timeout_s=0.6, concurrency=1, batch=batch, batch_poll_s=0.01)
        said = repr(made)
    except ShoptalkError as error:
        said = "".join(traceback.format_exception(error)) + repr(error.__context__) + repr(error.__cause__)
    sent = [header.get("authorization", "") + header.get("x-api-key", "") for header in server.headers]
    assert sent
    assert all(CANARY in header for header in sent)  # it did go where it belongs
    files = "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())
    assert files
    out, err = capfd.readouterr()
    for place in (files, said, out, err):
        assert not holds_key(place)
    ours = "".join(record.getMessage() for record in caplog.records if record.name.startswith("shoptalk"))
    assert not holds_key(ours)
    others = [record for record in caplog.records if not record.name.startswith("shoptalk")]
    assert not [record.name for record in others if holds_key(record.getMessage())]


@pytest.mark.parametrize(
    "text",
    [
        "Incorrect API key provided: sk-proj-abcdef123456.",
        "Authorization: Bearer abc.def-ghi123",
        "key sk-ab*****wxyz is no good",
    ],
)
def test_what_looks_like_a_key_is_hidden_also_when_it_is_not_ours(text):
    assert "[key]" in scrub(text)
    assert not any(part in scrub(text) for part in ("abcdef", "def-ghi", "wxyz"))


def test_plain_text_stays_as_it_is(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "x")  # too short to be a key; would hide every x
    text = "the task-list of risk-free desk-work; sk- and bearer of news"
    assert scrub(text) == text


@pytest.mark.parametrize(
    "address",
    ["http://me:hunter2@host/v1", "http://host/v1?api_key=hunter2", "https://hunter2@host", "http://host/#hunter2"],
)
def test_an_address_with_a_password_is_refused_and_not_shown(address, monkeypatch, server, generate):
    for refuse in (
        lambda: LLMSettings(base_url=address),
        lambda: make_settings({"llm": {"base_url": address}}),
        lambda: with_values(make_settings({}), [f"llm.base_url={address}"]),
    ):
        with pytest.raises(SettingsError, match="holds a user name, a password or a query") as caught:
            refuse()
        assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    with pytest.raises(SettingsError, match="OPENAI_BASE_URL holds") as caught:
        generate(1, base_url="")
    assert "hunter2" not in str(caught.value)


def test_there_is_no_setting_for_a_key():
    text = resolved_yaml(make_settings({"llm": {"provider": "openai", "model": "m"}}))
    assert "key:" not in text.replace("queries_key", "")
    with pytest.raises(SettingsError, match=r"there is no setting llm\.api_key"):
        make_settings({"llm": {"api_key": "sk-12345678"}})
