"""A paragraph on how the comparison was made, with its numbers, ready to quote."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from shoptalk.report.artifacts import Artifacts
from shoptalk.report.wording import count, item, origin, p_value, plain, shown, signed

_METHODS = {
    "full": "All weights of {base} were fine-tuned",
    "lora": "{base} was fine-tuned by low-rank adaptation (LoRA)",
    "query-linear": "A linear adapter for queries was fitted on the vectors of {base}",
    "query-mlp": "An adapter for queries with one hidden layer was fitted on the vectors of {base}",
    "static": "A static embedding model was distilled from {base} and fine-tuned",
}


def paragraph(run: Artifacts) -> str:
    """Plain text in one block."""
    told = [_training(run), _test(run), _statistics(run), _result(run)]
    retention = run.comparison.get("retention")
    if retention:
        told.append(_retention(run, retention))
    looks = "once" if run.evaluations == 1 else count(run.evaluations, "time")
    version = importlib.metadata.version("shoptalk")
    told.append(
        f"The test split was evaluated {looks}. The interval covers the choice of test queries, not the variance between training "
        f"seeds. Software: shoptalk {version} on sentence-transformers."
    )
    return " ".join(told)


def _training(run: Artifacts) -> str:
    training, settings = run.training, run.settings
    method = str(training.get("method", settings.train.method))
    rate = training.get("learning_rate")
    at = f", learning rate {rate:g}" if isinstance(rate, float) else ""
    pairs = count(training["examples"], "scored pair" if run.is_similarity else "query-passage pair")
    done = _METHODS.get(method, _METHODS["full"]).format(base=settings.model.base.removeprefix("builtin:"))
    words = f"{done} on {pairs} for {count(training['epochs'], 'epoch')} (seed {settings.seed}{at}, {training['precision']})."
    weight = run.card.get("weight")
    if weight is not None and 0 <= weight < 1:
        half = " and on one half of a retention set" if run.comparison.get("retention") else ""
        words += (
            f" The evaluated weights lie {weight:.0%} of the way from the base to the tuned ones, a point chosen on dev "
            f"queries{half}."
        )
    return words


def _test(run: Artifacts) -> str:
    n = item(run, run.comparison["queries"], "test ")
    if run.is_similarity:
        return f"Both models encoded the same {n}, {origin(run)}."
    return (
        f"Both models ranked the whole corpus of {count(run.audit['passages'], 'passage')} for the same {n}, {origin(run)}; passages "
        f"of test queries and their near-duplicates were never training positives. Metrics follow trec_eval."
    )


def _statistics(run: Artifacts) -> str:
    wanted = run.settings.evaluate.resamples
    groups = count(run.comparison["groups"], "cluster")
    if run.is_similarity:
        return (
            f"95% intervals are percentile bootstrap intervals over {groups} of pairs that share a sentence ({min(wanted, 2000):,} "
            "resamples), widened for few clusters (Hesterberg 2015); p-values are from random swaps of the two models within clusters."
        )
    return (
        f"95% intervals are percentile bootstrap intervals over {groups} of test queries that share a passage or a near-duplicate of "
        f"it ({wanted:,} resamples), widened for few clusters (Hesterberg 2015); p-values are from a paired permutation test that "
        "flips the signs of whole clusters. Metrics other than the deciding one, and slices, carry Holm's correction."
    )


def _result(run: Artifacts) -> str:
    before, after = (run.comparison[system][run.metric] for system in ("base", "tuned"))
    low, high = run.delta["ci95"]
    return (
        f"{shown(run.metric)} was {plain(before)} with the base model and {plain(after)} with the tuned one: a change of "
        f"{signed(run.delta['value'])} (95% interval {signed(low)} to {signed(high)}, p {_p(run.delta['p'])})."
    )


def _retention(run: Artifacts, retention: dict[str, Any]) -> str:
    general = retention["general"]
    low, high = general["delta"]["ci95"]
    half = " not used to choose the model" if run.card.get("frontier") else ""
    return (
        f"On {count(general['queries'], 'query')} of general knowledge{half}, nDCG@10 went from {plain(general['base'])} to "
        f"{plain(general['tuned'])} ({signed(general['delta']['value'])}, 95% interval {signed(low)} to {signed(high)})."
    )


def _p(value: float) -> str:
    said = p_value(value)
    return said if said.startswith("<") else f"= {said}"
