"""Who answers. One module a protocol, each with `connect(settings) -> Provider`; the official package of each speaks it."""

from __future__ import annotations

import importlib
from typing import Protocol

from shoptalk.llm.messages import Reply, Request
from shoptalk.settings import LLMSettings

PROVIDERS: dict[str, str] = {
    "openai": "shoptalk.llm.providers.openai_compatible",
    "anthropic": "shoptalk.llm.providers.anthropic_native",
}


class Provider(Protocol):
    """A language model behind an API."""

    async def ask(self, request: Request) -> str:
        """The raw body of the answer, scrubbed of keys. Tries once; raises CallFailed."""

    def read(self, body: str) -> Reply | None:
        """What a body says; None when it is not what the protocol says. Never raises: bodies come from anywhere."""

    async def close(self) -> None:
        """Close the connections."""


def connect(settings: LLMSettings) -> Provider:
    """The provider that the settings name. Raises MissingPart, SettingsError, ProviderRefused (no key)."""
    provider: Provider = importlib.import_module(PROVIDERS[settings.provider]).connect(settings)
    return provider
