"""The charts of the training and of every query. They carry at most 2,000 points."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import altair as alt

from shoptalk.report.artifacts import Artifacts
from shoptalk.report.vega import AFTER, BEFORE, INK, LOSS, MUTED, PAGE, Chart, data, dots, note, spec
from shoptalk.report.wording import count, learning_words, plain, shown
from shoptalk.retrieval.metrics import PRIMARY

MAX_POINTS = 2_000
_TEXT_CHARS = 120


def learning_charts(run: Artifacts) -> list[Chart]:
    """Training loss and dev score over steps; the base model's dev score as the line to beat."""
    loss_words, dev_words = learning_words(run)
    losses = [{"step": row["step"], "loss": row["loss"]} for row in run.log if "loss" in row]
    x = alt.X("step:Q", title="training step", axis=alt.Axis(tickMinStep=1, grid=False))
    loss = data(losses).mark_line(color=LOSS, strokeWidth=2, point=dots(LOSS)).encode(
        x=x,
        y=alt.Y("loss:Q", title="training loss"),
        tooltip=[alt.Tooltip("step:Q"), alt.Tooltip("loss:Q", format=".3f")],
    )  # fmt: skip
    return [
        Chart("dev", "Dev score while training", dev_words, spec(_dev_curve(run, x), 240)),
        Chart("loss", "Training loss", loss_words, spec(loss, 240)),
    ]


def _dev_curve(run: Artifacts, x: Any) -> Any:
    best = run.training["best_step"]
    scores = [
        {"step": row["step"], "score": row["dev"], "kept": row["step"] == best} for row in run.log if "dev" in row
    ]
    y = alt.Y("score:Q", title=shown(run.training["metric"]), scale=alt.Scale(zero=False, nice=True, padding=12))
    tooltip = [alt.Tooltip("step:Q"), alt.Tooltip("score:Q", format=".3f", title="dev score")]
    base = data([{"score": run.training["base_dev"], "label": "base model"}])
    line = data(scores).mark_line(color=AFTER, strokeWidth=2, point=dots(AFTER)).encode(x=x, y=y, tooltip=tooltip)
    kept = data([row for row in scores if row["kept"]])
    return alt.layer(
        base.mark_rule(color=BEFORE, strokeDash=[5, 4], strokeWidth=1.5).encode(y=y),
        base.mark_text(color=MUTED, align="right", baseline="bottom", dy=-4, fontSize=12).encode(
            y=y, x=alt.value("width"), text="label:N"
        ),
        line,
        kept.mark_point(color=AFTER, filled=False, size=220, strokeWidth=2, opacity=1).encode(
            x=x, y=y, tooltip=tooltip
        ),
        kept.mark_text(color=MUTED, align="center", baseline="top", dy=14, fontSize=12).encode(
            x=x, y=y, text=alt.value("kept")
        ),
    )


def retrieval_charts(run: Artifacts) -> list[Chart]:
    """Every query before and after, and where the first right passage stands."""
    return [_scatter(run), _ranks(run)]


def _scatter(run: Artifacts) -> Chart:
    rows = sample(run.per_query)
    name = shown(PRIMARY)
    scale = alt.Scale(domain=[0, 1], nice=False, padding=10)
    x, y = alt.X("x:Q", title=f"{name} before", scale=scale), alt.Y("y:Q", title=f"{name} after", scale=scale)
    diagonal = data([{"x": 0, "y": 0}, {"x": 1, "y": 1}])
    layers = alt.layer(
        diagonal.mark_line(color=BEFORE, strokeDash=[4, 4], strokeWidth=1).encode(x=x, y=y),
        note(0.03, 0.9, "better after tuning", "left"),
        note(0.97, 0.1, "worse after tuning", "right"),
        _circles(_overlaid(rows)),
    )
    sampled = "" if len(rows) == len(run.per_query) else f" {len(rows):,} of {len(run.per_query):,} queries are drawn."
    caption = (
        f"{name} of every test query before (across) and after (up). Above the diagonal is better: {len(run.won):,} queries won, "
        f"{len(run.lost):,} lost, {run.comparison['unchanged']:,} unchanged.{sampled}"
    )
    return Chart("scatter", "Every query, before and after", caption, spec(layers, 380))


