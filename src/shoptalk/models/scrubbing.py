"""Keys stay in the environment: every text that comes from a provider goes through here before anybody sees it."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

_SECRET_NAMES = re.compile(r"(API_?KEY|ADMIN_KEY|AUTH_TOKEN|SIGNING_KEY|WEBHOOK_SECRET|ACCESS_TOKEN|^HF_TOKEN)$")
_LOOKS_LIKE_A_KEY = re.compile(r"\bsk-[\w*.…-]{6,}|(?i:\b(?:bearer|x-api-key:?))\s+[\w.~+/=*-]{6,}")
_HIDDEN = "[key]"
_SHORTEST = 6
_NESTED = 4
_TALKATIVE = ("openai", "anthropic", "httpx", "httpcore", "asyncio")


def scrub(text: str) -> str:
    """The text without the keys of the environment, however they are written in it, and without what looks like a key."""
    for secret in _secrets():
        text = text.replace(secret, _HIDDEN)
    return _LOOKS_LIKE_A_KEY.sub(_HIDDEN, text)


def brief(text: str, limit: int = 300) -> str:
    """One scrubbed line of a provider's words, for a message."""
    plain = " ".join(scrub(text).split())
    return plain if len(plain) <= limit else plain[: limit - 3] + "..."


class _Scrubber(logging.Filter):
    """Scrubs what the libraries below log: at DEBUG they write a server's headers, and a server may say a key back."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = scrub(record.getMessage()), ()
        return True


@contextmanager
def scrubbed_logs() -> Iterator[None]:
    """No key in the logs of the HTTP libraries and SDKs while the block runs."""
    scrubber = _Scrubber()
    loggers = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict) if name.startswith(_TALKATIVE)]
    for logger in loggers:
        logger.addFilter(scrubber)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(scrubber)


def _secrets() -> list[str]:
    """The environment's secrets as they may stand in a body, the longest first. Read anew: tests and people change them.

    A body is JSON and may hold JSON as a text, so quotes in a key can be escaped more than once.
    """
    found: set[str] = set()
    for value in (value.strip() for name, value in os.environ.items() if _SECRET_NAMES.search(name)):
        form = value
        for _ in range(_NESTED if len(value) >= _SHORTEST else 0):
            found |= {form, quote(form, safe="")}
            form = json.dumps(form)[1:-1]
    return sorted(found, key=len, reverse=True)
