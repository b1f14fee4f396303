"""Toy tasks that `tiny_bert` learns in a second: a question in words of one list is answered in the words of another.

The lists share no word, so nothing but training can connect them: before it nDCG@10 is near chance.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shoptalk.beir import write_dataset, write_jsonl
from shoptalk.records import Dataset, Passage, Qrels, Query, ScoredPair
from shoptalk.settings import Settings, make_settings
from shoptalk.training import finetune, mine_negatives
from shoptalk.workspace import StageContext

ASKED = "booking hotel travel policy refund invoice member office room train plane ticket".split()
SAID = "price form manager approve report budget project team claim expense lunch dinner".split()
QUICK = {
    "epochs": 10,
    "batch_size": 16,
    "learning_rate": 5e-3,
    "evaluations": 3,
    "hidden_dropout": 0.0,
    "threads": 1,
}


def sentence_pairs() -> list[tuple[str, str]]:
    """132 questions with their answers, in an order that mixes the words."""
    n = len(ASKED)
    order = sorted(
        ((i, j) for i in range(n) for j in range(n) if i != j), key=lambda pair: (7 * pair[0] + 5 * pair[1]) % 11
    )
    return [(f"what is the {ASKED[i]} {ASKED[j]}", f"on the {SAID[i]} {SAID[j]}") for i, j in order]


def toy_settings(base: Path, **sections: dict[str, Any]) -> Settings:
    """Settings for a quick run with `base`; sections are laid over them."""
    values: dict[str, dict[str, Any]] = {
        "model": {"base": str(base), "precision": "fp32", "device": "cpu"},
        "train": QUICK,
        "evaluate": {"resamples": 200},
        "negatives": {"mine": 0},
        "select": {"retention": "off"},  # five hundred passages that these models cannot read
    }
    return make_settings({name: {**values.get(name, {}), **sections.get(name, {})} for name in {*values, *sections}})


def toy_retrieval(negatives: bool = False, n_train: int = 92, n_dev: int = 20) -> Dataset:
    """All pairs as a dataset of one passage a query; the rest is the test split."""
    pairs = sentence_pairs()
    splits = {
        "train": range(n_train),
        "dev": range(n_train, n_train + n_dev),
        "test": range(n_train + n_dev, len(pairs)),
    }
    qrels: dict[str, Qrels] = {name: {f"q{i}": {f"p{i}": 1} for i in rows} for name, rows in splits.items()}
    ids = [f"p{i}" for i in range(len(pairs))]
    return Dataset(
        "retrieval",
        {f"p{i}": Passage(f"p{i}", answer) for i, (_, answer) in enumerate(pairs)},
        {f"q{i}": Query(f"q{i}", question) for i, (question, _) in enumerate(pairs)},
        qrels,
        {i: i for i in ids},
        {f"q{i}": f"g{i}" for i in range(len(pairs))},
        {f"q{i}": (pairs[(i + 1) % n_train][1],) for i in range(n_train)} if negatives else {},
    )


def toy_similarity() -> Dataset:
    """Scored pairs: 1 when the second sentence answers the first, 0.5 when half of it does, 0 when nothing does."""
    n, scored = len(ASKED), []
    for i in range(n):
        for j in range(n):
            for shift, score in ((0, 1.0), (1, 0.5), (4, 0.0)) if i != j else ():
                said = f"on the {SAID[(i + (4 if shift == 4 else 0)) % n]} {SAID[(j + shift) % n]}"
                scored.append((f"what is the {ASKED[i]} {ASKED[j]}", said, score))
    scored.sort(key=lambda row: sum(map(ord, row[0] + row[1])) * 7 % 101)
    pairs = [ScoredPair(f"s{i}", *row) for i, row in enumerate(scored)]
    return Dataset(
        "similarity",
        pairs={"train": pairs[:260], "dev": pairs[260:330], "test": pairs[330:]},
        groups={pair.pair_id: pair.pair_id for pair in pairs},
    )


def stage_in(folder: Path, settings: Settings, **artifacts: Path) -> StageContext:
    """A StageContext of its own in `folder`; called again for the same folder it keeps the scratch, as after a kill."""
    out, scratch = folder / "out", folder / "scratch"
    for path in (out, scratch):
        path.mkdir(parents=True, exist_ok=True)
    return StageContext(settings, lambda name: artifacts[name], out, scratch, folder / "cache", {}, 0)


def saved(folder: Path, dataset: Dataset, **audit: Any) -> Path:
    """The dataset as the artifact that `build_dataset` leaves, with its audit."""
    write_dataset(folder, dataset)
    judged = dataset.pairs if dataset.task == "similarity" else dataset.qrels
    sizes = {split: len(found) for split, found in judged.items()}
    notes = {
        "task": dataset.task,
        "passages": len(dataset.passages),
        "queries": sizes,
        "training_pairs": sizes["train"],
        "test_origin": "human",
        "train_origin": "human",
    }
    (folder / "audit.json").write_text(json.dumps(notes | audit), encoding="utf-8")
    return folder


def train_toy(folder: Path, dataset: Dataset, settings: Settings) -> StageContext:
    """Run the stages negatives and train on a dataset; the returned stage's `out` holds the candidates."""
    data = saved(folder / "dataset", dataset)
    examples = stage_in(folder / "examples", settings, dataset=data)
    mine_negatives(examples)
    stage = stage_in(folder / "train", settings, dataset=data, examples=examples.out)
    finetune(stage)
    return stage


