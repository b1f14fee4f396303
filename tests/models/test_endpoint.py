"""An OpenAI-compatible embeddings endpoint, spoken to for real on this machine."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoptalk.errors import InputError, ModelError, ProviderFailed, ProviderRefused, SettingsError, ShoptalkError
from shoptalk.models.endpoint import EndpointEncoder
from shoptalk.settings import EndpointSettings, make_settings

pytest.importorskip("openai")
CANARY = "canary-8d7fa61c-key"
TEXTS = [f"text number {i}" for i in range(10)]
QUICK = {"timeout_s": 5.0, "batch_size": 4, "price": 2.0}


def vector(text: str) -> list[float]:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
    return [float(value) for value in np.random.default_rng(seed).standard_normal(5) * 3]


class Server:
    """`script` says, per call, what happens in the place of a normal answer."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.times: list[float] = []
        self.script: list[str] = []
        self.counts = True
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None: ...

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                owner.calls.append(body)
                owner.headers.append({name.lower(): value for name, value in self.headers.items()})
                owner.paths.append(self.path)
                owner.times.append(time.monotonic())
                event = owner.script.pop(0) if owner.script else ""
                self._say(*owner.answer(body, event))

            def _say(self, status: int, headers: dict[str, str], content: str) -> None:
                raw = content.encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def answer(self, body: dict[str, Any], event: str) -> tuple[int, dict[str, str], str]:
        name, _, detail = event.partition(" ")
        if name == "status":
            status, _, after = detail.partition(" ")
            said = json.dumps({"error": {"message": f"says {status} to {CANARY}"}})
            return int(status), {"retry-after": after} if after else {}, said
        if name == "redirect":
            return 307, {"location": f"{self.url}/elsewhere"}, "{}"
        if name == "garbage":
            return 200, {}, '{"data": [{"embedd' + CANARY
        data = [{"object": "embedding", "index": i, "embedding": vector(text)} for i, text in enumerate(body["input"])]
        if name == "few":
            data = data[1:]
        if name == "nan":
            data[0]["embedding"][0] = None
        if name == "wide":
            for row in data:
                row["embedding"].append(1.0)
        usage = {"usage": {"prompt_tokens": 7, "total_tokens": 7}} if self.counts else {}
        return 200, {}, json.dumps({"object": "list", "model": body["model"], "data": data[::-1], **usage})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    running = Server()
    yield running
    running.close()


@pytest.fixture
def made(server: Server, tmp_path: Path):
    """An encoder as a new process would make it."""
    return lambda **values: EndpointEncoder(
        f"endpoint:embed-1@{server.url}", EndpointSettings(**QUICK | values), tmp_path
    )


def expected(texts: list[str]) -> np.ndarray:
    rows = np.array([vector(text) for text in texts])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_vectors_are_those_of_the_server_in_the_order_asked_and_of_unit_length(made, server: Server) -> None:
    found = made().encode_passages([*TEXTS, TEXTS[3]])
    assert found == pytest.approx(expected([*TEXTS, TEXTS[3]]), abs=1e-6)
    assert [len(call["input"]) for call in server.calls] == [4, 4, 2]
    assert {call["model"] for call in server.calls} == {"embed-1"}
    assert {header["authorization"] for header in server.headers} == {f"Bearer {CANARY}"}
    assert set(server.paths) == {"/v1/embeddings"}


def test_nothing_is_paid_twice(made, server: Server) -> None:
    first = made()
    vectors = first.encode_passages(TEXTS)
    assert first.record | {"kept_cost": 0, "cost": 0} == {
        "tokens": 21, "cost": 0, "kept_tokens": 21, "kept_cost": 0, "price_per_million": 2.0,
    }  # fmt: skip
    assert first.cost == pytest.approx(21 * 2 / 1e6)
    second = made()
    assert np.array_equal(second.encode_passages(TEXTS), vectors)
    assert (second.tokens, second.record["kept_tokens"], len(server.calls)) == (0, 21, 3)
    assert made(passage_prompt="passage: ").digest != second.digest


def test_prompts_go_before_and_long_or_empty_texts_are_made_fit(made, server: Server) -> None:
    encoder = made(query_prompt="ask: ", max_chars=12)
    encoder.encode_queries(["a very long question"])
    encoder.encode_passages(["", "x" * 20])
    assert [call["input"] for call in server.calls] == [["ask: a very "], [".", "x" * 12]]


def test_the_estimate_says_what_is_missing_and_what_it_costs(made, server: Server) -> None:
    encoder = made(max_tokens=10_000)
    estimate = encoder.estimate(TEXTS[:2], [*TEXTS, TEXTS[0]])
    assert (estimate.texts, estimate.calls, estimate.known, estimate.local) == (12, 3, 0, True)
    assert estimate.tokens == 12 * len("text number 0") // 4
    assert estimate.cost == pytest.approx(estimate.tokens * 2 / 1e6)
    assert "12 texts" in estimate.words
    assert "stops before 10,000 tokens" in estimate.words
    assert server.calls == []
    encoder.encode_passages(TEXTS)
    encoder.encode_queries(TEXTS[:2])
    assert "nothing to pay" in made().estimate(TEXTS[:2], TEXTS).words
    assert "no cap is set" in made(price=0).estimate(["new"], []).words


