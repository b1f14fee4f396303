"""Memorised: the model knows the training data by heart, which shows in a loss at zero or in a gap between train and dev."""

from __future__ import annotations

import numpy as np

from shoptalk.diagnosis.evidence import Evidence
from shoptalk.records import Finding

# Only of these is a loss near zero a loss of nothing left to learn; a good fit of scores ends there too.
_CONTRASTIVE = ("info-nce", "multiple-negatives", "cached-multiple-negatives", "gist")


def find(evidence: Evidence) -> Finding | None:
    """Looks at the last tenth of the logged losses, and at train and dev queries before and after."""
    shown = [words for words in (_zero_loss(evidence), _gap(evidence)) if words]
    if not shown:
        return None
    return Finding(
        "memorised",
        "warning",
        "; ".join(shown),
        "more epochs cannot help; add harder or more varied training data, or train for fewer epochs (train.epochs) or with a "
        "lower train.learning_rate",
    )


def _zero_loss(evidence: Evidence) -> str:
    losses = [row["loss"] for row in evidence.log if "loss" in row]
    loss = evidence.training.get("loss", "info-nce")
    if not losses or not evidence.is_retrieval or loss not in _CONTRASTIVE:
        return ""
    last = float(np.mean(losses[-max(1, len(losses) // 10) :]))
    if last >= evidence.settings.diagnose.zero_loss:
        return ""
    return f"the training loss ended at {last:.4f}, as good as zero (it began at {losses[0]:.3f})"


def _gap(evidence: Evidence) -> str:
    """Both on the whole corpus. The gap has to have grown: train queries may be the easier ones from the beginning."""
    if not evidence.is_retrieval or not {"train", "dev"} <= evidence.scores.keys():
        return ""
    (train_before, train), (dev_before, dev) = evidence.scores["train"], evidence.scores["dev"]
    gap, before = train - dev, train_before - dev_before
    if dev > dev_before or min(gap, gap - before) < evidence.settings.diagnose.train_dev_gap:
        return ""
    return (
        f"nDCG@10 of training queries went from {train_before:.3f} to {train:.3f} while that of dev queries, which it is not trained "
        f"on, went from {dev_before:.3f} to {dev:.3f}"
    )
