"""A server on this machine that speaks /v1/chat/completions, /v1/messages and /v1/messages/batches as the providers do.

It answers what it is asked for, counts what it was paid for, and misbehaves on demand: a `Script` names, per prompt or per
call, what happens in the place of a normal answer.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from shoptalk.records import Passage
from shoptalk.settings import LLMSettings

TOKENS_IN, TOKENS_OUT = 300, 120
FAST = {"timeout_s": 5.0, "price_in": 1.0, "price_out": 4.0, "max_wait_s": 20.0}
_WANTED = re.compile(r"^\d+\. ([a-z0-9-]+):", re.MULTILINE)
_FENCED = re.compile(r"^(DOCFENCE-[0-9a-f]{16})\n(.*?)\n\1$", re.MULTILINE | re.DOTALL)


def wanted(prompt: str) -> list[str]:
    """The kinds that a prompt asks for."""
    return _WANTED.findall(prompt.split("The document stands between")[0])


def document(prompt: str) -> str:
    """What stands in the prompt's fence."""
    found = _FENCED.search(prompt)
    return found[2] if found else ""


def good_answer(system: str, user: str, negatives: bool = False) -> dict[str, Any]:
    """One short query of each kind, different for every document."""
    topic = re.sub(r"\W+", " ", document(user)).split()
    name = topic[-1] if topic else "nothing"
    texts = {
        "natural": f"where can somebody look up {name} quickly?",
        "keywords": f"{name} lookup",
        "acronym": f"what does ABC mean for {name}?",
        "paraphrase": "zwei drei vier?",
        "comparison": f"is {name} better than anything else?",
        "how-to": f"how does one begin with {name}?",
        "multi-passage": f"how do both sides of {name} relate?",
    }
    rows = [{"kind": kind, "text": texts[kind]} for kind in wanted(user)]
    if '"hard_negatives"' in system:
        rows = [
            row | {"hard_negatives": [f"close to {row['kind']} but no answer", "another miss entirely"]} for row in rows
        ]
    return {"queries": rows}


class LLMServer:
    """`with LLMServer() as server: ...`; `server.openai` and `server.anthropic` are base URLs."""

    def __init__(self, respond: Callable[[str, str], Any] = good_answer, delay_s: float = 0.0) -> None:
        self.respond = respond
        self.delay_s = delay_s
        self.script: Callable[[str, int], str | None] = lambda prompt, nth: None
        self.lock = threading.Lock()
        self.asked: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()
        self.acknowledged: set[str] = set()
        self.asked_after_acknowledged: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.paths: list[str] = []
        self.flying = self.most_flying = 0
        self.batches: dict[str, dict[str, Any]] = {}
        self.polls: Counter[str] = Counter()
        self.polls_until_ended = 2
        self.echo = ""

    def __enter__(self) -> LLMServer:
        server = self

        class Handler(_Handler):
            owner = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def openai(self) -> str:
        return f"{self.root}/v1"

    @property
    def anthropic(self) -> str:
        return self.root

    @property
    def n_paid(self) -> int:
        return sum(self.paid.values())


