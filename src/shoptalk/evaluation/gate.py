"""The stage baseline: the base model and BM25 on the whole corpus, and advice before anyone spends a training run.

Looks at train and dev queries; of the test split it is told only the size.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from shoptalk.beir import read_dataset
from shoptalk.evaluation.similarity import spearman_with_interval
from shoptalk.models.encoder import CachedEncoder
from shoptalk.models.finding import find_model
from shoptalk.records import Dataset, Qrels
from shoptalk.retrieval.bm25 import BM25
from shoptalk.retrieval.metrics import PRIMARY, SHOWN, PerQuery, mean, of_metric, per_query
from shoptalk.retrieval.ranking import rank
from shoptalk.retrieval.significance import mean_with_interval, paired_delta
from shoptalk.settings import BaselineSettings, Settings
from shoptalk.workspace import StageContext

Decision = Literal["tune", "tune-with-caution", "collect-more-data", "use-something-simpler", "not-needed"]
CLOSED: tuple[Decision, ...] = ("collect-more-data", "use-something-simpler", "not-needed")
_DEPTH = 100


@dataclass(frozen=True)
class Gate:
    """The advice, with its reasons in plain words."""

    decision: Decision
    reasons: tuple[str, ...]


def assess(stage: StageContext) -> None:
    """Write baseline/gate.json: decision, reasons, metrics of the base model and BM25 with intervals."""
    settings = stage.settings
    folder = stage.read("dataset")
    audit = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    dataset = read_dataset(folder, ["train", "dev"])
    encoder = CachedEncoder(find_model(settings.model.base), settings.model, stage.cache)
    if dataset.task == "similarity":
        measured = _measure_similarity(dataset, encoder, settings)
    else:
        measured = _measure_retrieval(dataset, encoder, settings)
    score, interval, metric = measured["score"], measured["ci95"], measured["metric"]
    gate = decide(
        score,
        interval,
        metric,
        audit["training_pairs"],
        audit.get("train_origin", "human"),
        settings.baseline,
    )
    if "bm25_delta" in measured:
        gate = Gate(gate.decision, (*gate.reasons, _bm25_words(measured)))
    record = {
        "decision": gate.decision,
        "reasons": list(gate.reasons),
        **measured,
        "training_pairs": audit["training_pairs"],
    }
    record["test_queries"] = audit["queries"]["test"]
    (stage.out / "gate.json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def decide(
    score: float,
    ci95: tuple[float, float],
    metric: str,
    n_pairs: int,
    origin: str,
    settings: BaselineSettings,
) -> Gate:
    """The first version of the gate: two thresholds on the base model's score, three on the number of training pairs."""
    shown = f"the base model's {SHOWN[metric]} on train and dev queries is {score:.3f} (95% interval {ci95[0]:.3f} to {ci95[1]:.3f})"
    reasons: list[str] = []
    decision: Decision
    if score > settings.fine_above:
        decision = "not-needed"
        reasons.append(f"{shown}: above {settings.fine_above:g} a general model is probably fine")
    elif score < settings.tune_below:
        decision = "tune"
        reasons.append(f"{shown}: below {settings.tune_below:g} tuning will likely pay")
    else:
        decision = "tune-with-caution"
        reasons.append(
            f"{shown}: between {settings.tune_below:g} and {settings.fine_above:g}, where a gain is likely to be small"
        )
    if n_pairs < settings.too_few_pairs:
        if decision != "not-needed":
            decision = "collect-more-data"
        reasons.append(f"{n_pairs} training pairs: fewer than {settings.too_few_pairs} are too few to rely on")
    elif n_pairs < settings.sensible_pairs:
        reasons.append(
            f"{n_pairs} training pairs: {settings.sensible_pairs} is a sensible minimum, {settings.reliable_pairs:,} reliable"
        )
    elif n_pairs < settings.reliable_pairs:
        reasons.append(f"{n_pairs:,} training pairs: a sensible number; {settings.reliable_pairs:,} is reliable")
    else:
        reasons.append(f"{n_pairs:,} training pairs: a reliable number")
    if origin == "offline":
        reasons.append(
            "the queries were made from the documents without labels: real users ask differently, so this score is a guess"
        )
        reasons.append(
            "training on queries made by rules is unlikely to help with people's own: where it was measured, cropped sentences "
            "gave nothing (+0.0005 nDCG@10) and keywords hurt (-0.03); fifty questions that people asked are worth more"
        )
    return Gate(decision, tuple(reasons))


def _measure_retrieval(dataset: Dataset, encoder: CachedEncoder, settings: Settings) -> dict[str, Any]:
    rng = np.random.default_rng(settings.seed)
    qrels = _sample({**dataset.qrels["train"], **dataset.qrels["dev"]}, settings.baseline.max_queries, rng)
    base = per_query(qrels, rank(encoder, dataset, list(qrels), _DEPTH))
    index = BM25(list(dataset.passages), [p.content for p in dataset.passages.values()])
    bm25 = per_query(qrels, index.search(list(qrels), [dataset.queries[q].text for q in qrels], _DEPTH))
    resamples, seed = settings.evaluate.resamples, settings.seed

    def interval(values: PerQuery) -> list[float]:
        return list(mean_with_interval(of_metric(values, PRIMARY), dataset.groups, resamples, seed).ci95)

    delta = paired_delta(of_metric(base, PRIMARY), of_metric(bm25, PRIMARY), dataset.groups, resamples, seed)
    return {
        "metric": PRIMARY,
        "score": mean(base)[PRIMARY],
        "ci95": interval(base),
        "queries": len(base),
        "base": mean(base),
        "bm25": mean(bm25),
        "bm25_ci95": interval(bm25),
        "bm25_delta": delta.as_json(),
    }


def _measure_similarity(dataset: Dataset, encoder: CachedEncoder, settings: Settings) -> dict[str, Any]:
    pairs = [*dataset.pairs["train"], *dataset.pairs["dev"]]
    value, ci95 = spearman_with_interval(pairs, encoder, dataset.groups, settings)
    return {
        "metric": "spearman",
        "score": value,
        "ci95": list(ci95),
        "queries": len(pairs),
        "base": {"spearman": value},
    }


def _sample(qrels: Qrels, most: int, rng: np.random.Generator) -> Qrels:
    if len(qrels) <= most:
        return qrels
    names = list(qrels)
    return {names[i]: qrels[names[i]] for i in sorted(rng.choice(len(names), most, replace=False))}


def _bm25_words(measured: dict[str, Any]) -> str:
    delta = measured["bm25_delta"]
    words = f"BM25 alone reaches {measured['bm25'][PRIMARY]:.3f}"
    if delta["ci95"][0] > 0:
        return f"{words}, clearly better than the base model: fuse it with whichever model you use"
    if delta["ci95"][1] < 0:
        return f"{words}, clearly below the base model"
    return f"{words}, which cannot be told from the base model"
