"""The stage baseline: what searches well without any training, and advice before anyone spends a training run.

Looks at train and dev queries; of the test split it is told only the size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from shoptalk.beir import read_dataset
from shoptalk.evaluation.advice import Decision, decide
from shoptalk.evaluation.forecast import MIN_DEV, MIN_TRAIN, learning_curve, predict
from shoptalk.evaluation.measuring import (
    BASE,
    FUSED,
    KEYWORDS,
    System,
    headroom,
    measure_pairs,
    measure_retrieval,
    own_settings,
)
from shoptalk.evaluation.power import paired_spread, power_of
from shoptalk.models.encoder import CachedEncoder
from shoptalk.models.finding import find_model
from shoptalk.records import Dataset, Qrels
from shoptalk.retrieval.metrics import PRIMARY
from shoptalk.settings import BaselineSettings, Settings
from shoptalk.workspace import StageContext

_SPREAD_OF = "BM25 fused with the base against the base on train and dev queries"


def assess(stage: StageContext) -> None:
    """Write baseline/gate.json: the decision with its reasons, every system measured, headroom, power and forecast.

    Raises ModelError for a candidate that is not there, before anything is encoded.
    """
    settings = stage.settings
    others = [
        CachedEncoder(find_model(name), own_settings(settings.model), stage.cache)
        for name in dict.fromkeys(settings.baseline.candidates)
    ]
    folder = stage.read("dataset")
    audit = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    dataset = read_dataset(folder, ["train", "dev"])
    base = CachedEncoder(find_model(settings.model.base), settings.model, stage.cache)
    assessed = _assess_pairs if dataset.task == "similarity" else _assess_retrieval
    systems, measured = assessed(dataset, base, others, audit, settings)
    gate = decide(
        systems[0].score,
        systems[0].ci95,
        measured["metric"],
        audit["training_pairs"],
        audit.get("train_origin", "human"),
        settings.baseline,
        systems,
        measured["forecast"],
    )
    reasons = [*gate.reasons, *_closing_words(gate.decision, systems, measured)]
    record = {"decision": gate.decision, "reasons": reasons, **measured}
    record |= {"training_pairs": audit["training_pairs"], "test_queries": audit["queries"]["test"]}
    record["data"] = _ladder(audit["training_pairs"], settings.baseline)
    (stage.out / "gate.json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _assess_retrieval(
    dataset: Dataset, base: CachedEncoder, others: Sequence[CachedEncoder], audit: Mapping[str, Any], settings: Settings
) -> tuple[list[System], dict[str, Any]]:
    rng = np.random.default_rng(settings.seed)
    qrels = _sample({**dataset.qrels["train"], **dataset.qrels["dev"]}, settings.baseline.max_queries, rng)
    systems = measure_retrieval(dataset, qrels, base, others, settings)
    by_name = {system.name: system for system in systems}
    first, keywords, fused = by_name[BASE], by_name[KEYWORDS], by_name[FUSED]
    n_test = audit["queries"]["test"]
    spread = paired_spread(first.values, fused.values, dataset.groups)
    forecast, no_forecast = _forecast(dataset, base, audit["training_pairs"], settings)
    return systems, {
        "metric": PRIMARY,
        "score": first.score,
        "ci95": list(first.ci95),
        "queries": len(first.values),
        "base": dict(first.metrics),
        "bm25": dict(keywords.metrics),
        "bm25_ci95": list(keywords.ci95),
        "bm25_delta": None if keywords.delta is None else keywords.delta.as_json(),
        "systems": [system.as_json() for system in systems],
        "headroom": headroom(first, qrels),
        "power": power_of(spread, n_test, audit.get("groups", {}).get("test", n_test), _SPREAD_OF),
        "forecast": forecast,
        "no_forecast": no_forecast,
        "good": [
            {
                "metric": metric,
                "value": first.metrics[metric],
                "target": target,
                "reached": first.metrics[metric] >= target,
            }
            for metric, target in settings.baseline.good.items()
        ],
    }


def _assess_pairs(
    dataset: Dataset, base: CachedEncoder, others: Sequence[CachedEncoder], audit: Mapping[str, Any], settings: Settings
) -> tuple[list[System], dict[str, Any]]:
    """Scored pairs have no ranking: nothing to fuse, to rerank or to forecast with an adapter of queries."""
    systems = measure_pairs(dataset, base, others, settings)
    return systems, {
        "metric": "spearman",
        "score": systems[0].score,
        "ci95": list(systems[0].ci95),
        "queries": len(dataset.pairs["train"]) + len(dataset.pairs["dev"]),
        "base": dict(systems[0].metrics),
        "systems": [system.as_json() for system in systems],
        "headroom": None,
        "power": None,
        "forecast": None,
        "no_forecast": "scored pairs have no queries that a quick adapter could move",
        "good": [],
    }


def _forecast(
    dataset: Dataset, base: CachedEncoder, n_pairs: int, settings: Settings
) -> tuple[dict[str, Any] | None, str]:
    """gate.json's "forecast", or None and why there is none."""
    if not settings.baseline.forecast:
        return None, "baseline.forecast is off"
    curve = learning_curve(dataset, base, settings.seed)
    if curve is None:
        return None, (
            f"no forecast: a learning curve takes {MIN_TRAIN} training and {MIN_DEV} dev queries at least, on passages of more than "
            f"one group; there are {len(dataset.qrels['train'])} and {len(dataset.qrels['dev'])}"
        )
    return predict(curve, n_pairs, settings.seed), ""


def _sample(qrels: Qrels, most: int, rng: np.random.Generator) -> Qrels:
    if len(qrels) <= most:
        return qrels
    names = list(qrels)
    return {names[i]: qrels[names[i]] for i in sorted(rng.choice(len(names), most, replace=False))}


def _ladder(n: int, settings: BaselineSettings) -> list[dict[str, Any]]:
    """The tutorials' rules of thumb for numbers of training pairs, and which of them are reached."""
    steps = (
        (settings.too_few_pairs, "fewer are too few to rely on"),
        (settings.try_pairs, "worth a try"),
        (settings.sensible_pairs, "a sensible minimum"),
        (settings.good_pairs, "a good number"),
        (settings.reliable_pairs, "reliable"),
    )
    return [{"pairs": pairs, "words": words, "reached": n >= pairs} for pairs, words in steps]


def _closing_words(decision: Decision, systems: Sequence[System], measured: Mapping[str, Any]) -> list[str]:
    words = []
    forecast, power = measured["forecast"], measured["power"]
    if decision != "not-needed" and forecast and power and forecast["predicted"][0]["gain"] < power["detectable"]:
        words.append(
            f"the forecast sees {forecast['predicted'][0]['gain']:+.3f} from tuning on the present data, and the test set shows only "
            f"{power['detectable']:+.3f} or more reliably: a gain that is there may go unproved"
        )
    if measured.get("bm25_delta"):
        words.append(_bm25_words(measured))
    return words


def _bm25_words(measured: Mapping[str, Any]) -> str:
    delta = measured["bm25_delta"]
    words = f"BM25 alone reaches {measured['bm25'][PRIMARY]:.3f}"
    if delta["ci95"][0] > 0:
        return f"{words}, clearly better than the base model: fuse it with whichever model you use"
    if delta["ci95"][1] < 0:
        return f"{words}, clearly below the base model"
    return f"{words}, which cannot be told from the base model"
