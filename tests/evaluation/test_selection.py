from __future__ import annotations

import json
from pathlib import Path

from shoptalk.evaluation.selection import select
from shoptalk.models.finding import find_model
from shoptalk.workspace import list_files
from toy import stage_in, toy_retrieval, toy_settings, train_toy, training_of


def test_the_best_checkpoint_is_shipped_unchanged_with_its_dev_score(tmp_path: Path, tiny_bert: Path) -> None:
    training = train_toy(tmp_path / "training", toy_retrieval(), toy_settings(tiny_bert, train={"epochs": 2}))
    stage = stage_in(tmp_path / "model", training.settings, candidates=training.out)
    select(stage)
    best, shipped = list_files(training.out / "best"), list_files(stage.out)
    choice, summary = json.loads((stage.out / "shoptalk.json").read_text(encoding="utf-8")), training_of(training)
    assert shipped.keys() - best.keys() == {"shoptalk.json"}
    assert {name: shipped[name] for name in best} == best
    assert (choice["dev"], choice["step"]) == (summary["best_dev"], summary["best_step"])
    assert find_model(str(stage.out)).model_type == "bert"
