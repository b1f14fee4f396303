"""Training loss at zero: the model knows the training data by heart and learns nothing more from it."""

from __future__ import annotations

import numpy as np

from shoptalk.diagnosis.evidence import Evidence
from shoptalk.records import Finding

# Only of these is a loss near zero a loss of nothing left to learn; a good fit of scores ends there too.
_CONTRASTIVE = ("info-nce", "multiple-negatives", "cached-multiple-negatives", "gist")


def find(evidence: Evidence) -> Finding | None:
    """Looks at the last tenth of the logged losses."""
    losses = [row["loss"] for row in evidence.log if "loss" in row]
    loss = evidence.training.get("loss", "info-nce")
    if not losses or evidence.dataset.task == "similarity" or loss not in _CONTRASTIVE:
        return None
    last = float(np.mean(losses[-max(1, len(losses) // 10) :]))
    if last >= evidence.settings.diagnose.zero_loss:
        return None
    return Finding(
        "memorised",
        "warning",
        f"the training loss ended at {last:.4f}, as good as zero (it began at {losses[0]:.3f})",
        "more epochs cannot help; add harder or more varied training data, or train for fewer epochs",
    )
