"""Lost cross-lingual ability: queries in other languages that the base model understood no longer find their passages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shoptalk.diagnosis.evidence import Evidence
from shoptalk.diagnosis.forgetting import DEFAULT_LIMIT, loss_in_words, loss_severity
from shoptalk.records import Finding


def find(evidence: Evidence) -> Finding | None:
    """Looks at the retention set's queries in other languages; where the base model could not answer them there is nothing to
    lose.
    """
    retention = evidence.comparison.get("retention") or {}
    abroad = retention.get("cross_lingual")
    if not abroad or not abroad.get("measured", True):
        return None
    limit = float(abroad.get("limit", (retention.get("general") or {}).get("limit", DEFAULT_LIMIT)))
    parts = _parts(abroad)
    severities = {name: severity for name, found in parts.items() if (severity := loss_severity(found, limit))}
    # One of many languages may fall below the limit by chance; it counts where the rule is broken.
    severities = {name: severity for name, severity in severities.items() if name == "all" or severity == "high"}
    if not severities:
        return None
    shown = [f"{name}: {loss_in_words(parts[name])}" for name in severities]
    return Finding(
        "lost-cross-lingual",
        "high" if "high" in severities.values() else "warning",
        f"queries in other languages over the same passages: {'; '.join(shown)}; the limit is a loss of {limit:g}",
        "add training queries in these languages (translations of those there are will do), or choose a point nearer to the base; "
        "ignore it only if nobody asks in another language than the documents'",
    )


def _parts(abroad: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """All languages together, and each in which the base could answer."""
    named = {"all": abroad, **(abroad.get("languages") or {})}
    return {name: found for name, found in named.items() if found.get("delta") and found.get("able", True)}
