"""Which checkpoint is kept, and when training may stop: by dev nDCG@10, as far as the dev queries can tell.

A checkpoint is clearly better than another when the mean difference over the dev queries is more than two standard errors. The
last checkpoint has learned most, so it is kept unless the best of the run is clearly better (as in the one-standard-error rule
of Breiman et al. 1984; two, since the best is the highest of several). With twenty dev queries the highest score is often
luck: docs/experiments.md, checkpoint-choice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shoptalk.retrieval.significance import clearly_higher
from shoptalk.workspace import write_atomically

METRIC = "dev"
_SCORES = "eval/dev-{step}.json"


class DevScores:
    """The dev score of every query at every evaluation of one run, kept on disk so that a resumed run decides as it would have."""

    def __init__(self, folder: Path, groups: Mapping[str, str]) -> None:
        """folder: the trainer's output folder. groups: the dev queries' units of chance."""
        self.folder = folder
        self.groups = groups

    def clearly_better(self, step: int, other: int) -> bool:
        """Whether the checkpoint of `step` is ahead of `other` by more than chance explains; without scores a query, yes."""
        one, two = self._read(step), self._read(other)
        if one is None or two is None:
            return True
        return clearly_higher(one, two, self.groups)

    def _read(self, step: int) -> dict[str, float] | None:
        path = self.folder / _SCORES.format(step=step)
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def write_scores(output_path: str, step: int, scores: Mapping[str, float]) -> None:
    """Keep the scores of an evaluation. output_path: the folder that the trainer gives to its evaluator."""
    text = json.dumps(dict(scores))
    write_atomically(Path(output_path).parent / _SCORES.format(step=step), text)


def evaluations(history: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Dev scores by step, from the trainer's log."""
    return {row["step"]: row[f"eval_{METRIC}"] for row in history if f"eval_{METRIC}" in row}


def kept_step(history: Sequence[Mapping[str, Any]], scores: DevScores) -> int | None:
    """The step whose checkpoint is kept: the last evaluated one, or the highest when that is clearly better."""
    found = evaluations(history)
    if not found:
        return None
    last, best = list(found)[-1], max(found, key=lambda step: found[step])  # the first of equals, as the trainer has it
    return best if found[best] > found[last] and scores.clearly_better(best, last) else last


def should_stop(history: Sequence[Mapping[str, Any]], scores: DevScores, patience: int) -> bool:
    """Whether the best checkpoint is clearly better than each of the last `patience` ones."""
    found = evaluations(history)
    if len(found) <= patience:
        return False
    best = max(found, key=lambda step: found[step])
    latest = list(found)[-patience:]
    return best not in latest and all(scores.clearly_better(best, step) for step in latest)
