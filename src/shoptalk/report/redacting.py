"""A run without any text of the documents or queries, for a report that is forwarded.

One place decides what may be told: texts are left out or numbered here, before anything is drawn, and the page does not know the
originals. A query's number is its line in evaluation/per_query.jsonl, a passage's its line in dataset/corpus.jsonl, so that whoever
has the run folder can look them up. Sentences of numbers that shoptalk's own code wrote stay, without the names in them; names of
models, files and folders do not, nor any setting that a person typed, nor the evidence of a finding, which quotes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from shoptalk.report.artifacts import Artifacts
from shoptalk.settings import Settings

LEFT_OUT = "left out"
_LANGUAGE = re.compile(r"[a-z]{2,3}")
_LABELS = {
    "base": "Base model", "base-without-prompts": "Base without prompts", "bm25": "BM25", "fused": "Base and BM25 fused",
    "tuned": "Tuned model", "base-fused": "Base and BM25 fused",
}  # fmt: skip
_OWN_SLICES = ("query length", "passage type", "rare words")
_KINDS = (
    "labelled", "click", "pair", "faq", "heading", "path", "title", "acronym", "definition", "term", "template", "sentence",
    "key-phrase", "natural", "keywords", "paraphrase", "comparison", "how-to", "multi-passage",
)  # fmt: skip
_GATE = (
    "decision", "metric", "score", "ci95", "queries", "base", "bm25", "bm25_ci95", "training_pairs", "test_queries", "headroom",
    "power", "forecast", "good", "data",
)  # fmt: skip
_COMPARISON = (
    "verdict", "rule", "metric", "queries", "groups", "won", "lost", "unchanged", "base", "tuned", "bm25", "delta", "holes", "fusion",
)  # fmt: skip
_FINDINGS = {
    "worse-than-base": "The tuned model is worse than the base model",
    "unchanged-embeddings": "Training changed next to nothing",
    "leakage": "Test queries or their answers were seen in training",
    "prompt-mismatch": "Prompts differ between training, evaluation and serving",
    "memorised": "The training data was learned by heart",
    "collapse": "Vectors crowd together or lost dimensions",
    "forgetting": "General text is found less well than before",
    "lost-cross-lingual": "Questions in other languages are answered less well than before",
    "one-sided-bias": "Queries from outside the domain moved toward it",
    "hub-passages": "A few passages are found for many queries that they do not answer",
    "truncated-passages": "Passages are longer than the model reads",
    "duplicates": "Many passages are near-duplicates of others",
    "query-style-shift": "The test queries are written unlike the training queries",
    "small-test": "The test set is small for the gain that was measured",
    "uncovered-terms": "Many of the team's terms are not in the training data",
}


def redacted(run: Artifacts) -> Artifacts:
    """The same run with every text of documents and queries left out. The run that is given is not changed."""
    terms, told = _Numbered("Term"), _Sentences(run)
    return replace(
        run,
        settings=_settings(run.settings),
        audit={**run.audit, "test_size_note": told(run.audit.get("test_size_note", ""))},
        gate=_gate(run.gate, told),
        comparison=_comparison(run.comparison, told),
        per_query=[_row(row, number, run.is_similarity) for number, row in enumerate(run.per_query, 1)],
        findings=[_finding(finding, number) for number, finding in enumerate(run.findings, 1)],
        controls=_plain(run.controls) if run.controls else run.controls,
        vocabulary=_vocabulary(run.vocabulary, terms),
        yields=_yields(run.yields),
        usage=run.usage and {**run.usage, "model": "a language model", "provider": f"name {LEFT_OUT}"},
        card=_card(run.card, told),
        corpus_map=_map(run.corpus_map, terms),
        redacted=True,
    )


class _Numbered:
    """Texts by number, in the order in which they are first seen."""

    def __init__(self, noun: str) -> None:
        self._noun = noun
        self._seen: dict[str, int] = {}

    def __call__(self, text: str) -> str:
        return f"{self._noun} {self._seen.setdefault(text, len(self._seen) + 1)}"


class _Sentences:
    """Sentences of our own code without the names that may stand in them: of models, of sources, of what a person typed."""

    def __init__(self, run: Artifacts) -> None:
        systems = [str(row[key]) for row in run.gate.get("systems") or () for key in ("name", "label")]
        systems += [str(row["system"]) for row in run.comparison.get("table") or ()]
        slices = [str(row["name"]) for row in run.comparison.get("slices") or () if row["by"] not in _OWN_SLICES]
        names = {*_typed(run.settings), *systems, *slices} - {*_LABELS, *_LABELS.values(), *_KINDS, ""}
        found = "|".join(re.escape(name) for name in sorted(names, key=lambda name: (-len(name), name)))
        self._names = re.compile(rf"(?<!\w)(?:{found})(?!\w)") if found else None

    def __call__(self, text: str) -> str:
        return self._names.sub(f"({LEFT_OUT})", text) if self._names else text


def _gate(gate: Mapping[str, Any], told: _Sentences) -> dict[str, Any]:
    others = _Numbered("Candidate")
    found = {key: gate[key] for key in _GATE if key in gate}
    for key in ("headroom", "power", "forecast"):
        if found.get(key):
            found[key] = {**found[key], "words": told(found[key]["words"])}
    systems = [
        row | {"name": "", "detail": "", "label": _LABELS.get(row["name"]) or others(row["name"])}
        for row in gate.get("systems") or ()
    ]
    reasons = [told(reason) for reason in gate["reasons"]]
    return found | {"systems": systems, "reasons": reasons, "no_forecast": told(gate.get("no_forecast") or "")}


def _comparison(comparison: Mapping[str, Any], told: _Sentences) -> dict[str, Any]:
    others, sources, kinds = _Numbered("System"), _Numbered("Source"), _Numbered("Kind")

    def slice_name(row: Mapping[str, Any]) -> str:
        by, name = row["by"], row["name"]
        if by in _OWN_SLICES or (by.endswith("language") and _LANGUAGE.fullmatch(name)) or name in _KINDS:
            return str(name)
        return sources(name) if by == "source" else kinds(name)

    found = {key: comparison[key] for key in _COMPARISON if key in comparison}
    found["reasons"] = [told(reason) for reason in comparison["reasons"]]
    found["table"] = [
        row | {"system": row["system"] if row["system"] in _LABELS else others(row["system"])}
        for row in comparison.get("table") or ()
    ]
    found["slices"] = [row | {"name": slice_name(row)} for row in comparison.get("slices") or ()]
    if retention := comparison.get("retention"):
        abroad = retention.get("cross_lingual") or {}
        languages = {code: row for code, row in (abroad.get("languages") or {}).items() if _LANGUAGE.fullmatch(code)}
        found["retention"] = {**retention, "set": "", "cross_lingual": {**abroad, "languages": languages}}
        if public := retention.get("nanobeir"):  # why one could not be had may name a folder
            sets = {name: {**row, "words": "not measured"} for name, row in (public.get("sets") or {}).items()}
            found["retention"]["nanobeir"] = {**public, "words": "not measured", "sets": sets}
    if labels := comparison.get("labels"):
        found["labels"] = {"judgements": labels["judgements"]}
    return found


def _row(row: Mapping[str, Any], number: int, is_pair: bool) -> dict[str, Any]:
    kind, language = row.get("kind") or "", row.get("language") or ""
    return {
        **row,
        "text": f"{'Pair' if is_pair else 'Query'} {number:,}",
        "kind": kind if kind in _KINDS else "",
        "language": language if _LANGUAGE.fullmatch(language) else "",
    }


def _finding(finding: Mapping[str, str], number: int) -> dict[str, str]:
    """What a finding of that name says of any run: its evidence and advice may quote."""
    known = finding["name"] in _FINDINGS
    return {
        "name": finding["name"] if known else f"finding-{number}",
        "severity": finding["severity"],
        "evidence": _FINDINGS[finding["name"]] if known else "What was found is left out here",
        "advice": "see its evidence in the full report, which may quote texts",
    }


def _plain(record: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a record."""
    return {key: value for key, value in record.items() if isinstance(value, int | float)}


