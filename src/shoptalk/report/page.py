"""report.html: one file with everything inside, that fetches nothing. Same artifacts, same bytes.

User texts reach the page in two ways only: through Jinja's autoescape, and as JSON in a script block that is never executed.
A Content-Security-Policy names the two scripts of the page by hash, so that nothing else could run if either failed.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from shoptalk.report.artifacts import Artifacts
from shoptalk.report.charts import CONFIG, learning_charts, rank_places, retrieval_charts, similarity_charts
from shoptalk.report.drawing import strips
from shoptalk.report.examples import won_and_lost
from shoptalk.report.training_data import gather
from shoptalk.report.vocabulary import summary, tell
from shoptalk.report.wording import (
    DECISIONS,
    MEANINGS,
    answer,
    count,
    item,
    origin,
    p_value,
    plain,
    sentence,
    sides,
    signed,
    spoken,
)
from shoptalk.retrieval.metrics import SHOWN


def render(run: Artifacts) -> str:
    """The page of a run."""
    charts = learning_charts(run), similarity_charts(run) if run.is_similarity else retrieval_charts(run)
    scripts = [_engine(), _source("page.js")]
    won, lost = won_and_lost(run)
    story = tell(run)
    return _environment().get_template("template.html").render(
        run=run,
        answer=answer(run),
        title=run.settings.report.title or Path(run.settings.input.source).name or "a run",
        metric=SHOWN[run.metric],
        meaning=MEANINGS[run.metric],
        scripts=[Markup(script) for script in scripts],
        policy=_policy(scripts),
        charts_json=Markup(_inline_json({"config": CONFIG, "charts": {c.name: c.spec for c in (*charts[0], *charts[1])}})),
        learning=charts[0],
        per_query=charts[1],
        headline_strip=strips([run.delta], (), (0.0,), _interval)[0],
        metric_rows=_metric_rows(run),
        gate_rows=_gate_rows(run),
        facts=_facts(run),
        story=story,
        vocabulary_summary=summary(story) if story else "",
        data=gather(run),
        won=won,
        lost=lost,
        settings=_settings_rows(run),
        version=importlib.metadata.version("shoptalk"),
        decisions=DECISIONS,
    )  # fmt: skip


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("shoptalk.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"signed": signed, "plain": plain, "p": p_value, "sentence": sentence}
    environment.globals |= {"count": count, "item": item, "origin": origin, "spoken": spoken, "sides": sides}
    return environment


@cache
def _engine() -> str:
    """Vega, Vega-Lite and vega-embed as one script. It takes a second to put together, so once a process."""
    import vl_convert

    bundle: Any = vl_convert.javascript_bundle  # its type asks for a snippet, which is optional
    return _inline_script(bundle())


def _source(name: str) -> str:
    environment = _environment()
    assert environment.loader is not None
    return _inline_script(environment.loader.get_source(environment, name)[0])


def _inline_script(code: str) -> str:
    """JavaScript that an HTML parser cannot mistake for the end, or a comment, of its script element."""
    return code.replace("\r\n", "\n").replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _inline_json(value: Any) -> str:
    """JSON that is safe between script tags, whatever texts it holds: no <, > or & is left in it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _policy(scripts: list[str]) -> str:
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def _interval(row: Mapping[str, Any]) -> str:
    low, high = row["ci95"]
    return f"{signed(row['value'])}, 95% interval {signed(low)} to {signed(high)}"


def _metric_rows(run: Artifacts) -> list[dict[str, Any]]:
    found = run.comparison
    drawn = strips(list(found["delta"].values()), (), (0.0,), _interval)
    return [
        {
            "name": SHOWN.get(name, name),
            "decides": name == run.metric,
            "base": found["base"][name],
            "bm25": found.get("bm25", {}).get(name),
            "tuned": found["tuned"][name],
            "delta": delta,
            "strip": strip,
        }
        for (name, delta), strip in zip(found["delta"].items(), drawn, strict=True)
    ]


def _gate_rows(run: Artifacts) -> list[dict[str, Any]]:
    gate = run.gate
    rows = [{"name": "Base model", "value": gate["score"], "ci95": gate["ci95"]}]
    if "bm25" in gate:
        rows.append({"name": "BM25 (keywords)", "value": gate["bm25"][gate["metric"]], "ci95": gate["bm25_ci95"]})
    wanted = run.settings.baseline
    drawn = strips(rows, (0.0, 1.0), (wanted.tune_below, wanted.fine_above), _interval)
    return [row | {"strip": strip} for row, strip in zip(rows, drawn, strict=True)]


def _facts(run: Artifacts) -> list[dict[str, str]]:
    """The deciding metric before and after, and counts that need no metric to understand."""
    before, after = (run.comparison[system][run.metric] for system in ("base", "tuned"))
    bm25 = run.comparison.get("bm25", {}).get(run.metric)
    keywords = "" if bm25 is None else f"keyword search (BM25): {plain(bm25)}"
    facts = [_fact(f"{SHOWN[run.metric]}, before and after", plain(before), plain(after), keywords)]
    if run.is_similarity:
        return facts
    places = rank_places(run)
    of = f"of {len(run.per_query):,} test queries"
    for name, upto in (("Right passage in first place", 1), ("Right passage in the first ten", 3)):
        first, then = (sum(places[model][:upto]) for model in ("before", "after"))
        facts.append(_fact(name, f"{first:,}", f"{then:,}", of))
    return facts


def _fact(name: str, before: str, after: str, small: str) -> dict[str, str]:
    return {"name": name, "before": before, "after": after, "small": small}


def _settings_rows(run: Artifacts) -> list[tuple[str, list[tuple[str, str]]]]:
    """Section, then (name, value as JSON)."""
    rows: list[tuple[str, list[tuple[str, str]]]] = []
    used = run.training.get("learning_rate")
    for section, values in run.settings.model_dump(mode="json").items():
        if section == "train" and values["learning_rate"] == "auto" and used is not None:
            values = {**values, "learning_rate": f"auto: {used:g}"}
        named = values if isinstance(values, dict) else {"": values}
        if named:
            rows.append((section, [(name, json.dumps(value, ensure_ascii=False)) for name, value in named.items()]))
    return rows
