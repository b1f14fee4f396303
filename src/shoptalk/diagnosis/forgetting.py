"""Forgetting on general text: questions that have nothing to do with the team are answered less well than before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from shoptalk.diagnosis.evidence import Evidence
from shoptalk.records import Finding


def find(evidence: Evidence) -> Finding | None:
    """Looks at the retention set, and at NanoBEIR where the Hub was reached, as evaluate measured them; older runs have neither."""
    retention = evidence.comparison.get("retention") or {}
    sets = {"general questions": retention.get("general"), "NanoBEIR's queries": retention.get("nanobeir")}
    measured = {name: found for name, found in sets.items() if found and found.get("delta")}
    limit = float((retention.get("general") or {}).get("limit", DEFAULT_LIMIT))
    severities = [severity for found in measured.values() if (severity := loss_severity(found, limit))]
    if not severities:
        return None
    shown = [f"{found['queries']:,} {name}: {loss_in_words(found)}" for name, found in measured.items()]
    return Finding(
        "forgetting",
        "high" if "high" in severities else "warning",
        f"{'; '.join(shown)}; the limit is a loss of {limit:g}",
        "choose a point nearer to the base (a lower select.max_general_loss), train more gently (train.learning_rate, train.epochs), "
        "or put general examples among the training data; it matters where the model also serves other texts",
    )


DEFAULT_LIMIT = 0.02
"""nDCG@10, where the comparison names none."""


def loss_severity(measured: Mapping[str, Any], limit: float) -> Literal["warning", "high"] | None:
    """high when select's rule is broken or the whole 95% interval is a loss beyond the limit; a warning when only the value is."""
    delta = measured["delta"]
    if measured.get("broken") or delta["ci95"][1] < -limit:
        return "high"
    return "warning" if delta["value"] < -limit else None


def loss_in_words(measured: Mapping[str, Any]) -> str:
    """nDCG@10 before, after and the change with its interval."""
    value, (low, high) = measured["delta"]["value"], measured["delta"]["ci95"]
    return (
        f"nDCG@10 {measured['base']:.3f} before, {measured['tuned']:.3f} after "
        f"({value:+.3f}, 95% interval {low:+.3f} to {high:+.3f})"
    )
