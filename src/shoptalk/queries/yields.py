"""What became of the drafts: counts by kind and reason, the thresholds they were judged by, and samples to look at."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from shoptalk.queries.checks import Refused
from shoptalk.queries.generators import Draft
from shoptalk.settings import QuerySettings

_SAMPLES = 5
_THRESHOLDS = (
    "round_trip_k", "generic_share", "near_duplicate", "copied_words", "off_language", "per_passage", "judge_min",
)  # fmt: skip


def yields(kept: Sequence[Draft], refused: Sequence[Refused], settings: QuerySettings) -> dict[str, Any]:
    """The content of yields.json: `kinds` (drafted, kept, rejected by check, samples of both), `thresholds`.

    Samples are drawn by the hash of their text: spread over the documents, the same in every run.
    """
    kinds: dict[str, Any] = {}
    for kind in dict.fromkeys([*(draft.kind for draft in kept), *(one.draft.kind for one in refused)]):
        own = [draft for draft in kept if draft.kind == kind]
        against = [one for one in refused if one.draft.kind == kind]
        kinds[kind] = {
            "drafted": len(own) + len(against),
            "kept": len(own),
            "rejected": dict(sorted(Counter(one.check for one in against).items())),
            "samples": {
                "kept": [{"query": d.text, "passage_id": d.passage_ids[0]} for d in _some(own)],
                "rejected": [
                    {"query": o.draft.text, "passage_id": o.draft.passage_ids[0], "check": o.check, "reason": o.reason}
                    for o in _some_refused(against)
                ],
            },
        }
    return {"kinds": kinds, "thresholds": {name: getattr(settings, name) for name in _THRESHOLDS}}


def _some(drafts: Iterable[Draft]) -> list[Draft]:
    return sorted(drafts, key=lambda draft: _mixed(draft.text))[:_SAMPLES]


def _some_refused(refused: Sequence[Refused]) -> list[Refused]:
    """Two for each check, so that a rare check is seen."""
    mixed = sorted(refused, key=lambda one: _mixed(one.draft.text))
    return [one for check in sorted({one.check for one in mixed}) for one in [o for o in mixed if o.check == check][:2]]


def _mixed(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()
