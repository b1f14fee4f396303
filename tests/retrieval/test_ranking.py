from __future__ import annotations

import numpy as np
import pytest

from shoptalk.records import Dataset, Passage, Query, ScoredPair
from shoptalk.retrieval.ranking import pair_cosines, rank


def test_ranks_the_whole_corpus_by_content_for_the_named_queries_only(hash_encoder):
    passages = {f"p{i}": Passage(f"p{i}", f"text {i}", title="Guide") for i in range(5)}
    queries = {"same": Query("same", "Guide text 3"), "other": Query("other", "anything")}
    ranking = rank(hash_encoder, Dataset("retrieval", passages, queries), ["same"], depth=3)

    assert list(ranking) == ["same"]
    assert len(ranking["same"]) == 3
    assert ranking["same"][0] == ("p3", pytest.approx(1.0))  # title and text together are what is encoded
    assert "anything" not in hash_encoder.encoded


def test_queries_and_passages_are_encoded_each_in_their_way(make_encoder):
    passages = {"p": Passage("p", "text")}
    ranking = rank(
        make_encoder(query_prompt="query: "), Dataset("retrieval", passages, {"q": Query("q", "text")}), ["q"], 1
    )
    assert ranking["q"][0][1] < 0.99


def test_the_cosines_of_pairs(hash_encoder):
    pairs = [ScoredPair("a", "one", "one", 5), ScoredPair("b", "one", "two", 1)]
    found = pair_cosines(hash_encoder, pairs)
    left, right = hash_encoder.encode_queries(["one", "two"])
    assert found.dtype == np.float64
    assert found == pytest.approx([1.0, float(left @ right)], abs=1e-6)
