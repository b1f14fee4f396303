"""From documents and labels to a dataset: input, ingest, queries, dataset."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from shoptalk.settings.section import Section


class InputSettings(Section):
    """What the user hands over."""

    source: str = Field("", description="folder of documents, BEIR folder, or labelled file")
    queries: str = Field("", description="labelled queries for SOURCE (training; split if there is no test file)")
    dev_queries: str = Field("", description="labelled queries kept as the dev split")
    test_queries: str = Field("", description="labelled queries kept as the test split")
    clicks: str = Field("", description="click or search log of the documents, read as weak labels to train with")
    dangling: Literal["error", "drop"] = Field(
        "error", description="judgements of passages or queries that do not exist"
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="your column name for one of ours, as in {query: frage, positive: absatz}",
    )


class IngestSettings(Section):
    """Documents to passages."""

    passage_tokens: int = Field(200, ge=16, description="passage size in the base model's own tokens, at most")
    overlap_tokens: int = Field(0, ge=0, description="tokens of the text before, repeated at the start of a passage")
    max_file_mb: float = Field(10.0, gt=0, description="larger files are skipped, with the reason")
    max_archive_mb: float = Field(500.0, gt=0, description="what one archive may unpack to; the rest is skipped")
    max_archive_files: int = Field(20_000, ge=1, description="files that one archive may hold; the rest is skipped")
    repeated_share: float = Field(
        0.3, gt=0, le=1, description="share of a folder's files from which on a block in all of them is boilerplate"
    )
    timeout_s: float = Field(60.0, gt=0, description="seconds that parsing one file may take")
    memory_mb: int = Field(1024, ge=128, description="memory that parsing one file may take")
    workers: int = Field(0, ge=0, description="processes that parse; 0: as many as there are cores and work")


class QuerySettings(Section):
    """Queries made without labels: which, how they are judged, and click logs as weak labels."""

    make: Literal["auto", "always", "never"] = Field(
        "auto", description="auto: only where no labels are left to train with; made queries beside labels only train"
    )
    kinds: tuple[
        Literal[
            "faq", "heading", "path", "title", "acronym", "definition", "term", "template", "sentence", "key-phrase",
        ], ...,
    ] = Field(
        ("faq", "heading", "path", "title", "acronym", "definition", "template"),
        description="which offline generators run; the first of them have precedence; experiments: offline-queries",
    )  # fmt: skip
    per_passage: int = Field(2, ge=1, description="queries made offline for one passage, at most")
    review: str = Field("", description="CSV of made queries that a person edits (`shoptalk queries --review FILE`)")
    round_trip_k: int = Field(
        20, ge=0, description="base model or BM25 must find the passage in its top k; 0: not judged"
    )
    near_duplicate: float = Field(
        0.8, gt=0, le=1, description="queries of one passage that share so much, rare words counting more, are one"
    )
    copied_words: int = Field(8, ge=0, description="words in a row copied from the passage that are too many; 0: any")
    off_language: bool = Field(True, description="reject queries in another language than wanted")
    generic_share: float = Field(
        0.97, gt=0, le=1,
        description="too generic when the passage at rank k scores this share of the right one, 1: not judged",
    )  # fmt: skip
    llm_judge: bool = Field(False, description="the language model of `llm` scores made queries as well, at its cost")
    judge_min: int = Field(3, ge=1, le=5, description="LLM judge: lowest of its four scores (1 to 5) that is enough")
    click_eta: float = Field(1.0, ge=0, description="a result at rank r is looked at with chance (1/r) to this power")
    click_prior: float = Field(1.0, gt=0, description="looks without a click that every passage is given beforehand")
    click_min_weight: float = Field(0.3, ge=0, le=1, description="weaker clicks are rejected")
    skip_above: bool = Field(False, description="results passed over above a click are negatives of the query")


class DatasetSettings(Section):
    """Checks and the split."""

    test_share: float = Field(0.20, gt=0, lt=0.9)
    dev_share: float = Field(0.15, gt=0, lt=0.9)
    min_test: int = Field(200, ge=1, description="test queries to aim at, where the data has enough")
    max_train: int | None = Field(
        None, ge=2, description="training queries at most, drawn by the seed (learning curves)"
    )
    near_duplicate: float = Field(0.8, gt=0, le=1, description="Jaccard over word 3-grams, verified exactly")
    test_on_clicks: bool = Field(False, description="clicks may become test and dev labels too")
    max_query_chars: int = Field(2_000, ge=10)
    max_passage_chars: int = Field(100_000, ge=100)
