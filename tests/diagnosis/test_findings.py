from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoptalk.diagnosis.controls import CONTROL_QUERIES
from shoptalk.diagnosis.diagnosing import FINDINGS, finder
from shoptalk.diagnosis.evidence import Evidence
from shoptalk.diagnosis.one_sided import control_drift
from shoptalk.models.encoder import Encoder, load_encoder
from shoptalk.records import Dataset, Example, Finding, Passage
from shoptalk.settings import ModelSettings, make_settings
from toy import toy_retrieval, toy_similarity

DIM = 16


class DriftingEncoder:
    """An Encoder whose passages have the cosine `passages` to one axis, and whose queries have `drift`, each more or
    less by `spread`.
    """

    digest = "drifting"

    def __init__(self, drift: float, spread: float = 0.0, passages: float = 0.9) -> None:
        self.drift = drift
        self.spread = spread
        self.passages = passages

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        return self._vectors(texts, [self.passages] * len(texts))

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        return self._vectors(texts, [self.drift + self.spread * (-1) ** i for i in range(len(texts))])

    def _vectors(self, texts: Sequence[str], cosines: Sequence[float]) -> np.ndarray:
        vectors = np.zeros((len(texts), DIM), np.float32)
        for i, (text, cosine) in enumerate(zip(texts, cosines, strict=True)):
            vectors[i, 0] = cosine
            vectors[i, 1 + sum(map(ord, text)) % (DIM - 1)] = np.sqrt(1 - cosine * cosine)
        return vectors


def evidence_of(**parts: Any) -> Evidence:
    """The evidence of a run in which nothing went wrong, but for `parts`."""
    settings = make_settings(parts.pop("settings", {}))
    pairs = toy_retrieval()
    sound: dict[str, Any] = {
        "dataset": pairs,
        "audit": {"passages": 100, "passages_in_near_duplicate_clusters": 4},
        "training": {"base_dev": 0.50, "best_dev": 0.60},
        "log": [{"step": 0, "dev": 0.5}, *({"step": i, "loss": 2.0 - i / 100} for i in range(1, 101))],
        "comparison": {"metric": "ndcg@10", "delta": {"ndcg@10": {"value": 0.05, "ci95": [0.01, 0.09], "p": 0.01}}},
        "examples": [
            Example(q, p, pairs.queries[q].text, pairs.passages[p].content)
            for q, found in pairs.qrels["train"].items()
            for p in found
        ],
        "controls": list(CONTROL_QUERIES),
        "base": DriftingEncoder(0.0),
        "tuned": DriftingEncoder(-0.1, passages=0.7),
    }
    return Evidence(settings=settings, **{**sound, **parts})


def found(name: str, **parts: Any) -> Finding | None:
    return finder(name)(evidence_of(**parts))


# The table


@pytest.mark.parametrize("name", FINDINGS)
def test_every_finding_of_the_table_is_found_by_its_module(name: str) -> None:
    find: Callable[[Evidence], Finding | None] = finder(name)
    assert find.__name__ == "find"
    assert find.__doc__


@pytest.mark.parametrize("name", FINDINGS)
def test_a_sound_run_has_no_finding(name: str) -> None:
    assert found(name) is None


BAD: dict[str, dict[str, Any]] = {
    "worse-than-base": {"training": {"base_dev": 0.6, "best_dev": 0.5}},
    "unchanged-embeddings": {"tuned": DriftingEncoder(0.0)},
    "memorised": {"log": [{"step": 1, "loss": 0.0}]},
    "one-sided-bias": {"tuned": DriftingEncoder(0.3)},
    "duplicates": {"audit": {"passages": 10, "passages_in_near_duplicate_clusters": 9}},
    "uncovered-terms": {
        "dataset": Dataset(
            "retrieval",
            {
                f"p{word}{i}": Passage(f"p{word}{i}", f"The {word} of {i}.", source=f"{word}{i}")
                for word in "timesheet servicemember filehandle handover reimbursement telework".split()
                for i in range(5)
            },
        )
    },
}


@pytest.mark.parametrize("name", BAD)
def test_a_finding_carries_its_name_what_shows_it_and_what_to_do(name: str) -> None:
    finding = found(name, **BAD[name])
    assert finding is not None
    assert finding.name == name
    assert finding.severity in ("info", "warning", "high")
    assert any(character.isdigit() for character in finding.evidence)
    assert finding.advice
    assert set(finding.as_json()) == {"name", "severity", "evidence", "advice"}


