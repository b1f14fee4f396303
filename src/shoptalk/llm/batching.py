"""Message Batches: announced on disk, sent, known by id on disk before the first poll, and read to the last result.

A restart takes up every batch that is not done. One that was sent while its id never reached the disk (a kill, a cut answer)
is looked for among the account's recent batches and recognised by the keys in its results.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from shoptalk.errors import ProviderFailed
from shoptalk.llm.asking import KEPT, Asker, Job
from shoptalk.llm.journal import Batch, Usage
from shoptalk.llm.messages import Fault, Request
from shoptalk.llm.providers.anthropic_native import AnthropicNative, BatchResult, BatchState
from shoptalk.models.failures import CallFailed
from shoptalk.progress import Task

logger = logging.getLogger(__name__)
_MOST_REQUESTS = 50_000  # the API takes 100,000
_MOST_BYTES = 100_000_000  # the API takes 256 MB
_TRIES = 2  # of a request that a batch gives back without an answer
_CLOCK_SKEW_S = 300


async def answer_in_batches(
    asker: Asker[Job], jobs: Sequence[Job], next_request: Callable[[Job], Request | None], bar: Task
) -> None:
    """Ask for each job until `next_request` has nothing more to ask, a batch at a time. Raises ProviderRefused, ProviderFailed."""
    provider = asker.provider
    assert isinstance(provider, AnthropicNative)
    try:
        await take_up(asker, provider)
        if not asker.settings.batch:  # batches of an earlier run; the rest is asked one by one
            return
        failed: Counter[str] = Counter()
        while wanted := _wanted(asker, jobs, next_request, failed):
            sent = _fitting(asker, wanted)
            if not sent:
                for job in wanted:
                    asker.faults[job] = Fault(
                        "spending-cap", "the worst case of its call does not fit under the spending cap"
                    )
                return
            batch = asker.journal.announce_batch(
                {request.key: asker.budget.prices.worst(request) for request in sent}, time.time()
            )
            await _send(asker, provider, batch, sent)
            for key, reason in (await _finish(asker, provider, batch)).items():
                failed[key] += 1
                logger.info("batch %s: %s gave no answer: %s", batch.batch_id, key[:8], reason)
            bar.advance(len(sent))
    except CallFailed as failure:
        raise ProviderFailed(f"anthropic {asker.settings.model}: {failure.reason}. {KEPT}") from None


async def take_up(asker: Asker[Any], provider: AnthropicNative) -> None:
    """Bring in the batches that an earlier run left behind. Raises CallFailed, ProviderRefused."""
    for batch in [batch for batch in asker.journal.batches.values() if not batch.done]:
        if not batch.batch_id and not await _recognise(asker, provider, batch):
            logger.info("%s never reached the provider", batch.name)
            for call in batch.calls.values():
                asker.journal.free(call, "the batch was never sent", sync=False)
            asker.journal.batch_done(batch)
            continue
        await _finish(asker, provider, batch)


def _wanted(
    asker: Asker[Job], jobs: Iterable[Job], next_request: Callable[[Job], Request | None], failed: Counter[str]
) -> dict[Job, Request]:
    wanted: dict[Job, Request] = {}
    for job in jobs:
        request = next_request(job) if job not in asker.faults else None
        if request is not None and failed[request.key] >= _TRIES:
            asker.faults[job] = Fault("no-answer", "the batch gave it back without an answer")
        elif request is not None:
            wanted[job] = request
    return wanted


def _fitting(asker: Asker[Job], wanted: dict[Job, Request]) -> list[Request]:
    """As many requests as one batch and the caps take, each key once."""
    chosen: dict[str, Request] = {}
    reserved = Usage()
    size = 0
    for request in wanted.values():
        more = reserved + asker.budget.prices.worst(request)
        size += len(request.wire) + len(request.system)
        if len(chosen) == _MOST_REQUESTS or size > _MOST_BYTES:
            break
        if request.key not in chosen and asker.budget.fits(more):
            chosen[request.key] = request
            reserved = more
    return list(chosen.values())


async def _send(asker: Asker[Any], provider: AnthropicNative, batch: Batch, requests: Sequence[Request]) -> None:
    """Send it until the provider names it. After a failure that may hide a success, look before sending again."""

    async def send() -> str:
        try:
            return await provider.create_batch(requests)
        except CallFailed as failure:
            if not failure.paid or not await _recognise(asker, provider, batch):
                raise
            return batch.batch_id

    try:
        batch_id = await asker.persist(send)
    except CallFailed as failure:
        if not failure.paid:
            for call in batch.calls.values():
                asker.journal.free(call, failure.reason, sync=False)
            asker.journal.batch_done(batch)
        raise
    if not batch.batch_id:
        asker.journal.batch_known(batch, batch_id)


async def _recognise(asker: Asker[Any], provider: AnthropicNative, batch: Batch) -> bool:
    """Whether a recent batch of the account is this one; if so its id is on disk afterwards."""
    known = {other.batch_id for other in asker.journal.batches.values()}
    for state in await asker.persist(provider.recent_batches):
        fits = state.created >= batch.started - _CLOCK_SKEW_S and state.n_requests == len(batch.calls)
        if state.batch_id in known or not fits:
            continue
        if any(
            result.key in batch.calls for result in await _results(asker, provider, state.batch_id, len(batch.calls))
        ):
            asker.journal.batch_known(batch, state.batch_id)
            return True
    return False


async def _finish(asker: Asker[Any], provider: AnthropicNative, batch: Batch) -> dict[str, str]:
    """Wait for a batch and keep all its results; the keys without an answer with the reason."""
    failed: dict[str, str] = {}
    left = dict(batch.calls)
    for result in await _results(asker, provider, batch.batch_id, len(left)):
        call = left.pop(result.key, None)
        if call is None or call not in asker.journal.open:  # settled before a kill, and counted then
            continue
        if not result.body:
            asker.journal.free(call, result.reason, sync=False)
            failed[result.key] = result.reason
            continue
        reply = provider.read(result.body)
        worst = asker.journal.open.get(call, Usage())
        usage = asker.budget.prices.usage(*reply.counted) if reply and reply.counted else worst
        asker.journal.answer(call, result.key, result.body, usage, sync=False)
    for key, call in left.items():
        if call not in asker.journal.open:
            continue
        asker.journal.lost(call, "the batch's results do not hold it")
        failed[key] = "the batch's results do not hold it"
    asker.journal.batch_done(batch)  # with a sync: until here the results can be fetched again
    return failed


async def _results(asker: Asker[Any], provider: AnthropicNative, batch_id: str, n_requests: int) -> list[BatchResult]:
    """The results of a batch, as soon as it has ended. Raises CallFailed, ProviderRefused."""

    async def state() -> BatchState:
        return await provider.batch_state(batch_id)

    async def results() -> list[BatchResult]:
        found = await provider.batch_results(batch_id)
        if len(found) < n_requests:
            raise CallFailed(f"{len(found)} results of {n_requests}: the body was cut off", again=True)
        return found

    while not (await asker.persist(state)).ended:
        await asker.pause(asker.settings.batch_poll_s)
    return await asker.persist(results)
