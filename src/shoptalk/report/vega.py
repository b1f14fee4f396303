"""What all charts have in common: Vega-Lite specifications built with Altair.

Colours are CSS variables of the page, so that one specification is right in light, in dark and on paper, without redrawing.
Every chart takes its width from the page.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import altair as alt

BEFORE, AFTER, LOSS, INK, MUTED, GRID, PAGE, BAD = (
    f"var(--{name})" for name in ("before", "after", "loss", "ink", "muted", "line", "page", "bad")
)

CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif",
    "aria": False,
    "padding": {"left": 4, "top": 4, "right": 12, "bottom": 4},
    "view": {"stroke": None},
    "axis": {
        "labelColor": MUTED,
        "titleColor": MUTED,
        "gridColor": GRID,
        "domainColor": GRID,
        "tickColor": GRID,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 8,
        "labelPadding": 6,
        "tickCount": 5,
        "ticks": False,
    },
    "legend": {
        "labelColor": INK,
        "titleColor": MUTED,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "orient": "top",
        "symbolStrokeColor": MUTED,
    },
}


@dataclass(frozen=True)
class Chart:
    """A chart with its heading and a sentence that says what it shows (also its text alternative)."""

    name: str
    title: str
    caption: str
    spec: dict[str, Any]


def data(rows: list[dict[str, Any]]) -> Any:
    """A chart of these rows."""
    return alt.Chart(alt.InlineData(values=rows))


def dots(color: str) -> Any:
    """The points on a line."""
    return alt.OverlayMarkDef(color=color, size=36, filled=True)


def note(x: float, y: float, text: str, align: str) -> Any:
    """Words in the drawing."""
    return data([{"x": x, "y": y, "text": text}]).mark_text(color=MUTED, align=align, fontSize=12).encode(
        x="x:Q", y="y:Q", text="text:N"
    )  # fmt: skip


def spec(chart: Any, height: int) -> dict[str, Any]:
    """The specification, as wide as the page makes it and `height` pixels high."""
    made: dict[str, Any] = chart.properties(width="container", height=height).to_dict()
    # The page names the version and the colours; without these keys the specification is the same in every process.
    for key in ("$schema", "config"):
        made.pop(key, None)
    return made
