from __future__ import annotations

from math import log2

import numpy as np
import pytest
import pytrec_eval

from shoptalk.retrieval.metrics import METRICS, SHOWN, mean, of_metric, per_query
from shoptalk.retrieval.topk import search


def ranked(*passage_ids: str) -> list[tuple[str, float]]:
    """A ranking in this order, best first."""
    return [(passage_id, 100.0 - place) for place, passage_id in enumerate(passage_ids)]


def fillers(n: int) -> list[str]:
    return [f"filler{i:03d}" for i in range(n)]


def test_several_relevant_passages_worked_by_hand():
    # Ranks 1 and 3 are relevant, a third relevant passage is not found.
    found = per_query({"q": {"a": 1, "c": 1, "d": 1}}, {"q": ranked("a", "b", "c")})["q"]

    dcg = 1 / log2(2) + 1 / log2(4)
    ideal = 1 / log2(2) + 1 / log2(3) + 1 / log2(4)
    assert found["ndcg@10"] == pytest.approx(dcg / ideal)
    assert found["mrr@10"] == 1.0
    assert found["recall@1"] == pytest.approx(1 / 3)
    assert found["recall@5"] == pytest.approx(2 / 3)
    assert found["map@100"] == pytest.approx((1 / 1 + 2 / 3) / 3)


def test_graded_judgements_gain_their_grade():
    # Order x (grade 1), y (judged 0), z (grade 3); the ideal order is z, x.
    found = per_query({"q": {"x": 1, "y": 0, "z": 3}}, {"q": ranked("x", "y", "z")})["q"]

    assert found["ndcg@10"] == pytest.approx((1 / log2(2) + 3 / log2(4)) / (3 / log2(2) + 1 / log2(3)))
    assert found["recall@1"] == 0.5  # grade 0 is judged, not relevant
    assert found["map@100"] == pytest.approx((1 / 1 + 2 / 3) / 2)


def test_the_reciprocal_rank_is_cut_at_ten():
    ten, eleven = ranked(*fillers(9), "hit"), ranked(*fillers(10), "hit")
    found = per_query({"ten": {"hit": 1}, "eleven": {"hit": 1}}, {"ten": ten, "eleven": eleven})

    assert found["ten"]["mrr@10"] == pytest.approx(0.1)
    assert found["eleven"]["mrr@10"] == 0.0
    assert found["eleven"]["recall@100"] == 1.0
    assert found["eleven"]["map@100"] == pytest.approx(1 / 11)


def test_each_metric_has_its_own_depth():
    found = per_query({"q": {"hit": 1}}, {"q": ranked(*fillers(100), "hit")})["q"]  # rank 101
    assert found == dict.fromkeys(METRICS, 0.0)

    found = per_query({"q": {"hit": 1}}, {"q": ranked(*fillers(5), "hit")})["q"]  # rank 6
    assert (found["recall@5"], found["recall@10"]) == (0.0, 1.0)
    assert found["ndcg@10"] == pytest.approx(1 / log2(7))


def test_a_query_that_finds_nothing_counts_as_zero():
    qrels = {"none": {"a": 1}, "missing": {"a": 1}, "empty": {"a": 1}, "hit": {"a": 1}}
    found = per_query(qrels, {"none": ranked("b", "c"), "empty": [], "hit": ranked("a")})

    zero = dict.fromkeys(METRICS, 0.0)
    assert (found["none"], found["missing"], found["empty"]) == (zero, zero, zero)
    assert mean(found)["mrr@10"] == 0.25


def test_no_ranking_at_all_is_zero_and_not_an_error():
    assert per_query({"q": {"a": 1}}, {}) == {"q": dict.fromkeys(METRICS, 0.0)}


def test_a_query_without_relevant_passages_is_left_out():
    found = per_query({"judged": {"a": 0}, "negative": {"a": -1}, "real": {"a": 1}}, {"judged": ranked("a")})
    assert list(found) == ["real"]


def test_a_ranked_query_without_judgements_is_ignored():
    assert list(per_query({"q": {"a": 1}}, {"q": ranked("a"), "other": ranked("a")})) == ["q"]


def test_equal_scores_keep_the_passage_order():
    """trec_eval breaks ties by the id, the last one first; what search hands over leaves it no ties."""
    vectors = np.array([[1, 0], [1, 0], [1, 0]], np.float32)
    ranking = search(["q"], np.array([[1, 0]], np.float32), ["a", "b", "c"], vectors, 3)

    assert per_query({"q": {"a": 1}}, ranking)["q"]["mrr@10"] == 1.0
    assert per_query({"q": {"c": 1}}, ranking)["q"]["mrr@10"] == pytest.approx(1 / 3)


def test_only_the_asked_metrics_are_computed_for_every_query_even_from_an_iterator():
    found = per_query({"p": {"a": 1}, "q": {"a": 1}}, {"p": ranked("a"), "q": ranked("b", "a")}, iter(["mrr@10"]))
    assert found == {"p": {"mrr@10": 1.0}, "q": {"mrr@10": 0.5}}


def test_the_mean_of_nothing_is_zero():
    assert mean({}) == dict.fromkeys(METRICS, 0.0)


def test_one_metric_by_query():
    assert of_metric({"p": {"mrr@10": 1.0, "map@100": 0.5}}, "map@100") == {"p": 0.5}


def test_every_metric_has_a_shown_name():
    assert set(METRICS) <= SHOWN.keys()


def test_equals_trec_eval_on_a_thousand_random_graded_rankings():
    rng = np.random.default_rng(3)
    passages = [f"p{i}" for i in range(200)]
    qrels, ranking = {}, {}
    for n in range(1_000):
        judged = rng.choice(200, size=rng.integers(1, 30), replace=False)
        qrels[f"q{n}"] = {passages[i]: int(rng.integers(0, 4)) for i in judged} | {f"p{rng.integers(200)}": 1}
        order = rng.permutation(200)[: rng.integers(1, 150)]
        ranking[f"q{n}"] = ranked(*(passages[i] for i in order))

    wanted = {"ndcg_cut.10,20", "recall.1,5,10,50,100", "map_cut.10,100", "P.5,10", "success.1,10"}
    expected = pytrec_eval.RelevanceEvaluator(qrels, wanted).evaluate({q: dict(found) for q, found in ranking.items()})
    reciprocal = {
        k: pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(
            {q: dict(found[:k]) for q, found in ranking.items()}
        )
        for k in (5, 10)
    }
    theirs = {
        **{f"ndcg@{k}": f"ndcg_cut_{k}" for k in (10, 20)},
        **{f"recall@{k}": f"recall_{k}" for k in (1, 5, 10, 50, 100)},
        **{f"map@{k}": f"map_cut_{k}" for k in (10, 100)},
        **{f"precision@{k}": f"P_{k}" for k in (5, 10)},
        **{f"hit@{k}": f"success_{k}" for k in (1, 10)},
    }
    found = per_query(qrels, ranking, [*METRICS, "mrr@5", *theirs])
    assert len(found) == 1_000
    for query, values in found.items():
        cut = {f"mrr@{k}": reciprocal[k][query]["recip_rank"] for k in (5, 10)}
        assert values == pytest.approx({**cut, **{ours: expected[query][name] for ours, name in theirs.items()}})


def test_a_metric_of_any_k_has_a_shown_name():
    assert [SHOWN[name] for name in ("ndcg@20", "recall@7", "hit@3", "precision@5")] == [
        "nDCG@20",
        "Recall@7",
        "Hit@3",
        "Precision@5",
    ]
