"""The artifacts of the gate, the comparison, the selection and the diagnosis that came with the frontier, in small."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shoptalk.evaluation.holes import count_holes
from shoptalk.evaluation.power import power_of
from shoptalk.evaluation.retention import is_broken
from shoptalk.evaluation.slices import measure_slices
from shoptalk.records import Dataset, Delta, Ranking
from shoptalk.retrieval.metrics import PRIMARY, PerQuery, of_metric
from shoptalk.settings import Settings


def gate_systems(candidate: str) -> dict[str, Any]:
    """What gate.json holds beside the decision. candidate: the name of a further model."""
    systems = [
        _system("base", "Base model", 0.50, None, 4.8, 23_000_000, "base: 384 dimensions, up to 256 tokens"),
        _system("bm25", "BM25", 0.41, -0.09, 0.01, 410_000, "keywords (Lucene's BM25), no model"),
        _system("fused", "Base and BM25 fused", 0.53, 0.03, 4.8, 23_410_000, "base model and BM25 by reciprocal rank"),
        _system(candidate, candidate, 0.56, 0.06, 9.6, 46_000_000, f"{candidate}: 768 dimensions"),
    ]
    points = [{"pairs": n, "ndcg@10": 0.5 + gain, "gain": gain} for n, gain in ((15, 0.01), (30, 0.03), (120, 0.06))]
    ahead = [
        {"pairs": 120 * times, "gain": gain, "low": gain - 0.03, "high": gain + 0.04}
        for times, gain in ((1, 0.06), (2, 0.07), (4, 0.08))
    ]
    return {
        "systems": systems,
        "headroom": {
            "recall@100": 0.85,
            "ndcg@10": 0.5,
            "reranker": 0.35,
            "embedding": 0.15,
            "words": "85% of the answers are among the base model's first 100: a perfect reranker would add 0.350",
        },
        "power": power_of(0.3, 60, 58, "BM25 fused with the base against the base on train and dev queries"),
        "forecast": {"points": points, "predicted": ahead, "words": "a quick adapter on cached vectors gains +0.060"},
        "no_forecast": "",
        "good": [{"metric": "recall@10", "value": 0.7, "target": 0.9, "reached": False}],
        "data": [{"pairs": 100, "words": "fewer are too few to rely on", "reached": True}],
    }


def _system(
    name: str, label: str, score: float, gain: float | None, seconds: float, size: int, detail: str
) -> dict[str, Any]:
    delta = None if gain is None else Delta(gain, (gain - 0.04, gain + 0.04), 0.01, 0.02).as_json()
    return {
        "name": name, "label": label, "ndcg@10": score, "ci95": [score - 0.08, score + 0.08], "metrics": {"ndcg@10": score},
        "delta": delta, "seconds_per_1000": seconds, "index_bytes": size, "detail": detail,
    }  # fmt: skip


def comparison_more(
    dataset: Dataset, base: PerQuery, tuned: PerQuery, rankings: Mapping[str, Ranking], settings: Settings, folder: str
) -> dict[str, Any]:
    """comparison.json's table, slices, holes and retention. folder: where the even half of the answers stands."""
    names = list(base)
    halves = {"query length": {q: "5 to 8 words" if i % 3 else "1 to 4 words" for i, q in enumerate(names)}}
    halves["source"] = {q: f"{folder}/" if i % 2 else "other.md" for i, q in enumerate(names)}
    halves["query language"] = {q: "de" if i % 2 else "en" for i, q in enumerate(names)}
    slices = measure_slices(halves, of_metric(base, PRIMARY), of_metric(tuned, PRIMARY), dataset.groups, 200, 1)
    table = [
        {"system": name, "dimensions": dims, "precision": precision, "ndcg@10": score, "recall@100": 0.9,
         "bytes_per_passage": size, "seconds_per_1000": seconds}
        for name, dims, precision, score, size, seconds in (
            ("base", 384, "float32", 0.50, 1536, 4.8), ("tuned", 384, "float32", 0.71, 1536, 4.8),
            ("tuned", 128, "int8", 0.69, 128, 4.8), ("bm25", None, "", 0.41, 210.5, 0.01), (f"{folder}-run", None, "", 0.4, 0, None),
        )
    ]  # fmt: skip
    holes = {"depth": 10} | {name: count_holes(ranking, dataset.qrels["test"]) for name, ranking in rankings.items()}
    added = Delta(0.012, (-0.01, 0.03), 0.2).as_json()
    fusion = {"base": Delta(0.05, (0.02, 0.08), 0.001).as_json(), "tuned": added}
    return {"fusion": fusion, "slices": slices, "table": table, "holes": holes, "retention": retention(settings)}


