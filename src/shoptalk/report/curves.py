"""Two curves that advise: what more training data would bring, and what each step from base to tuned weights gains and loses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from shoptalk.report.vega import AFTER, BAD, BEFORE, INK, LOSS, MUTED, Chart, data, dots, spec
from shoptalk.report.wording import plain, signed

_GAIN = ".3f"


def forecast_chart(forecast: Mapping[str, Any], metric: str) -> Chart:
    """gate.json's "forecast": points measured with a quick adapter, then the prediction with its band."""
    measured = [{"pairs": row["pairs"], "gain": row["gain"]} for row in forecast["points"]]
    ahead = [{key: row[key] for key in ("pairs", "gain", "low", "high")} for row in forecast["predicted"]]
    x = alt.X(
        "pairs:Q",
        title="training pairs",
        scale=alt.Scale(nice=False, zero=True),
        axis=alt.Axis(grid=False, tickCount=5),
    )
    y = alt.Y("gain:Q", title=f"gain in {metric} on dev")
    tooltip = [alt.Tooltip("pairs:Q", format=",d", title="training pairs"), alt.Tooltip("gain:Q", format=_GAIN)]
    band = [alt.Tooltip("low:Q", format=_GAIN), alt.Tooltip("high:Q", format=_GAIN)]
    future = data(ahead)
    layers = alt.layer(
        data([{"gain": 0}]).mark_rule(color=BEFORE, strokeDash=[5, 4], strokeWidth=1.5).encode(y=y),
        future.mark_area(color=AFTER, opacity=0.16).encode(x=x, y=alt.Y("low:Q"), y2="high:Q"),
        future.mark_line(
            color=AFTER, strokeWidth=2, strokeDash=[2, 3], point=alt.OverlayMarkDef(color=AFTER, size=36, filled=False)
        ).encode(x=x, y=y, tooltip=[*tooltip, *band]),
        data(measured).mark_line(color=AFTER, strokeWidth=2, point=dots(AFTER)).encode(x=x, y=y, tooltip=tooltip),
    )
    now, later = ahead[0], ahead[-1]
    caption = (
        f"Filled: measured with a quick adapter on parts of the training data. Hollow: forecast, with the band that holds 95% of it: "
        f"{signed(now['gain'])} with {now['pairs']:,} pairs, {signed(later['gain'])} ({signed(later['low'])} to "
        f"{signed(later['high'])}) with {later['pairs']:,}. The dashed line is the base model."
    )
    return Chart("forecast", "What more training data would bring", caption, spec(layers, 240))


def frontier_chart(points: Sequence[Mapping[str, Any]], limit: float, metric: str) -> Chart:
    """Points between base and tuned weights, from left to right by what they lose on general text, upwards by what dev gains.

    points: those of model/shoptalk.json that have a measured loss. limit: the loss that is allowed.
    """
    rows = [_point(row, "general text", row["general_loss"]) for row in points]
    abroad = [
        _point(row, "other languages", row["cross_lingual_loss"])
        for row in points
        if row.get("cross_lingual_loss") is not None
    ]
    lowest = min([-limit, *(row["change"] for row in (*rows, *abroad))])
    highest = max([0.0, *(row["change"] for row in (*rows, *abroad))])
    room = 0.12 * ((highest - lowest) or 1.0)
    x = alt.X(
        "change:Q",
        title="change on what must be kept (nDCG@10)",
        scale=alt.Scale(domain=[lowest - room, highest + room], nice=False),
        axis=alt.Axis(format="+.3~f", grid=False),
    )
    y = alt.Y("gain:Q", title=f"gain in {metric} on dev", scale=alt.Scale(nice=True, padding=16))
    names = ["general text", "other languages"] if abroad else ["general text"]
    color = alt.Color(
        "kept:N",
        title=None,
        scale=alt.Scale(domain=names, range=[AFTER, LOSS][: len(names)]),
        legend=alt.Legend() if abroad else None,
    )
    tooltip = [
        alt.Tooltip("weight:N", title="tuned weights"),
        alt.Tooltip("kept:N", title="measured on"),
        alt.Tooltip("change:Q", format="+.3f"),
        alt.Tooltip("gain:Q", format="+.3f", title="gain on dev"),
    ]
    line = data([*rows, *abroad]).mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=60, filled=True, opacity=1))
    chosen = data([row for row in rows if row["chosen"]])
    text = alt.Text("weight:N")
    layers = alt.layer(
        data([{"change": lowest - room, "end": -limit}]).mark_rect(color=BAD, opacity=0.09).encode(x=x, x2="end:Q"),
        data([{"change": -limit}]).mark_rule(color=BAD, strokeDash=[5, 4], strokeWidth=1.5).encode(x=x),
        data([{"change": -limit, "text": f"limit {signed(-limit)}"}])
        .mark_text(color=BAD, align="left", baseline="top", dx=5, y=4, fontSize=12)
        .encode(x=x, text="text:N"),
        line.encode(x=x, y=y, color=color, order=alt.Order("order:Q"), tooltip=tooltip),
        chosen.mark_point(color=INK, filled=False, size=260, strokeWidth=2, opacity=1).encode(
            x=x, y=y, tooltip=tooltip
        ),
        data(rows).mark_text(color=MUTED, align="left", dx=10, dy=-8, fontSize=12).encode(x=x, y=y, text=text),
    )
    return Chart("frontier", "Gain against what must be kept", _caption(points, limit), spec(layers, 320))


def _point(row: Mapping[str, Any], kept: str, loss: float) -> dict[str, Any]:
    return {
        "weight": f"{row['weight']:.0%}",
        "order": row["weight"],
        "kept": kept,
        "change": round(-loss, 5),
        "gain": round(row["dev_gain"], 5),
        "chosen": row["chosen"],
    }


def _caption(points: Sequence[Mapping[str, Any]], limit: float) -> str:
    chosen = next((row for row in points if row["chosen"]), None)
    words = (
        "Points between the base (0%) and the tuned weights (100%), by the change on general text (across) and the gain on dev (up). "
        f"Left of {signed(-limit)} too much is lost."
    )
    if chosen is None:
        return words
    return (
        f"{words} Ringed: the one that is shipped, {chosen['weight']:.0%}, with {signed(chosen['dev_gain'])} on dev and "
        f"{signed(-chosen['general_loss'])} on general text ({plain(chosen['general'])})."
    )
