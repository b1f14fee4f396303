"""Judging drafted queries: each check in its turn, the cheap ones first; what fails one is kept with the check and the reason."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shoptalk.models.encoder import Encoder
from shoptalk.queries.checks import NearDuplicates, Refused, copied_span, off_language, same_text
from shoptalk.queries.generators import Draft
from shoptalk.queries.round_trip import generic, lost, round_trips
from shoptalk.records import Passage
from shoptalk.settings import QuerySettings

_LAST_RESORT = "key-phrase"

Judge = Callable[[Sequence[Draft]], Sequence[str]]
"""Drafts to reasons against them, "" for none: how an LLM judge is plugged in (`shoptalk.queries.llm_judge`)."""


@dataclass(frozen=True)
class Judged:
    """What is left of the drafts, in their order, and what was turned down. Together they are all drafts."""

    kept: list[Draft]
    refused: list[Refused]


def judge_drafts(
    drafts: Sequence[Draft],
    passages: Sequence[Passage],
    settings: QuerySettings,
    encoder: Encoder | None,
    judge: Judge | None = None,
) -> Judged:
    """Run all checks. encoder: the base model for the round trip; None leaves it to BM25 alone. judge: asked last, since it costs."""
    by_id = {passage.passage_id: passage for passage in passages}
    kept, refused = same_text(drafts)
    kept, more = _by_text(kept, by_id, settings)
    refused += more
    kept, more = _by_search(kept, passages, settings, encoder)
    refused += more
    kept, more = _thin_out(kept, passages, settings)
    refused += more
    if judge is not None and kept:
        reasons = judge(kept)
        refused += [Refused(draft, "llm-judge", why) for draft, why in zip(kept, reasons, strict=True) if why]
        kept = [draft for draft, why in zip(kept, reasons, strict=True) if not why]
    return Judged(kept, refused)


def _by_text(
    drafts: Sequence[Draft], by_id: dict[str, Passage], settings: QuerySettings
) -> tuple[list[Draft], list[Refused]]:
    kept, refused = [], []
    for draft in drafts:
        own = [by_id[passage_id] for passage_id in draft.passage_ids]
        cut = [passage.without([draft.cut] if draft.cut else []) for passage in own]
        span = copied_span(draft.text, cut) if settings.copied_words else ""
        wrong = off_language(draft, own[0]) if settings.off_language else ""
        if span and len(span.split()) >= settings.copied_words:
            refused.append(Refused(draft, "copied", f"the passage says {span!r}"))
        elif wrong:
            refused.append(Refused(draft, "off-language", wrong))
        else:
            kept.append(draft)
    return kept, refused


def _by_search(
    drafts: list[Draft], passages: Sequence[Passage], settings: QuerySettings, encoder: Encoder | None
) -> tuple[list[Draft], list[Refused]]:
    k = settings.round_trip_k
    if not k:
        return drafts, []
    kept, refused = [], []
    trips = round_trips(drafts, cut_passages(passages, drafts), encoder, k)
    for draft, trip in zip(drafts, trips, strict=True):
        missing = lost(trip, k)
        vague = generic(trip, settings.generic_share, k)
        if missing:
            refused.append(Refused(draft, "round-trip", missing))
        elif vague:
            refused.append(Refused(draft, "too-generic", vague))
        else:
            kept.append(draft)
    return kept, refused


def cut_passages(passages: Sequence[Passage], drafts: Sequence[Draft]) -> list[Passage]:
    """Passages as they will be trained with, when these drafts become queries."""
    cuts: dict[str, list[str]] = defaultdict(list)
    for draft in drafts:
        for passage_id in draft.passage_ids if draft.cut else ():
            cuts[passage_id].append(draft.cut)
    return [passage.without(cuts[passage.passage_id]) for passage in passages]


def _thin_out(
    drafts: Sequence[Draft], passages: Sequence[Passage], settings: QuerySettings
) -> tuple[list[Draft], list[Refused]]:
    """No two alike for one passage, and of the offline kinds no more than `per_passage`, the first kind first.

    Key phrases only where nothing else was found: in our experiments they help least (docs/experiments.md: offline-queries).
    """
    near = NearDuplicates(passages, settings.near_duplicate)
    made: Counter[str] = Counter()
    kept, refused = [], []
    for draft in drafts:
        limit = 1 if draft.kind == _LAST_RESORT else settings.per_passage
        full = next((p for p in draft.passage_ids if made[p] >= limit), "") if draft.origin == "offline" else ""
        alike = near.find(draft)
        if alike:
            refused.append(Refused(draft, "near-duplicate", f"of {alike!r}"))
        elif full:
            refused.append(Refused(draft, "per-passage", f"{full} has {made[full]} already"))
        else:
            made.update(draft.passage_ids)
            near.add(draft)
            kept.append(draft)
    return kept, refused
