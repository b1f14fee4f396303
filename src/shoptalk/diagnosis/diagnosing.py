"""The stage diagnose: every finding of the table is looked for; what is found is written with its evidence."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shoptalk.beir import read_dataset, read_jsonl
from shoptalk.diagnosis.controls import CONTROL_QUERIES
from shoptalk.diagnosis.corpus_map import as_text, draw_map
from shoptalk.diagnosis.evidence import Evidence, Models
from shoptalk.diagnosis.one_sided import control_drift, made_drift
from shoptalk.diagnosis.vocabulary import study
from shoptalk.errors import SourceError
from shoptalk.models.encoder import CachedEncoder
from shoptalk.models.finding import CARD, FoundModel, find_model
from shoptalk.records import Example, Finding, Ranking
from shoptalk.retrieval.trec import read_trec
from shoptalk.workspace import StageContext

FINDINGS: dict[str, str] = {
    "worse-than-base": "shoptalk.diagnosis.worse",
    "unchanged-embeddings": "shoptalk.diagnosis.unchanged",
    "leakage": "shoptalk.diagnosis.leakage",
    "prompt-mismatch": "shoptalk.diagnosis.prompts",
    "memorised": "shoptalk.diagnosis.memorised",
    "collapse": "shoptalk.diagnosis.collapse",
    "forgetting": "shoptalk.diagnosis.forgetting",
    "lost-cross-lingual": "shoptalk.diagnosis.cross_lingual",
    "one-sided-bias": "shoptalk.diagnosis.one_sided",
    "hub-passages": "shoptalk.diagnosis.hubs",
    "truncated-passages": "shoptalk.diagnosis.truncated",
    "duplicates": "shoptalk.diagnosis.duplicates",
    "query-style-shift": "shoptalk.diagnosis.style",
    "small-test": "shoptalk.diagnosis.sample_size",
    "uncovered-terms": "shoptalk.diagnosis.vocabulary",
}
"""Name -> the module whose `find` looks for it. findings.json has the most severe first, else this order."""
_SEVERITIES = ("high", "warning", "info")


def finder(name: str) -> Callable[[Evidence], Finding | None]:
    """The function that looks for a finding, imported when first asked for."""
    found: Callable[[Evidence], Finding | None] = importlib.import_module(FINDINGS[name]).find
    return found


def diagnose(stage: StageContext) -> None:
    """Write diagnosis/findings.json, controls.json (the drift of the control queries, found or not), vocabulary.json (the team's
    own words before and after) and map.json (the corpus in two dimensions).
    """
    evidence = gather(stage)
    _write(stage.out / "findings.json", [finding.as_json() for finding in look(evidence)])
    drift, made = control_drift(evidence), made_drift(evidence)
    _write(stage.out / "controls.json", {**asdict(drift), "made": asdict(made) if made else None} if drift else None)
    _write(stage.out / "vocabulary.json", asdict(study(evidence)))
    (stage.out / "map.json").write_text(as_text(draw_map(evidence)) + "\n", encoding="utf-8")


def look(evidence: Evidence) -> list[Finding]:
    """Every finding of the table that there is, the most severe first."""
    found = [finding for name in FINDINGS if (finding := finder(name)(evidence)) is not None]
    return sorted(found, key=lambda finding: _SEVERITIES.index(finding.severity))


def gather(stage: StageContext) -> Evidence:
    """The evidence of a run. Raises SourceError for an unusable file of control queries."""
    settings = stage.settings
    dataset, candidates, model = stage.read("dataset"), stage.read("candidates"), stage.read("model")
    evaluation = stage.read("evaluation")
    base, shipped = find_model(settings.model.base), find_model(str(model))
    # Named as the base, as evaluate does it: where the name decides the prompts, both models must get the same.
    tuned = FoundModel(settings.model.base, shipped.path, shipped.sha256, shipped.config)
    rows = [row for _, row in read_jsonl(stage.read("examples") / "examples.jsonl")]
    tested = [row for _, row in read_jsonl(evaluation / "per_query.jsonl")]
    return Evidence(
        settings=settings,
        dataset=read_dataset(dataset, ["train", "dev"]),
        audit=_json(dataset / "audit.json"),
        training=_json(candidates / "training.json"),
        log=[row for _, row in read_jsonl(candidates / "log.jsonl")],
        comparison=_json(evaluation / "comparison.json"),
        examples=[Example(**{**row, "negatives": tuple(row["negatives"])}) for row in rows],
        controls=read_controls(settings.diagnose.controls),
        base=CachedEncoder(base, settings.model, stage.cache),
        tuned=CachedEncoder(tuned, settings.model, stage.cache),
        per_query=tested,
        rankings=_rankings(evaluation, tested),
        models=Models(base, tuned, candidates / "best"),
        card=_json_if_there(model / CARD),
        mining=_json_if_there(stage.read("examples") / "audit.json"),
    )


def _rankings(evaluation: Path, tested: Sequence[Mapping[str, Any]]) -> dict[str, Ranking]:
    """The rankings of base and tuned, as deep as an answer is found in them."""
    rankings = {}
    for name in ("base", "tuned"):
        depth = max((row.get(f"rank_{name}") or 0 for row in tested), default=0)
        path = evaluation / f"{name}.trec"
        rankings[name] = read_trec(path, depth) if depth and path.is_file() else {}
    return rankings


def read_controls(name: str) -> list[str]:
    """Control queries from a .jsonl file ({"query": ...}) or a text file (one a line); without a file, those that are shipped."""
    if not name:
        return list(CONTROL_QUERIES)
    path = Path(name)
    if path.suffix == ".jsonl":
        queries = [str(row.get("query") or row.get("text") or "").strip() for _, row in read_jsonl(path)]
    else:
        try:
            queries = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(f"{path}: control queries cannot be read: {error}") from None
    queries = list(dict.fromkeys(query for query in queries if query))
    if len(queries) < 5:
        raise SourceError(f'{path}: {len(queries)} control queries; give at least 5, one a line or as {{"query": ...}}')
    return queries


def _json_if_there(path: Path) -> dict[str, object]:
    """Nothing for what models made elsewhere, and runs of older versions, do not have."""
    return _json(path) if path.is_file() else {}


def _json(path: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
