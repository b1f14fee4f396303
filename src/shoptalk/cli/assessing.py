"""The gate as `shoptalk baseline` prints it: every system in a table, what is left to gain, what can be shown, and the advice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from shoptalk.retrieval.metrics import SHOWN

_COLOUR = {"tune": "green", "tune-with-caution": "yellow"}


def show_gate(gate: Mapping[str, Any], console: Console) -> None:
    """Print what baseline/gate.json holds; the decision with its reasons comes last."""
    console.print(_table(gate))
    unit = "pairs" if gate["metric"] == "spearman" else "queries"
    console.print(
        f"{gate['queries']:,} train and dev {unit}, no test {unit}; * its 95% interval leaves out zero; s/1,000: seconds to index "
        "1,000 passages here\n",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    if gate["good"]:
        _line("good, by tutorials' rules of thumb", ", ".join(_rule(rule) for rule in gate["good"]), console)
    if gate["headroom"]:
        _line("left to gain", gate["headroom"]["words"], console)
    if gate["power"]:
        _line("what the test can show", gate["power"]["words"], console)
    forecast = gate["forecast"]
    _line("forecast", forecast["words"] if forecast else gate["no_forecast"], console)
    console.print(f"\ngate: [bold {_COLOUR.get(gate['decision'], 'red')}]{gate['decision']}[/]")
    for reason in gate["reasons"]:
        console.print(f"  - {reason}", markup=False, soft_wrap=True)


def _table(gate: Mapping[str, Any]) -> Table:
    metric = gate["metric"]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("system", overflow="fold")
    for heading in (SHOWN[metric], "95% interval", "over base", "s/1,000", "index"):
        table.add_column(heading, justify="right", no_wrap=True)
    for system in gate["systems"]:
        delta = system["delta"]
        sure = "" if delta is None else " *" if delta["ci95"][0] > 0 or delta["ci95"][1] < 0 else "  "
        table.add_row(
            system["label"],
            f"{system[metric]:.3f}",
            f"{system['ci95'][0]:.3f} to {system['ci95'][1]:.3f}",
            "" if delta is None else f"{delta['value']:+.3f}{sure}",
            "" if system["seconds_per_1000"] is None else _seconds(system["seconds_per_1000"]),
            "" if system["index_bytes"] is None else _size(system["index_bytes"]),
        )
    return table


def _line(name: str, words: str, console: Console) -> None:
    console.print(f"[bold]{name}[/]: ", end="", soft_wrap=True)
    console.print(words, markup=False, highlight=False, soft_wrap=True)


def _rule(rule: Mapping[str, Any]) -> str:
    return f"{SHOWN[rule['metric']]} {rule['value']:.3f} {'>=' if rule['reached'] else '<'} {rule['target']:g}"


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value >= 0.05 else "<0.1"


def _size(n_bytes: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes} B"
