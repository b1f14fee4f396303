from __future__ import annotations

import numpy as np
import pytest

from shoptalk.retrieval.bm25 import BM25, words


def best(index: BM25, text: str) -> str:
    return index.search(["q"], [text], 5)["q"][0][0]


def test_the_passage_with_the_rare_word_comes_first():
    texts = ["the invoice was paid", "the form was sent", "the manager and the invoice and the invoice"]
    ranking = BM25(["paid", "form", "manager"], texts).search(["q"], ["invoice"], 5)["q"]

    assert [passage_id for passage_id, _ in ranking] == ["manager", "paid"]  # "form" shares no word: not ranked
    scores = [score for _, score in ranking]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] > 0


def test_the_scores_are_lucenes():
    """idf = ln(1 + (N - n + 0.5) / (n + 0.5)); tf = f / (f + k1 (1 - b + b dl / avgdl)), k1 1.5, b 0.75."""
    from math import log

    ranking = BM25(["a", "b"], ["tea tea milk", "coffee"]).search(["q"], ["tea"], 5)["q"]
    idf = log(1 + (2 - 1 + 0.5) / (1 + 0.5))
    tf = 2 / (2 + 1.5 * (1 - 0.75 + 0.75 * 3 / 2))
    assert ranking == [("a", pytest.approx(idf * tf, rel=1e-5))]


def test_no_more_than_k_and_ties_in_passage_order():
    ranking = BM25(list("abcd"), ["same text"] * 4).search(["q"], ["same"], 3)["q"]
    assert [passage_id for passage_id, _ in ranking] == ["a", "b", "c"]
    assert ranking[0][1] > ranking[1][1] > ranking[2][1]


@pytest.mark.parametrize(
    ("texts", "query", "expected"),
    [
        (["申请退款需要发票", "预订酒店需要护照"], "退款", "0"),
        (["การขอคืนเงินต้องมีใบเสร็จ", "การจองโรงแรมต้องใช้หนังสือเดินทาง"], "โรงแรม", "1"),
        (["返金には領収書が必要です", "ホテルの予約にはパスポート"], "領収書", "0"),
        (["Квитанция нужна для возврата", "Паспорт для гостиницы"], "ПАСПОРТ", "1"),
        (["धनवापसी के लिए रसीद", "होटल के लिए पासपोर्ट"], "पासपोर्ट", "1"),
        (["ΟΔΟΣ προς το γραφείο", "Τιμή εισιτηρίου"], "οδος", "0"),
    ],
)
def test_finds_in_many_scripts(texts, query, expected):
    assert best(BM25(["0", "1"], texts), query) == expected


def test_words_are_case_folded_and_split_at_punctuation_and_underscore():
    assert words("Straße, snake_case: C3PO!") == ["strasse", "snake", "case", "c3po"]


def test_vowel_signs_and_accents_stay_in_their_word():
    assert words("हिन्दी भाषा") == ["हिन्दी", "भाषा"]
    assert words("cafe\u0301 crème") == ["café", "crème"]  # composed or not, it is the same word


def test_scripts_without_spaces_are_cut_into_characters():
    assert words("退款 refund") == ["退", "款", "refund"]
    assert words("使用API密钥v2") == ["使", "用", "api", "密", "钥", "v2"]


def test_an_empty_corpus_and_texts_without_words_rank_nothing():
    assert BM25([], []).search(["q"], ["tea"], 5) == {"q": []}
    assert BM25(["a"], ["!!!"]).search(["q"], ["tea"], 5) == {"q": []}
    assert BM25(["a", "b"], ["tea", ""]).search(["q"], ["..."], 5) == {"q": []}


def test_a_query_without_common_word_ranks_nothing():
    found = BM25(["a"], ["tea and milk"]).search(["none", "some"], ["coffee", "coffee milk"], 5)
    assert found["none"] == []
    assert [passage_id for passage_id, _ in found["some"]] == ["a"]


def test_the_best_of_many_are_those_of_a_full_sort():
    rng = np.random.default_rng(1)
    texts = [" ".join(f"w{word}" for word in row) for row in rng.zipf(1.5, (200, 12)) % 30]
    index, queries = BM25([str(i) for i in range(200)], texts), [f"w{a} w{b}" for a, b in rng.integers(0, 30, (40, 2))]
    names = [f"q{i}" for i in range(40)]
    whole = index.search(names, queries, 200)
    for k in (0, 1, 7):
        assert index.search(names, queries, k) == {name: found[:k] for name, found in whole.items()}


def test_the_size_of_the_index_is_that_of_its_postings_and_words():
    """Four postings of 4 bytes for the score and 4 for the passage, and the words: tea, milk, coffee."""
    index = BM25(["a", "b"], ["tea tea milk", "coffee tea"])
    postings, letters = 4 * (4 + 4), len("teamilkcoffee")
    assert postings + letters <= index.index_bytes <= postings + letters + 8 * 6  # and where each word's postings start
    assert BM25(["a"], [""]).index_bytes == 0