def _vocabulary(found: Mapping[str, Any], terms: _Numbered) -> dict[str, Any]:
    rows = [
        {
            **_plain(row),
            "text": terms(row["text"]), "kind": "", "meanings": [], "meant": "", "hears": [], "coverage": row["coverage"],
            "before": {**row["before"], "found": []}, "after": {**row["after"], "found": []},
        }
        for row in found["terms"]
    ]  # fmt: skip
    return {**_plain(found), "terms": rows, "uncovered": [terms(term) for term in found["uncovered"]]}


def _yields(found: Mapping[str, Any]) -> dict[str, Any]:
    others = _Numbered("Kind")
    kinds = {
        (name if name in _KINDS else others(name)): {**kind, "samples": {"kept": [], "rejected": []}}
        for name, kind in found.get("kinds", {}).items()
    }
    return {**found, "kinds": kinds} if found else {}


def _card(card: Mapping[str, Any], told: _Sentences) -> dict[str, Any]:
    found = {key: card[key] for key in ("frontier", "constraint", "weight") if key in card}
    return found | ({"words": told(card["words"])} if card.get("words") else {})


def _map(drawn: Mapping[str, Any], terms: _Numbered) -> dict[str, Any]:
    if not drawn:
        return {}
    return {
        **drawn,
        "terms": [{**row, "term": terms(row["term"])} for row in drawn["terms"]],
        "clusters": [{**row, "label": ""} for row in drawn["clusters"]],
    }


# Settings


def _settings(settings: Settings) -> Settings:
    """With every text that a person typed left out. Defaults, numbers, and words from a fixed list stay."""
    update: dict[str, Any] = {}
    for name in type(settings).model_fields:
        section = getattr(settings, name)
        if isinstance(section, BaseModel):
            update[name] = section.model_copy(update=_left_out(section))
    model, llm = update["model"], update["llm"]
    if not settings.model.base.startswith("builtin:"):
        update["model"] = model.model_copy(update={"base": f"a base model (name {LEFT_OUT})"})
    if settings.llm.model:
        update["llm"] = llm.model_copy(update={"model": "a language model"})
    return settings.model_copy(update=update)


def _left_out(section: BaseModel) -> dict[str, str]:
    """field -> "left out" for those that hold a typed text."""
    update = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        own = set(_texts(value)) - _words(field.annotation)
        if own and value != field.get_default(call_default_factory=True):
            update[name] = LEFT_OUT
    return update


def _typed(settings: Settings) -> set[str]:
    """The typed texts themselves, those of four characters and more, since a shorter one would be found everywhere."""
    found = set()
    for name in type(settings).model_fields:
        section = getattr(settings, name)
        if isinstance(section, BaseModel):
            found |= {text for field in _left_out(section) for text in _texts(getattr(section, field))}
    return {text for text in found if len(text) > 3 and not text.startswith("builtin:")}


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _texts(key)
            yield from _texts(one)
    elif isinstance(value, tuple | list | set | frozenset):
        for one in value:
            yield from _texts(one)


def _words(annotation: Any) -> set[str]:
    """The words that an annotation allows: those of every Literal in it."""
    if get_origin(annotation) is Literal:
        return {str(word) for word in get_args(annotation)}
    return set().union(*(_words(one) for one in get_args(annotation)))
