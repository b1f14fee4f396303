"""Chat completions, as OpenAI, vLLM, Ollama, llama.cpp and many others speak them, through the `openai` package."""

from __future__ import annotations

import json
from typing import Any

from shoptalk.llm.messages import Reply, Request
from shoptalk.models.failures import CallFailed, find_address, find_key, load_sdk, scrubbed_body
from shoptalk.settings import LLMSettings

_OPENAI = "https://api.openai.com/v1"


def connect(settings: LLMSettings) -> OpenAICompatible:
    """See `providers.connect`."""
    return OpenAICompatible(settings)


class OpenAICompatible:
    """A server of that protocol. What it does not know (schemas, a seed, ...) is found out by its 400s and left out from then on."""

    def __init__(self, settings: LLMSettings) -> None:
        self._sdk = load_sdk("openai")
        self._settings = settings
        address = find_address(settings.base_url, "OPENAI_BASE_URL")
        self._client = self._sdk.AsyncOpenAI(
            api_key=find_key("OPENAI_API_KEY", address),
            base_url=address or _OPENAI,
            max_retries=0,
            timeout=settings.timeout_s,
            http_client=self._sdk.DefaultAsyncHttpxClient(follow_redirects=False, timeout=settings.timeout_s),
        )
        self._without: frozenset[str] = frozenset()

    async def ask(self, request: Request) -> str:
        """See Provider. A 400 to something optional is answered by asking without it; only what then works is remembered."""
        without = self._without
        while True:
            try:
                body = await self._once(request, without)
            except CallFailed as failure:
                drop = _unknown(failure, without, self._settings) if failure.status in (400, 422) else None
                if drop is None:
                    raise
                without |= {drop}
            else:
                self._without |= without
                return body

    async def _once(self, request: Request, without: frozenset[str]) -> str:
        settings = self._settings
        limit = "max_completion_tokens" if "max_tokens" in without else "max_tokens"
        optional: dict[str, Any] = {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": request.answer, "strict": True, "schema": request.schema},
            },
            "seed": settings.seed,
            "temperature": settings.temperature,
        }
        arguments = {name: value for name, value in optional.items() if value is not None and name not in without}
        messages = [{"role": "system", "content": request.system}, {"role": "user", "content": request.user}]
        create = self._client.chat.completions.with_raw_response.create
        return await scrubbed_body(
            self._sdk,
            settings.model,
            lambda: create(
                model=settings.model, messages=messages, stream=False, **{limit: request.answer_tokens}, **arguments
            ),
            settings.timeout_s,
        )

    def read(self, body: str) -> Reply | None:
        """See Provider."""
        try:
            answer = json.loads(body)
            choice = answer["choices"][0]
            message = choice["message"]
            content, reason = message.get("content"), choice.get("finish_reason")
            refusal = message.get("refusal") or ("stopped by a content filter" if reason == "content_filter" else "")
            counted = read_count(answer.get("usage"), "prompt_tokens", "completion_tokens")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            return None
        text = content if isinstance(content, str) else ""
        return Reply(text, str(refusal), reason == "length", counted=counted)

    async def close(self) -> None:
        """See Provider."""
        await self._client.close()


def _unknown(failure: CallFailed, without: frozenset[str], settings: LLMSettings) -> str | None:
    """What to leave out after a 400: what its words name, else the schema, which many servers do not know."""
    said = failure.reason.casefold()
    if "max_completion_tokens" in said and "max_tokens" not in without:
        return "max_tokens"
    if "temperature" in said and settings.temperature is not None and "temperature" not in without:
        return "temperature"
    if "seed" in said and "seed" not in without:
        return "seed"
    return None if "response_format" in without else "response_format"


def read_count(usage: Any, *names: str) -> tuple[int, int] | None:
    """Tokens in and out of a usage record; None when it does not say them as numbers. The last name is the output."""
    if not isinstance(usage, dict):
        return None
    counts = [usage.get(name) or 0 for name in names]
    if any(not isinstance(count, int) or count < 0 for count in counts) or usage.get(names[-1]) is None:
        return None
    return (sum(counts[:-1]), counts[-1])
