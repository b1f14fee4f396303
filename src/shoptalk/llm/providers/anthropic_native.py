"""Claude, through the `anthropic` package: messages with a tool whose input is the answer, and Message Batches of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from shoptalk.llm.messages import Reply, Request
from shoptalk.llm.providers.openai_compatible import read_count
from shoptalk.models.failures import (
    CallFailed,
    find_address,
    find_key,
    load_sdk,
    read_failure,
    scrubbed_body,
)
from shoptalk.models.scrubbing import brief, scrub
from shoptalk.settings import LLMSettings

_ANTHROPIC = "https://api.anthropic.com"


def connect(settings: LLMSettings) -> AnthropicNative:
    """See `providers.connect`."""
    return AnthropicNative(settings)


@dataclass(frozen=True, slots=True)
class BatchState:
    """What the provider says of a batch. `created` in seconds since 1970."""

    batch_id: str
    ended: bool
    n_requests: int
    created: float


@dataclass(frozen=True, slots=True)
class BatchResult:
    """One result of a batch: the body of the message, or "" and why there is none (which then costs nothing)."""

    key: str
    body: str
    reason: str = ""


class AnthropicNative:
    """The Messages API."""

    def __init__(self, settings: LLMSettings) -> None:
        self._sdk = load_sdk("anthropic")
        self._settings = settings
        address = find_address(settings.base_url, "ANTHROPIC_BASE_URL").removesuffix("/v1")
        self._client = self._sdk.AsyncAnthropic(
            api_key=find_key("ANTHROPIC_API_KEY", address),
            base_url=address or _ANTHROPIC,
            max_retries=0,
            timeout=settings.timeout_s,
            http_client=self._sdk.DefaultAsyncHttpxClient(follow_redirects=False, timeout=settings.timeout_s),
        )
        self._without: frozenset[str] = frozenset()

    async def ask(self, request: Request) -> str:
        """See Provider. Models that do not take a temperature or a forced tool are asked without it."""
        without = self._without
        while True:
            try:
                body = await self._body(lambda without=without: self._create(request, without))
            except CallFailed as failure:
                said = failure.reason.casefold()
                drop = next(
                    (name for name in ("temperature", "tool_choice") if name in said and name not in without), None
                )
                if drop is None or failure.status != 400:
                    raise
                without |= {drop}
            else:
                self._without |= without
                return body

    async def _create(self, request: Request, without: frozenset[str]) -> Any:
        return await self._client.messages.with_raw_response.create(**self.arguments(request, without))

    async def _body(self, call: Any) -> str:
        return await scrubbed_body(self._sdk, self._settings.model, call, self._settings.timeout_s)

    def arguments(self, request: Request, without: frozenset[str] = frozenset()) -> dict[str, Any]:
        """The parameters of one message, alone or in a batch."""
        settings, tool = self._settings, f"write_{request.answer}"
        arguments: dict[str, Any] = {
            "model": settings.model,
            "max_tokens": request.answer_tokens,
            "system": request.system,
            "messages": [{"role": "user", "content": request.user}],
            "tools": [
                {"name": tool, "description": f"Hand over the {request.answer}.", "input_schema": request.schema}
            ],
            "tool_choice": {"type": "tool", "name": tool},
        }
        if settings.temperature is not None:
            arguments["temperature"] = min(1.0, settings.temperature)
        return {name: value for name, value in arguments.items() if name not in without}

    def read(self, body: str) -> Reply | None:
        """See Provider."""
        try:
            answer = json.loads(body)
            blocks = [block for block in answer["content"] if isinstance(block, dict)]
            tool = next((block["input"] for block in blocks if block.get("type") == "tool_use"), None)
            texts = [str(block.get("text", "")) for block in blocks if block.get("type") == "text"]
            reason = answer.get("stop_reason")
            names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
            counted = read_count(answer.get("usage"), *names)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        text = "\n".join(texts) if tool is None else json.dumps(tool, ensure_ascii=False)
        return Reply(text, text or "refusal" if reason == "refusal" else "", reason == "max_tokens", counted=counted)

    async def create_batch(self, requests: Iterable[Request]) -> str:
        """Hand over requests, each under its key; returns the batch's id. Raises CallFailed."""
        batches = self._client.messages.batches.with_raw_response
        rows = [{"custom_id": request.key, "params": self.arguments(request, self._without)} for request in requests]
        body = await self._body(lambda: batches.create(requests=rows))
        return self._state(body).batch_id

    async def batch_state(self, batch_id: str) -> BatchState:
        """How far a batch is. Raises CallFailed."""
        batches = self._client.messages.batches.with_raw_response
        return self._state(await self._body(lambda: batches.retrieve(batch_id)))

    async def recent_batches(self) -> list[BatchState]:
        """The account's last batches. Raises CallFailed."""
        batches = self._client.messages.batches.with_raw_response
        body = await self._body(lambda: batches.list(limit=100))
        try:
            return [self._state(json.dumps(row)) for row in json.loads(body)["data"]]
        except (ValueError, KeyError, TypeError) as error:
            raise CallFailed(f"the list of batches is not readable: {brief(str(error))}", again=True) from None

    async def batch_results(self, batch_id: str) -> list[BatchResult]:
        """All results of an ended batch, each scrubbed. Raises CallFailed, also when the body is cut."""
        found: list[BatchResult] = []
        failure: CallFailed
        try:
            async for row in await self._client.messages.batches.results(batch_id):
                found.append(_result(json.loads(row.to_json())))
            return found
        except (ValueError, AttributeError, KeyError, TypeError):
            failure = CallFailed("the results of the batch are cut off or not readable", again=True)
        except Exception as error:
            failure = read_failure(self._sdk, error, self._settings.model)
            failure.again = failure.again or not failure.stop
        raise failure

    def _state(self, body: str) -> BatchState:
        from datetime import datetime

        try:
            said = json.loads(body)
            created = datetime.fromisoformat(str(said["created_at"])).timestamp()
            n_requests = sum(int(count) for count in said["request_counts"].values())
            return BatchState(str(said["id"]), said["processing_status"] == "ended", n_requests, created)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CallFailed(f"the batch is not readable: {brief(repr(error))}", again=True, paid=True) from None

    async def close(self) -> None:
        """See Provider."""
        await self._client.close()


def _result(row: dict[str, Any]) -> BatchResult:
    result = row["result"]
    if result["type"] == "succeeded":
        return BatchResult(str(row["custom_id"]), scrub(json.dumps(result["message"], ensure_ascii=False)))
    said = result.get("error") or {}
    inner = said.get("error") or said
    return BatchResult(str(row["custom_id"]), "", brief(f"{result['type']} {inner.get('message', '')}"))
