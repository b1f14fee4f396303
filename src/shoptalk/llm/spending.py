"""The spending cap, which holds exactly: a call starts only when its worst case still fits, and is settled when it ends.

The worst case of a prompt is a token for every byte of it (no tokenizer with byte fallback makes more) and what providers
wrap around it; that of an answer is the limit that is sent with the request. Money is Decimal: sums have no rounding.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from shoptalk.errors import NotConfirmed
from shoptalk.llm.journal import Journal, Usage
from shoptalk.llm.messages import Request
from shoptalk.settings import LLMSettings
from shoptalk.workspace import StageContext

logger = logging.getLogger(__name__)
_MILLION = Decimal(1_000_000)
# Chat templates, role marks, and the system prompt that a provider adds for tools or for a schema (Anthropic documents up to
# about 700 tokens for tools); three times that.
_WRAPPING_TOKENS = 2_000
_BYTES_PER_TOKEN = 4  # of English text, for the likely cost only; the cap never uses it


class CapReached(Exception):
    """The worst case of one more call would not fit under the cap."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What asking about `n_jobs` of `what` will take, before the first call. Costs are None when no prices are given."""

    provider: str
    model: str
    what: str
    n_jobs: int
    calls: int
    cached: int
    tokens_in: int
    tokens_out: int
    worst_tokens: int
    cost: Decimal | None
    worst_cost: Decimal | None
    spent: Usage
    max_cost: float | None
    max_total_tokens: int | None

    @property
    def words(self) -> str:
        """The estimate as a person reads it."""
        if not self.calls:
            return f"{self.provider} {self.model}: all {self.cached:,} answers are on disk; nothing to pay"
        if self.provider == "transformers":
            return f"{self.model} on this machine: {self.calls:,} passages to write queries for; nothing to pay"
        known = self.cost is not None and self.worst_cost is not None
        cost = f"likely {_money(self.cost)}" if known else "cost unknown (set llm.price_in and llm.price_out)"
        caps = [f"{_money(Decimal(str(self.max_cost)))}"] if self.max_cost is not None else []
        caps += [f"{self.max_total_tokens:,} tokens"] if self.max_total_tokens is not None else []
        cap = (
            f"stops before {' and '.join(caps)}"
            if caps
            else "no spending cap is set (llm.max_cost, llm.max_total_tokens)"
        )
        spent = f"; {self.spent.tokens:,} tokens spent so far" if self.spent.tokens else ""
        return (
            f"{self.provider} {self.model}: {self.calls:,} calls for {self.n_jobs:,} {self.what} ({self.cached:,} answers on disk), "
            f"about {self.tokens_in:,} tokens in and {self.tokens_out:,} out, {cost}; {cap}{spent}"
        )


def _money(amount: Decimal | None) -> str:
    return f"{amount or 0:,.2f}" if (amount or 0) >= 1 else f"{amount or 0:,.4f}"


class Prices:
    """What tokens cost, per million, as the user says."""

    def __init__(self, settings: LLMSettings) -> None:
        self._in = Decimal(str(settings.price_in))
        self._out = Decimal(str(settings.price_out))
        self.known = bool(self._in or self._out)

    def usage(self, tokens_in: int, tokens_out: int) -> Usage:
        """Tokens with their cost."""
        return Usage(tokens_in, tokens_out, (tokens_in * self._in + tokens_out * self._out) / _MILLION)

    def worst(self, request: Request) -> Usage:
        """The most that a call can cost."""
        return self.usage(len(request.wire) + _WRAPPING_TOKENS, request.answer_tokens)

    def likely(self, request: Request) -> Usage:
        """About what it will cost: four bytes to a token of the prompt."""
        return self.usage(len(request.wire) // _BYTES_PER_TOKEN, request.likely_tokens)


class Budget:
    """Reservations against the caps, over everything that the journal has ever seen. One event loop, so no locks but its own."""

    def __init__(self, settings: LLMSettings, journal: Journal) -> None:
        self.prices = Prices(settings)
        self._max_cost = None if settings.max_cost is None else Decimal(str(settings.max_cost))
        self._max_tokens = settings.max_total_tokens
        self._journal = journal
        self._flying = 0
        self._settled = asyncio.Condition()

    def fits(self, more: Usage) -> bool:
        """Whether this much more stays under the caps."""
        after = self._journal.spent + more
        cost_fits = self._max_cost is None or after.cost <= self._max_cost
        return cost_fits and (self._max_tokens is None or after.tokens <= self._max_tokens)

    async def begin(self, request: Request) -> str:
        """Reserve the worst case and announce the call; waits for calls under way when their settling could make room.

        Raises CapReached when nothing is under way and it still does not fit.
        """
        worst = self.prices.worst(request)
        async with self._settled:
            while not self.fits(worst):
                if not self._flying:
                    raise CapReached
                await self._settled.wait()
            self._flying += 1
            return self._journal.begin(request.key, worst)

    def usage(self, request: Request, counted: tuple[int, int] | None) -> Usage:
        """What an answer cost by the provider's own count; its worst case when the provider does not count."""
        worst = self.prices.worst(request)
        if counted is None:
            return worst
        usage = self.prices.usage(*counted)
        if usage.tokens_in > worst.tokens_in or usage.tokens_out > worst.tokens_out:
            logger.warning(
                "the provider counted %d tokens in and %d out where %d and %d were the most; it may not keep the limit on answers, "
                "and then no cap can hold",
                *counted, worst.tokens_in, worst.tokens_out,
            )  # fmt: skip
        return usage

    async def settled(self) -> None:
        """A call has ended; who waits for room looks again."""
        async with self._settled:
            self._flying -= 1
            self._settled.notify_all()


def who_agrees(stage: StageContext) -> Callable[[str], bool]:
    """Who agrees to what a language model will cost: the person at the keyboard, or else a cap in the settings.

    The function is shown the estimate in words; it raises NotConfirmed where there is neither.
    """
    llm = stage.settings.llm
    capped = llm.max_cost is not None or llm.max_total_tokens is not None or llm.provider == "transformers"

    def without_a_person(words: str) -> bool:
        if not capped:
            raise NotConfirmed(
                f"{words}. Nobody can be asked here and there is no cap: set llm.max_total_tokens or llm.max_cost, or give --yes"
            )
        return True

    return stage.confirm or without_a_person
