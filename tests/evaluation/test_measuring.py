from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoptalk.evaluation.measuring import System, headroom, measure_pairs, measure_retrieval, seconds_per_1000
from shoptalk.models.encoder import CachedEncoder
from shoptalk.models.finding import CARD, find_model
from shoptalk.retrieval.bm25 import BM25
from shoptalk.retrieval.fusion import reciprocal_rank
from shoptalk.retrieval.metrics import mean, per_query
from shoptalk.retrieval.significance import mean_with_interval, paired_delta
from shoptalk.settings import Settings
from toy import toy_retrieval, toy_settings, toy_similarity


def cached(folder: Path, cache: Path, settings: Settings, **prompts: str) -> CachedEncoder:
    return CachedEncoder(find_model(str(folder)), settings.model.model_copy(update=prompts), cache)


def measured(base: CachedEncoder, settings: Settings, *others: CachedEncoder) -> dict[str, System]:
    dataset = toy_retrieval()
    systems = measure_retrieval(dataset, {**dataset.qrels["train"], **dataset.qrels["dev"]}, base, others, settings)
    return {system.name: system for system in systems}


def test_base_bm25_and_both_fused_on_the_same_queries(tmp_path: Path, tiny_bert: Path) -> None:
    settings, dataset = toy_settings(tiny_bert), toy_retrieval()
    found = measured(cached(tiny_bert, tmp_path, settings), settings)
    assert list(found) == ["base", "bm25", "fused"]
    qrels = {**dataset.qrels["train"], **dataset.qrels["dev"]}
    index = BM25(list(dataset.passages), [p.content for p in dataset.passages.values()])
    keywords = index.search(list(qrels), [dataset.queries[q].text for q in qrels], 100)
    assert found["bm25"].ranking == keywords
    fused = per_query(qrels, reciprocal_rank([found["base"].ranking or {}, keywords], depth=100))
    assert found["fused"].metrics == mean(fused)
    for system in found.values():
        assert system.score == system.metrics["ndcg@10"] == pytest.approx(np.mean(list(system.values.values())))
        expected = mean_with_interval(system.values, dataset.groups, 200, settings.seed).ci95
        assert system.ci95 == expected
    delta = paired_delta(found["base"].values, found["fused"].values, dataset.groups, 200, settings.seed)
    own = found["fused"].delta
    assert own is not None
    assert (own.value, own.ci95, own.p) == (delta.value, delta.ci95, delta.p)
    assert found["base"].delta is None


def test_sizes_are_those_of_the_indexes(tmp_path: Path, tiny_bert: Path) -> None:
    settings, dataset = toy_settings(tiny_bert), toy_retrieval()
    found = measured(cached(tiny_bert, tmp_path, settings), settings)
    index = BM25(list(dataset.passages), [p.content for p in dataset.passages.values()])
    assert found["base"].index_bytes == 132 * 32 * 4
    assert found["bm25"].index_bytes == index.index_bytes > 0
    assert found["fused"].index_bytes == 132 * 32 * 4 + index.index_bytes
    assert all(system.seconds_per_1000 > 0 for system in found.values() if system.seconds_per_1000 is not None)
    assert (found["fused"].seconds_per_1000 or 0) > (found["base"].seconds_per_1000 or 0) > 0


def test_a_model_with_prompts_is_measured_without_them_too(tmp_path: Path, tiny_bert: Path) -> None:
    settings = toy_settings(tiny_bert)
    both = measured(cached(tiny_bert, tmp_path, settings, query_prompt="travel: ", passage_prompt="report: "), settings)
    bare = measured(cached(tiny_bert, tmp_path, settings), settings)
    assert list(both) == ["base", "base-without-prompts", "bm25", "fused"]
    assert both["base-without-prompts"].ranking == bare["base"].ranking
    assert both["base"].ranking != bare["base"].ranking
    assert both["base-without-prompts"].delta is not None
    assert both["base"].detail.endswith('query prompt "travel:" and passage prompt "report:"')
    assert bare["base"].detail.endswith("32 dimensions, up to 64 tokens, no prompts")