def training_of(stage: StageContext) -> dict[str, Any]:
    """The summary that `finetune` wrote."""
    summary: dict[str, Any] = json.loads((stage.out / "training.json").read_text(encoding="utf-8"))
    return summary


def write_pairs(path: Path, rows: Sequence[tuple[str, str]] | None = None) -> Path:
    """A labelled file of query and positive."""
    write_jsonl(path, ({"query": question, "positive": answer} for question, answer in rows or sentence_pairs()))
    return path


def write_scored(path: Path, n: int = 300) -> Path:
    """A labelled file of scored pairs in which no sentence comes twice, so that every pair is its own group."""
    rng, size = np.random.default_rng(5), len(ASKED)
    asks, says = (
        ("what is the", "where is the", "who can the", "how is a"),
        ("on the", "for a", "to one", "with your", "in this"),
    )
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    while len(rows) < n:
        i, j = rng.choice(size, 2, replace=False)
        near, score = [((i, j), 1.0), ((i, (j + 4) % size), 0.5), (((i + 5) % size, (j + 4) % size), 0.0)][
            rng.integers(3)
        ]
        pair = (
            f"{asks[rng.integers(4)]} {ASKED[i]} {ASKED[j]}",
            f"{says[rng.integers(5)]} {SAID[near[0]]} {SAID[near[1]]}",
        )
        if seen.isdisjoint(pair):
            seen.update(pair)
            rows.append({"sentence1": pair[0], "sentence2": pair[1], "score": score})
    write_jsonl(path, rows)
    return path


def write_beir(folder: Path, n: int = 30) -> Path:
    """A BEIR folder whose test split is the first n pairs and whose corpus holds all of them."""
    pairs = sentence_pairs()
    write_jsonl(
        folder / "corpus.jsonl", ({"_id": f"p{i}", "title": "", "text": said} for i, (_, said) in enumerate(pairs))
    )
    write_jsonl(folder / "queries.jsonl", ({"_id": f"q{i}", "text": asked} for i, (asked, _) in enumerate(pairs)))
    (folder / "qrels").mkdir(exist_ok=True)
    lines = [f"q{i}\tp{i}\t1" for i in range(n)]
    (folder / "qrels" / "test.tsv").write_text(
        "\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n", encoding="utf-8"
    )
    return folder