def _circles(points: list[dict[str, Any]]) -> Any:
    """Spots sized by how many queries lie on them."""
    most = max((point["queries"] for point in points), default=1)
    steps = sorted({1, max(1, most // 3), most})
    size = alt.Size(
        "queries:Q",
        title="queries on one spot",
        scale=alt.Scale(domain=[1, max(2, most)], range=[50, 50 + 40 * min(most, 25)]),
        legend=None
        if most == 1
        else alt.Legend(titleOrient="left", titleLimit=200, offset=4, values=steps, format="d"),
    )
    tooltip = [
        alt.Tooltip("query:N"),
        alt.Tooltip("x:Q", format=".3f", title="before"),
        alt.Tooltip("y:Q", format=".3f", title="after"),
        alt.Tooltip("queries:Q"),
    ]
    circles = data(points).mark_circle(color=AFTER, opacity=0.6, stroke=PAGE, strokeWidth=1)
    return circles.encode(x="x:Q", y="y:Q", size=size, tooltip=tooltip)


def _overlaid(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Queries on the same spot as one point that counts them and names the first few."""
    spots: dict[tuple[float, float], list[str]] = {}
    for row in rows:
        spot = (round(row["base"][PRIMARY], 3), round(row["tuned"][PRIMARY], 3))
        spots.setdefault(spot, []).append(_short(row["text"]))
    return [
        {"x": before, "y": after, "queries": len(texts), "query": _named(texts)}
        for (before, after), texts in sorted(spots.items())
    ]


def _named(texts: list[str]) -> str:
    more = len(texts) - 2
    return " / ".join(texts[:2]) + (f" / and {more:,} more" if more > 0 else "")


def _ranks(run: Artifacts) -> Chart:
    places = rank_places(run)
    depth = run.settings.evaluate.depth
    names = ["1st", "2nd to 3rd", "4th to 10th", f"11th to {depth}th", f"below {depth}"]
    rows = [
        {"place": name, "model": model, "queries": n, "order": order}
        for order, model in enumerate(("before", "after"))
        for name, n in zip(names, places[model], strict=True)
    ]
    color = alt.Color(
        "model:N", title=None, sort=None, scale=alt.Scale(domain=["before", "after"], range=[BEFORE, AFTER])
    )
    base = data(rows).encode(
        y=alt.Y(
            "place:N", sort=None, title=None, axis=alt.Axis(grid=False, domain=False), scale=alt.Scale(paddingInner=0.3)
        ),
        yOffset=alt.YOffset("model:N", sort=["before", "after"]),
        x=alt.X(
            "queries:Q",
            title="test queries",
            axis=alt.Axis(tickMinStep=1, grid=False),
            scale=alt.Scale(nice=True, padding=0),
        ),
        tooltip=[alt.Tooltip("place:N"), alt.Tooltip("model:N"), alt.Tooltip("queries:Q")],
    )
    bars = base.mark_bar(cornerRadiusEnd=2).encode(color=color)
    labels = base.mark_text(align="left", dx=4, color=INK, fontSize=12).encode(text="queries:Q")
    first = [places[model][0] for model in ("before", "after")]
    top = [sum(places[model][:3]) for model in ("before", "after")]
    caption = (
        f"Where the first right passage stands. In first place for {first[0]:,} queries before and {first[1]:,} after; among the "
        f"first ten for {top[0]:,} before and {top[1]:,} after, of {count(len(run.per_query), 'test query')}."
    )
    return Chart("ranks", "Where the right passage stands", caption, spec(alt.layer(bars, labels), 380))


def rank_places(run: Artifacts) -> dict[str, list[int]]:
    """Queries by the place of their first right passage: 1, 2 to 3, 4 to 10, deeper, not found; before and after."""
    found = {}
    for model, key in (("before", "rank_base"), ("after", "rank_tuned")):
        places = Counter(_place(row[key]) for row in run.per_query)
        found[model] = [places[i] for i in range(5)]
    return found


def _place(rank: int | None) -> int:
    if rank is None:
        return 4
    return next((i for i, last in enumerate((1, 3, 10)) if rank <= last), 3)


def similarity_charts(run: Artifacts) -> list[Chart]:
    """Scored pairs: the score that people gave and the cosine, before and after."""
    rows = sample(run.per_query)
    charts = []
    for name, system, color in (("before", "base", BEFORE), ("after", "tuned", AFTER)):
        points = [
            {"score": row["score"], "cosine": round(row[system]["cosine"], 4), "pair": _short(row["text"])}
            for row in rows
        ]
        chart = data(points).mark_circle(color=color, opacity=0.6, size=45).encode(
            x=alt.X("score:Q", title="score given", scale=alt.Scale(zero=False, nice=True, padding=8)),
            y=alt.Y("cosine:Q", title="cosine", scale=alt.Scale(domain=_cosine_range(rows), nice=False, padding=8)),
            tooltip=[alt.Tooltip("pair:N"), alt.Tooltip("score:Q"), alt.Tooltip("cosine:Q", format=".3f")],
        )  # fmt: skip
        value = run.comparison[system]["spearman"]
        caption = (
            f"Score given (across) and cosine of the {'base' if system == 'base' else 'tuned'} model (up) for "
            f"{count(len(rows), 'test pair')}; Spearman {plain(value)}. The nearer to a rising line, the better."
        )
        charts.append(Chart(name, f"{name.capitalize()} tuning", caption, spec(chart, 320)))
    return charts


def _cosine_range(rows: Sequence[dict[str, Any]]) -> list[float]:
    """One axis for both charts, so that they can be compared."""
    low = min((row[system]["cosine"] for row in rows for system in ("base", "tuned")), default=0.0)
    return [min(0.0, round(low - 0.05, 1)), 1.0]


def sample(rows: Sequence[dict[str, Any]], most: int = MAX_POINTS) -> list[dict[str, Any]]:
    """At most `most` rows, evenly along the change from the largest loss to the largest gain, both ends included."""
    if len(rows) <= most:
        return list(rows)
    ordered = sorted(rows, key=lambda row: (row["change"], row["query_id"]))
    return [ordered[i * (len(ordered) - 1) // (most - 1)] for i in range(most)]


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _TEXT_CHARS else f"{flat[: _TEXT_CHARS - 1]}\N{HORIZONTAL ELLIPSIS}"
