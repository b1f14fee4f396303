"""Weak labels: judgements that nobody made on purpose. They train; they do not measure.

A click says that a result looked right in a list that a search engine had ordered, so a test made of clicks rewards a model for
agreeing with that engine. A made query tests whether a model finds a passage by text written from it. Both are kept out of test
and dev as long as there are judgements by people to measure with.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from shoptalk.records import Judgement, Qrels, Rejected
from shoptalk.settings import DatasetSettings

Given = tuple[Judgement, str]
"""A judgement and the split that was given for it ("" for none)."""


def divide(judgements: Sequence[Given], settings: DatasetSettings) -> tuple[list[Given], list[Given]]:
    """The judgements that may measure, and the weak ones.

    Clicks are weak unless `test_on_clicks`; those of made queries are weak where people's judgements are left to draw splits from.
    """
    by_people = any(one.kind == "labelled" and split in ("", "train") for one, split in judgements)
    strong: list[Given] = []
    weak: list[Given] = []
    for one, split in judgements:
        is_weak = not settings.test_on_clicks if one.kind == "click" else one.kind != "labelled" and by_people
        (weak if is_weak else strong).append((one, split))
    return strong, weak


def without_weak(
    qrels: Mapping[str, Qrels], weak: Collection[tuple[str, str]], dev_is_weak: bool
) -> tuple[dict[str, Qrels], list[Rejected]]:
    """Splits whose test, and dev unless it had to be drawn from weak labels, holds no weak judgement; and what was taken out."""
    kept: dict[str, Qrels] = {}
    rejected: list[Rejected] = []
    for split, judged in qrels.items():
        if split == "train" or (split == "dev" and dev_is_weak):
            kept[split] = judged
            continue
        kept[split] = {}
        for query, found in judged.items():
            kept[split][query] = {p: grade for p, grade in found.items() if (query, p) not in weak}
            rejected += [
                Rejected(f"{query} {p}", "weak-label", f"its query is in the {split} split, which people judge")
                for p in found
                if (query, p) in weak
            ]
    return kept, rejected


def weights_of(judgements: Sequence[Given], train: Qrels) -> dict[str, dict[str, float]]:
    """The weights under 1 by training query and passage; the same pair judged twice has the higher."""
    found: dict[str, dict[str, float]] = {}
    for one, _ in judgements:
        if one.passage_id in train.get(one.query_id, {}):
            own = found.setdefault(one.query_id, {})
            own[one.passage_id] = max(one.weight, own.get(one.passage_id, 0.0))
    light = {query: {p: weight for p, weight in own.items() if weight < 1.0} for query, own in found.items()}
    return {query: own for query, own in light.items() if own}
