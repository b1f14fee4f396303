"""The nouns that travel between stages. Frozen; made of plain values; no behaviour beyond their own shape."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

Split = Literal["train", "dev", "test"]
Origin = Literal["human", "llm", "offline"]
Task = Literal["retrieval", "similarity"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")

Qrels = dict[str, dict[str, int]]
"""query id -> passage id -> grade (1 or more is relevant)."""

Ranking = dict[str, list[tuple[str, float]]]
"""query id -> (passage id, score), best first, scores strictly decreasing."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A unit of retrieval. `source`, `page` and `start` (a character offset) say where it stands in its document.

    source: the file's path within the source ("handbook.zip/travel.md" for a file in an archive). page: counts from 1; 0 for a
    format without pages. language: ISO 639-1, "" when unknown or too short to tell.
    """

    passage_id: str
    text: str
    title: str = ""
    source: str = ""
    start: int = 0
    page: int = 0
    language: str = ""

    @property
    def content(self) -> str:
        """What is encoded and indexed: title and text, as BEIR does it."""
        return f"{self.title} {self.text}" if self.title else self.text

    def without(self, texts: Collection[str]) -> Passage:
        """The passage without texts that became queries: whole headings of the title, else their first place in the text."""
        if not texts:
            return self
        headings, body = self.title.split(" > "), self.text
        for text in texts:
            if text not in headings:
                body = body.replace(text, "", 1)
        title = " > ".join(heading for heading in headings if heading not in texts)
        return replace(self, title=title, text=body.strip() or self.text)


@dataclass(frozen=True, slots=True)
class Query:
    """A question. `kind` names the generator's way ("heading", "faq", ...) or is "labelled"."""

    query_id: str
    text: str
    origin: Origin = "human"
    kind: str = "labelled"
    language: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """That a passage answers a query, and how well (grade 1 or more; 0 is judged and not relevant).

    `weight`, in (0, 1], is how far the judgement is to be trusted; under 1 for weak labels. `kind` says who judged: "labelled"
    (a person), "click", or the generator that made the query.
    """

    query_id: str
    passage_id: str
    grade: int = 1
    weight: float = 1.0
    kind: str = "labelled"


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """Two texts and how alike they are (any scale; only the order counts)."""

    pair_id: str
    sentence1: str
    sentence2: str
    score: float


@dataclass(frozen=True, slots=True)
class Example:
    """A training example: a query, one passage that answers it, and texts that do not. `weight` is the judgement's."""

    query_id: str
    positive_id: str
    anchor: str
    positive: str
    negatives: tuple[str, ...] = ()
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Rejected:
    """Something left out, by which check and why. Rejections are data: they are written, counted and shown."""

    item: str
    check: str
    reason: str


@dataclass(frozen=True)
class Dataset:
    """A checked, split dataset; holds only the splits that were asked for.

    `clusters` maps a passage id to its near-duplicate cluster; `groups` maps a query id to its unit of chance (queries
    whose relevant passages share a cluster are in one group). `negatives` are labelled non-answers, as texts.
    `weights` holds the weight of those training judgements that are trusted less than fully, by query and passage id.
    For the task "similarity" only `pairs` and `groups` (by pair id) are filled.
    """

    task: Task
    passages: Mapping[str, Passage] = field(default_factory=dict)
    queries: Mapping[str, Query] = field(default_factory=dict)
    qrels: Mapping[str, Qrels] = field(default_factory=dict)
    clusters: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    negatives: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    pairs: Mapping[str, list[ScoredPair]] = field(default_factory=dict)
    weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Delta:
    """A difference between two systems with its 95% interval and p-value; `p_holm` where several were tested."""

    value: float
    ci95: tuple[float, float]
    p: float
    p_holm: float | None = None

    def as_json(self) -> dict[str, object]:
        """The form that `result.json` holds."""
        record: dict[str, object] = {"value": self.value, "ci95": list(self.ci95), "p": self.p}
        if self.p_holm is not None:
            record["p_holm"] = self.p_holm
        return record


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a person should know about this run, with what shows it and what to do."""

    name: str
    severity: Literal["info", "warning", "high"]
    evidence: str
    advice: str

    def as_json(self) -> dict[str, str]:
        """The form that `result.json` holds."""
        return {
            "name": self.name,
            "severity": self.severity,
            "evidence": self.evidence,
            "advice": self.advice,
        }
