"""The redacted page: canaries stand in every text of documents, queries and settings, and none is found in the page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from report.runs import FINDING, Kind, make_run, make_similarity_run
from shoptalk.report.artifacts import read_artifacts
from shoptalk.report.page import render
from shoptalk.report.redacting import LEFT_OUT, redacted
from shoptalk.workspace import StageContext

SHOWN = (
    "query", "title", "text", "file", "term", "hears", "unseen", "cluster", "evidence", "advice", "candidate", "slice", "system",
    "llm", "persona", "input", "report", "base", "reason", "kind", "nano",
)  # fmt: skip
"""Canaries that the full page shows, so that their absence means something."""

KIND = Kind(
    query="canary-query {i} of them?",
    title="canary-title > part {i}",
    text="canary-text {i}. ",
    term="canary-term",
    candidate="/home/someone/canary-candidate",
    source="canary-file",
    findings=(FINDING | {"evidence": "canary-evidence", "advice": "canary-advice"},),
)
SETTINGS = {
    "input": {"source": "/home/someone/canary-input", "test_queries": "canary-labels.jsonl"},
    "report": {"title": "canary-report"},
    "model": {"base": "/home/someone/canary-base", "query_prompt": "canary-prompt: "},
    "llm": {"provider": "openai", "model": "canary-llm", "persona": "canary-persona at night", "base_url": "http://canary"},
    "queries": {"review": "canary-review.csv"},
    "diagnose": {"controls": "canary-controls.txt"},
    "select": {"retention": "canary-retention"},
}  # fmt: skip


def planted(folder: Path) -> StageContext:
    """A run with a canary in every text that comes from outside."""
    stage = make_run(folder, KIND, SETTINGS)
    _change(folder / "baseline" / "gate.json", lambda gate: gate | {
        "reasons": [*gate["reasons"], "/home/someone/canary-candidate reaches nDCG@10 0.560: worth having; canary-reason/ too"],
    })  # fmt: skip
    _change(folder / "diagnosis" / "vocabulary.json", _hears)
    _change(
        folder / "diagnosis" / "controls.json",
        lambda drift: drift | {"worst": "canary-worst", "made": {"worst": "canary"}},
    )
    _change(folder / "diagnosis" / "map.json", lambda drawn: drawn | {
        "points": [point | {"id": f"{point['id']}"} for point in drawn["points"]],
        "clusters": [row | {"label": "canary-cluster"} for row in drawn["clusters"]],
    })  # fmt: skip
    _change(folder / "evaluation" / "comparison.json", _compared)
    _change(folder / "queries" / "yields.json", lambda found: found | {
        "kinds": {"canary-kind": next(iter(found["kinds"].values()))} | found["kinds"],
    })  # fmt: skip
    _change(
        folder / "queries" / "usage.json", lambda usage: usage | {"model": "canary-llm", "provider": "canary-provider"}
    )
    rows = [json.loads(line) for line in (folder / "evaluation" / "per_query.jsonl").read_text().splitlines()]
    rows = [row | {"kind": "canary-kind", "language": "canary-language"} for row in rows]
    (folder / "evaluation" / "per_query.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _rename(folder)
    return stage


def test_no_text_of_documents_queries_or_settings_is_in_the_redacted_page(tmp_path: Path) -> None:
    run = read_artifacts(planted(tmp_path))
    full = render(run).lower()
    assert [name for name in SHOWN if not re.search(f"canary.{name}", full)] == []
    page = render(run, redact=True).lower()
    assert [page[m.start() - 60 : m.end() + 40] for m in re.finditer("canary|someone|lone-id", page)] == []


def test_numbers_stay_and_queries_are_their_lines(tmp_path: Path) -> None:
    run = read_artifacts(planted(tmp_path))
    page = render(run, redact=True)
    block = json.loads(page.split('id="explorer-data">')[1].split("</script>")[0])
    assert [query["t"] for query in block["queries"]] == [f"Query {i}" for i in range(1, 61)]
    assert [query["c"] for query in block["queries"]] == [round(row["change"], 4) for row in run.per_query]
    corpus = (tmp_path / "dataset" / "corpus.jsonl").read_text().splitlines()
    first = run.ranking("base", [run.per_query[0]["query_id"]])[run.per_query[0]["query_id"]][0][0]
    line = next(i for i, row in enumerate(corpus, 1) if json.loads(row)["_id"] == first)
    assert block["passages"][block["queries"][0]["B"][1]] == [f"Passage {line}", 0, ""]
    for part in ("What was kept of everything else", "Candidate 1", "Source 1", "Term 1", "Cluster 1", "Kind 1", "for a language model",
                 "One sided bias", "Queries from outside the domain moved toward it", "This copy holds no text"):  # fmt: skip
        assert part in page, part


def test_the_full_page_and_the_run_are_untouched(tmp_path: Path) -> None:
    run = read_artifacts(planted(tmp_path))
    before = render(run)
    redacted(run)
    render(run, redact=True)
    assert render(run) == before
    assert "This copy holds no text" not in before


def test_the_redacted_page_is_always_the_same(tmp_path: Path) -> None:
    run = read_artifacts(planted(tmp_path))
    assert render(run, redact=True) == render(read_artifacts(planted(tmp_path / "again")), redact=True)


def test_settings_keep_numbers_defaults_and_words_from_a_fixed_list(tmp_path: Path) -> None:
    settings = {"train": {"epochs": 7, "method": "lora"}, "evaluate": {"resamples": 300}} | SETTINGS
    run = redacted(read_artifacts(make_run(tmp_path, KIND, settings)))
    assert (run.settings.train.epochs, run.settings.train.method) == (7, "lora")
    assert run.settings.evaluate.resamples == 300
    assert run.settings.train.learning_rate == "auto"
    assert run.settings.llm.provider == "openai"
    assert run.settings.llm.persona == run.settings.input.source == run.settings.diagnose.controls == LEFT_OUT


def test_sentences_of_our_own_keep_their_numbers(tmp_path: Path) -> None:
    run = redacted(read_artifacts(planted(tmp_path)))
    assert run.comparison["reasons"][0].startswith("the tuned model is better: nDCG@10 +0.")
    assert f"({LEFT_OUT}) reaches nDCG@10 0.560: worth having" in run.gate["reasons"][-1]


def test_a_run_of_an_earlier_version_is_redacted_too(tmp_path: Path) -> None:
    stage = make_run(
        tmp_path, Kind(assessed=False, trained_on=False, query="canary {i}", title="canary", text="canary ")
    )
    (tmp_path / "diagnosis" / "vocabulary.json").unlink()
    assert "canary" not in render(read_artifacts(stage), redact=True)


@pytest.mark.parametrize("assessed", [True, False])
def test_scored_pairs_are_redacted_too(tmp_path: Path, assessed: bool) -> None:
    stage = make_similarity_run(tmp_path, Kind(query="canary {i}", assessed=assessed))
    run = read_artifacts(stage)
    assert "canary" in render(run)
    page = render(run, redact=True)
    assert "canary" not in page
    assert "Sentence 1" not in page
    assert "Pair 1" in page


def _change(path: Path, change: Any) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")


def _hears(told: dict[str, Any]) -> dict[str, Any]:
    terms = [row | {"hears": ["canary-hears"], "kind": "canary-kind"} for row in told["terms"]]
    return told | {"terms": terms, "uncovered": [f"canary-unseen {i}" for i in range(3)]}


def _compared(found: dict[str, Any]) -> dict[str, Any]:
    slices = [
        row | {"name": f"canary-slice {i}"} if row["by"] == "source" else row for i, row in enumerate(found["slices"])
    ]
    slices.append(slices[0] | {"by": "query kind", "name": "canary-reason/"})
    slices.append(slices[0] | {"by": "query language", "name": "canary-language"})
    table = [row | {"system": "canary-system"} if row["system"].endswith("-run") else row for row in found["table"]]
    found["retention"]["nanobeir"]["sets"]["NanoMSMARCO"]["words"] = "not measured: /home/someone/canary-nano"
    return found | {"slices": slices, "table": table, "labels": {"file": "canary-labels.csv", "judgements": 3}}


def _rename(folder: Path) -> None:
    """Ids may be names of files: those of a passage that the corpus has lost must not be told either."""
    path = folder / "evaluation" / "base.trec"
    path.write_text(path.read_text().replace("\tp1\t", "\tlone-id.md\t"), encoding="utf-8")
    path = folder / "diagnosis" / "map.json"
    path.write_text(path.read_text().replace('"id": "p2"', '"id": "lone-id.md"'), encoding="utf-8")