class _Handler(BaseHTTPRequestHandler):
    owner: LLMServer
    protocol_version = "HTTP/1.1"
    on_this_connection: str = ""

    def log_message(self, *_: Any) -> None: ...

    def do_POST(self) -> None:
        server = self.owner
        size = int(self.headers.get("content-length", 0))
        body = json.loads(self.rfile.read(size))
        with server.lock:
            server.bodies.append(body)
            server.headers.append({name.lower(): value for name, value in self.headers.items()})
            server.times.append(time.monotonic())
            server.paths.append(self.path)
        if self.path.endswith("/messages/batches"):
            return self._create_batch(body)
        system, user = _messages(body)
        with server.lock:
            nth = server.asked[user]
            server.asked[user] += 1
            server.flying += 1
            server.most_flying = max(server.most_flying, server.flying)
            # The client asks again on this connection, so it has read all of the answer before.
            server.acknowledged.add(self.on_this_connection)
            if user in server.acknowledged:
                server.asked_after_acknowledged.append(user)
        try:
            self._answer(system, user, body, server.script(user, nth))
        finally:
            with server.lock:
                server.flying -= 1
        return None

    def _answer(self, system: str, user: str, body: dict[str, Any], event: str | None) -> None:
        server = self.owner
        name, _, detail = (event or "").partition(" ")
        if name == "status":
            status, _, after = detail.partition(" ")
            headers = {"retry-after": after} if after else {}
            return self._send(
                int(status), {"error": {"type": "oops", "message": f"says {status} {server.echo}"}}, headers
            )
        if name == "hang":
            time.sleep(float(detail))
            self.close_connection = True
            return None
        if name == "redirect":
            return self._send(307, {}, {"location": f"{server.root}/elsewhere"})
        if server.delay_s:
            time.sleep(server.delay_s)
        answer = self._envelope(system, user, body, name)
        with server.lock:
            server.paid[user] += 1
        if name == "garbage":
            return self._send_text(200, '{"choices": [{"mess' + server.echo)
        if name == "cut":
            text = json.dumps(answer)
            return self._send_text(200, text[: len(text) // 2], length=len(text.encode()))
        self._send(200, answer)
        self.on_this_connection = user
        return None

    def _envelope(self, system: str, user: str, body: dict[str, Any], event: str) -> dict[str, Any]:
        content = self.owner.respond(system, user) if event in ("", "cut", "garbage") else None
        if event == "wrong-schema":
            content = {"queries": [{"kind": 5, "question": "no text"}]}
        refuses, truncated = event == "refusal", event == "truncated"
        if "tools" in body:
            return _message(body["model"], content, refuses, truncated)
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        message = {"role": "assistant", "content": text if content is not None else None, "refusal": None}
        if refuses:
            message |= {"content": None, "refusal": "I cannot help with that."}
        if truncated:
            message["content"] = '{"queries": [{"kind": "natural", "te'
        return {
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "length" if truncated else "stop"}],
            "usage": {"prompt_tokens": TOKENS_IN, "completion_tokens": TOKENS_OUT, "total_tokens": TOKENS_IN + TOKENS_OUT},
        }  # fmt: skip

    def _create_batch(self, body: dict[str, Any]) -> None:
        server = self.owner
        results = []
        for row in body["requests"]:
            system, user = _messages(row["params"])
            with server.lock:
                nth = server.asked[user]
                server.asked[user] += 1
            event = server.script(user, nth) or ""
            if event == "errored":
                error = {"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}
                results.append({"custom_id": row["custom_id"], "result": {"type": "errored", "error": error}})
                continue
            with server.lock:
                server.paid[user] += 1
            message = self._envelope(system, user, row["params"], event)
            results.append({"custom_id": row["custom_id"], "result": {"type": "succeeded", "message": message}})
        with server.lock:
            batch_id = f"msgbatch_{len(server.batches) + 1:04d}"
            server.batches[batch_id] = {"results": results, "created": datetime.now(UTC).isoformat()}
        event = server.script("create-batch", len(server.batches) - 1) or ""
        if event.startswith("hang"):
            time.sleep(float(event.split()[1]))
            self.close_connection = True
            return
        self._send(200, self._batch(batch_id))

    def _batch(self, batch_id: str) -> dict[str, Any]:
        server = self.owner
        batch = server.batches[batch_id]
        ended = server.polls[batch_id] >= server.polls_until_ended
        counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        counts["succeeded" if ended else "processing"] = len(batch["results"])
        return {
            "id": batch_id, "type": "message_batch", "processing_status": "ended" if ended else "in_progress",
            "request_counts": counts, "created_at": batch["created"], "expires_at": batch["created"],
            "ended_at": batch["created"] if ended else None, "archived_at": None, "cancel_initiated_at": None,
            "results_url": f"{server.root}/v1/messages/batches/{batch_id}/results" if ended else None,
        }  # fmt: skip

    def do_GET(self) -> None:
        server = self.owner
        with server.lock:
            server.paths.append(self.path)
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[-1] == "batches":
            rows = [self._batch(batch_id) for batch_id in reversed(server.batches)]
            return self._send(200, {"data": rows, "has_more": False, "first_id": None, "last_id": None})
        if parts[-1] == "results":
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in server.batches[parts[-2]]["results"])
            event = server.script("results", server.paths.count(self.path) - 1)
            if event == "cut":
                return self._send_text(200, text[: len(text) // 2], length=len(text.encode()))
            return self._send_text(200, text)
        server.polls[parts[-1]] += 1
        event = server.script("poll", server.polls[parts[-1]] - 1) or ""
        if event.startswith("status"):
            return self._send(int(event.split()[1]), {"error": {"message": "later"}})
        return self._send(200, self._batch(parts[-1]))

    def _send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self._send_text(status, json.dumps(value, ensure_ascii=False), headers)

    def _send_text(
        self, status: int, text: str, headers: dict[str, str] | None = None, length: int | None = None
    ) -> None:
        data = text.encode()
        try:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(length or len(data)))
            if self.owner.echo:
                self.send_header("x-echo", self.owner.echo)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
            self.wfile.flush()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        if length is not None and length != len(data):
            self.close_connection = True
            self.connection.close()


def _messages(body: dict[str, Any]) -> tuple[str, str]:
    if "system" in body:
        return body["system"], body["messages"][0]["content"]
    return body["messages"][0]["content"], body["messages"][1]["content"]


def _message(model: str, content: Any, refuses: bool, truncated: bool) -> dict[str, Any]:
    blocks = (
        []
        if refuses or truncated
        else [{"type": "tool_use", "id": "toolu_1", "name": "write_queries", "input": content}]
    )
    if isinstance(content, str):
        blocks = [{"type": "text", "text": content}]
    reason = "refusal" if refuses else "max_tokens" if truncated else "tool_use"
    return {
        "id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": blocks, "stop_reason": reason,
        "stop_sequence": None, "usage": {"input_tokens": TOKENS_IN, "output_tokens": TOKENS_OUT},
    }  # fmt: skip


def per_document(events: dict[str, list[str]]) -> Callable[[str, int], str | None]:
    """A script: for prompts whose document holds a word, what happens at its first, second, ... call; then normal answers."""
    seen: defaultdict[str, int] = defaultdict(int)
    lock = threading.Lock()

    def script(prompt: str, nth: int) -> str | None:
        for word, happens in events.items():
            if word in document(prompt) or word == prompt:
                with lock:
                    seen[word] += 1
                    return happens[seen[word] - 1] if seen[word] <= len(happens) else None
        return None

    return script


def settings_for(server: LLMServer, provider: str = "openai", **values: Any) -> LLMSettings:
    address = server.openai if provider == "openai" else server.anthropic
    return LLMSettings(**{"provider": provider, "model": "m-1", "base_url": address, **FAST, **values})


def passages(n: int, text: str = "The night rota names who stands in when a colleague of ward") -> list[Passage]:
    return [Passage(f"p{i}", f"{text} W{i}x is ill.", "Rota", "rota.md", 100 * i) for i in range(n)]
