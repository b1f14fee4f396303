"""The stage negatives: training examples from judged queries, with labelled negatives and, if asked for, mined ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from shoptalk.beir import read_dataset, read_jsonl, write_jsonl
from shoptalk.llm.spending import who_agrees
from shoptalk.models.encoder import CachedEncoder
from shoptalk.models.finding import find_model
from shoptalk.records import Dataset, Example
from shoptalk.settings import Settings
from shoptalk.training.audit import audit
from shoptalk.training.false_negatives import judge_from
from shoptalk.training.mining import Mining, mine
from shoptalk.workspace import StageContext

_MINED = 1  # docs/experiments.md: mined-negatives
_MINING, _AUDITING = 1, 2  # streams of chance of their own, so that mining changes nothing else


def mine_negatives(stage: StageContext) -> None:
    """Write examples.jsonl and, with `negatives.mine`, mined.jsonl and audit.json. For scored pairs there is nothing to mine and
    the file is empty.
    """
    dataset = read_dataset(stage.read("dataset"), ["train"])
    settings = stage.settings
    if dataset.task != "retrieval":
        write_jsonl(stage.out / "examples.jsonl", [])
        return
    settings = with_number(settings, dataset)
    mining = None
    if settings.negatives.mine:
        encoder = CachedEncoder(find_model(settings.model.base), settings.model, stage.cache)
        rng = np.random.default_rng([settings.seed, _MINING])
        judge = judge_from(settings, stage.cache, who_agrees(stage))
        mining = mine(dataset, encoder, settings.negatives, rng, judge)
    write_examples(stage.out, dataset, settings, mining)


def with_number(settings: Settings, dataset: Dataset) -> Settings:
    """The settings with `negatives.mine` as a number: auto mines for queries that people asked and that have no negatives yet."""
    if settings.negatives.mine != "auto":
        return settings
    asked = [dataset.queries[query] for query in dataset.qrels.get("train", {})]
    by_people = sum(query.origin == "human" for query in asked) > len(asked) / 2
    number = _MINED if by_people and not dataset.negatives else 0
    return settings.model_copy(update={"negatives": settings.negatives.model_copy(update={"mine": number})})


def write_examples(folder: Path, dataset: Dataset, settings: Settings, mining: Mining | None = None) -> None:
    """Write the examples of a retrieval dataset with what was mined: mined.jsonl has a row for each negative (see `Mined`),
    audit.json what is known of how good they are (see `audit`) and, where a language model judged, what that took.
    """
    mined: Mapping[str, list[str]] = {}
    if mining is not None:
        mined = mining.by_query
        rng = np.random.default_rng([settings.seed, _AUDITING])
        told = audit(mining, dataset, settings.negatives, rng)
        if mining.judging:
            told |= {"judge": dict(mining.judging), "sentence": f"{told['sentence']} {mining.judging['words']}"}
        text = json.dumps(told, indent=1, allow_nan=False)
        (folder / "audit.json").write_text(text + "\n", encoding="utf-8")
        write_jsonl(folder / "mined.jsonl", map(asdict, mining.mined))
    examples = make_examples(dataset, mined, np.random.default_rng(settings.seed))
    write_jsonl(folder / "examples.jsonl", map(asdict, examples))


def read_examples(folder: Path) -> list[Example]:
    """The examples that `mine_negatives` wrote in a folder."""
    return [
        Example(**{**row, "negatives": tuple(row["negatives"])}) for _, row in read_jsonl(folder / "examples.jsonl")
    ]


def make_examples(dataset: Dataset, mined: Mapping[str, list[str]], rng: np.random.Generator) -> list[Example]:
    """One example for each training query and relevant passage. All have as many negatives as the one with most.

    A query with fewer negatives than others is filled up with random passages outside its clusters, since the trainer
    wants equal columns.
    """
    own = {
        query: [
            *dataset.negatives.get(query, ()),
            *(dataset.passages[p].content for p in mined.get(query, ())),
        ]
        for query in dataset.qrels["train"]
    }
    width = max(map(len, own.values()), default=0)
    ids = list(dataset.passages)
    examples = []
    for query_id, judged in dataset.qrels["train"].items():
        known = {dataset.clusters[p] for p, grade in judged.items() if grade > 0}
        for passage_id, grade in judged.items():
            if grade <= 0:
                continue
            texts = own[query_id][:width]
            tries = 0
            while len(texts) < width and tries < 100:
                other = ids[int(rng.integers(len(ids)))]
                tries += 1
                if dataset.clusters[other] not in known and dataset.passages[other].content not in texts:
                    texts = [*texts, dataset.passages[other].content]
            texts = [*texts, *texts[:1] * (width - len(texts))]
            examples.append(
                Example(
                    query_id,
                    passage_id,
                    dataset.queries[query_id].text,
                    dataset.passages[passage_id].content,
                    tuple(texts),
                    dataset.weights.get(query_id, {}).get(passage_id, 1.0),
                )
            )
    return examples