# Worse than base


def outcome(value: float, low: float, high: float, base_dev: float = 0.5, best_dev: float = 0.6) -> dict[str, Any]:
    delta = {"ndcg@10": {"value": value, "ci95": [low, high], "p": 0.5}}
    return {
        "comparison": {"metric": "ndcg@10", "delta": delta},
        "training": {"base_dev": base_dev, "best_dev": best_dev},
    }


@pytest.mark.parametrize(
    ("parts", "severity"),
    [
        (outcome(-0.05, -0.09, -0.01), "high"),
        (outcome(-0.05, -0.11, 0.01), "warning"),
        (outcome(0.05, 0.01, 0.09, base_dev=0.6, best_dev=0.5), "warning"),
        (outcome(0.0, 0.0, 0.0), None),
        (outcome(0.0, 0.0, 0.0, base_dev=0.6, best_dev=0.6), None),
        (outcome(0.001, -0.1, 0.1), None),
    ],
)
def test_worse_on_test_or_on_dev_is_found(parts: dict[str, Any], severity: str | None) -> None:
    finding = found("worse-than-base", **parts)
    assert (finding.severity if finding else None) == severity


def test_worse_names_both_splits() -> None:
    finding = found("worse-than-base", **outcome(-0.05, -0.09, -0.01, 0.51, 0.52))
    assert finding is not None
    for words in ("nDCG@10 -0.0500", "-0.0900 to -0.0100", "0.5100 before", "0.5200 at the checkpoint kept"):
        assert words in finding.evidence


# Unchanged


@pytest.fixture(scope="module")
def untaught(tiny_bert: Path) -> Encoder:
    return load_encoder(str(tiny_bert), ModelSettings(precision="fp32", device="cpu"))


@pytest.fixture(scope="module")
def taught(taught_bert: Path) -> Encoder:
    return load_encoder(str(taught_bert), ModelSettings(precision="fp32", device="cpu"))


def test_the_same_model_twice_is_unchanged(untaught: Encoder) -> None:
    finding = found("unchanged-embeddings", base=untaught, tuned=untaught)
    assert finding is not None
    assert finding.severity == "high"
    assert "132 texts is 1.00000" in finding.evidence


def test_a_model_that_learned_is_not_unchanged(untaught: Encoder, taught: Encoder) -> None:
    assert found("unchanged-embeddings", base=untaught, tuned=taught) is None


def test_models_of_different_size_are_not_compared(untaught: Encoder, make_encoder: Callable[..., Encoder]) -> None:
    assert found("unchanged-embeddings", base=untaught, tuned=make_encoder(8)) is None


def test_sentences_of_scored_pairs_are_looked_at_too(untaught: Encoder) -> None:
    finding = found("unchanged-embeddings", dataset=toy_similarity(), base=untaught, tuned=untaught)
    assert finding is not None
    assert "512 texts" in finding.evidence


def test_the_sample_is_drawn_by_the_seed() -> None:
    first, again, other = (evidence_of(settings={"seed": s}, dataset=toy_similarity()).sample for s in (1, 1, 2))
    assert first == again != other
    assert len(first) == 512


# Memorised


def losses(*values: float) -> list[dict[str, Any]]:
    return [{"step": 0, "dev": 0.5}, *({"step": i, "loss": value} for i, value in enumerate(values, 1))]


@pytest.mark.parametrize(
    ("log", "is_found"),
    [
        (losses(*np.linspace(2, 0, 50) ** 3), True),
        (losses(*np.linspace(2, 0.5, 50)), False),
        (losses(0.001), True),
        (losses(*[0.001] * 50, *[0.5] * 6), False),
        (losses(*[0.0] * 90, *[0.02] * 10), False),
        ([{"step": 0, "dev": 0.5}], False),
        ([], False),
    ],
    ids=["to zero", "not to zero", "one entry", "zero before", "not zero at the end", "no loss", "no log"],
)
def test_a_loss_that_ends_at_zero_is_memorised(log: list[dict[str, Any]], is_found: bool) -> None:
    assert (found("memorised", log=log) is not None) is is_found


def test_where_zero_begins_is_a_setting() -> None:
    log = losses(*[0.05] * 20)
    assert found("memorised", log=log) is None
    assert found("memorised", log=log, settings={"diagnose": {"zero_loss": 0.1}}) is not None


