"""The stage negatives: training examples from judged queries, with labelled negatives and, if asked for, mined ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from shoptalk.beir import read_dataset, read_jsonl, write_jsonl
from shoptalk.models.encoder import CachedEncoder, Encoder
from shoptalk.models.finding import find_model
from shoptalk.records import Dataset, Example
from shoptalk.retrieval.topk import top_k
from shoptalk.settings import NegativeSettings
from shoptalk.workspace import StageContext


def mine_negatives(stage: StageContext) -> None:
    """Write examples.jsonl. For scored pairs there is nothing to mine and the file is empty."""
    dataset = read_dataset(stage.read("dataset"), ["train"])
    settings = stage.settings
    examples: list[Example] = []
    if dataset.task == "retrieval":
        mined: Mapping[str, list[str]] = {}
        if settings.negatives.mine:
            encoder = CachedEncoder(find_model(settings.model.base), settings.model, stage.cache)
            mined = mine(dataset, encoder, settings.negatives)
        examples = make_examples(dataset, mined, np.random.default_rng(settings.seed))
    write_jsonl(stage.out / "examples.jsonl", map(asdict, examples))


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
                )
            )
    return examples


def mine(dataset: Dataset, encoder: Encoder, settings: NegativeSettings) -> dict[str, list[str]]:
    """Passage ids of hard negatives by training query, best ranked first.

    A negative is no known positive, in no cluster of one, and scores under `margin` times the lowest positive.
    """
    query_ids = list(dataset.qrels["train"])
    ids = list(dataset.passages)
    place = {passage_id: index for index, passage_id in enumerate(ids)}
    queries = encoder.encode_queries([dataset.queries[q].text for q in query_ids])
    passages = encoder.encode_passages([p.content for p in dataset.passages.values()])
    indices, scores = top_k(queries, passages, settings.depth)
    mined: dict[str, list[str]] = {}
    for row, query_id in enumerate(query_ids):
        positives = [p for p, grade in dataset.qrels["train"][query_id].items() if grade > 0]
        known = {dataset.clusters[p] for p in positives}
        ceiling = settings.margin * min(float(queries[row] @ passages[place[p]]) for p in positives)
        mined[query_id] = [
            ids[index]
            for index, score in zip(indices[row], scores[row], strict=True)
            if score < ceiling and dataset.clusters[ids[index]] not in known
        ][: settings.mine]
    return mined
