"""report.md: the report as Markdown, for a merge request or a wiki; and the comparison of runs in the same form.

Every text that is put into a template is escaped, so that nothing of a user's is taken for Markdown, HTML or a mention.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from shoptalk.report.artifacts import Artifacts
from shoptalk.report.comparison import compared
from shoptalk.report.cost import cost
from shoptalk.report.facts import facts, prices
from shoptalk.report.gate import assessed
from shoptalk.report.methods import paragraph
from shoptalk.report.redacting import redacted
from shoptalk.report.retention import retained
from shoptalk.report.runs_compared import figures, pairs_in_words
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
    signed,
    spoken,
)

_PUNCTUATION = re.compile(r"([\\`*_{}\[\]<>|#~$&])")
_BULLET = re.compile(r"^(\d{0,9})([-+.)])(?=\s|-|$)")
_MENTION = re.compile(r"(?<!\w)@(?=\w)")
_UNSEEN = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def render_markdown(run: Artifacts, redact: bool = False) -> str:
    """The report of a run. redact: without any text of the documents or queries, for forwarding."""
    if redact:
        run = redacted(run)
    told = compared(run)
    slices = [(by, one) for by, group in told.slices.kinds for one in group] if told.slices else []
    return _environment().get_template("markdown.md").render(
        run=run,
        title=run.title,
        answer=answer(run),
        metric=shown(run.metric),
        meaning=MEANINGS[run.metric],
        facts=facts(run),
        prices=prices(run, cost(run)),
        gate=assessed(run),
        forecast=(run.gate.get("forecast") or {}).get("words", ""),
        decision=DECISIONS.get(run.gate["decision"], run.gate["decision"]),
        compared=told,
        slices=slices,
        changed=[("Largest losses", run.lost), ("Largest gains", run.won)],
        worse=[(by, one) for by, one in slices if one.worse],
        kept=retained(run),
        nanobeir=_nanobeir(run),
        methods=paragraph(run),
        version=importlib.metadata.version("shoptalk"),
    )  # fmt: skip


def render_runs_markdown(record: Mapping[str, Any]) -> str:
    """The comparison of finished runs (`runs_compared.compare_runs`)."""
    return _environment().get_template("runs.md").render(
        names=[run["run"] for run in record["runs"]],
        runs=record["runs"],
        figures=figures(record),
        pairs=pairs_in_words(record),
        settings=record["settings"],
        findings=record["findings"],
        version=importlib.metadata.version("shoptalk"),
    )  # fmt: skip


def escaped(text: str) -> str:
    """A text on one line in which nothing is Markdown, HTML or a mention of a person."""
    text = " ".join(_UNSEEN.sub("", text).split())
    text = _PUNCTUATION.sub(r"\\\1", text)
    text = _BULLET.sub(r"\1\\\2", text)
    return _MENTION.sub("@\N{WORD JOINER}", text)


def _finalized(value: Any) -> Any:
    """What Jinja writes for every expression in a template."""
    return escaped(value) if isinstance(value, str) else value


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("shoptalk.report", "templates"),
        autoescape=False,  # HTML's escaping is not Markdown's
        finalize=_finalized,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"signed": signed, "plain": plain, "p": p_value, "sentence": sentence, "as_json": _as_json}
    environment.globals |= {"count": count, "item": item, "origin": origin, "spoken": spoken}
    return environment


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _nanobeir(run: Artifacts) -> list[tuple[str, Mapping[str, Any]]]:
    """The public sets that were asked for, by name; one that could not be had has words instead of numbers."""
    found = (run.comparison.get("retention") or {}).get("nanobeir") or {}
    sets = list((found.get("sets") or {}).items())
    if run.redacted:  # the words may name a file of this machine
        return [(name, one if one["measured"] else {**one, "words": "not measured"}) for name, one in sets]
    return sets
