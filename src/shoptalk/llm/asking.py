"""Calls at the same time, with one policy of trying again: Retry-After, jitter, a pause for all after a 429, a limit on the rate.

When a call can never work (no key, no such model, no server) no further call starts; those under way end and are kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable, Iterable
from typing import Generic, TypeVar

import numpy as np

from shoptalk.errors import ProviderFailed, ProviderRefused, ShoptalkError
from shoptalk.llm.journal import Journal
from shoptalk.llm.messages import Fault, Request
from shoptalk.llm.providers import Provider
from shoptalk.llm.spending import Budget, CapReached
from shoptalk.models.failures import CallFailed
from shoptalk.progress import Task
from shoptalk.settings import LLMSettings

logger = logging.getLogger(__name__)
T = TypeVar("T")
Job = TypeVar("Job", bound=Hashable)
"""Whatever requests are made from: a passage, a query with its candidates."""
_FIRST_WAIT_S = 0.5
_LONGEST_OWN_WAIT_S = 60.0
_IN_A_ROW = 3  # requests in a row that got no answer after all tries: the server is down, not one request bad
KEPT = "What was paid for is kept; the same command goes on from there"


class NoAnswer(Exception):
    """A request got no answer; the others may."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.reason)
        self.fault = fault


class Asker(Generic[Job]):
    """Asks one provider, into one journal, under one budget."""

    def __init__(
        self, provider: Provider, journal: Journal, budget: Budget, settings: LLMSettings, rng: np.random.Generator
    ) -> None:
        self.provider, self.journal, self.budget, self.settings = provider, journal, budget, settings
        self.faults: dict[Job, Fault] = {}
        self._rng = rng
        self._stop: ShoptalkError | None = None
        self._stopped = asyncio.Event()
        self._not_before = 0.0
        self._next_start = 0.0
        self._in_a_row = 0
        self._answered = journal.counts["answer"] > 0

    async def answer_all(self, jobs: Iterable[Job], next_request: Callable[[Job], Request | None], bar: Task) -> None:
        """Ask for each job until `next_request` has nothing more to ask. Jobs that got nothing go to `faults`.

        Raises ProviderRefused or ProviderFailed when no further call can work; calls under way are waited for first.
        """
        queue = iter(jobs)

        async def work() -> None:
            for job in queue:
                if self._stop is not None:
                    return
                await self._answer_job(job, next_request)
                bar.advance()

        await asyncio.gather(*(work() for _ in range(self.settings.concurrency)))
        if self._stop is not None:
            raise self._stop
        failed = next((fault for fault in self.faults.values() if fault.check == "no-answer"), None)
        if failed is not None and not self._answered:
            raise ProviderFailed(f"{self._who}: {failed.reason}. {KEPT}")

    async def _answer_job(self, job: Job, next_request: Callable[[Job], Request | None]) -> None:
        try:
            while self._stop is None and (request := next_request(job)) is not None:
                await self._answer(request)
        except NoAnswer as failed:
            self.faults[job] = failed.fault
        except CapReached:
            self.faults[job] = Fault("spending-cap", "the worst case of its call does not fit under the spending cap")
        except ShoptalkError as error:
            self._halt(error)

    async def _answer(self, request: Request) -> None:
        """Bring the answer to a request onto the disk. Raises NoAnswer, CapReached, ProviderRefused, ProviderFailed."""
        try:
            await self.persist(lambda: self._call(request))
        except CallFailed as failure:
            self._in_a_row += failure.again or not self._answered
            if self._in_a_row >= _IN_A_ROW:
                raise ProviderFailed(
                    f"{self._who}: {failure.reason}, for {self._in_a_row} requests in a row. {KEPT}"
                ) from None
            raise NoAnswer(Fault("no-answer", failure.reason)) from None
        self._in_a_row = 0
        self._answered = True

    async def _call(self, request: Request) -> None:
        """One paid call: reserved and announced before, on disk before anything else after. Raises CallFailed, CapReached."""
        await self._turn()
        call = await self.budget.begin(request)
        try:
            if self._stop is not None:
                self.journal.free(call, "not sent")
                raise self._stop
            body = await self.provider.ask(request)
            reply = self.provider.read(body)
            usage = self.budget.usage(request, reply.counted if reply else None)
            self.journal.answer(call, request.key, body, usage)
        except CallFailed as failure:
            if failure.paid:
                self.journal.lost(call, failure.reason)
            else:
                self.journal.free(call, failure.reason)
            raise
        finally:
            await self.budget.settled()

    async def persist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Try until it works. Raises CallFailed when the tries are used up, ProviderRefused when it never will,
        ProviderFailed when the server asks for too long a wait.
        """
        for attempt in range(self.settings.max_retries + 1):
            try:
                return await call()
            except CallFailed as failure:
                if failure.stop:
                    raise ProviderRefused(f"{self._who}: {failure.reason}. {KEPT}") from None
                if not failure.again or attempt == self.settings.max_retries:
                    raise
                await self._wait(failure, attempt)
        raise AssertionError("the last attempt returns or raises")

    async def _wait(self, failure: CallFailed, attempt: int) -> None:
        if failure.wait_s > self.settings.max_wait_s:
            raise ProviderFailed(
                f"{self._who}: {failure.reason}; it asks to wait {failure.wait_s:,.0f} s, more than llm.max_wait_s. {KEPT}"
            )
        own = min(_LONGEST_OWN_WAIT_S, _FIRST_WAIT_S * 2**attempt)
        # Never before the server's time; the jitter comes after it, so that callers do not all come back at once.
        wait_s = (
            failure.wait_s + own * float(self._rng.random())
            if failure.wait_s
            else own * (0.5 + float(self._rng.random()) / 2)
        )
        logger.info("%s: %s; trying again in %.1f s", self._who, failure.reason, wait_s)
        if failure.status == 429:
            self._not_before = max(self._not_before, _now() + wait_s)
        await self.pause(wait_s)

    async def pause(self, seconds: float) -> None:
        """Wait; over at once when no further call may start, and then raises what stopped them."""
        try:
            await asyncio.wait_for(self._stopped.wait(), seconds)
        except TimeoutError:
            return
        if self._stop is not None:
            raise self._stop

    async def _turn(self) -> None:
        """Wait until a call may start: after the pause that a 429 asked for, and in step with llm.requests_per_minute."""
        while (left := self._not_before - _now()) > 0:
            await self.pause(left)
        if self.settings.requests_per_minute:
            start = max(_now(), self._next_start)
            self._next_start = start + 60 / self.settings.requests_per_minute
            if start > _now():
                await self.pause(start - _now())

    def _halt(self, error: ShoptalkError) -> None:
        self._stop = self._stop or error
        self._stopped.set()

    @property
    def _who(self) -> str:
        return f"{self.settings.provider} {self.settings.model}"


def _now() -> float:
    return asyncio.get_running_loop().time()
