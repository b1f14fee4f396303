"""The gate, what is shipped, the comparison, the findings and the report."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from shoptalk.settings.section import Section


class BaselineSettings(Section):
    """The gate. The thresholds are the tutorials' rules of thumb, not laws."""

    fine_above: float = Field(0.85, description="nDCG@10 of the base model above which tuning is probably not needed")
    tune_below: float = Field(0.70, description="nDCG@10 below which tuning will likely pay")
    too_few_pairs: int = Field(100, ge=0)
    sensible_pairs: int = Field(500, ge=0)
    reliable_pairs: int = Field(2_000, ge=0)
    max_queries: int = Field(1_000, ge=10, description="train and dev queries that the gate looks at, at most")
    gate: Literal["advise", "strict"] = Field("advise", description="strict stops the run when the gate says no")


class SelectSettings(Section):
    """Which model is shipped."""


class EvaluateSettings(Section):
    """The comparison."""

    depth: int = Field(100, ge=100, description="how many passages a ranking holds")
    resamples: int = Field(10_000, ge=100, description="for bootstrap and permutation")
    min_gain: float = Field(0.01, ge=0, description="nDCG@10 that `ship` needs")
    min_test: int = Field(50, ge=1, description="test queries that `ship` needs")


class DiagnoseSettings(Section):
    """The findings' thresholds."""

    controls: str = Field("", description="file of control queries that have nothing to do with the domain")
    unchanged_cosine: float = Field(
        0.999, description="mean cosine of base to tuned embeddings above which nothing happened"
    )
    zero_loss: float = Field(0.01, ge=0, description="mean training loss at the end under which the data was memorised")
    bias_drift: float = Field(0.03, gt=0, description="drift of control queries to the domain, in cosine")
    duplicate_share: float = Field(0.2, gt=0, le=1)
    terms: int = Field(40, ge=0, description="terms of the team's own that are looked at before and after")
    general_words: int = Field(4_000, ge=0, description="words of general language that a term is held against")
    uncovered_share: float = Field(
        0.5, gt=0, le=1, description="share of the most telling terms without training data that is a finding"
    )


class ReportSettings(Section):
    """The report."""

    title: str = ""
    examples: int = Field(10, ge=1, description="won and lost queries shown with their rankings")
