"""Which text goes before a query and before a passage.

The model's own configuration decides. For families whose configuration says nothing though their training did use prompts, a
small registry does. Whatever is used in training is used at inference and saved with the tuned model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prompts:
    """Texts put before queries and passages; empty means none. `origin` says who decided."""

    query: str = ""
    passage: str = ""
    origin: str = "none"


_REGISTRY: tuple[tuple[str, Prompts], ...] = (
    # BGE v1.5 English: an instruction on queries only, none on passages.
    (
        r"bge-(small|base|large)-en",
        Prompts("Represent this sentence for searching relevant passages: ", "", "registry: BGE"),
    ),
    (r"bge-(small|base|large)-zh", Prompts("为这个句子生成表示以用于检索相关文章：", "", "registry: BGE zh")),
    (r"e5-(small|base|large)(?!.*instruct)", Prompts("query: ", "passage: ", "registry: E5")),
    (
        r"embeddinggemma",
        Prompts("task: search result | query: ", "title: none | text: ", "registry: EmbeddingGemma"),
    ),
    (r"nomic-embed-text", Prompts("search_query: ", "search_document: ", "registry: Nomic")),
    (r"modernbert-embed", Prompts("search_query: ", "search_document: ", "registry: ModernBERT-embed")),
    (r"gte-(small|base|large|multilingual|modernbert)", Prompts("", "", "registry: GTE uses none")),
    (
        r"snowflake-arctic-embed",
        Prompts("Represent this sentence for searching relevant passages: ", "", "registry: Arctic"),
    ),
)

QUERY_NAMES = (
    "query",
    "retrieval.query",
    "search_query",
    "Retrieval-query",
    "s2p_query",
    "web_search_query",
)
PASSAGE_NAMES = (
    "document",
    "passage",
    "corpus",
    "retrieval.passage",
    "search_document",
    "Retrieval-document",
)


def prompts_for(
    name: str, configured: Mapping[str, str | None], query: str | None = None, passage: str | None = None
) -> Prompts:
    """The prompts of a model: what the settings say, else its own configuration, else the registry, else none.

    `name` is what the user called the model or what its configuration calls itself; `configured` is the model's own
    prompt table (name to text).
    """
    own = Prompts(_first(configured, QUERY_NAMES), _first(configured, PASSAGE_NAMES), "the model's own configuration")
    if not own.query and not own.passage:
        own = next((p for pattern, p in _REGISTRY if re.search(pattern, name.lower())), Prompts())
    if query is None and passage is None:
        return own
    return Prompts(own.query if query is None else query, own.passage if passage is None else passage, "settings")


def _first(table: Mapping[str, str | None], names: tuple[str, ...]) -> str:
    return next((text for name in names if (text := table.get(name))), "")
