"""What the template draws as small SVGs: intervals on one scale, bars, and columns, all in percent of the drawing's width."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shoptalk.report.wording import signed


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


@dataclass(frozen=True)
class Part:
    """A part of a bar that stands for a whole: where it begins and how wide it is, in percent. value: in words."""

    name: str
    value: str
    start: float
    width: float


def interval(row: Mapping[str, Any]) -> str:
    """A row with value and ci95 in words."""
    low, high = row["ci95"]
    return f"{signed(row['value'])}, 95% interval {signed(low)} to {signed(high)}"


def parts(shares: Sequence[tuple[str, float, str]]) -> tuple[Part, ...]:
    """(name, share of the whole, the same in words), in their order; less than nothing is nothing."""
    found, start = [], 0.0
    for name, share, value in shares:
        width = 100 * max(0.0, share)
        found.append(Part(name, value, round(start, 2), round(width, 2)))
        start += width
    return tuple(found)


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