def test_the_loss_of_scored_pairs_may_be_zero() -> None:
    assert found("memorised", log=losses(0.0), dataset=toy_similarity()) is None


# One-sided bias


def test_control_queries_that_moved_to_the_domain_are_found() -> None:
    finding = found("one-sided-bias", base=DriftingEncoder(0.0), tuned=DriftingEncoder(0.2))
    assert finding is not None
    assert finding.severity == "warning"
    assert f"{len(CONTROL_QUERIES)} control queries" in finding.evidence
    assert "100% of them moved nearer" in finding.evidence


@pytest.mark.parametrize(
    "tuned",
    [DriftingEncoder(0.0), DriftingEncoder(0.04), DriftingEncoder(-0.3), DriftingEncoder(0.1, spread=0.85)],
    ids=["none", "small", "away", "as often away"],
)
def test_no_drift_little_drift_or_drift_by_chance_is_no_bias(tuned: Encoder) -> None:
    settings = {"diagnose": {"bias_drift": 0.05}}
    assert found("one-sided-bias", base=DriftingEncoder(0.0), tuned=tuned, settings=settings) is None


def test_how_much_drift_is_too_much_is_a_setting() -> None:
    parts = {"base": DriftingEncoder(0.0), "tuned": DriftingEncoder(0.2)}
    assert found("one-sided-bias", **parts, settings={"diagnose": {"bias_drift": 0.3}}) is None


def test_the_drift_is_the_change_in_cosine_to_the_centre_of_the_domain() -> None:
    evidence = evidence_of(base=DriftingEncoder(0.1), tuned=DriftingEncoder(0.3))
    drift = control_drift(evidence)
    assert drift is not None
    assert drift.queries == len(CONTROL_QUERIES)
    assert drift.value == pytest.approx(drift.tuned - drift.base)
    assert drift.value == pytest.approx(0.2, abs=0.03)
    assert drift.low < drift.value
    assert drift.nearer == 1
    assert drift.worst in CONTROL_QUERIES


def test_nothing_is_measured_without_training_passages_or_controls() -> None:
    assert control_drift(evidence_of(examples=[])) is None
    assert control_drift(evidence_of(controls=[])) is None
    assert found("one-sided-bias", examples=[], tuned=DriftingEncoder(0.5)) is None


def test_one_control_query_is_no_evidence() -> None:
    drift = control_drift(evidence_of(controls=["What is a CPU?"], tuned=DriftingEncoder(0.5)))
    assert drift is None or not drift.low > 0
    none_made = {"diagnose": {"made_controls": 0}}
    assert found("one-sided-bias", controls=["What is a CPU?"], tuned=DriftingEncoder(0.5), settings=none_made) is None


# Duplicates


@pytest.mark.parametrize(
    ("audit", "is_found"),
    [
        ({"passages": 100, "passages_in_near_duplicate_clusters": 20}, True),
        ({"passages": 100, "passages_in_near_duplicate_clusters": 19}, False),
        ({"passages": 100}, False),
        ({"passages": 0}, False),
    ],
)
def test_many_near_duplicates_are_found(audit: dict[str, int], is_found: bool) -> None:
    assert (found("duplicates", audit=audit) is not None) is is_found


def test_duplicates_are_named_with_their_share() -> None:
    finding = found("duplicates", audit={"passages": 1_000, "passages_in_near_duplicate_clusters": 300})
    assert finding is not None
    assert finding.evidence.startswith("300 of 1,000 passages (30%)")


def test_a_model_that_moves_queries_alone_is_not_unchanged(untaught: Encoder, taught: Encoder) -> None:
    """A query-side adapter: passages keep the base's vectors bit for bit."""

    class OnlyQueries:
        digest = "only queries"
        encode_queries = staticmethod(taught.encode_queries)
        encode_passages = staticmethod(untaught.encode_passages)

    example = Example("q0", "p0", "what is the booking hotel", "on the price form")
    assert found("unchanged-embeddings", base=untaught, tuned=OnlyQueries(), examples=[example]) is None
    assert found("unchanged-embeddings", base=untaught, tuned=untaught, examples=[example]) is not None


@pytest.mark.parametrize(
    ("loss", "said"), [("info-nce", True), ("gist", True), ("margin-mse", False), ("triplet", False)]
)
def test_a_loss_that_fits_scores_may_end_at_zero(loss: str, said: bool) -> None:
    assert (found("memorised", log=losses(0.0), training={"loss": loss}) is not None) == said
