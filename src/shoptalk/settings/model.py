"""The base model and how it encodes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from shoptalk.settings.section import Section

BUILTIN_MODEL = "builtin:all-MiniLM-L6-v2"


class ModelSettings(Section):
    """The base model and how it encodes."""

    base: str = Field(BUILTIN_MODEL, description="builtin:NAME, a folder, or a Hub id such as BAAI/bge-small-en-v1.5")
    query_prompt: str | None = Field(None, description="overrides the model's own query prompt")
    passage_prompt: str | None = Field(None, description="overrides the model's own passage prompt")
    max_tokens: int | None = Field(None, ge=8, description="overrides the model's own maximum sequence length")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    precision: Literal["auto", "fp32"] = Field("auto", description="auto uses bf16 where the hardware has it")
