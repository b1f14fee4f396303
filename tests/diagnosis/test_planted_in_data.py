"""Defects planted in documents, queries and measurements: each is found, and sound ones are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoptalk.diagnosis import truncated
from shoptalk.diagnosis.controls import made_controls
from shoptalk.diagnosis.diagnosing import finder
from shoptalk.diagnosis.evidence import Evidence
from shoptalk.diagnosis.leakage import near_duplicates
from shoptalk.diagnosis.one_sided import made_drift
from shoptalk.evaluation.retention import RetentionSet
from shoptalk.models.encoder import Encoder, TorchEncoder, load_encoder
from shoptalk.records import Dataset, Example, Finding, Passage, Qrels, Query
from shoptalk.settings import ModelSettings, make_settings
from shoptalk.vocabulary import Background
from toy import toy_retrieval, toy_similarity


def found(name: str, evidence: Evidence) -> Finding:
    finding = finder(name)(evidence)
    assert finding is not None
    assert finding.name == name
    assert any(character.isdigit() for character in finding.evidence)
    assert finding.advice
    return finding


def evidence_of(
    passages: Sequence[str], pairs: Sequence[tuple[str, int]], base: Encoder, tuned: Encoder | None = None, **parts: Any
) -> Evidence:
    """A run on passages and (query, index of its passage)."""
    known = {f"p{i}": Passage(f"p{i}", text, source=f"d{i}.md") for i, text in enumerate(passages)}
    queries = {f"q{i}": Query(f"q{i}", text) for i, (text, _) in enumerate(pairs)}
    train: Qrels = {f"q{i}": {f"p{at}": 1} for i, (_, at) in enumerate(pairs)}
    dataset = Dataset("retrieval", known, queries, {"train": train, "dev": {}}, {name: name for name in known})
    examples = [Example(f"q{i}", f"p{at}", text, known[f"p{at}"].content) for i, (text, at) in enumerate(pairs)]
    settings = make_settings(parts.pop("settings", {}))
    return Evidence(settings, dataset, {}, {}, [], {}, examples, [], base, tuned or base, **parts)


# Truncated passages

FILLER = " ".join(["one two three four five"] * 16)  # 80 tokens; the tiny model reads 64
LONG = [
    f"the {word} of the team {FILLER} and the {word} {end}" for word, end in [("refund", "form"), ("ticket", "price")]
]


@pytest.fixture(scope="module")
def tiny(tiny_bert: Path) -> TorchEncoder:
    return load_encoder(str(tiny_bert), ModelSettings(device="cpu", precision="fp32"))


def test_answers_behind_the_maximum_length_are_found(tiny: TorchEncoder) -> None:
    finding = found(
        "truncated-passages", evidence_of([*LONG, "a short one"], [("form", 0), ("price", 1), ("one", 2)], tiny)
    )
    assert finding.severity == "warning"
    assert "2 of 3 passages (66.7%) are longer than the 64 tokens" in finding.evidence
    assert "of 3 judged train and dev pairs 2 (66.7%)" in finding.evidence


def test_answers_in_the_part_that_is_read_are_only_told(tiny: TorchEncoder) -> None:
    finding = found("truncated-passages", evidence_of([*LONG, "a short one"], [("team", 0), ("team", 1)], tiny))
    assert finding.severity == "info"
    assert "of 2 judged train and dev pairs 0 (0.0%)" in finding.evidence


def test_passages_that_fit_are_no_finding(tiny: TorchEncoder, clean: Evidence) -> None:
    assert finder("truncated-passages")(evidence_of(["a short one", "the refund form"], [("form", 1)], tiny)) is None
    measured = truncated.measure(clean)
    assert measured is not None
    assert (measured.max_tokens, measured.passages, measured.over, measured.pairs) == (64, 132, 0, 112)


def test_few_long_passages_nobody_asks_for_are_no_finding(tiny: TorchEncoder) -> None:
    short = [
        f"the {word} form" for word in "refund ticket hotel travel policy invoice member office room train".split()
    ]
    assert finder("truncated-passages")(evidence_of([LONG[0], *short, *short], [("refund", 1)], tiny)) is None


def test_a_model_without_tokenizer_is_not_asked(hash_encoder: Encoder) -> None:
    assert truncated.measure(evidence_of([LONG[0]], [("form", 0)], hash_encoder)) is None


# Hubs

THINGS = (
    "printer router laptop badge parking-card desk-phone locker bicycle-room gym-pass canteen-card projector headset webcam "
    "key-fob visitor-pass fax-machine whiteboard coffee-machine vending-machine elevator-card air-conditioner window-blind "
    "standing-desk office-chair notebook monitor docking-station keyboard mouse scanner shredder safe-deposit first-aid-kit "
    "fire-alarm smoke-detector sprinkler backup-generator server-room switchboard intercom doorbell mailbox franking-machine "
    "laminator binding-machine label-printer hole-punch stapler paper-tray toner-cartridge"
).split()
ASKS = [f"How do I order a new {thing.replace('-', ' ')}?" for thing in THINGS]
ANSWERS = [
    f"The {thing.replace('-', ' ')} is kept in cabinet {i} of building {i % 7}." for i, thing in enumerate(THINGS)
]
OTHERS = [f"Meeting room {i} has {i + 2} seats and is on floor {i % 9}." for i in range(70)]
PLACES = [*ANSWERS, *OTHERS]
GLOSSARY = (
    "How do I order a new one? How do I order a new thing? How to order anything new: frequently asked questions."
)


def test_a_page_of_questions_that_wins_everywhere_is_a_hub(minilm: Encoder) -> None:
    pairs = [(text, i) for i, text in enumerate(ASKS)]
    finding = found("hub-passages", evidence_of([*PLACES, GLOSSARY], pairs, minilm))
    assert finding.severity == "info"  # both models have it
    assert "How do I order a new one?" in finding.evidence
    assert f"({len(ASKS)} before, {len(ASKS)} after)" in finding.evidence


def test_a_hub_that_training_made_is_a_warning(minilm: Encoder) -> None:
    class Pulled:
        """The model after training that pulled one passage into the middle of all queries."""

        digest = "pulled"
        encode_queries = staticmethod(minilm.encode_queries)

        def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
            vectors = minilm.encode_passages(texts)
            middle = minilm.encode_queries(ASKS).mean(axis=0)
            vectors[texts.index(ANSWERS[3])] = middle / np.linalg.norm(middle)
            return vectors

    finding = found("hub-passages", evidence_of(PLACES, [(text, i) for i, text in enumerate(ASKS)], minilm, Pulled()))
    assert finding.severity == "warning"
    assert "The badge is kept" in finding.evidence


def test_passages_found_for_what_they_answer_are_no_hubs(minilm: Encoder) -> None:
    pairs = [(text, i) for i, text in enumerate(ASKS)]
    assert finder("hub-passages")(evidence_of(PLACES, pairs, minilm)) is None
    everywhere = evidence_of([*PLACES, GLOSSARY], [(text, len(PLACES)) for text in ASKS], minilm)
    assert finder("hub-passages")(everywhere) is None
    assert finder("hub-passages")(evidence_of([*PLACES, GLOSSARY], pairs[:10], minilm)) is None  # too few to tell


# Test set too small


def measured(low: float, high: float, queries: int, metric: str = "ndcg@10") -> dict[str, Any]:
    delta = {metric: {"value": (low + high) / 2, "ci95": [low, high], "p": 0.1}}
    return {"metric": metric, "delta": delta, "queries": queries, "groups": queries - 1}


def test_the_twenty_queries_of_a_real_run_are_too_few(clean: Evidence) -> None:
    finding = found("small-test", clean)
    assert finding.severity == "warning"
    assert "20 test queries in 20 groups" in finding.evidence


@pytest.mark.parametrize(
    ("comparison", "severity"),
    [
        (measured(-0.02, 0.10, 200), "warning"),
        (measured(0.10, 0.24, 200), "info"),
        (measured(0.01, 0.05, 200), None),
        (measured(-0.02, 0.02, 200), None),
        (measured(0.01, 0.05, 49), "warning"),
    ],
    ids=["unsure", "sure but wide", "narrow", "narrow around zero", "few"],
)
def test_a_wide_interval_or_few_queries_are_found(clean: Evidence, comparison: Any, severity: str | None) -> None:
    finding = finder("small-test")(replace(clean, comparison=comparison))
    assert (finding.severity if finding else None) == severity


def test_how_many_queries_would_do_is_said(clean: Evidence) -> None:
    finding = found("small-test", replace(clean, comparison=measured(-0.05, 0.15, 100)))
    assert "about 400 would bring the interval to 0.05" in finding.advice
    assert "in 99 groups" in finding.evidence


# Query style


def asked_like(clean: Evidence, train: Sequence[str], test: Sequence[str], language: str = "") -> Evidence:
    examples = [Example(f"q{i}", "p0", text, "An answer.") for i, text in enumerate(train)]
    rows = [{"query_id": f"t{i}", "text": text, "language": language} for i, text in enumerate(test)]
    queries = {f"q{i}": Query(f"q{i}", text, language="en" if language else "") for i, text in enumerate(train)}
    return replace(
        clean, examples=examples, per_query=rows, dataset=replace(clean.dataset, queries=queries), rankings={}
    )


QUESTIONS = [f"How can the team {word} {i}?" for i in range(20) for word in ("report", "approve")]
SAME = [f"Where does the manager {word} {i}?" for i in range(20) for word in ("claim", "report")]
KEYWORDS = [f"budget {i}" for i in range(40)]


def test_keywords_after_training_on_questions_are_another_style(clean: Evidence) -> None:
    finding = found("query-style-shift", asked_like(clean, QUESTIONS, KEYWORDS))
    assert finding.severity == "warning"
    assert "questions 100% in training, 0% in the test" in finding.evidence
    assert "length in words 6 in training, 2 in the test (effect -1.00" in finding.evidence


def test_questions_of_one_kind_are_one_style(clean: Evidence) -> None:
    assert finder("query-style-shift")(asked_like(clean, QUESTIONS, SAME)) is None
    assert finder("query-style-shift")(asked_like(clean, QUESTIONS, KEYWORDS[:10])) is None  # too few to tell


def test_another_language_is_another_style(clean: Evidence) -> None:
    finding = found("query-style-shift", asked_like(clean, QUESTIONS, SAME, "de"))
    assert "language en 100% in training, de 100% in the test (effect +1.00" in finding.evidence


def test_words_that_the_documents_hardly_use_are_another_style(clean: Evidence) -> None:
    train = [f"the report on budget of {i % 7}" for i in range(40)]
    rare = [f"the zymurgy on quokkas of {i % 7}" for i in range(40)]
    finding = found(
        "query-style-shift",
        asked_like(clean, list(dict.fromkeys(_spelled(train))), list(dict.fromkeys(_spelled(rare)))),
    )
    assert "share of rare words" in finding.evidence


def _spelled(texts: Sequence[str]) -> list[str]:
    return [f"{text} {'the ' * (i // 7)}".strip() for i, text in enumerate(texts)]


# What was forgotten


def kept(value: float, low: float, high: float, **more: Any) -> dict[str, Any]:
    delta = {"value": value, "ci95": [low, high], "p": 0.01}
    return {"queries": 150, "base": 0.8, "tuned": 0.8 + value, "delta": delta, "limit": 0.02, **more}


@pytest.mark.parametrize(
    ("general", "severity"),
    [
        (kept(-0.05, -0.07, -0.03), "high"),
        (kept(-0.03, -0.06, -0.001, broken=True), "high"),
        (kept(-0.03, -0.06, 0.01, broken=False), "warning"),
        (kept(-0.01, -0.03, 0.01, broken=False), None),
        (kept(0.02, -0.03, 0.05), None),
        (None, None),
    ],
)
def test_a_loss_on_general_text_is_found(clean: Evidence, general: Any, severity: str | None) -> None:
    comparison = {**clean.comparison, "retention": {"general": general, "cross_lingual": None}}
    finding = finder("forgetting")(replace(clean, comparison=comparison))
    assert (finding.severity if finding else None) == severity


@pytest.mark.parametrize("name", ["forgetting", "lost-cross-lingual"])
def test_runs_from_before_there_was_a_retention_set_have_no_such_finding(name: str, clean: Evidence) -> None:
    older = {key: value for key, value in clean.comparison.items() if key != "retention"}
    assert finder(name)(replace(clean, comparison=older)) is None
    assert finder(name)(replace(clean, comparison={**older, "retention": None})) is None


def test_nanobeir_counts_where_it_was_measured(clean: Evidence) -> None:
    def said(nanobeir: Any) -> Finding | None:
        retention = {"general": kept(0.0, -0.01, 0.01), "nanobeir": nanobeir}
        return finder("forgetting")(replace(clean, comparison={**clean.comparison, "retention": retention}))

    lost = said(kept(-0.05, -0.07, -0.03))
    assert lost is not None
    assert lost.severity == "high"
    assert "150 NanoBEIR's queries: nDCG@10 0.800 before, 0.750 after" in lost.evidence
    assert said(kept(0.0, -0.01, 0.01)) is None
    assert (
        said({"measured": False, "queries": 0, "words": "not measured: the Hub could not be reached", "sets": {}})
        is None
    )


@pytest.mark.parametrize(
    ("abroad", "severity"),
    [
        ({**kept(-0.1, -0.15, -0.05), "measured": True}, "high"),
        ({**kept(-0.03, -0.06, 0.01), "measured": True}, "warning"),
        ({**kept(0.0, -0.02, 0.02), "measured": True, "languages": {"de": kept(-0.2, -0.3, -0.1, able=True)}}, "high"),
        ({**kept(0.0, -0.02, 0.02), "measured": True, "languages": {"de": kept(-0.05, -0.2, 0.1, able=True)}}, None),
        ({**kept(0.0, -0.02, 0.02), "measured": True, "languages": {"ja": kept(-0.2, -0.3, -0.1, able=False)}}, None),
        ({"queries": 0, "measured": False, "languages": {"ja": kept(-0.2, -0.3, -0.1, able=False)}}, None),
        (None, None),
    ],
    ids=["all", "all, unsure", "one language", "one by chance", "the base could not", "nothing the base could", "none"],
)
def test_lost_languages_are_found_where_the_base_could(clean: Evidence, abroad: Any, severity: str | None) -> None:
    retention = {"general": kept(0.0, -0.01, 0.01), "cross_lingual": abroad}
    finding = finder("lost-cross-lingual")(replace(clean, comparison={**clean.comparison, "retention": retention}))
    assert (finding.severity if finding else None) == severity


def test_the_language_that_was_lost_is_named(clean: Evidence) -> None:
    languages = {"de": kept(-0.2, -0.3, -0.1, able=True), "fr": kept(0.0, -0.1, 0.1, able=True)}
    retention = {"cross_lingual": {**kept(-0.01, -0.03, 0.01), "languages": languages, "measured": True}}
    finding = found("lost-cross-lingual", replace(clean, comparison={**clean.comparison, "retention": retention}))
    assert "de: nDCG@10 0.800 before, 0.600 after" in finding.evidence
    assert "fr" not in finding.evidence


def test_a_model_that_forgot_is_found_as_evaluate_measures_it(clean: Evidence) -> None:
    """The toy task stands for general text: the model that knows it is the base, the one that does not is the tuned one."""
    toy = toy_retrieval()
    half = dict(list(toy.qrels["train"].items())[:60])
    abroad = {f"{q}-de": judged for q, judged in half.items()}
    queries = {**toy.queries, **{f"{q}-de": Query(f"{q}-de", toy.queries[q].text, language="de") for q in half}}
    general = RetentionSet(replace(toy, queries=queries, qrels={"report": {**half, **abroad}}))
    knows, forgot = general.measure(clean.tuned, "report"), general.measure(clean.base, "report")
    for name in ("forgetting", "lost-cross-lingual"):
        lost = general.compare(knows, forgot, clean.settings.select, 200, 3)
        assert found(name, replace(clean, comparison={**clean.comparison, "retention": lost})).severity == "high"
        same = general.compare(knows, knows, clean.settings.select, 200, 3)
        assert finder(name)(replace(clean, comparison={**clean.comparison, "retention": same})) is None


# Controls that are made


def test_made_controls_are_general_words_that_the_corpus_does_not_use(minilm: Encoder) -> None:
    background = evidence_of(ANSWERS, [(ASKS[0], 0)], minilm).background
    assert background is not None
    rng = np.random.default_rng(1)
    made = made_controls(background, {"football", "religious"}, 3_000, rng)
    assert len(made) > 1_000
    assert all(text.startswith("What is ") for text in made)
    assert not [text for text in made if "footb" in text or "relig" in text]
    assert any("religi" in text for text in made_controls(background, set(), 4_000, rng))
    alone = made_controls(background, set(), 10, rng, english=False)
    assert not any(" " in text for text in alone)
    assert made_controls(background, set(), 0, rng) == []


class Flat:
    """A background whose words all stand in the corpus."""

    def words(self, most: int) -> list[str]:
        return ["cabinet", "building"][:most]


def test_no_controls_are_made_where_the_corpus_uses_every_word() -> None:
    background: Background = Flat()  # type: ignore[assignment]
    assert made_controls(background, {"cabinet", "building"}, 5, np.random.default_rng(1)) == []


class Toward:
    """An encoder after one-sided training: every query is pulled to the middle of the domain, unless it is of the domain."""

    digest = "toward"

    def __init__(self, base: Encoder, pull: float) -> None:
        self.base, self.pull = base, pull
        self.encode_passages = base.encode_passages

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        middle = self.base.encode_passages(ANSWERS).mean(axis=0)
        vectors = self.base.encode_queries(texts) + self.pull * middle
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_one_sided_training_shows_on_controls_that_are_made_for_the_corpus(minilm: Encoder) -> None:
    evidence = evidence_of(ANSWERS, [(text, i) for i, text in enumerate(ASKS)], minilm, Toward(minilm, 0.4))
    finding = found("one-sided-bias", evidence)  # no control queries were given
    assert "40 control queries made for this corpus" in finding.evidence
    drift = made_drift(evidence)
    assert drift is not None
    assert drift.low > 0.03
    assert finder("one-sided-bias")(replace(evidence, tuned=minilm)) is None
    off = replace(evidence, settings=make_settings({"diagnose": {"made_controls": 0}}))
    assert finder("one-sided-bias")(off) is None


# Near-duplicates, checked against the definition


def test_near_duplicates_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(5)
    words = "alpha beta gamma delta epsilon zeta".split()
    left, right = ([" ".join(rng.choice(words, rng.integers(1, 9))) for _ in range(120)] for _ in range(2))
    right += [f"{text}!" for text in left[:10]]

    def grams(text: str) -> set[tuple[str, ...]]:
        own = text.strip("!").split()
        size = min(3, len(own))
        return {tuple(own[i : i + size]) for i in range(len(own) - size + 1)}

    for threshold in (0.5, 0.8, 1.0):
        likeness = [[len(grams(a) & grams(b)) / len(grams(a) | grams(b)) for b in right] for a in left]
        expected = {i for i, row in enumerate(likeness) if max(row) >= threshold}
        twins = near_duplicates(left, right, threshold)
        assert twins.keys() == expected
        assert all(likeness[i][j] == max(likeness[i]) for i, j in twins.items())


def test_nothing_is_like_nothing() -> None:
    assert near_duplicates([], ["a b c"], 0.8) == near_duplicates(["a b c"], [], 0.8) == {}
    assert near_duplicates(["?!", ""], ["...", ""], 0.8) == {}


# Scored pairs have none of what is asked of documents

RETRIEVAL_ONLY = ("leakage", "hub-passages", "truncated-passages", "query-style-shift", "uncovered-terms")


@pytest.mark.parametrize("name", RETRIEVAL_ONLY)
def test_scored_pairs_have_no_such_finding(name: str, clean: Evidence) -> None:
    assert finder(name)(replace(clean, dataset=toy_similarity())) is None