@pytest.mark.parametrize("event", ["status 429 0.3", "status 500", "status 503 0"])
def test_a_call_that_failed_on_the_way_is_tried_again_when_the_server_says(made, server: Server, event: str) -> None:
    server.script = [event]
    assert made().encode_passages(TEXTS[:2]) == pytest.approx(expected(TEXTS[:2]), abs=1e-6)
    assert len(server.calls) == 2
    if event.endswith("0.3"):
        assert server.times[1] - server.times[0] >= 0.3


def test_a_longer_wait_than_allowed_ends_it_and_keeps_what_was_paid(made, server: Server) -> None:
    server.script = ["", "status 429 3600"]
    with pytest.raises(ProviderFailed, match=r"asks to wait 3,600 s, more than endpoint\.max_wait_s"):
        made().encode_passages(TEXTS)
    again = made()
    assert again.encode_passages(TEXTS) == pytest.approx(expected(TEXTS), abs=1e-6)
    assert [text for call in server.calls[2:] for text in call["input"]] == TEXTS[4:]
    assert again.record["kept_tokens"] == 21


@pytest.mark.parametrize(
    ("event", "error", "words"),
    [
        ("status 401", ProviderRefused, "the provider refuses the key (401)"),
        ("status 404", ProviderRefused, "no model 'embed-1' there, or endpoint:MODEL@ADDRESS is wrong (404)"),
        ("status 400", ProviderFailed, "400: says 400"),
        ("redirect", ProviderRefused, "answers with a redirect (307)"),
        ("garbage", ModelError, "its answer holds no embeddings"),
        ("few", ModelError, "3 embeddings for 4 texts"),
        ("nan", ModelError, "not all of finite numbers"),
    ],
)
def test_what_cannot_be_used_is_said_without_the_key(
    made, server: Server, caplog, event: str, error: type, words: str
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("openai", "httpx", "httpcore", "httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    server.script = [event]
    with pytest.raises(error) as caught:
        made().encode_passages(TEXTS)
    assert words in str(caught.value)
    said = "".join(traceback.format_exception(caught.value)) + repr(caught.value.__context__) + caplog.text
    assert CANARY not in said


def test_a_server_that_changes_its_dimensions_is_noticed(made, server: Server) -> None:
    server.script = ["", "wide"]
    with pytest.raises(ModelError, match="gave vectors of 5 and then of 6 dimensions"):
        made().encode_passages(TEXTS)


@pytest.mark.parametrize("cap", [{"max_tokens": 100}, {"max_cost": 200e-6}])
def test_no_call_is_made_whose_worst_case_does_not_fit_under_the_cap(
    made, server: Server, cap: dict[str, float]
) -> None:
    with pytest.raises(SettingsError, match=rf"does not fit under endpoint\.{next(iter(cap))}"):
        made(**cap).encode_passages([*TEXTS, *(text * 9 for text in TEXTS)])
    assert 1 <= len(server.calls) < 5


def test_a_server_that_counts_nothing_is_taken_at_its_worst(made, server: Server) -> None:
    server.counts = False
    encoder = made()
    encoder.encode_passages(["abc"])
    assert encoder.tokens == 3 + 8


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("endpoint:", "an endpoint is written endpoint:MODEL@http://host/v1"),
        ("endpoint:@http://user:pass@host/v1", "an endpoint is written"),
        ("endpoint:m@https://user:pass@host/v1", "holds a user name, a password"),
        ("endpoint:m@http://host/v1?key=1", "not shown here"),
    ],
)
def test_names_that_are_none_are_refused(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        EndpointEncoder(name, EndpointSettings(), tmp_path)
    assert words in str(caught.value)
    assert "user:pass" not in str(caught.value)


def test_openais_own_server_needs_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ProviderRefused, match="OPENAI_API_KEY is not set"):
        EndpointEncoder("endpoint:text-embedding-3-small", EndpointSettings(), tmp_path)
    assert EndpointEncoder("endpoint:mine@http://localhost:1/v1", EndpointSettings(), tmp_path).model == "mine"


def test_a_cap_in_money_needs_a_price() -> None:
    with pytest.raises(InputError, match=r"endpoint\.max_cost needs endpoint\.price"):
        make_settings({"endpoint": {"max_cost": 1}})


def test_no_server_is_an_error_of_the_run(tmp_path: Path) -> None:
    encoder = EndpointEncoder("endpoint:m@http://127.0.0.1:9/v1", EndpointSettings(max_retries=0), tmp_path)
    with pytest.raises(ShoptalkError, match="no connection to the server"):
        encoder.encode_queries(["a"])
