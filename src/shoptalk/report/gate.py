"""The gate as the page shows it: every system measured, what is left to gain, what the test can show, what more data would bring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shoptalk.report.artifacts import Artifacts
from shoptalk.report.curves import forecast_chart
from shoptalk.report.drawing import Part, Strip, interval, parts, strips
from shoptalk.report.vega import Chart
from shoptalk.report.wording import plain, sentence, shown, signed, size, speed

_NONE = "\N{EM DASH}"


@dataclass(frozen=True)
class Row:
    """A system. delta: its gain over the base in words, "" for the base itself; sure: whether zero is outside its interval."""

    name: str
    detail: str
    value: float
    ci95: tuple[float, float]
    strip: Strip
    delta: str
    sure: bool
    seconds: str
    index: str


@dataclass(frozen=True)
class Rule:
    """A tutorials' rule of thumb: what it asks for, what there is, and whether that is enough."""

    name: str
    there: str
    wanted: str
    reached: bool


@dataclass(frozen=True)
class Gate:
    """The section. Fields are empty where a run, or a run of an earlier version, has no such number."""

    rows: tuple[Row, ...]
    measured: bool
    headroom: tuple[Part, ...]
    headroom_words: str
    power: str
    forecast: Chart | None
    no_forecast: str
    rules: tuple[Rule, ...]


def assessed(run: Artifacts) -> Gate:
    """What gate.json says."""
    gate = run.gate
    rows = _rows(run)
    forecast = gate.get("forecast")
    return Gate(
        rows=rows,
        measured=any(row.seconds != _NONE or row.index != _NONE for row in rows),
        headroom=_headroom(gate.get("headroom"), shown(gate["metric"])),
        headroom_words=_words(gate.get("headroom")),
        power=_words(gate.get("power")),
        forecast=forecast_chart(forecast, shown(gate["metric"])) if forecast else None,
        no_forecast=sentence(gate["no_forecast"]) if gate.get("no_forecast") else "",
        rules=tuple(_rules(gate)),
    )


def _rows(run: Artifacts) -> tuple[Row, ...]:
    systems = _systems(run.gate)
    wanted = run.settings.baseline
    drawn = strips(systems, (0.0, 1.0), (wanted.tune_below, wanted.fine_above), interval)
    return tuple(_row(system, strip) for system, strip in zip(systems, drawn, strict=True))


def _systems(gate: Mapping[str, Any]) -> list[dict[str, Any]]:
    """gate.json's systems, each with its "value"; from the older keys where there are none."""
    metric = gate["metric"]
    if gate.get("systems"):
        return [system | {"value": system[metric]} for system in gate["systems"]]
    systems = [{"label": "Base model", "value": gate["score"], "ci95": gate["ci95"]}]
    if "bm25" in gate:
        systems.append({"label": "BM25", "value": gate["bm25"][metric], "ci95": gate["bm25_ci95"]})
    return systems


def _row(system: Mapping[str, Any], strip: Strip) -> Row:
    low, high = system["ci95"]
    delta, seconds, index = (system.get(key) for key in ("delta", "seconds_per_1000", "index_bytes"))
    return Row(
        name=system["label"],
        detail=system.get("detail", "").removeprefix(f"{system['label']}: "),
        value=system["value"],
        ci95=(low, high),
        strip=strip,
        delta="" if delta is None else signed(delta["value"]),
        sure=delta is not None and (delta["ci95"][0] > 0 or delta["ci95"][1] < 0),
        seconds=_NONE if seconds is None else speed(seconds),
        index=_NONE if index is None else size(index),
    )


def _headroom(found: Mapping[str, Any] | None, metric: str) -> tuple[Part, ...]:
    """The whole from 0 to 1: what there is, what a perfect reranker could add, what takes another embedding."""
    if not found:
        return ()
    reached = 1 - found["reranker"] - found["embedding"]
    return parts(
        [
            (f"{metric} now", reached, plain(reached)),
            ("a perfect reranker could add", found["reranker"], plain(found["reranker"])),
            ("only a better embedding", found["embedding"], plain(found["embedding"])),
        ]
    )


def _words(found: Mapping[str, Any] | None) -> str:
    return sentence(found["words"]) if found else ""


def _rules(gate: Mapping[str, Any]) -> Sequence[Rule]:
    rules = [
        Rule(shown(row["metric"]), plain(row["value"]), f"{row['target']:g}", row["reached"])
        for row in gate.get("good", ())
    ]
    for row in gate.get("data", ()):
        rules.append(
            Rule(f"Training pairs: {row['words']}", f"{gate['training_pairs']:,}", f"{row['pairs']:,}", row["reached"])
        )
    return rules
