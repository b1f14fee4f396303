"""report.html: one file with everything inside, that fetches nothing. Same artifacts, same bytes.

User texts reach the page in two ways only: through Jinja's autoescape, and as JSON in script blocks that are never executed.
A Content-Security-Policy names the scripts of the page by hash, so that nothing else could run if either failed.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from shoptalk.report.artifacts import Artifacts
from shoptalk.report.charts import learning_charts, retrieval_charts, similarity_charts
from shoptalk.report.comparison import compared
from shoptalk.report.corpus_map import corpus_map
from shoptalk.report.cost import cost
from shoptalk.report.drawing import interval, strips
from shoptalk.report.examples import won_and_lost
from shoptalk.report.explorer import explorer
from shoptalk.report.facts import facts, prices
from shoptalk.report.gate import assessed
from shoptalk.report.methods import paragraph
from shoptalk.report.redacting import redacted
from shoptalk.report.retention import retained
from shoptalk.report.training_data import gather
from shoptalk.report.vega import CONFIG
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
    shown,
    sides,
    signed,
    spoken,
)

_SCRIPTS = ("page.js", "explorer.js", "map.js")


def render(run: Artifacts, redact: bool = False) -> str:
    """The page of a run. redact: without any text of the documents or queries, for forwarding."""
    if redact:
        run = redacted(run)
    learning, per_query = learning_charts(run), similarity_charts(run) if run.is_similarity else retrieval_charts(run)
    gate, kept, took = assessed(run), retained(run), cost(run)
    advice = [chart for chart in (gate.forecast, kept.chart if kept else None) if chart is not None]
    scripts = [_engine(), *(_source(name) for name in _SCRIPTS)]
    won, lost = won_and_lost(run)
    story, drawn, queries = tell(run), corpus_map(run), explorer(run)
    charts = {chart.name: chart.spec for chart in (*learning, *per_query, *advice)}
    blocks: dict[str, Any] = {"charts": {"config": CONFIG, "charts": charts}}
    blocks |= {"explorer-data": queries} if queries else {}
    blocks |= {"map-names": drawn.names} if drawn else {}
    return _environment().get_template("template.html").render(
        run=run,
        answer=answer(run),
        title=run.title,
        metric=shown(run.metric),
        meaning=MEANINGS[run.metric],
        scripts=[Markup(script) for script in scripts],
        policy=_policy(scripts),
        blocks={name: Markup(_inline_json(block)) for name, block in blocks.items()},
        learning=learning,
        per_query=per_query,
        headline_strip=strips([run.delta], (), (0.0,), interval)[0],
        facts=facts(run),
        prices=prices(run, took),
        gate=gate,
        compared=compared(run),
        kept=kept,
        took=took,
        story=story,
        vocabulary_summary=summary(story) if story else "",
        data=gather(run),
        explored=queries,
        map=drawn,
        won=won,
        lost=lost,
        methods=paragraph(run),
        settings=_settings_rows(run),
        version=importlib.metadata.version("shoptalk"),
        decisions=DECISIONS,
    )  # fmt: skip


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("shoptalk.report", "templates"),
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


def _settings_rows(run: Artifacts) -> list[tuple[str, list[tuple[str, str]]]]:
    """Section, then (name, value as JSON)."""
    rows: list[tuple[str, list[tuple[str, str]]]] = []
    used = run.training.get("learning_rate")
    for section, values in run.settings.model_dump(mode="json", warnings=False).items():
        if section == "train" and values["learning_rate"] == "auto" and used is not None:
            values = {**values, "learning_rate": f"auto: {used:g}"}
        named = values if isinstance(values, dict) else {"": values}
        if named:
            rows.append((section, [(name, json.dumps(value, ensure_ascii=False)) for name, value in named.items()]))
    return rows
