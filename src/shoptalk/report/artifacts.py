"""What a report is made of: the finished run's artifacts, read once. Texts are read only for what the page shows."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from shoptalk.beir import read_jsonl, read_qrels
from shoptalk.models.finding import CARD
from shoptalk.records import Passage, Qrels, Ranking
from shoptalk.retrieval.trec import read_trec
from shoptalk.settings import Settings
from shoptalk.workspace import StageContext

_CHANGED = 1e-9
_SEVERITIES: Sequence[str] = ("high", "warning", "info")
_NO_VOCABULARY: dict[str, Any] = {"found": 0, "asked": 0, "terms": [], "uncovered": []}


@dataclass(frozen=True)
class Artifacts:
    """A finished run, as the report sees it. The names are those of the files.

    mining and second_mining are the audits of the negatives that the base and the tuned model mined; card is model/shoptalk.json.
    They, yields, usage and corpus_map are empty where there is no such file: nothing mined, no queries made, none by a language
    model, a run of an earlier version. findings stand with the most severe first. redacted: no text of the documents or queries is
    in it (`shoptalk.report.redacting`).
    """

    settings: Settings
    audit: dict[str, Any]
    gate: dict[str, Any]
    training: dict[str, Any]
    log: list[dict[str, Any]]
    comparison: dict[str, Any]
    per_query: list[dict[str, Any]]
    findings: list[dict[str, str]]
    controls: dict[str, Any] | None
    vocabulary: dict[str, Any]
    yields: dict[str, Any]
    usage: dict[str, Any]
    mining: dict[str, Any]
    second_mining: dict[str, Any]
    card: dict[str, Any]
    corpus_map: dict[str, Any]
    seconds: Mapping[str, float]
    evaluations: int
    dataset: Path
    evaluation: Path
    redacted: bool = False

    @property
    def title(self) -> str:
        """What the report calls the run; a redacted one does not tell."""
        if self.redacted:
            return "a run, without its texts"
        return self.settings.report.title or Path(self.settings.input.source).name or "a run"

    @property
    def metric(self) -> str:
        """The metric that decides: ndcg@10, or spearman for scored pairs."""
        return str(self.comparison["metric"])

    @property
    def is_similarity(self) -> bool:
        """Whether the run is on scored pairs, which have no rankings."""
        return self.metric == "spearman"

    @property
    def delta(self) -> dict[str, Any]:
        """The deciding metric's value, ci95 and p."""
        found: dict[str, Any] = self.comparison["delta"][self.metric]
        return found

    @cached_property
    def won(self) -> list[dict[str, Any]]:
        """Rows of the queries that got better, the largest gain first."""
        found = [row for row in self.per_query if row["change"] > _CHANGED]
        return sorted(found, key=lambda row: (-row["change"], row["query_id"]))

    @cached_property
    def lost(self) -> list[dict[str, Any]]:
        """Rows of the queries that got worse, the largest loss first."""
        found = [row for row in self.per_query if row["change"] < -_CHANGED]
        return sorted(found, key=lambda row: (row["change"], row["query_id"]))

    @cached_property
    def sources(self) -> int:
        """How many documents the passages come from; 0 where none is named."""
        if self.is_similarity:
            return 0
        rows = read_jsonl(self.dataset / "corpus.jsonl")
        named = {str((row.get("metadata") or {}).get("source", "")) for _, row in rows}
        return len(named - {""})

    @cached_property
    def relevant(self) -> Qrels:
        """The test split's judgements, with those that were labelled since, for marking the relevant passages of the queries shown."""
        if self.is_similarity:
            return {}
        labelled = self.evaluation / "qrels.tsv"
        return read_qrels(labelled if labelled.is_file() else self.dataset / "qrels" / "test.tsv")

    def ranking(self, system: str, queries: Collection[str]) -> Ranking:
        """The rankings of `system` (base or tuned) for the named queries, as deep as they were evaluated."""
        return read_trec(self.evaluation / f"{system}.trec", self.settings.evaluate.depth, queries)

    def passages(self, wanted: Collection[str]) -> dict[str, Passage]:
        """The named passages; the rest of the corpus is not kept in memory. Redacted, a passage is its line in corpus.jsonl."""
        found = {}
        for line, row in read_jsonl(self.dataset / "corpus.jsonl"):
            if (passage_id := str(row["_id"])) in wanted:
                if self.redacted:
                    found[passage_id] = Passage(str(line), "", f"Passage {line:,}")
                    continue
                source = str((row.get("metadata") or {}).get("source", ""))
                found[passage_id] = Passage(passage_id, row["text"], str(row.get("title") or ""), source)
        if self.redacted:  # an id may be a file's name
            found |= {one: Passage("", "", "A passage that is not in the corpus") for one in wanted if one not in found}
        return found


def read_artifacts(stage: StageContext) -> Artifacts:
    """Read what the stages before the report wrote."""
    dataset, candidates = stage.read("dataset"), stage.read("candidates")
    evaluation, diagnosis = stage.read("evaluation"), stage.read("diagnosis")
    queries = stage.read("queries")
    model = stage.read("model")  # verified: the report says that this is the model it speaks of
    return Artifacts(
        settings=stage.settings,
        audit=_json(dataset / "audit.json"),
        gate=_json(stage.read("baseline") / "gate.json"),
        training=_json(candidates / "training.json"),
        log=[row for _, row in read_jsonl(candidates / "log.jsonl")],
        comparison=_json(evaluation / "comparison.json"),
        per_query=[row for _, row in read_jsonl(evaluation / "per_query.jsonl")],
        findings=sorted(_json(diagnosis / "findings.json"), key=_severity),
        controls=_json(diagnosis / "controls.json"),
        vocabulary=_json_if_there(diagnosis / "vocabulary.json") or _NO_VOCABULARY,
        yields=_json_if_there(queries / "yields.json"),
        usage=_json_if_there(queries / "usage.json"),
        mining=_json_if_there(stage.read("examples") / "audit.json"),
        second_mining=_json_if_there(candidates / "round-2" / "audit.json"),
        card=_json_if_there(model / CARD),
        corpus_map=_json_if_there(diagnosis / "map.json"),
        # An earlier report's own row may still stand in the manifest; its time says nothing about this one.
        seconds={name: seconds for name, seconds in stage.seconds.items() if name != "report"},
        evaluations=stage.evaluations,
        dataset=dataset,
        evaluation=evaluation,
    )


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _json_if_there(path: Path) -> dict[str, Any]:
    """{} for a file that is not there, and for one that says null."""
    return dict(_json(path) or {}) if path.is_file() else {}


def _severity(finding: Mapping[str, str]) -> int:
    severity = finding["severity"]
    return _SEVERITIES.index(severity) if severity in _SEVERITIES else len(_SEVERITIES)
