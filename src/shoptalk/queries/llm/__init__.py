"""Queries written by a language model: behind an API (OpenAI's protocol, Anthropic's) or on this machine (transformers)."""

from shoptalk.llm.spending import Estimate
from shoptalk.queries.llm.generating import Generated, UsageReport, estimate_llm, generate_with_llm

__all__ = ["Estimate", "Generated", "UsageReport", "estimate_llm", "generate_with_llm"]
