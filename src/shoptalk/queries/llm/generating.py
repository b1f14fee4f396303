"""Queries from a language model: what is asked, paid and answered goes through a journal, and the result follows from it alone."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from shoptalk.errors import NotConfirmed, SettingsError
from shoptalk.llm.answering import answer_jobs, estimate_answers
from shoptalk.llm.fencing import FENCE
from shoptalk.llm.journal import Journal, Usage, open_journal
from shoptalk.llm.messages import Fault, Reply, Request
from shoptalk.llm.spending import Estimate, Prices
from shoptalk.queries.generators import Draft
from shoptalk.queries.llm.checking import Accepted, check_reply
from shoptalk.queries.llm.guarding import Guard
from shoptalk.queries.llm.jobs import Job, make_jobs
from shoptalk.queries.llm.prompting import Prompts
from shoptalk.records import Passage, Rejected
from shoptalk.settings import LLMSettings
from shoptalk.workspace import write_atomically

logger = logging.getLogger(__name__)
USAGE_FILE = "usage.json"


@dataclass(frozen=True, slots=True)
class UsageReport:
    """What a generation took. This run: calls, retries, tokens, cost. `total` is everything its folder has ever spent,
    calls of unknown end at their worst. `cost_known` is False without prices, and then the costs are 0.
    """

    provider: str
    model: str
    calls: int
    retries: int
    cached: int
    lost: int
    spent: Usage
    total: Usage
    cost_known: bool
    relabelled: int

    def as_json(self) -> dict[str, Any]:
        """Plain values, as usage.json holds them."""
        numbers = {name: getattr(self, name) for name in ("provider", "model", "calls", "retries", "cached", "lost")}
        return numbers | {
            "this_run": self.spent.as_json(),
            "all_runs": self.total.as_json(),
            "cost_known": self.cost_known,
            "relabelled": self.relabelled,
        }


@dataclass(frozen=True)
class Generated:
    """Drafts (origin "llm"), what was left out and why, and what it took."""

    drafts: list[Draft]
    rejected: list[Rejected]
    usage: UsageReport


@dataclass
class Outcome:
    """How far a job is, by the answers on disk: what is usable, what was wrong, and what to ask next (None: done)."""

    accepted: list[Accepted] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    request: Request | None = None
    answers: int = 0


class _Reader(Protocol):
    def read(self, body: str) -> Reply | None: ...


class _Unloaded:
    """In the place of a local model whose answers are not looked at."""

    def read(self, body: str) -> Reply | None:
        return None


def _reader(settings: LLMSettings) -> _Reader:
    from shoptalk.llm.providers import connect

    return _Unloaded() if settings.provider == "transformers" else connect(settings)


def generate_with_llm(
    passages: Sequence[Passage],
    settings: LLMSettings,
    folder: Path,
    few_shot: Sequence[tuple[str, str]] = (),
    confirm: Callable[[Estimate], bool] | None = None,
    rng: np.random.Generator | None = None,
) -> Generated:
    """Queries for the passages, written by the model that the settings name.

    folder: durable; holds the journal, which is the cache and is never trusted beyond what it says. few_shot: (query, passage
    text) of the user's own; take them from the training part alone. confirm: shown the estimate before the first call;
    None goes on. rng: for the jitter of waiting times; by default from settings.seed.

    Killed at any moment, the same call goes on: an answer on disk is never asked for again. Raises SettingsError, MissingPart,
    ProviderRefused (key, model, account), ProviderFailed (no answers any more), NotConfirmed, RunFolderBusy, ModelError.
    """
    if not settings.provider:
        raise SettingsError("llm.provider is empty; name openai, anthropic or transformers")
    with open_journal(folder) as journal:
        if settings.provider == "transformers":
            from shoptalk.queries.llm.local import LocalModel

            local = LocalModel(settings)
            work = Generation(settings, journal, few_shot, local, local.identity, local.bare)
            work.plan(passages)
            local.answer_all(work.jobs, work.next_request, journal)
        else:
            work = Generation(settings, journal, few_shot, _reader(settings))
            work.plan(passages)
            estimate = work.estimate()
            logger.info("%s", estimate.words)
            if estimate.calls and confirm is not None and not confirm(estimate):
                raise NotConfirmed(f"stopped before the first call, nothing was spent: {estimate.words}")
            try:
                work.ask(rng)
            finally:
                write_usage(folder, work.usage())
        made = work.result()
        write_usage(folder, made.usage)
        return made


def estimate_llm(
    passages: Sequence[Passage], settings: LLMSettings, folder: Path, few_shot: Sequence[tuple[str, str]] = ()
) -> Estimate:
    """What `generate_with_llm` would ask and pay for, from what is on disk already; calls nothing. Raises RunFolderBusy."""
    with open_journal(folder) as journal:
        work = Generation(settings, journal, few_shot, _reader(settings))
        work.plan(passages)
        return work.estimate()


def write_usage(folder: Path, usage: UsageReport) -> None:
    """usage.json, for the report and for people."""
    write_atomically(folder / USAGE_FILE, json.dumps(usage.as_json(), indent=1) + "\n")


class Generation:
    """Jobs and the journal they are answered from."""

    def __init__(
        self,
        settings: LLMSettings,
        journal: Journal,
        few_shot: Sequence[tuple[str, str]],
        reader: _Reader,
        identity: str = "",
        bare: bool = False,
    ) -> None:
        self.settings, self.journal, self._reader, self._bare = settings, journal, reader, bare
        self._prompts = Prompts(settings, few_shot, identity, bare)
        self._before, self._counts = journal.spent, Counter(journal.counts)
        self._cached = 0
        self.jobs: list[Job] = []
        self.faults: dict[Job, Fault] = {}

    def plan(self, passages: Sequence[Passage]) -> None:
        """Make the jobs, and count the answers that they have on disk."""
        self.jobs = make_jobs(passages, self.settings, self._bare)
        self._cached = sum(self.outcome(job).answers for job in self.jobs)

    def next_request(self, job: Job) -> Request | None:
        """What a job has to ask next; None when it is done."""
        return self.outcome(job).request

    def outcome(self, job: Job) -> Outcome:
        """Follow a job through its answers on disk. A later attempt asks for the open slots alone, says what was wrong, and
        after an obeyed planted instruction is shown the passage without it.
        """
        guard = Guard.of([passage.content for passage in job.passages], (self._prompts.canary, FENCE))
        found = Outcome()
        slots = list(job.slots)
        shown = list(job.passages)
        faults: list[Fault] = []
        for attempt in range(self.settings.attempts):
            request = self._prompts.request(slots, shown, [fault.check for fault in found.faults], attempt)
            body = self.journal.body(request.key)
            if body is None:
                found.request = request
                return found
            found.answers += 1
            known = [query.text for query in found.accepted]
            accepted, faults = check_reply(self._reader.read(body), slots, job.content, known, guard, self.settings)
            found.accepted += accepted
            found.faults += faults
            for query in accepted:
                slots.remove(query.slot)
            if not slots:
                return found
            if any(fault.check == "planted-instruction" for fault in faults):
                shown = [guard.without_planted(passage) for passage in job.passages]
        if not faults:
            found.faults += [
                Fault("missing", f"no {slot} query after {self.settings.attempts} answers") for slot in slots
            ]
        return found

    def estimate(self) -> Estimate:
        """See `estimate_answers`."""
        return estimate_answers(self.jobs, self.next_request, self.settings, self.journal, "passages", self._cached)

    def ask(self, rng: np.random.Generator | None) -> None:
        """Bring all answers onto the disk. Raises ProviderRefused, ProviderFailed."""
        provider: Any = self._reader
        label = f"asking {self.settings.model}"
        self.faults = answer_jobs(self.jobs, self.next_request, self.settings, self.journal, provider, label, rng)

    def result(self) -> Generated:
        """Drafts and rejections, in the order of the jobs."""
        drafts: list[Draft] = []
        rejected: list[Rejected] = []
        relabelled = 0
        for job in self.jobs:
            found = self.outcome(job)
            relabelled += sum(query.kind != query.slot for query in found.accepted)
            drafts += [
                Draft(query.text, job.passage_ids, query.kind, "", "llm", query.negatives, self.settings.language)
                for query in found.accepted
            ]
            last = self.faults.get(job)
            where = "+".join(passage.passage_id for passage in job.passages)
            for fault in [*found.faults, *([last] if last else [])]:
                item = f"{where}: {fault.text[:200]}" if fault.text else where
                rejected.append(Rejected(item, fault.check, fault.reason))
        return Generated(drafts, rejected, self.usage(relabelled))

    def usage(self, relabelled: int = 0) -> UsageReport:
        """What this run and all runs took."""
        new = self.journal.counts - self._counts
        return UsageReport(
            provider=self.settings.provider,
            model=self.settings.model,
            calls=new["answer"],
            retries=new["free"] + new["lost"],
            cached=self._cached,
            lost=new["lost"],
            spent=self.journal.spent - self._before,
            total=self.journal.spent,
            cost_known=Prices(self.settings).known,
            relabelled=relabelled,
        )