def retention(settings: Settings, loss: float = 0.008) -> dict[str, Any]:
    """What was kept: a small loss on general text, one language that counts, and one that the base could not either."""
    limit = settings.select.max_general_loss

    def side(queries: int, base: float, delta: Delta, **more: Any) -> dict[str, Any]:
        found = {"queries": queries, "base": base, "tuned": base + delta.value, "delta": delta.as_json()}
        return {**found, "limit": limit, "broken": is_broken(delta, limit), **more}

    german = Delta(-0.011, (-0.04, 0.02), 0.4)
    return {
        "set": settings.select.retention or "shipped",
        "nanobeir": {
            "measured": True,
            **side(50, 0.6, Delta(-0.004, (-0.02, 0.01), 0.6)),
            "sets": {
                "NanoNQ": {"measured": True, **side(50, 0.6, Delta(-0.004, (-0.02, 0.01), 0.6))},
                "NanoMSMARCO": {"measured": False, "words": "not measured: the Hub could not be reached"},
            },
        },
        "general": side(151, 0.81, Delta(-loss, (-loss - 0.009, -loss + 0.009), 0.1)),
        "cross_lingual": {
            **side(40, 0.62, german),
            "languages": {
                "de": side(40, 0.62, german, able=True),
                "ja": side(40, 0.11, Delta(0.01, (-0.02, 0.04), 0.5), able=False),
            },
            "measured": True,
        },
    }


def card(settings: Settings) -> dict[str, Any]:
    """model/shoptalk.json: the last point is barred for what it loses, the one before it is chosen."""
    points = [
        {
            "weight": weight, "dev": 0.5 + gain, "dev_gain": gain, "general": 0.82 - loss, "general_loss": loss,
            "cross_lingual": 0.6 - 2 * loss, "cross_lingual_loss": 2 * loss, "allowed": loss <= 0.02, "chosen": weight == 0.75,
        }
        for weight, gain, loss in ((0.0, 0, 0), (0.25, 0.12, -0.002), (0.5, 0.19, 0.003), (0.75, 0.23, 0.009), (1.0, 0.24, 0.031))
    ]  # fmt: skip
    return {
        "base_model": settings.model.base,
        "chosen": "point between base and tuned weights",
        "weight": 0.75,
        "words": "75% of the way from base to tuned weights: +0.230 on dev, -0.009 on general text; left out for what they lose: 100%",
        "constraint": settings.select.max_general_loss,
        "frontier": points,
    }


def corpus_map(ids: list[str], term: str, label: str, n_clusters: int = 3) -> dict[str, Any]:
    """map.json: clusters in a ring, nearer to each other before; terms in their middle."""
    rng = np.random.default_rng(5)

    def at(cluster: int, far: float) -> list[float]:
        angle = 2 * math.pi * cluster / n_clusters
        spot = far * np.array([math.cos(angle), math.sin(angle)]) + rng.normal(0, 0.09, 2)
        return [round(float(value), 3) for value in np.clip(spot, -1, 1)]

    points = [
        {"id": name, "cluster": i % n_clusters, "before": at(i % n_clusters, 0.3), "after": at(i % n_clusters, 0.7)}
        for i, name in enumerate(ids)
    ]
    terms = [{"term": f"{term} {i}", "before": at(i, 0.2), "after": at(i, 0.7)} for i in range(9)]
    sizes = [sum(point["cluster"] == one for point in points) for one in range(n_clusters)]
    return {
        "before": {"axes": "pca", "explained": [0.21, 0.12]},
        "after": {"axes": "pca", "explained": [0.3, 0.2]},
        "points": points,
        "terms": terms,
        "clusters": [
            {"cluster": one, "label": f"{label} {one}, minutes", "size": size} for one, size in enumerate(sizes)
        ],
    }


def write_json(path: Path, content: Any) -> None:
    """As the stages write it: never NaN."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
