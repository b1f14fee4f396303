"""From jobs to answers on disk: what it will take, and the asking itself, one by one or in batches."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import numpy as np

from shoptalk.llm.asking import Asker, Job
from shoptalk.llm.journal import Journal, Usage
from shoptalk.llm.messages import Fault, Request
from shoptalk.llm.providers import Provider
from shoptalk.llm.spending import Budget, Estimate, Prices
from shoptalk.models.scrubbing import scrubbed_logs
from shoptalk.progress import task
from shoptalk.settings import LLMSettings

NextRequest = Callable[[Job], Request | None]
"""What a job has to ask next, by the answers on disk; None when it is done."""


def estimate_answers(
    jobs: Sequence[Job],
    next_request: NextRequest[Job],
    settings: LLMSettings,
    journal: Journal,
    what: str,
    cached: int,
) -> Estimate:
    """The calls still to make, one for each job that is not done, with what they are likely to take and at worst.

    what: what the jobs are, in the plural; cached: answers that they have on disk.
    """
    prices = Prices(settings)
    waiting = {key for batch in journal.batches.values() if not batch.done for key in batch.calls}
    found = [request for job in jobs if (request := next_request(job)) is not None and request.key not in waiting]
    likely = sum((prices.likely(request) for request in found), Usage())
    worst = sum((prices.worst(request) for request in found), Usage())
    known = prices.known or settings.provider == "transformers"
    return Estimate(
        provider=settings.provider,
        model=settings.model,
        what=what,
        n_jobs=len(jobs),
        calls=len(found),
        cached=cached,
        tokens_in=likely.tokens_in,
        tokens_out=likely.tokens_out,
        worst_tokens=worst.tokens * settings.attempts,
        cost=likely.cost if known else None,
        worst_cost=worst.cost * Decimal(settings.attempts) if known else None,
        spent=journal.spent,
        max_cost=settings.max_cost,
        max_total_tokens=settings.max_total_tokens,
    )


def answer_jobs(
    jobs: Sequence[Job],
    next_request: NextRequest[Job],
    settings: LLMSettings,
    journal: Journal,
    provider: Provider,
    label: str,
    rng: np.random.Generator | None = None,
) -> dict[Job, Fault]:
    """Bring all answers onto the disk and close the provider; returns the jobs that got none, each with why.

    rng: for the jitter of waiting times; by default from settings.seed. Works where an event loop runs already, as in a
    notebook. Raises ProviderRefused and ProviderFailed; what was paid for is kept.
    """
    rng = rng if rng is not None else np.random.default_rng(settings.seed)

    async def ask() -> dict[Job, Fault]:
        asker: Asker[Job] = Asker(provider, journal, Budget(settings, journal), settings, rng)
        try:
            with scrubbed_logs(), task(label, len(jobs)) as bar:
                if settings.batch or any(not batch.done for batch in journal.batches.values()):
                    from shoptalk.llm.batching import answer_in_batches

                    await answer_in_batches(asker, jobs, next_request, bar)
                if not settings.batch:
                    await asker.answer_all(jobs, next_request, bar)
        finally:
            await provider.close()
        return asker.faults

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(ask())  # in this thread, so that an interrupt ends it at once
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(contextvars.copy_context().run, asyncio.run, ask()).result()
