"""The stage diagnose: every finding of the table is looked for; what is found is written with its evidence."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from shoptalk.beir import read_dataset, read_jsonl
from shoptalk.diagnosis.controls import CONTROL_QUERIES
from shoptalk.diagnosis.evidence import Evidence
from shoptalk.diagnosis.one_sided import control_drift
from shoptalk.diagnosis.vocabulary import study
from shoptalk.errors import SourceError
from shoptalk.models.encoder import CachedEncoder
from shoptalk.models.finding import FoundModel, find_model
from shoptalk.records import Example, Finding
from shoptalk.workspace import StageContext

FINDINGS: dict[str, str] = {
    "worse-than-base": "shoptalk.diagnosis.worse",
    "unchanged-embeddings": "shoptalk.diagnosis.unchanged",
    "memorised": "shoptalk.diagnosis.memorised",
    "one-sided-bias": "shoptalk.diagnosis.one_sided",
    "duplicates": "shoptalk.diagnosis.duplicates",
    "uncovered-terms": "shoptalk.diagnosis.vocabulary",
}


def finder(name: str) -> Callable[[Evidence], Finding | None]:
    """The function that looks for a finding, imported when first asked for."""
    found: Callable[[Evidence], Finding | None] = importlib.import_module(FINDINGS[name]).find
    return found


def diagnose(stage: StageContext) -> None:
    """Write diagnosis/findings.json, controls.json (the drift of the control queries, found or not) and vocabulary.json (the
    team's own words before and after).
    """
    evidence = gather(stage)
    findings = [finding for name in FINDINGS if (finding := finder(name)(evidence)) is not None]
    _write(stage.out / "findings.json", [finding.as_json() for finding in findings])
    drift = control_drift(evidence)
    _write(stage.out / "controls.json", asdict(drift) if drift else None)
    _write(stage.out / "vocabulary.json", asdict(study(evidence)))


def gather(stage: StageContext) -> Evidence:
    """The evidence of a run. Raises SourceError for an unusable file of control queries."""
    settings = stage.settings
    dataset, candidates = stage.read("dataset"), stage.read("candidates")
    tuned = find_model(str(stage.read("model")))
    rows = [row for _, row in read_jsonl(stage.read("examples") / "examples.jsonl")]
    return Evidence(
        settings=settings,
        dataset=read_dataset(dataset, ["train", "dev"]),
        audit=_json(dataset / "audit.json"),
        training=_json(candidates / "training.json"),
        log=[row for _, row in read_jsonl(candidates / "log.jsonl")],
        comparison=_json(stage.read("evaluation") / "comparison.json"),
        examples=[Example(**{**row, "negatives": tuple(row["negatives"])}) for row in rows],
        controls=read_controls(settings.diagnose.controls),
        base=CachedEncoder(find_model(settings.model.base), settings.model, stage.cache),
        # Named as the base, as evaluate does it: where the name decides the prompts, both models must get the same.
        tuned=CachedEncoder(
            FoundModel(settings.model.base, tuned.path, tuned.sha256, tuned.config), settings.model, stage.cache
        ),
    )


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


def _json(path: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
