"""Embeddings of an OpenAI-compatible server as an Encoder: what a commercial model would do on the same haystack, and its price.

Vectors are kept like those of local models, so that nothing is paid for twice: those of a call that failed half way too. The key
comes from the environment (OPENAI_API_KEY) and stands in no record, message or log.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from shoptalk.errors import ModelError, ProviderFailed, ProviderRefused, SettingsError
from shoptalk.models.failures import CallFailed, Words, find_key, load_sdk, read_failure
from shoptalk.models.scrubbing import brief, scrubbed_logs
from shoptalk.models.store import Vectors, VectorStore, encode_once, text_names, unit
from shoptalk.progress import task
from shoptalk.settings import EndpointSettings, address_holds_secret
from shoptalk.workspace import digest_of

logger = logging.getLogger(__name__)

_NAME = re.compile(r"endpoint:(?P<model>.+?)(?:@(?P<address>https?://.+))?$")
_OPENAI = "https://api.openai.com/v1"
_BYTES_PER_TOKEN = 4  # of English text, for the likely cost only; the cap counts a token for every byte
_WRAPPING_TOKENS = 8
_FIRST_WAIT_S, _LONGEST_OWN_WAIT_S = 0.5, 60.0
_AT_ONCE = 1_024
_WORDS = Words("measuring an endpoint of {sdk}'s protocol needs", "endpoint:MODEL@ADDRESS", "endpoint.timeout_s")
_KEPT = "What was paid for is kept; the same command goes on from there"


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the missing vectors of a comparison will take, before the first call. cost is None without endpoint.price."""

    name: str
    texts: int
    known: int
    calls: int
    tokens: int
    cost: float | None
    cap: str
    local: bool

    @property
    def words(self) -> str:
        """The estimate as a person reads it."""
        if not self.calls:
            return f"{self.name}: all {self.known:,} vectors are on disk; nothing to pay"
        cost = "cost unknown (set endpoint.price)" if self.cost is None else f"likely {self.cost:,.4f} in money"
        return (
            f"{self.name}: {self.calls:,} calls for {self.texts:,} texts ({self.known:,} vectors on disk), about {self.tokens:,} "
            f"tokens, {cost}; {self.cap or 'no cap is set (endpoint.max_cost, endpoint.max_tokens)'}"
        )


def is_endpoint(name: str) -> bool:
    """Whether a system's name says endpoint:MODEL or endpoint:MODEL@http://host/v1."""
    return name.startswith("endpoint:")


