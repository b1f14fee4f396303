"""What is kept of general ability, as the page shows it: the points between base and tuned weights, and the reporting half."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shoptalk.report.artifacts import Artifacts
from shoptalk.report.curves import frontier_chart
from shoptalk.report.drawing import Strip, interval, strips
from shoptalk.report.vega import Chart
from shoptalk.report.wording import sentence, shown

_LANGUAGES = {
    "ar": "Arabic", "de": "German", "el": "Greek", "en": "English", "es": "Spanish", "fr": "French", "hi": "Hindi", "it": "Italian",
    "ja": "Japanese", "ko": "Korean", "nl": "Dutch", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian",
    "th": "Thai", "tr": "Turkish", "uk": "Ukrainian", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip


@dataclass(frozen=True)
class Side:
    """One thing that must be kept, measured before and after. able: False where the base model could not answer either."""

    name: str
    queries: int
    base: float
    tuned: float
    delta: Mapping[str, Any]
    strip: Strip
    broken: bool
    able: bool
    whole: bool


@dataclass(frozen=True)
class Retention:
    """The section. points: the frontier; chart: None where no loss on general text was measured; missing: public sets that could not
    be had, and why.
    """

    words: str
    chart: Chart | None
    points: tuple[Mapping[str, Any], ...]
    sides: tuple[Side, ...]
    limit: float
    broken: bool
    missing: tuple[str, ...]


def retained(run: Artifacts) -> Retention | None:
    """The section's content; None for a run that measured no retention and chose no point between the weights."""
    found, points = run.comparison.get("retention"), _points(run.card)
    if not found and not points:
        return None
    limit = float(run.card.get("constraint", run.settings.select.max_general_loss))
    measured = [row for row in points if row.get("general_loss") is not None]
    sides = _sides(found, limit) if found else ()
    return Retention(
        words=sentence(run.card["words"]) if run.card.get("words") else "",
        chart=frontier_chart(measured, limit, shown(run.metric)) if len(measured) > 1 else None,
        points=tuple(points),
        sides=sides,
        limit=limit,
        broken=any(side.broken for side in sides),
        missing=_missing((found or {}).get("nanobeir") or {}),
    )


def language(code: str) -> str:
    """The English name of a language; its code where it is not a frequent one."""
    return _LANGUAGES.get(code, code)


def _points(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The frontier in the order of the weights, with the cross-lingual loss, which may have to be taken from the base's score."""
    points = sorted(card.get("frontier") or (), key=lambda row: row["weight"])
    start = points[0].get("cross_lingual") if points and points[0]["weight"] == 0 else None
    full = []
    for row in points:
        score = row.get("cross_lingual")
        loss = row.get("cross_lingual_loss", start - score if start is not None and score is not None else None)
        full.append({**row, "cross_lingual_loss": loss})
    return full


def _missing(public: Mapping[str, Any]) -> tuple[str, ...]:
    rows = (public.get("sets") or {}).items()
    return tuple(f"{name}: {row['words']}" for name, row in rows if not row.get("delta") and row.get("words"))


def _sides(found: Mapping[str, Any], limit: float) -> tuple[Side, ...]:
    rows: list[tuple[str, Mapping[str, Any], bool]] = [("General text", found["general"], True)]
    abroad = found.get("cross_lingual") or {}
    if abroad.get("measured"):
        rows.append(("Other languages, together", abroad, True))
    rows += [(language(code), row, False) for code, row in sorted((abroad.get("languages") or {}).items())]
    public = found.get("nanobeir") or {}
    rows += [
        ("NanoBEIR, together", public, True),
        *((name, row, False) for name, row in (public.get("sets") or {}).items()),
    ]
    rows = [row for row in rows if row[1].get("delta")]
    drawn = strips([row["delta"] for _, row, _ in rows], (), (0.0, -limit), interval)
    return tuple(
        Side(
            name=name,
            queries=row["queries"],
            base=row["base"],
            tuned=row["tuned"],
            delta=row["delta"],
            strip=strip,
            broken=bool(row.get("broken")) and whole,
            able=row.get("able", True),
            whole=whole,
        )
        for (name, row, whole), strip in zip(rows, drawn, strict=True)
    )
