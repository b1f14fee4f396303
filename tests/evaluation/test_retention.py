"""General ability: the set that is shipped, a set of one's own, and the rule by which a loss is too much."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from shoptalk.beir import write_jsonl
from shoptalk.errors import SourceError
from shoptalk.evaluation.retention import Kept, RetentionSet, able_languages, is_broken, mean, retention_set
from shoptalk.models.encoder import load_encoder
from shoptalk.records import Delta
from shoptalk.settings import BUILTIN_MODEL, ModelSettings, SelectSettings


def shipped() -> RetentionSet:
    found = retention_set(SelectSettings())
    assert found is not None
    return found


def test_the_shipped_set_is_large_and_its_halves_share_no_topic() -> None:
    dataset = shipped().dataset
    general = [q for q in dataset.queries.values() if not q.language]
    assert len(general) >= 300
    assert len(dataset.passages) == 500
    assert len({q.text for q in general}) == len(general)
    assert len({p.text for p in dataset.passages.values()}) == 500
    assert len({p.source for p in dataset.passages.values()}) >= 95
    halves = [{dataset.groups[q] for q in dataset.qrels[half]} for half in ("choose", "report")]
    assert not halves[0] & halves[1]
    assert [len(half) for half in halves] == [50, 50]
    for judged in (judged for half in dataset.qrels.values() for judged in half.values()):
        assert sorted(judged.values())[-1] == 2
        assert judged.keys() <= dataset.passages.keys()


def test_every_translated_query_asks_what_its_original_asks() -> None:
    dataset = shipped().dataset
    others = [q for q in dataset.queries.values() if q.language]
    assert {q.language for q in others} == {"de", "fr", "es", "zh", "ar"}
    assert len(others) == 500
    qrels = {**dataset.qrels["choose"], **dataset.qrels["report"]}
    for query in others:
        own = query.query_id.rpartition("-")[0]
        assert qrels[query.query_id] == qrels[own]
    scripts = {"zh": r"[\u4e00-\u9fff]", "ar": r"[\u0600-\u06ff]"}
    for query in others:
        if query.language in scripts:
            assert re.search(scripts[query.language], query.text)


def test_the_base_model_leaves_room_to_lose_and_an_identical_model_loses_nothing() -> None:
    known = shipped()
    encoder = load_encoder(BUILTIN_MODEL, ModelSettings())
    kept = known.measure(encoder, "report")
    assert 0.6 < mean(kept.general) < 0.9
    found = known.compare(kept, kept, SelectSettings(), 200, 1)
    assert found["general"]["delta"] == {"value": 0.0, "ci95": [0.0, 0.0], "p": 1.0}
    assert found["general"]["broken"] is False
    assert found["cross_lingual"]["measured"] is False  # an English model
    assert set(found["cross_lingual"]["languages"]) == {"de", "fr", "es", "zh", "ar"}


def test_a_language_counts_where_the_base_model_could() -> None:
    kept = Kept({"a": 0.8, "b": 0.6}, {"de": {"a-de": 0.5, "b-de": 0.5}, "ar": {"a-ar": 0.1, "b-ar": 0.0}})
    assert able_languages(kept, SelectSettings()) == {"de"}
    assert able_languages(kept, SelectSettings(cross_lingual_share=0.05)) == {"ar", "de"}
    assert able_languages(Kept({"a": 0.0}, {"de": {"a-de": 0.0}}), SelectSettings()) == set()


def test_a_lost_language_is_pooled_over_those_that_count() -> None:
    known = shipped()
    base = Kept({"a": 1.0, "b": 1.0}, {"de": {"a-de": 0.8, "b-de": 0.8}, "ar": {"a-ar": 0.1, "b-ar": 0.1}})
    other = Kept({"a": 1.0, "b": 1.0}, {"de": {"a-de": 0.4, "b-de": 0.4}, "ar": {"a-ar": 0.0, "b-ar": 0.0}})
    found = known.compare(base, other, SelectSettings(), 200, 1)["cross_lingual"]
    assert found["measured"] is True
    assert found["queries"] == 2
    assert found["delta"]["value"] == pytest.approx(-0.4)
    assert found["languages"]["ar"]["able"] is False


@pytest.mark.parametrize(
    ("value", "high", "broken"),
    [(-0.05, -0.01, True), (-0.05, 0.001, False), (-0.019, -0.01, False), (0.02, 0.05, False), (-0.02, -0.01, False)],
)
def test_too_much_is_more_than_the_limit_and_no_chance(value: float, high: float, broken: bool) -> None:
    assert is_broken(Delta(value, (value - 0.05, high), 0.01), 0.02) is broken


# A set of one's own


def own_set(folder: Path, n: int = 40, **rows: Any) -> Path:
    write_jsonl(folder / "corpus.jsonl", ({"_id": f"p{i}", "text": f"passage number {i}"} for i in range(n)))
    write_jsonl(folder / "queries.jsonl", ({"_id": f"q{i}", "text": f"question {i}"} for i in range(2 * n)))
    (folder / "qrels").mkdir()
    lines = [f"q{i}\tp{i // 2}\t1\n" for i in range(2 * n)]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines), encoding="utf-8")
    return folder


def test_a_set_of_ones_own_is_halved_by_passage(tmp_path: Path) -> None:
    found = retention_set(SelectSettings(retention=str(own_set(tmp_path))))
    assert found is not None
    halves = {half: set(qrels) for half, qrels in found.dataset.qrels.items()}
    assert len(halves["choose"]) + len(halves["report"]) == 80
    assert min(map(len, halves.values())) > 20
    for i in range(40):
        assert (f"q{2 * i}" in halves["choose"]) == (f"q{2 * i + 1}" in halves["choose"])


def test_what_cannot_serve_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"must be a BEIR folder"):
        retention_set(SelectSettings(retention=str(tmp_path)))
    small = own_set(tmp_path / "small", n=5)
    with pytest.raises(SourceError, match="5 passages; 20 at least"):
        retention_set(SelectSettings(retention=str(small)))
    (small / "qrels" / "test.tsv").unlink()
    with pytest.raises(SourceError, match=r"no qrels/test\.tsv"):
        retention_set(SelectSettings(retention=str(small)))


def test_none_at_all() -> None:
    assert retention_set(SelectSettings(retention="off")) is None
