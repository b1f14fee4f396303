"""result.json: the same answer for programs. Its shape is a promise (docs/design.md): additions only, never NaN."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from shoptalk.models.finding import find_model
from shoptalk.report.artifacts import Artifacts
from shoptalk.report.vocabulary import in_result

MODEL = "model"
"""Where the tuned model stands, relative to the run folder."""


def make_result(run: Artifacts) -> dict[str, Any]:
    """The record that result.json holds."""
    comparison, audit = run.comparison, run.audit
    result = {
        "verdict": comparison["verdict"],
        "reasons": comparison["reasons"],
        "gate": _gate(run.gate),
        "metric": run.metric,
        "base": comparison["base"],
        "tuned": comparison["tuned"],
        "delta": comparison["delta"],
        "dataset": {
            "task": audit["task"],
            "passages": audit["passages"],
            "queries": audit["queries"],
            "test_origin": audit["test_origin"],
            "training_pairs": audit["training_pairs"],
        },
        "won": comparison["won"],
        "lost": comparison["lost"],
        "unchanged": comparison["unchanged"],
        "findings": run.findings,
        "vocabulary": in_result(run),
        "seconds": dict(run.seconds),
        "test_evaluations": run.evaluations,
        "model": MODEL,
        "base_model": {
            "name": run.settings.model.base,
            "sha256": find_model(run.settings.model.base).weights_sha256,
        },
        "version": importlib.metadata.version("shoptalk"),
    }
    for key in ("bm25", "retention", "slices"):
        if comparison.get(key):
            result[key] = comparison[key]
    return result


def _gate(gate: dict[str, Any]) -> dict[str, Any]:
    """The decision, and what it rests on where the gate measured it."""
    measured = {key: gate[key] for key in ("systems", "power", "forecast") if gate.get(key)}
    return {"decision": gate["decision"], "reasons": gate["reasons"], **measured}
