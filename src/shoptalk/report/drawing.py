"""What the template draws as small SVGs: intervals on one scale, bars, and columns, all in percent of the drawing's width."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Strip:
    """An interval on a line, in percent of its width. `label`: its text alternative."""

    low: float
    high: float
    value: float
    ticks: tuple[float, ...]
    label: str


@dataclass(frozen=True)
class Bar:
    """A named count and its length (of a bar) or height (of a column), in percent of the largest."""

    name: str
    count: int
    size: float


def strips(
    rows: Sequence[Mapping[str, Any]],
    ends: Sequence[float],
    ticks: Sequence[float],
    label: Callable[[Mapping[str, Any]], str],
) -> list[Strip]:
    """Intervals of rows with value and ci95, on one scale that holds them, `ends` and `ticks`. label: a row in words."""
    all_ends = [*ends, *ticks, *(end for row in rows for end in row["ci95"])]
    low = float(min(all_ends))
    span = (max(all_ends) - low) or 1.0
    low, span = low - 0.05 * span, 1.1 * span

    def at(value: float) -> float:
        return round(100 * (value - low) / float(span), 2)

    return [
        Strip(at(row["ci95"][0]), at(row["ci95"][1]), at(row["value"]), tuple(map(at, ticks)), label(row))
        for row in rows
    ]


def bars(counts: Sequence[tuple[str, int]]) -> tuple[Bar, ...]:
    """Counts by name, in their order."""
    most = max((n for _, n in counts), default=0) or 1
    return tuple(Bar(name, n, round(100 * n / most, 2)) for name, n in counts)