def test_without_a_passage_prompt_the_corpus_is_not_encoded_again(tmp_path: Path, tiny_bert: Path) -> None:
    settings = toy_settings(tiny_bert)
    found = measured(cached(tiny_bert, tmp_path / "cache", settings, query_prompt="travel: "), settings)
    kinds = [path.name.partition("-")[0] for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert sorted(kinds) == ["passages", "queries", "queries"]
    assert "base-without-prompts" in found


def test_further_models_carry_their_name_and_holms_correction(
    tmp_path: Path, tiny_bert: Path, taught_bert: Path, make_tiny_bert: Callable[..., Path]
) -> None:
    settings = toy_settings(tiny_bert)
    other = make_tiny_bert(tmp_path / "other", seed=8)
    base = cached(tiny_bert, tmp_path / "cache", settings)
    further = [cached(folder, tmp_path / "cache", settings) for folder in (taught_bert, other)]
    found = measured(base, settings, *further)
    assert list(found) == ["base", "bm25", "fused", str(taught_bert), str(other)]
    taught, untaught = found[str(taught_bert)].delta, found[str(other)].delta
    assert taught is not None
    assert untaught is not None
    assert taught.ci95[0] > 0.3
    assert taught.p_holm == pytest.approx(min(1.0, 4 * taught.p))
    assert untaught.p_holm is not None
    assert untaught.p_holm >= untaught.p
    alone = measured(further[0], settings)
    assert alone["base"].metrics == found[str(taught_bert)].metrics


def test_scored_pairs_have_models_alone(tmp_path: Path, tiny_bert: Path, make_tiny_bert: Callable[..., Path]) -> None:
    settings = toy_settings(tiny_bert)
    other = make_tiny_bert(tmp_path / "other", seed=8)
    base = cached(tiny_bert, tmp_path / "cache", settings, query_prompt="travel: ")
    systems = measure_pairs(toy_similarity(), base, [cached(other, tmp_path / "cache", settings)], settings)
    assert [system.name for system in systems] == ["base", "base-without-prompts", str(other)]
    for system in systems:
        assert system.metrics == {"spearman": system.score}
        assert system.ci95[0] < system.score < system.ci95[1]
        assert system.index_bytes is None
        assert system.as_json()["spearman"] == system.score
    delta = systems[2].delta
    assert delta is not None
    assert delta.value == pytest.approx(systems[2].score - systems[0].score)
    assert delta.ci95[0] < delta.value < delta.ci95[1]


# Time


class Slow:
    """Encodes a text in a millisecond and remembers how many it was given."""

    def __init__(self) -> None:
        self.given: list[int] = []

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        self.given.append(len(texts))
        time.sleep(0.001 * len(texts))
        return np.zeros((len(texts), 4), np.float32)


def test_the_time_is_taken_after_a_warm_up_on_a_sample() -> None:
    slow: Any = Slow()
    taken = seconds_per_1000(slow, [f"text {i}" for i in range(2_000)], seed=1)
    assert taken is not None
    assert taken >= 1.0  # a thousand texts of a millisecond
    assert slow.given[0] == 8
    assert sum(slow.given[1:]) <= 500


def test_a_corpus_of_a_few_texts_is_timed_and_of_none_is_not() -> None:
    slow: Any = Slow()
    assert (seconds_per_1000(slow, ["one", "two"], seed=1) or 0) >= 1.0
    assert seconds_per_1000(slow, [], seed=1) is None


# Headroom


def base_with(ranking: dict[str, list[str]], qrels: dict[str, dict[str, int]]) -> System:
    scored = {q: [(p, float(-i)) for i, p in enumerate(found)] for q, found in ranking.items()}
    metrics = mean(per_query(qrels, scored))
    return System("base", "Base model", "", metrics["ndcg@10"], (0, 1), metrics, ranking=scored)


def test_headroom_with_one_answer_a_query_is_recall_against_ndcg() -> None:
    """First place; third place, worth 1 / log2(4); fiftieth place, worth nothing yet; not found."""
    qrels = {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1}, "d": {"x": 1}}
    others = [f"p{i}" for i in range(99)]
    ranking = {
        "a": ["x", *others],
        "b": [*others[:2], "x", *others[2:]],
        "c": [*others[:49], "x", *others[49:]],
        "d": others,
    }
    found = headroom(base_with(ranking, qrels), qrels)
    assert found["recall@100"] == pytest.approx(0.75)
    assert found["ndcg@10"] == pytest.approx((1 + 0.5) / 4)
    assert found["reranker"] == pytest.approx(0.75 - 0.375)
    assert found["embedding"] == pytest.approx(0.25)
    assert found["words"].startswith(
        "75% of the answers are among the base model's first 100: a perfect reranker of these would add 0.375"
    )


def test_headroom_with_many_answers_counts_what_fits_into_the_first_ten() -> None:
    """Of 40 answers the first 100 hold 12: a recall of 0.3, yet a perfect reranker fills the first ten."""
    qrels = {"a": {f"x{i}": 1 for i in range(40)}}
    ranking = {"a": [*(f"p{i}" for i in range(88)), *(f"x{i}" for i in range(12))]}
    found = headroom(base_with(ranking, qrels), qrels)
    assert found["recall@100"] == pytest.approx(0.3)
    assert found["reranker"] == pytest.approx(1.0)
    assert found["embedding"] == pytest.approx(0.0)


def test_headroom_heeds_grades() -> None:
    qrels = {"a": {"best": 3, "fair": 1}}
    found = headroom(base_with({"a": ["fair", "best"]}, qrels), qrels)
    assert found["ndcg@10"] < 1
    assert found["reranker"] == pytest.approx(1 - found["ndcg@10"])


def test_a_model_that_shoptalk_tuned_is_said_to_be_flattered(tmp_path: Path, tiny_bert: Path) -> None:
    shutil.copytree(tiny_bert, tmp_path / "tuned")
    (tmp_path / "tuned" / CARD).write_text("{}", encoding="utf-8")
    settings = toy_settings(tiny_bert)
    base, tuned = (cached(folder, tmp_path / "cache", settings) for folder in (tiny_bert, tmp_path / "tuned"))
    found = measured(base, settings, tuned)
    assert found[str(tmp_path / "tuned")].detail.endswith("flattered here if these queries trained it")
    assert "flattered" not in found["base"].detail
