"""A failed call: whether to try again, when, and whether it may have been paid for. One reading for all SDKs and all that call."""

from __future__ import annotations

import email.utils
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shoptalk.errors import MissingPart, ProviderRefused, SettingsError
from shoptalk.models.scrubbing import brief, scrub
from shoptalk.settings import address_holds_secret

_STOP = {401: "refuses the key", 402: "wants to be paid first", 403: "does not allow this key to use the model"}
_AGAIN = (408, 409, 425, 429)
# A gateway gave up waiting: behind it the answer may have been finished and billed.
_MAYBE_PAID = (408, 502, 504, 524)
_NEVER_SENT = (
    "ConnectError",
    "ConnectTimeout",
    "PoolTimeout",
    "UnsupportedProtocol",
    "LocalProtocolError",
    "InvalidURL",
)


class CallFailed(Exception):
    """One call failed. again: trying again can help. paid: it may have been paid for. stop: no call will ever work.
    wait_s: how long the server asks to wait. status: the HTTP status, 0 without one.
    """

    def __init__(
        self,
        reason: str,
        *,
        again: bool = False,
        paid: bool = False,
        stop: bool = False,
        wait_s: float = 0.0,
        status: int = 0,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.again, self.paid, self.stop, self.wait_s, self.status = again, paid, stop, wait_s, status


@dataclass(frozen=True, slots=True)
class Words:
    """What messages call the parts of a call: who needs the package, and where address and time limit are set."""

    caller: str = "queries by {sdk} need"
    address: str = "llm.base_url"
    timeout: str = "llm.timeout_s"


LLM = Words()


def read_failure(sdk: Any, error: Exception, model: str, words: Words = LLM) -> CallFailed:
    """What an exception of an SDK means. sdk: the package, which names the classes. Holds no key, whatever the server said."""
    if isinstance(error, sdk.APIStatusError):
        return _read_status(error, model, words)
    if isinstance(error, TimeoutError | sdk.APITimeoutError | sdk.APIConnectionError):
        cause = type(error.__cause__).__name__ if error.__cause__ is not None else type(error).__name__
        slow = isinstance(error, TimeoutError | sdk.APITimeoutError)
        said = f"no answer within {words.timeout}" if slow else f"the connection broke ({cause})"
        never_sent = cause in _NEVER_SENT
        return CallFailed("no connection to the server" if never_sent else said, again=True, paid=not never_sent)
    return CallFailed(f"{type(error).__name__}: {brief(str(error))}", paid=True)


def _read_status(error: Any, model: str, words: Words) -> CallFailed:
    status = int(error.status_code)
    said = brief(_message(error))
    if status in _STOP:
        return CallFailed(f"the provider {_STOP[status]} ({status}): {said}", stop=True, status=status)
    if status == 404:
        return CallFailed(
            f"no model {model!r} there, or {words.address} is wrong (404): {said}", stop=True, status=status
        )
    if 300 <= status < 400:
        return CallFailed(
            f"{words.address} answers with a redirect ({status}); give the final address", stop=True, status=status
        )
    if status == 429 and "insufficient_quota" in said + str(getattr(error, "code", "")) + str(
        getattr(error, "type", "")
    ):
        return CallFailed(f"the account has no money left (429): {said}", stop=True, status=status)
    again = status in _AGAIN or status >= 500
    wait_s = _wait(error.response.headers) if again else 0.0
    return CallFailed(f"{status}: {said}", again=again, paid=status in _MAYBE_PAID, wait_s=wait_s, status=status)


def _message(error: Any) -> str:
    body = error.body
    inner = body.get("error", body) if isinstance(body, dict) else body
    message = inner.get("message") if isinstance(inner, dict) else inner
    return str(message or error.message or "no reason given")


def _wait(headers: Any) -> float:
    """Seconds that Retry-After asks for, as a number or as a date; 0 when it does not."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        said = headers.get("retry-after", "")
        if not said:
            return 0.0
        try:
            wait_s = float(said)
        except ValueError:
            wait_s = email.utils.parsedate_to_datetime(said).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return max(0.0, wait_s) if wait_s == wait_s else 0.0


def load_sdk(name: str, words: Words = LLM) -> Any:
    """The provider's package. Raises MissingPart."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingPart(f"{words.caller.format(sdk=name)} its package: pip install 'shoptalk[llm]'") from None


def find_address(base_url: str, variable: str) -> str:
    """The server's address from the settings or the environment; "" for the provider's own. Raises SettingsError."""
    address = base_url or os.environ.get(variable, "")
    if address_holds_secret(address):
        raise SettingsError(f"{variable} holds a user name, a password or a query; take it out (not shown here)")
    return address.rstrip("/")


def find_key(variable: str, address: str, words: Words = LLM) -> str:
    """The key from the environment; a server of one's own may need none. Raises ProviderRefused."""
    key = os.environ.get(variable, "").strip()
    if not key and not address:
        raise ProviderRefused(f"{variable} is not set; export it, or name a server of your own with {words.address}")
    return key or "none"


async def scrubbed_body(sdk: Any, model: str, call: Callable[[], Any], timeout_s: float) -> str:
    """The body of one call under a limit for all of it. Raises CallFailed; nothing of the SDK's own error goes with it."""
    import asyncio

    failure: CallFailed
    try:
        async with asyncio.timeout(timeout_s):
            raw = await call()
        return scrub(raw.http_response.text)
    except Exception as error:
        failure = read_failure(sdk, error, model)
    raise failure
