"""The gate, what is shipped, the comparison, the findings and the report."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from shoptalk.errors import SettingsError
from shoptalk.settings.section import Section


class BaselineSettings(Section):
    """The gate. The thresholds are the tutorials' rules of thumb, not laws."""

    fine_above: float = Field(0.85, description="nDCG@10 of the base model above which tuning is probably not needed")
    tune_below: float = Field(0.70, description="nDCG@10 below which tuning will likely pay")
    good: dict[Literal["recall@10", "mrr@10", "ndcg@10", "map@100"], float] = Field(
        {"recall@10": 0.90, "mrr@10": 0.70, "ndcg@10": 0.75, "map@100": 0.60},
        description="values that tutorials call good: rules of thumb, shown beside the base model's",
    )
    too_few_pairs: int = Field(100, ge=0, description="training pairs under which more data comes first")
    try_pairs: int = Field(200, ge=0, description="training pairs from which on tuning is worth a try")
    sensible_pairs: int = Field(500, ge=0, description="training pairs that are a sensible minimum")
    good_pairs: int = Field(1_000, ge=0, description="training pairs that are a good number")
    reliable_pairs: int = Field(2_000, ge=0, description="training pairs that are a reliable number")
    candidates: tuple[str, ...] = Field(
        (), description="further general models to measure beside the base: builtin:NAME, folders, Hub ids"
    )
    simpler_gain: float = Field(
        0.02, ge=0, description="nDCG@10 over the base that something simpler than tuning must bring to be advised"
    )
    forecast: bool = Field(True, description="forecast the learning curve with a quick adapter on cached embeddings")
    max_queries: int = Field(1_000, ge=10, description="train and dev queries that the gate looks at, at most")
    gate: Literal["advise", "strict"] = Field("advise", description="strict stops the run when the gate says no")


class SelectSettings(Section):
    """Which point between the base and the tuned weights is shipped."""

    weights: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (0.0, 0.25, 0.5, 0.75, 1.0),
        description="shares of the tuned weights that are tried; 1 alone: the tuned model as it is",
        min_length=1,
    )
    refine: int = Field(
        2, ge=0, description="points tried between the last that keeps to the limit and the first that does not"
    )
    max_general_loss: float = Field(
        0.02, ge=0, description="nDCG@10 on the retention set that a shipped model may lose; experiments: frontier"
    )
    retention: str = Field(
        "", description="BEIR folder of what must keep working; empty: the general set that is shipped; off: none"
    )
    cross_lingual_share: float = Field(
        0.5, gt=0, description="a language counts from this share of the base model's score in the set's own language"
    )


NanoSet = Literal[
    "NanoArguAna", "NanoClimateFEVER", "NanoDBPedia", "NanoFEVER", "NanoFiQA2018", "NanoHotpotQA", "NanoMSMARCO", "NanoNFCorpus",
    "NanoNQ", "NanoQuoraRetrieval", "NanoSCIDOCS", "NanoSciFact", "NanoTouche2020",
]  # fmt: skip


class EvaluateSettings(Section):
    """The comparison."""

    depth: int = Field(100, ge=100, description="how many passages a ranking holds")
    resamples: int = Field(10_000, ge=100, description="for bootstrap and permutation")
    min_gain: float = Field(0.01, ge=0, description="nDCG@10 that `ship` needs")
    min_test: int = Field(50, ge=1, description="test queries that `ship` needs")
    nanobeir: tuple[NanoSet, ...] = Field(
        (),
        description="public sets on which general retrieval is measured too, downloaded from the Hub: [NanoNQ, NanoSciFact]",
    )
    metrics: tuple[Annotated[str, Field(pattern=r"^(ndcg|mrr|recall|map|precision|hit)@[1-9]\d{0,5}$")], ...] = Field(
        (), description="further metrics beside the standard ones, as in [ndcg@20, recall@50, precision@5, hit@10]"
    )
    dims: Literal["auto", "off", "halves"] | tuple[Annotated[int, Field(ge=1)], ...] = Field(
        "auto",
        description="smaller sizes that the vectors are cut to; auto: train.matryoshka; halves: half the size, ... down to 32",
    )
    precisions: tuple[Literal["float32", "int8", "binary"], ...] = Field(
        ("float32", "int8", "binary"), description="how passages are kept, for the table of quality and size"
    )
    rescore: bool = Field(
        True, description="binary: the best by Hamming distance are ordered by the query's float32 vector"
    )
    labels: str = Field("", description="an evaluation/holes.csv with grades filled in, read as further judgements")

    @model_validator(mode="after")
    def _deep_enough(self) -> EvaluateSettings:
        deeper = [metric for metric in self.metrics if int(metric.partition("@")[2]) > self.depth]
        if deeper:
            raise SettingsError(
                f"evaluate.metrics: {deeper[0]} looks deeper than evaluate.depth, which is {self.depth}; raise that"
            )
        return self


class DiagnoseSettings(Section):
    """The findings' thresholds."""

    controls: str = Field("", description="file of control queries that have nothing to do with the domain")
    unchanged_cosine: float = Field(
        0.999, description="mean cosine of base to tuned embeddings above which nothing happened"
    )
    zero_loss: float = Field(0.01, ge=0, description="mean training loss at the end under which the data was memorised")
    bias_drift: float = Field(0.03, gt=0, description="drift of control queries to the domain, in cosine")
    duplicate_share: float = Field(0.2, gt=0, le=1)
    made_controls: int = Field(
        40, ge=0, description="control queries made from general words that the corpus does not use; 0 for none"
    )
    train_dev_gap: float = Field(
        0.2, gt=0, description="lead of train over dev queries in nDCG@10, and its growth, while dev did not rise"
    )
    wrong_positives: float = Field(
        0.2, gt=0, le=1, description="share of wrong or contradictory training positives that may explain a worse model"
    )
    false_negatives: float = Field(
        0.3, gt=0, le=1, description="share of queries with likely false negatives that may explain a worse model"
    )
    leak_share: float = Field(
        0.02, gt=0, le=1, description="share of test queries seen in training from which leakage is of high severity"
    )
    crowding: float = Field(
        0.25, gt=0, le=1, description="share of the distance between two random texts that is lost when vectors crowd"
    )
    rank_left: float = Field(
        0.5, gt=0, le=1, description="share of the base model's effective rank under which vectors have lost dimensions"
    )
    truncated_share: float = Field(0.1, gt=0, le=1, description="share of passages over the model's maximum length")
    cut_answers: float = Field(
        0.05, gt=0, le=1, description="share of judged pairs with the answer in the part of a passage that is cut"
    )
    hub_share: float = Field(
        0.2, gt=0, le=1, description="share of queries that a hub passage is found for without answering them"
    )
    wide_interval: float = Field(
        0.05, gt=0, description="half the width of the gain's interval above which the test is called small"
    )
    style_effect: float = Field(
        0.4, gt=0, le=1, description="effect size from which test queries are unlike training queries"
    )
    terms: int = Field(40, ge=0, description="terms of the team's own that are looked at before and after")
    general_words: int = Field(4_000, ge=0, description="words of general language that a term is held against")
    uncovered_share: float = Field(
        0.5, gt=0, le=1, description="share of the most telling terms without training data that is a finding"
    )


class ReportSettings(Section):
    """The report."""

    title: str = ""
    examples: int = Field(10, ge=1, description="won and lost queries shown with their rankings")
