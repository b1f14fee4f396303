"""Embeddings that did not move: nothing was trained, or something else than the trained model was evaluated."""

from __future__ import annotations

import numpy as np

from shoptalk.diagnosis.evidence import Evidence
from shoptalk.diagnosis.weights import Moved, moved
from shoptalk.records import Finding

_QUERIES = 200
_ADAPTERS = ("lora", "query-linear", "query-mlp")
_ADVICE = (
    "the learning rate is too low, there were too few steps, or the wrong checkpoint was loaded; raise train.learning_rate "
    "or train.epochs"
)


def find(evidence: Evidence) -> Finding | None:
    """Looks at the mean cosine of base to tuned over a sample of the corpus, and over training queries: a query-side adapter
    moves nothing else. The weights then tell the likely causes apart.
    """
    base, tuned = evidence.passages(evidence.sample)
    if base.shape != tuned.shape:
        return None
    cosine = float(np.mean(np.sum(base * tuned, axis=1)))
    if evidence.examples:
        before, after = evidence.queries([example.anchor for example in evidence.examples[:_QUERIES]])
        cosine = min(cosine, float(np.mean(np.sum(before * after, axis=1))))
    if cosine < evidence.settings.diagnose.unchanged_cosine:
        return None
    shown = f"the mean cosine between base and tuned embeddings of {len(base)} texts is {cosine:.5f}"
    if float(evidence.card.get("weight", 1.0)) < 1:
        return Finding(
            "unchanged-embeddings",
            "warning",
            f"{shown}, because of what select chose: {evidence.card.get('words') or 'a point near the base'}",
            "there is next to nothing to deploy; train more gently (train.learning_rate, general examples among the training data), or "
            "allow a larger loss on general text (select.max_general_loss)",
        )
    cause, advice = _cause(evidence)
    return Finding("unchanged-embeddings", "high", f"{shown}{cause}", advice)


def _cause(evidence: Evidence) -> tuple[str, str]:
    """What the weights say: the rest of the evidence, and the advice."""
    if evidence.models is None:
        return "", _ADVICE
    base = evidence.models.base.path
    shipped = moved(base, evidence.models.tuned.path)
    if not shipped.shared:
        return "", _ADVICE
    if not shipped.is_equal:
        return _moved_a_little(shipped, evidence)
    trained = moved(base, evidence.models.candidate) if evidence.models.candidate.is_dir() else None
    method = evidence.training.get("method", "full")
    if trained is not None and trained.shared and not trained.is_equal:
        return (
            f"; all {shipped.shared} weight tensors of the model are the base's, bit for bit, while training left weights that are "
            f"{trained.relative:.2g} away (relative): the wrong checkpoint was loaded",
            "select and evaluate the checkpoint that training kept (candidates/best): shoptalk run --from select",
        )
    if method in _ADAPTERS or _lora(shipped):
        return (
            f"; all {shipped.shared} weight tensors of the base are in the model as they were, and {_own(shipped)}: the adapter "
            f"(train.method: {method}) was not applied",
            "merge or attach the adapter before the model is saved, then evaluate again: shoptalk run --from train",
        )
    return (
        f"; all {shipped.shared} weight tensors of the model are the base's, bit for bit: the wrong checkpoint was loaded, or no "
        f"step was taken (training.json says {evidence.training.get('steps_done', 0)} steps)",
        "look at what was saved as candidates/best; train again with shoptalk run --from train",
    )


def _moved_a_little(shipped: Moved, evidence: Evidence) -> tuple[str, str]:
    rate, steps = evidence.training.get("learning_rate"), evidence.training.get("steps_done")
    taken = f" (learning rate {rate:g}, {steps} steps)" if rate is not None and steps is not None else ""
    return (
        f"; {shipped.shared - shipped.same} of {shipped.shared} weight tensors moved, by {shipped.relative:.2g} of their length: the "
        f"learning rate was too low or there were too few steps{taken}",
        "raise train.learning_rate (auto is a good start) or train.epochs",
    )


def _lora(shipped: Moved) -> bool:
    return any("lora_" in name for name in shipped.own)


def _own(shipped: Moved) -> str:
    if not shipped.own:
        return "it holds no other"
    moving = sum(value > 0 for name, value in shipped.own.items() if "lora_A" not in name)
    return f"of its {len(shipped.own)} other tensors {moving or 'none'} would change a vector"
