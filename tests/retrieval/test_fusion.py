from __future__ import annotations

import pytest

from shoptalk.records import Ranking
from shoptalk.retrieval.fusion import reciprocal_rank


def ranked(*passage_ids: str) -> Ranking:
    """One query's ranking, with scores on a scale of its own."""
    return {"q": [(passage_id, 1_000.0 - 7 * place) for place, passage_id in enumerate(passage_ids)]}


def order(ranking: Ranking) -> str:
    return "".join(passage_id for passage_id, _ in ranking["q"])


def test_the_formula_by_hand() -> None:
    """a 1/61; b 1/62 + 1/61; c 1/63; d 1/62. Source: Cormack, Clarke and Büttcher 2009, k = 60."""
    fused = reciprocal_rank([ranked("a", "b", "c"), ranked("b", "d")])
    assert order(fused) == "badc"
    assert [score for _, score in fused["q"]] == pytest.approx([1 / 62 + 1 / 61, 1 / 61, 1 / 62, 1 / 63], rel=1e-6)


def test_k_says_how_much_more_the_first_place_counts_than_being_found_twice() -> None:
    """x is first once, y third twice: 1 / (k + 1) against 2 / (k + 3), alike at k = 1."""
    found = [ranked("x", "a", "y"), ranked("b", "c", "y")]
    assert order(reciprocal_rank(found, k=0)).index("x") < order(reciprocal_rank(found, k=0)).index("y")
    assert order(reciprocal_rank(found, k=60))[0] == "y"


def test_scores_of_the_systems_do_not_count_only_ranks() -> None:
    small = {"q": [("a", 0.9), ("b", 0.1)]}
    large = {"q": [("a", 9e6), ("b", 8e6)]}
    other = ranked("b", "c")
    assert reciprocal_rank([small, other]) == reciprocal_rank([large, other])


def test_ties_stand_as_the_first_ranking_has_them_and_scores_fall_strictly() -> None:
    fused = reciprocal_rank([ranked("a", "b"), ranked("b", "a"), {"q": []}])
    assert order(fused) == "ab"
    scores = [score for _, score in fused["q"]]
    assert scores[0] > scores[1]
    assert order(reciprocal_rank([ranked("b", "a"), ranked("a", "b")])) == "ba"


def test_a_query_that_one_system_did_not_answer_keeps_the_others_order() -> None:
    fused = reciprocal_rank([{"q": [("a", 1.0)], "r": []}, {"r": [("c", 2.0), ("b", 1.0)], "s": [("a", 1.0)]}])
    assert list(fused) == ["q", "r", "s"]
    assert [passage_id for passage_id, _ in fused["r"]] == ["c", "b"]
    assert reciprocal_rank([{"q": []}]) == {"q": []}


def test_no_more_are_kept_than_asked_for() -> None:
    found = [ranked("a", "b", "c"), ranked("d", "e")]
    assert order(reciprocal_rank(found, depth=3)) == order(reciprocal_rank(found))[:3]
    assert len(reciprocal_rank(found)["q"]) == 5
