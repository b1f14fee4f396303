"""What general ability is left: queries of general knowledge, half of which choose the shipped model and half of which report.

The set that is shipped (general/, written for shoptalk) has passages of a hundred topics, five close ones each, with queries in
English and some of the same queries in other languages. A team may name a BEIR folder of its own, of what must keep working.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from shoptalk.beir import looks_like_beir, read_groups, read_passages, read_qrels, read_queries
from shoptalk.errors import SourceError
from shoptalk.models.encoder import Encoder
from shoptalk.records import Dataset, Delta, Qrels
from shoptalk.retrieval.metrics import PRIMARY, of_metric, per_query
from shoptalk.retrieval.ranking import rank
from shoptalk.retrieval.significance import paired_delta
from shoptalk.settings import SelectSettings, Settings

Half = Literal["choose", "report"]
_SHIPPED = Path(__file__).parent / "general"
_DEPTH = 10


@dataclass(frozen=True)
class Kept:
    """nDCG@10 by query of one model on one half: `general` in the set's own language, `others` the same questions in others."""

    general: Mapping[str, float]
    others: Mapping[str, Mapping[str, float]]


class RetentionSet:
    """Passages and queries of general knowledge, in two halves that share no group."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def measure(self, encoder: Encoder, half: Half) -> Kept:
        """One model on one half, over all passages."""
        qrels = self.dataset.qrels[half]
        found = of_metric(per_query(qrels, rank(encoder, self.dataset, list(qrels), _DEPTH), [PRIMARY]), PRIMARY)
        by_language: dict[str, dict[str, float]] = {}
        for query_id, value in found.items():
            by_language.setdefault(self.dataset.queries[query_id].language, {})[query_id] = value
        return Kept(by_language.pop("", {}), by_language)

    def compare(self, base: Kept, other: Kept, settings: SelectSettings, resamples: int, seed: int) -> dict[str, Any]:
        """What evaluation/comparison.json holds as "retention": both sides with the change, its interval and whether it is too much.

        A language counts where the base could: where it reaches `cross_lingual_share` of its score in the set's own language.
        """
        groups, limit = self.dataset.groups, settings.max_general_loss

        def change(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, Any]:
            delta = paired_delta(before, after, groups, resamples, seed)
            return {
                "queries": len(before),
                "base": mean(before),
                "tuned": mean(after),
                "delta": delta.as_json(),
                "limit": limit,
                "broken": is_broken(delta, limit),
            }

        able = able_languages(base, settings)
        languages = {
            name: {**change(values, other.others[name]), "able": name in able} for name, values in base.others.items()
        }
        pooled = [
            {q: value for name in sorted(able) for q, value in kept.others[name].items()} for kept in (base, other)
        ]
        return {
            "set": settings.retention or "shipped",
            "general": change(base.general, other.general),
            "cross_lingual": {
                **(change(*pooled) if able else {"queries": 0}),
                "languages": languages,
                "measured": bool(able),
            },
        }


def kept(base: Encoder, tuned: Encoder, settings: Settings) -> dict[str, Any] | None:
    """Both models on the reporting half; None when there is no retention set."""
    known = retention_set(settings.select)
    if known is None:
        return None
    before, after = known.measure(base, "report"), known.measure(tuned, "report")
    return known.compare(before, after, settings.select, settings.evaluate.resamples, settings.seed)


def retention_set(settings: SelectSettings) -> RetentionSet | None:
    """The shipped set, or the user's; None when it is switched off. Raises SourceError."""
    if settings.retention == "off":
        return None
    return RetentionSet(_shipped() if not settings.retention else _given(Path(settings.retention)))


def able_languages(base: Kept, settings: SelectSettings) -> set[str]:
    """The languages in which the base model could answer: its score is a good share of that for the same questions in its own."""
    able = set()
    for language, values in base.others.items():
        same = [base.general[own] for query_id in values if (own := query_id.rpartition("-")[0]) in base.general]
        reference = sum(same) / len(same) if same else mean(base.general)
        if mean(values) >= settings.cross_lingual_share * reference > 0:
            able.add(language)
    return able


def is_broken(delta: Delta, limit: float) -> bool:
    """The rule: lost more than the limit, and the interval says that the loss is no chance."""
    return delta.value < -limit and delta.ci95[1] < 0


def mean(values: Mapping[str, float]) -> float:
    """0 for nothing."""
    return sum(values.values()) / len(values) if values else 0.0


def _shipped() -> Dataset:
    halves: dict[str, Qrels] = {half: read_qrels(_SHIPPED / "qrels" / f"{half}.tsv") for half in ("choose", "report")}
    queries = read_queries(_SHIPPED / "queries.jsonl")
    own = {name: replace(q, language="" if q.language == "en" else q.language) for name, q in queries.items()}
    passages = {p.passage_id: p for p in read_passages(_SHIPPED / "corpus.jsonl")}
    return Dataset("retrieval", passages, own, halves, groups=read_groups(_SHIPPED / "groups.jsonl"))


def _given(folder: Path) -> Dataset:
    """A BEIR folder; every judged query of its first split of test, dev, train counts. Queries on one passage stay together."""
    if not looks_like_beir(folder):
        raise SourceError(
            f"{folder}: select.retention must be a BEIR folder (corpus.jsonl, queries.jsonl, qrels/test.tsv), empty or off"
        )
    path = next((p for name in ("test", "dev", "train") if (p := folder / "qrels" / f"{name}.tsv").is_file()), None)
    if path is None:
        raise SourceError(f"{folder}: holds no qrels/test.tsv, dev.tsv or train.tsv with judgements")
    passages = {p.passage_id: p for p in read_passages(folder / "corpus.jsonl")}
    queries = {name: replace(q, language="") for name, q in read_queries(folder / "queries.jsonl").items()}
    qrels: Qrels = {}
    groups: dict[str, str] = {}
    for query_id, judged in read_qrels(path).items():
        relevant = {p: grade for p, grade in judged.items() if grade > 0 and p in passages}
        if query_id in queries and relevant:
            qrels[query_id] = relevant
            groups[query_id] = max(relevant, key=lambda p: (relevant[p], p))
    if len(set(groups.values())) < 20:
        raise SourceError(f"{path}: {len(qrels)} usable queries on {len(set(groups.values()))} passages; 20 at least")
    halves: dict[str, Qrels] = {"choose": {}, "report": {}}
    for query_id, relevant in qrels.items():
        odd = hashlib.sha256(groups[query_id].encode()).digest()[0] % 2
        halves["report" if odd else "choose"][query_id] = relevant
    return Dataset("retrieval", passages, queries, halves, groups=groups)