class EndpointEncoder:
    """A server's embedding model. Raises SettingsError, ProviderRefused (no key) and MissingPart when it is made.

    folder: where vectors are kept, by model, address and text. A vendor that changes a model behind its name goes unnoticed; an
    empty folder asks again.
    """

    def __init__(self, name: str, settings: EndpointSettings, folder: Path) -> None:
        found = _NAME.match(name)
        if found is None or (("@http" in name) != bool(found["address"])):
            raise SettingsError(
                "an endpoint is written endpoint:MODEL@http://host/v1, or endpoint:MODEL for OpenAI's own"
            )
        address = (found["address"] or "").rstrip("/")
        if address_holds_secret(address):
            raise SettingsError(
                "the endpoint's address holds a user name, a password or a query; take it out (not shown here)"
            )
        self.name, self.model, self.address = name, found["model"], address or _OPENAI
        self._settings, self._folder = settings, folder
        self._sdk = load_sdk("openai", _WORDS)
        self._client = self._sdk.OpenAI(
            api_key=find_key("OPENAI_API_KEY", address, _WORDS),
            base_url=self.address,
            max_retries=0,
            timeout=settings.timeout_s,
            http_client=self._sdk.DefaultHttpxClient(follow_redirects=False, timeout=settings.timeout_s),
        )
        self._rng = np.random.default_rng(12)
        self.tokens = 0

    @property
    def digest(self) -> str:
        """Changes whenever the vectors of a text would, as far as can be known from here."""
        own = self._settings
        return digest_of(["endpoint", self.model, self.address, own.query_prompt, own.passage_prompt, own.max_chars])

    @property
    def cost(self) -> float:
        """Of this comparison so far, by endpoint.price."""
        return self.tokens * self._settings.price / 1e6

    @property
    def record(self) -> dict[str, Any]:
        """Tokens and cost, of this comparison and of all the vectors that are kept."""
        kept = sum(self._store(what).effort.tokens for what in ("queries", "passages"))
        return {
            "tokens": self.tokens,
            "cost": self.cost,
            "kept_tokens": kept,
            "kept_cost": kept * self._settings.price / 1e6,
            "price_per_million": self._settings.price,
        }

    @property
    def seconds_per_1000(self) -> float | None:
        """Seconds to embed 1,000 passages, the way to the server and waiting for it included; None before any were."""
        return self._store("passages").effort.seconds_per_1000

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """texts -> (n_texts, dim) float32, unit length. Raises ProviderRefused, ProviderFailed, SettingsError (the cap)."""
        return self._cached([self._settings.query_prompt + text for text in texts], "queries")

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        """texts -> (n_texts, dim) float32, unit length. Raises as `encode_queries`."""
        return self._cached([self._settings.passage_prompt + text for text in texts], "passages")

    def estimate(self, queries: Sequence[str], passages: Sequence[str]) -> Estimate:
        """What encoding these would ask for and cost, from what is on disk; calls nothing."""
        own, missing, known = self._settings, [], 0
        for prompt, texts, what in ((own.query_prompt, queries, "queries"), (own.passage_prompt, passages, "passages")):
            sent = list(dict.fromkeys(self._sent(prompt + text) for text in texts))
            rows = self._store(what).index().locate(text_names(sent))
            missing += [text for text, row in zip(sent, rows, strict=True) if row < 0]
            known += int(np.sum(rows >= 0))
        tokens = sum(len(text.encode("utf-8", "surrogatepass")) for text in missing) // _BYTES_PER_TOKEN
        cost = tokens * own.price / 1e6 if own.price else None
        caps = [f"{own.max_cost:,.2f} in money"] if own.max_cost is not None else []
        caps += [f"{own.max_tokens:,} tokens"] if own.max_tokens is not None else []
        local = (urlsplit(self.address).hostname or "") in ("localhost", "127.0.0.1", "::1")
        calls = -(-len(missing) // own.batch_size)
        cap = f"stops before {' and '.join(caps)}" if caps else ""
        return Estimate(self.name, len(missing), known, calls, tokens, cost, cap, local)

    def _store(self, what: str) -> VectorStore:
        return VectorStore(self._folder / f"{what}-{self.digest[:16]}")

    def _sent(self, text: str) -> str:
        """A text as it goes out: cut as set; servers refuse an empty one."""
        cut = text[: self._settings.max_chars] if self._settings.max_chars else text
        return cut if cut.strip() else "."

    def _cached(self, texts: Sequence[str], what: str) -> Vectors:
        store = self._store(what)
        if not texts:
            return np.zeros((0, 0), np.float32)
        sent = [self._sent(text) for text in texts]
        return encode_once(store, sent, lambda: lambda new: self._embed(new, store), f"asking for {what}", _AT_ONCE)

    def _embed(self, texts: list[str], store: VectorStore) -> Vectors:
        """The vectors of new texts. Those of the calls before one that fails are kept first."""
        done: list[Vectors] = []
        try:
            with task("asking the endpoint", len(texts)) as bar, scrubbed_logs():
                for start in range(0, len(texts), self._settings.batch_size):
                    batch = texts[start : start + self._settings.batch_size]
                    vectors = self._read(self._persist(batch), batch, store)
                    if done and vectors.shape[1] != done[0].shape[1]:
                        raise ModelError(
                            f"{self.name}: gave vectors of {done[0].shape[1]} and then of {vectors.shape[1]} dimensions"
                        )
                    done.append(vectors)
                    bar.advance(len(batch))
        except BaseException:
            if done:
                store.add(text_names(texts[: sum(map(len, done))]), np.concatenate(done))
            raise
        return np.concatenate(done)

    def _persist(self, batch: list[str]) -> str:
        """The body of a call that worked, tried again as the server asks. Raises ProviderRefused, ProviderFailed, SettingsError."""
        self._check_cap(batch)
        for attempt in range(self._settings.max_retries + 1):
            try:
                return self._call(batch)
            except CallFailed as failure:
                if failure.stop:
                    raise ProviderRefused(f"{self.name}: {failure.reason}. {_KEPT}") from None
                if not failure.again or attempt == self._settings.max_retries:
                    raise ProviderFailed(f"{self.name}: {failure.reason}. {_KEPT}") from None
                self._wait(failure, attempt)
        raise AssertionError("the last attempt returns or raises")

    def _call(self, batch: list[str]) -> str:
        failure: CallFailed
        try:
            raw = self._client.embeddings.with_raw_response.create(
                model=self.model, input=batch, encoding_format="float"
            )
            return str(raw.http_response.text)
        except Exception as error:
            failure = read_failure(self._sdk, error, self.model, _WORDS)
        raise failure

    def _wait(self, failure: CallFailed, attempt: int) -> None:
        if failure.wait_s > self._settings.max_wait_s:
            raise ProviderFailed(
                f"{self.name}: {failure.reason}; it asks to wait {failure.wait_s:,.0f} s, more than endpoint.max_wait_s. {_KEPT}"
            )
        own = min(_LONGEST_OWN_WAIT_S, _FIRST_WAIT_S * 2**attempt) * (0.5 + float(self._rng.random()) / 2)
        seconds = failure.wait_s + own if failure.wait_s else own
        logger.info("%s: %s; trying again in %.1f s", self.name, failure.reason, seconds)
        time.sleep(seconds)

    def _check_cap(self, batch: list[str]) -> None:
        """No call whose worst case, a token for every byte, would not fit any more."""
        own, after = self._settings, self.tokens + _worst(batch)
        if own.max_tokens is not None and after > own.max_tokens:
            raise SettingsError(
                f"{self.name}: the worst case of the next call does not fit under endpoint.max_tokens. {_KEPT}"
            )
        if own.max_cost is not None and after * own.price / 1e6 > own.max_cost:
            raise SettingsError(
                f"{self.name}: the worst case of the next call does not fit under endpoint.max_cost. {_KEPT}"
            )

    def _read(self, body: str, batch: list[str], store: VectorStore) -> Vectors:
        """(n, dim) float32, unit length, in the order of the texts. Raises ModelError for an answer that is none."""
        try:
            answer = json.loads(body)
            rows = sorted(answer["data"], key=lambda row: int(row["index"]))
            places = [int(row["index"]) for row in rows]
            vectors = np.array([row["embedding"] for row in rows], np.float32)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ModelError(f"{self.name}: its answer holds no embeddings: {brief(body)}") from None
        tokens = _counted(answer.get("usage"), batch)
        self.tokens += tokens
        store.note(0, 0.0, tokens)
        if (
            places != list(range(len(batch)))
            or vectors.ndim != 2
            or not vectors.shape[1]
            or not np.isfinite(vectors).all()
        ):
            raise ModelError(
                f"{self.name}: {len(places)} embeddings for {len(batch)} texts, or not all of finite numbers. {_KEPT}"
            )
        return unit(vectors)


def _worst(batch: Sequence[str]) -> int:
    return sum(len(text.encode("utf-8", "surrogatepass")) + _WRAPPING_TOKENS for text in batch)


def _counted(usage: Any, batch: Sequence[str]) -> int:
    """Tokens as the provider counts them; their worst case when it does not."""
    said = usage.get("total_tokens", usage.get("prompt_tokens")) if isinstance(usage, dict) else None
    return said if isinstance(said, int) and said > 0 else _worst(batch)
