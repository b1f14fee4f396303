"""The team's own words before and after: what the base model hears, which passages are a term's own, coverage, the finding."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from shoptalk.diagnosis.diagnosing import finder
from shoptalk.diagnosis.evidence import Evidence
from shoptalk.diagnosis.vocabulary import coverage, study
from shoptalk.models.encoder import TorchEncoder, load_encoder
from shoptalk.records import Dataset, Example, Passage
from shoptalk.settings import BUILTIN_MODEL, ModelSettings, make_settings
from toy import toy_similarity

ENDS = ("came late", "was seen", "is new", "helps us", "has no name", "costs money", "stood there", "will do")
MEETINGS = [f"A lessons learned meeting {end}." for end in ENDS]
MODELS = [f"The LLM {end} on the graphics card." for end in ENDS]
ASKED = ["Who takes part in an LLM?", "Where are LLMs held?", "How long is an LLM?"]


class Taught:
    """The encoder `base`, which reads `word` in a query as what it means."""

    digest = "taught"

    def __init__(self, base: TorchEncoder, word: str, means: str) -> None:
        self.base, self.word, self.means = base, word, means

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        return self.base.encode_queries([text.replace(self.word, self.means) for text in texts])

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        return self.base.encode_passages(texts)


@pytest.fixture(scope="module")
def minilm() -> TorchEncoder:
    return load_encoder(BUILTIN_MODEL, ModelSettings(device="cpu", precision="fp32"))


def evidence_of(base: Any, tuned: Any, questions: Sequence[str] = ASKED, **settings: Any) -> Evidence:
    passages = {f"p{i}": Passage(f"p{i}", text, "Guide", f"d{i}.md") for i, text in enumerate([*MEETINGS, *MODELS])}
    dataset = Dataset("retrieval", passages, {}, {"train": {}, "dev": {}})
    examples = [Example(f"q{i}", f"p{i}", text, passages[f"p{i}"].content) for i, text in enumerate(questions)]
    chosen = make_settings({"diagnose": {"general_words": 600} | settings})
    return Evidence(chosen, dataset, {}, {}, [], {}, examples, [], base, tuned)


def test_a_taught_acronym_is_nearer_to_what_the_team_means(minilm: TorchEncoder) -> None:
    evidence = evidence_of(minilm, Taught(minilm, "LLM", "lessons learned meeting"))
    told = study(evidence)
    first = told.terms[0]
    assert (first.text, first.labelled, first.meant) == ("LLM", 3, "lessons learned meeting")
    assert first.before.near < 0.1 < first.after.near
    assert first.change == pytest.approx(first.after.near - first.before.near)
    assert first.before.place > first.after.place == 1
    assert not first.before.found[0].own
    assert all(hit.own for hit in first.after.found)
    assert [term.change for term in told.terms] == sorted((t.change for t in told.terms), key=abs, reverse=True)


def test_the_same_model_twice_changes_nothing(minilm: TorchEncoder) -> None:
    assert {term.change for term in study(evidence_of(minilm, minilm)).terms} == {0.0}


def test_what_is_heard_are_general_words_unlike_the_term_and_unlike_each_other(minilm: TorchEncoder) -> None:
    told = {term.text: term for term in study(evidence_of(minilm, minilm)).terms}
    heard = told["lessons learned meeting"].hears
    assert 1 <= len(heard) <= 5
    assert not any(word.startswith(("lesson", "learn", "meet")) for word in heard)
    assert len({word[:5] for word in heard}) == len(heard)


def test_without_labelled_queries_a_terms_own_passages_are_those_that_use_it(minilm: TorchEncoder) -> None:
    told = {term.text: term for term in study(evidence_of(minilm, minilm, ["What is new?"])).terms}
    assert (told["LLM"].labelled, told["LLM"].meant) == (0, "")
    assert told["LLM"].before.found[0].own


def test_the_record_is_json_without_nan(minilm: TorchEncoder) -> None:
    record = json.loads(json.dumps(asdict(study(evidence_of(minilm, minilm))), allow_nan=False))
    assert record["found"] >= len(record["terms"]) > 0
    assert record["terms"][0].keys() >= {"text", "meanings", "coverage", "hears", "before", "after", "change"}


def test_coverage_counts_queries_and_passages_with_plurals_and_not_parts_of_words(minilm: TorchEncoder) -> None:
    evidence = evidence_of(minilm, minilm, [*ASKED, "What is an LLMX, or an llm?"])
    found = coverage(evidence.terms, evidence)
    assert (found["LLM"].queries, found["LLM"].positives) == (3, 0)
    assert (found["lessons learned meeting"].queries, found["lessons learned meeting"].positives) == (0, 4)


def test_no_terms_are_measured_when_none_are_wanted_or_there_are_no_documents(minilm: TorchEncoder) -> None:
    assert study(evidence_of(minilm, minilm, terms=0)).terms == ()
    pairs = Evidence(make_settings({}), toy_similarity(), {}, {}, [], {}, [], [], minilm, minilm)
    assert study(pairs).found == 0
    assert finder("uncovered-terms")(pairs) is None


WORDS = "timesheet servicemember craniosynostosis filehandle handover reimbursement telework billable".split()


def uncovered(covered: int, minilm: TorchEncoder) -> Evidence:
    """Eight terms, of which the first `covered` stand in training queries."""
    texts = [f"The {word} {end}." for word in WORDS for end in ENDS if end != "costs money"]
    passages = {f"p{i}": Passage(f"p{i}", text, "", f"d{i}.md") for i, text in enumerate(texts)}
    examples = [Example(f"q{i}", "p0", f"Which {word}?", "An answer.") for i, word in enumerate(WORDS[:covered])]
    dataset = Dataset("retrieval", passages, {}, {"train": {}, "dev": {}})
    return Evidence(make_settings({}), dataset, {}, {}, [], {}, examples, [], minilm, minilm)


def test_many_uncovered_terms_are_a_finding(minilm: TorchEncoder) -> None:
    found = finder("uncovered-terms")(uncovered(2, minilm))
    assert found is not None
    assert (found.name, found.severity) == ("uncovered-terms", "info")
    assert "6 of the 8 most telling terms" in found.evidence
    assert "billable" in found.evidence
    assert "timesheet" not in found.evidence


def test_few_uncovered_terms_are_none(minilm: TorchEncoder) -> None:
    assert finder("uncovered-terms")(uncovered(5, minilm)) is None
