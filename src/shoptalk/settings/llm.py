"""Queries written by a language model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from shoptalk.errors import SettingsError
from shoptalk.settings.section import Section

QueryKind = Literal["natural", "keywords", "acronym", "paraphrase", "comparison", "how-to"]


def address_holds_secret(address: str) -> bool:
    """Whether a URL carries a user name, a password, a query or a fragment, which is where keys are put."""
    from urllib.parse import urlsplit

    parts = urlsplit(address)
    return bool("@" in parts.netloc or parts.query or parts.fragment)


class LLMSettings(Section):
    """Queries written by a language model. Keys come from the environment alone: OPENAI_API_KEY, ANTHROPIC_API_KEY."""

    provider: Literal["", "openai", "anthropic", "transformers"] = Field(
        "", description="empty: none; openai: any server of that protocol; transformers: a model on this machine"
    )
    model: str = Field("", description="the provider's name for it; for transformers a folder or a Hub id")
    base_url: str = Field(
        "", description="of another server, such as http://localhost:11434/v1; never with a key in it"
    )
    queries_per_passage: int = Field(4, ge=3, le=5)
    mix: dict[QueryKind, Annotated[float, Field(gt=0)]] = Field(
        {"natural": 3, "keywords": 2, "acronym": 1, "paraphrase": 2, "comparison": 1, "how-to": 1},
        description="kinds of queries with their weights",
        min_length=1,
    )
    language: str = Field("", description="of the queries, as in de or German; empty: that of the passage")
    persona: str = Field("", description="who asks, as in: a new nurse on the night shift")
    few_shot: int = Field(3, ge=0, le=10, description="your own queries shown as examples, at most")
    negatives: int = Field(0, ge=0, le=5, description="hard negatives written for a query")
    multi_passage: int = Field(0, ge=0, description="questions that need two passages of one document, at most")
    max_passages: int | None = Field(None, ge=1, description="passages asked about, spread evenly; empty: all")
    max_query_chars: int = Field(200, ge=20, description="longer queries are rejected")
    max_copied_words: int = Field(7, ge=3, description="words in a row that a query may share with its passage")
    answer_tokens: int = Field(1_500, ge=64, description="tokens of one answer, at most")
    temperature: float | None = Field(None, ge=0, le=2, description="empty: the provider's own")
    seed: int = Field(
        12, ge=0, description="for the choice of kinds, waiting times, and sampling where it is supported"
    )
    attempts: int = Field(3, ge=1, description="answers asked for until all queries of a passage are usable")
    concurrency: int = Field(8, ge=1, le=256, description="calls at the same time; prompts in a batch for transformers")
    requests_per_minute: int = Field(0, ge=0, description="calls started in a minute, at most; 0: no limit of our own")
    timeout_s: float = Field(120, gt=0, description="for one whole call")
    max_retries: int = Field(6, ge=0, description="of a call that failed on the way (429, 5xx, timeout)")
    max_wait_s: float = Field(300, gt=0, description="longest wait that a server may ask for; beyond it the run stops")
    price_in: float = Field(0, ge=0, description="money per million input tokens that you pay; 0: unknown or free")
    price_out: float = Field(0, ge=0, description="money per million output tokens that you pay; 0: unknown or free")
    max_cost: float | None = Field(None, ge=0, description="money for all calls of this run folder, never exceeded")
    max_total_tokens: int | None = Field(None, ge=0, description="input and output tokens of all calls, never exceeded")
    batch: bool = Field(False, description="Anthropic's Message Batches; give the batch prices")
    batch_poll_s: float = Field(30, gt=0, description="how often a batch is asked whether it is done")

    @model_validator(mode="after")
    def _fits_together(self) -> LLMSettings:
        # SettingsError passes through pydantic as it is; its own message would print an address with a password in it.
        if address_holds_secret(self.base_url):
            raise SettingsError(
                "llm.base_url holds a user name, a password or a query; take it out (its value is not shown here) and put "
                "the key into OPENAI_API_KEY or ANTHROPIC_API_KEY"
            )
        if self.provider and not self.model:
            raise SettingsError(f"llm.model is empty; say which model of {self.provider} to use")
        if self.max_cost is not None and not (self.price_in and self.price_out):
            raise SettingsError(
                "llm.max_cost needs llm.price_in and llm.price_out; or cap llm.max_total_tokens instead"
            )
        if self.batch and self.provider != "anthropic":
            raise SettingsError(f"llm.batch works with provider anthropic alone, not with {self.provider or 'none'}")
        return self
