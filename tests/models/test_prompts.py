from __future__ import annotations

import pytest

from shoptalk.models.prompts import Prompts, prompts_for

BGE = "Represent this sentence for searching relevant passages: "


@pytest.mark.parametrize(
    ("name", "query", "passage"),
    [
        ("BAAI/bge-small-en-v1.5", BGE, ""),
        ("BAAI/bge-large-en", BGE, ""),
        ("/models/bge-base-en-v1.5", BGE, ""),
        ("BAAI/bge-small-zh-v1.5", "为这个句子生成表示以用于检索相关文章：", ""),
        ("BAAI/bge-m3", "", ""),
        ("intfloat/e5-base-v2", "query: ", "passage: "),
        ("intfloat/multilingual-e5-small", "query: ", "passage: "),
        ("intfloat/multilingual-e5-large-instruct", "", ""),
        ("google/embeddinggemma-300m", "task: search result | query: ", "title: none | text: "),
        ("nomic-ai/nomic-embed-text-v1.5", "search_query: ", "search_document: "),
        ("nomic-ai/modernbert-embed-base", "search_query: ", "search_document: "),
        ("thenlper/gte-small", "", ""),
        ("Alibaba-NLP/gte-modernbert-base", "", ""),
        ("Snowflake/snowflake-arctic-embed-m-v1.5", BGE, ""),
        ("sentence-transformers/all-MiniLM-L6-v2", "", ""),
    ],
)
def test_families_whose_configuration_says_nothing_get_the_prompts_of_their_training(name, query, passage):
    found = prompts_for(name, {})
    assert (found.query, found.passage) == (query, passage)
    assert found == prompts_for(name.upper(), {"query": "", "document": None})


def test_a_family_that_uses_none_is_known_and_an_unknown_one_is_not():
    assert prompts_for("thenlper/gte-base", {}).origin == "registry: GTE uses none"
    assert prompts_for("acme/model", {}) == Prompts("", "", "none")


@pytest.mark.parametrize(
    "query", ["query", "search_query", "retrieval.query", "Retrieval-query", "s2p_query", "web_search_query"]
)
@pytest.mark.parametrize("passage", ["document", "passage", "corpus", "search_document", "Retrieval-document"])
def test_the_models_own_configuration_wins_over_the_registry(query, passage):
    found = prompts_for("BAAI/bge-small-en", {query: "ask: ", passage: "text: ", "clustering": "cluster: "})
    assert found == Prompts("ask: ", "text: ", "the model's own configuration")


def test_one_configured_prompt_is_enough_to_leave_the_registry_out():
    assert prompts_for("intfloat/e5-base", {"query": "ask: "}) == Prompts("ask: ", "", "the model's own configuration")


def test_the_settings_win_over_both_each_for_its_side():
    assert prompts_for("intfloat/e5-base", {}, query="ask: ") == Prompts("ask: ", "passage: ", "settings")
    assert prompts_for("intfloat/e5-base", {"query": "q", "document": "d"}, passage="p") == Prompts(
        "q", "p", "settings"
    )
    assert prompts_for("intfloat/e5-base", {}, query="", passage="") == Prompts("", "", "settings")
