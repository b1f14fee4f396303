"""What a report is made of: the finished run's artifacts, read once. Texts are read only for what the page shows."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from shoptalk.beir import read_jsonl, read_qrels
from shoptalk.records import Passage, Qrels, Ranking
from shoptalk.retrieval.trec import read_trec
from shoptalk.settings import Settings
from shoptalk.workspace import StageContext

_CHANGED = 1e-9


@dataclass(frozen=True)
class Artifacts:
    """A finished run, as the report sees it. The names are those of the files.

    mining and second_mining are the audits of the negatives that the base and the tuned model mined. They, yields and usage are
    empty where there is no such file: nothing mined, no queries made, none by a language model.
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
    seconds: Mapping[str, float]
    evaluations: int
    dataset: Path
    evaluation: Path

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
        """The test split's judgements, for marking the relevant passages of the queries shown."""
        return {} if self.is_similarity else read_qrels(self.dataset / "qrels" / "test.tsv")

    def ranking(self, system: str, queries: Collection[str]) -> Ranking:
        """The rankings of `system` (base or tuned) for the named queries, as deep as they were evaluated."""
        return read_trec(self.evaluation / f"{system}.trec", self.settings.evaluate.depth, queries)

    def passages(self, wanted: Collection[str]) -> dict[str, Passage]:
        """The named passages; the rest of the corpus is not kept in memory."""
        found = {}
        for _, row in read_jsonl(self.dataset / "corpus.jsonl"):
            if (passage_id := str(row["_id"])) in wanted:
                source = str((row.get("metadata") or {}).get("source", ""))
                found[passage_id] = Passage(passage_id, row["text"], str(row.get("title") or ""), source)
        return found


def read_artifacts(stage: StageContext) -> Artifacts:
    """Read what the stages before the report wrote."""
    dataset, candidates = stage.read("dataset"), stage.read("candidates")
    evaluation, diagnosis = stage.read("evaluation"), stage.read("diagnosis")
    queries = stage.read("queries")
    stage.read("model")  # verified: the report says that this is the model it speaks of
    return Artifacts(
        settings=stage.settings,
        audit=_json(dataset / "audit.json"),
        gate=_json(stage.read("baseline") / "gate.json"),
        training=_json(candidates / "training.json"),
        log=[row for _, row in read_jsonl(candidates / "log.jsonl")],
        comparison=_json(evaluation / "comparison.json"),
        per_query=[row for _, row in read_jsonl(evaluation / "per_query.jsonl")],
        findings=_json(diagnosis / "findings.json"),
        controls=_json(diagnosis / "controls.json"),
        vocabulary=_json(diagnosis / "vocabulary.json"),
        yields=_json_if_there(queries / "yields.json"),
        usage=_json_if_there(queries / "usage.json"),
        mining=_json_if_there(stage.read("examples") / "audit.json"),
        second_mining=_json_if_there(candidates / "round-2" / "audit.json"),
        # An earlier report's own row may still stand in the manifest; its time says nothing about this one.
        seconds={name: seconds for name, seconds in stage.seconds.items() if name != "report"},
        evaluations=stage.evaluations,
        dataset=dataset,
        evaluation=evaluation,
    )


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _json_if_there(path: Path) -> dict[str, Any]:
    return dict(_json(path)) if path.is_file() else {}
