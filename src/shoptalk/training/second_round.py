"""The second round of the stage train: mine with the tuned model, train once more, keep it only where dev nDCG@10 rises.

The second training starts from the base weights, as the second retrievers of RocketQA (Qu et al. 2021) and coCondenser (Gao and
Callan 2022) do. ANCE (Xiong et al. 2021) goes on from the tuned weights instead, over millions of queries; on the few thousand
pairs of a team that would be twice the epochs over the same pairs, and the rounds would differ in more than their negatives.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from shoptalk.beir import read_jsonl, write_jsonl
from shoptalk.errors import NotConfirmed, SpendingCapReached, TrainingFailed
from shoptalk.llm.spending import who_agrees
from shoptalk.models.encoder import Encoder
from shoptalk.progress import reporter
from shoptalk.records import Dataset
from shoptalk.training.false_negatives import judge_from
from shoptalk.training.methods import METHODS
from shoptalk.training.mining import mine
from shoptalk.training.negatives import with_number, write_examples
from shoptalk.workspace import StageContext

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Rows = list[dict[str, Any]]
Train = Callable[[StageContext], "tuple[SentenceTransformer, Rows, dict[str, Any]]"]
"""A training: the best model, the rows of its log, and what training.json says of it."""

_FOLDER = "round-2"
_MINING = 3  # a stream of chance of its own, beside those of the first round
_NOTES = ("mined.jsonl", "audit.json")


def second_stage(stage: StageContext, dataset: Dataset, tuned: Encoder) -> StageContext | str:
    """The stage once more, with examples that `tuned` mined and a scratch of its own; or why there is nothing to train on.

    Mined once: a run that is killed later finds the same examples again. What was mined, and its audit, go to
    candidates/round-2.
    """
    settings = stage.settings
    if dataset.task != "retrieval":
        return "scored pairs have no hard negatives"
    settings = with_number(settings, dataset)
    if not settings.negatives.mine:
        return (
            "negatives.mine is auto, which mines nothing for queries that were made or that have negatives of their own"
        )
    if METHODS[settings.train.method].on_vectors:
        return f"train.method={settings.train.method} holds every query against every passage, so nothing is mined"
    scratch = stage.scratch / _FOLDER
    examples = scratch / "examples"
    if not examples.is_dir():
        unfinished = scratch / "examples.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        rng = np.random.default_rng([settings.seed, _MINING])
        judge = judge_from(settings, stage.cache, who_agrees(stage))
        try:
            mining = mine(dataset, tuned, settings.negatives, rng, judge, "tuned")
        except (NotConfirmed, SpendingCapReached) as error:  # the first training stays worth what it is
            return f"its hard negatives were not judged ({error})"
        write_examples(unfinished, dataset, settings, mining)
        unfinished.replace(examples)
    told = stage.out / _FOLDER
    told.mkdir(exist_ok=True)
    for name in _NOTES:
        shutil.copyfile(examples / name, told / name)
    if next(read_jsonl(examples / "mined.jsonl"), None) is None:
        return "the tuned model found no hard negative"
    return replace(stage, scratch=scratch, read=lambda name: examples if name == "examples" else stage.read(name))


def second_round(
    stage: StageContext, again: StageContext | str, log: Rows, first: dict[str, Any], train: Train
) -> tuple[Rows, dict[str, Any]]:
    """Train on `again` (of `second_stage`) and put the model in the place of the first one, in candidates/best, if it is better.

    log, first: the log's rows and what training.json says of the first training. Returns the same of the training that is kept,
    with "second_round" in it; the other's rows go to log-round-1.jsonl or log-round-2.jsonl.
    """
    gc.collect()  # a trainer and its model hold each other, and this training wants the memory of the one before
    if isinstance(again, str):
        return log, first | {"second_round": decide(first, None, again)}
    try:
        model, own_log, second = train(again)
    except TrainingFailed as error:
        return log, first | {"second_round": decide(first, None, f"its training failed ({error})")}
    decision = decide(first, second)
    if not decision["used"]:
        write_jsonl(stage.out / "log-round-2.jsonl", own_log)
        return log, first | {"second_round": decision}
    save(model, stage)
    write_jsonl(stage.out / "log-round-1.jsonl", log)
    return own_log, second | {"second_round": decision}


def save(model: SentenceTransformer, stage: StageContext) -> None:
    """Write candidates/best, in the place of what is there."""
    folder = stage.out / "best"
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(str(folder), safe_serialization=True, create_model_card=False)


def decide(first: Mapping[str, Any], second: Mapping[str, Any] | None, why_none: str = "") -> dict[str, Any]:
    """What training.json says under "second_round": whether it is used, both dev scores, and `words` for people.

    first, second: what training.json says of each training; without a second one `why_none` is the reason.
    """
    dev, dev2 = first["best_dev"], second["best_dev"] if second is not None else None
    used = dev2 is not None and dev2 > dev
    if dev2 is None:
        words = f"The model is that of the first round; there is none of a second: {why_none}."
    elif used:
        words = (
            "The second round, trained on hard negatives that the tuned model mined, is used: dev nDCG@10 rose from "
            f"{dev:.4f} to {dev2:.4f}."
        )
    else:
        words = (
            "The second round is not used: trained on hard negatives that the tuned model mined, it has dev nDCG@10 "
            f"{dev2:.4f}, not above the {dev:.4f} of the first round. The model is that of the first round."
        )
    reporter().stage("train", words)
    return {"used": used, "first_dev": dev, "second_dev": dev2, "words": words}
