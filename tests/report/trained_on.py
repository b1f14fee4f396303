"""The artifacts that a run's training data leaves, in small: made queries, a language model's usage, mined negatives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from shoptalk.llm.journal import Usage
from shoptalk.queries.checks import Refused
from shoptalk.queries.generators import Draft
from shoptalk.queries.llm.generating import UsageReport
from shoptalk.queries.yields import yields
from shoptalk.records import Dataset, Passage, Qrels, Query
from shoptalk.settings import Settings
from shoptalk.training.mining import mine
from shoptalk.training.negatives import write_examples
from shoptalk.training.second_round import decide

SECOND_ROUND = {"second_round": decide({"best_dev": 0.74}, {"best_dev": 0.7})}


def write_made_queries(folder: Path, text: str, settings: Settings, judged: bool = True) -> None:
    """yields.json: headings, three in four kept, and key phrases, all refused. text: a query with {i} in it."""
    drafts = [Draft(text.format(i=i), (f"p{i}",), "heading") for i in range(40)]
    refused = [Refused(draft, "copied", f"the passage says {draft.text!r}") for draft in drafts[30:38]]
    refused += [Refused(draft, "off-the-record", draft.text) for draft in drafts[38:]]
    refused += [Refused(Draft(text.format(i=90), ("gone",), "key-phrase"), "per-passage", "gone has 2 already")]
    found = yields(drafts[:30], refused, settings.queries)
    if judged:
        found["llm_judge"] = Usage(1_500, 300, Decimal("0.00123")).as_json() | {"unjudged": 1}
    _json(folder / "yields.json", found)


def write_usage(folder: Path, model: str, known: bool = True, provider: str = "openai") -> None:
    """usage.json of a second run."""
    new = Usage(12_345, 678, Decimal("0.0421") if known else Decimal(0))
    all_runs = new + Usage(100_000, 2_000, Decimal("1.5") if known else Decimal(0))
    report = UsageReport(provider, model, 34, 1, 1_200, 2, new, all_runs, known, 0)
    _json(folder / "usage.json", report.as_json())


def write_mined(folder: Path, settings: Settings) -> None:
    """examples.jsonl, mined.jsonl and audit.json: 40 queries with two answers each, and two passages that are copies."""
    passages = {f"p{i}": Passage(f"p{i}", f"Minutes {i}, kept by the host") for i in range(60)}
    queries = {f"q{i}": Query(f"q{i}", f"Who keeps minutes {i}?") for i in range(40)}
    train: Qrels = {f"q{i}": {f"p{i}": 1, f"p{(i + 20) % 58}": 1} for i in range(40)}
    clusters = {name: name for name in passages} | {"p58": "p0", "p59": "p1"}
    dataset = Dataset("retrieval", passages, queries, {"train": train}, clusters, {name: name for name in queries})
    folder.mkdir(parents=True, exist_ok=True)
    mining = mine(dataset, _Topics(dataset), settings.negatives, np.random.default_rng(1))
    write_examples(folder, dataset, settings, mining)


class _Topics:
    """An Encoder that knows its texts: every tenth of them is on one topic, with a direction of its own beside."""

    digest = "topics"

    def __init__(self, dataset: Dataset) -> None:
        self._places = {query.text: i for i, query in enumerate(dataset.queries.values())}
        self._places |= {passage.content: i for i, passage in enumerate(dataset.passages.values())}

    def encode_queries(self, texts: Sequence[str]) -> Any:
        return self._encode(texts, 3)

    def encode_passages(self, texts: Sequence[str]) -> Any:
        return self._encode(texts, 4)

    def _encode(self, texts: Sequence[str], stream: int) -> Any:
        topics = np.random.default_rng(2).normal(size=(10, 16))
        own = np.random.default_rng(stream).normal(size=(60, 16))
        places = [self._places[text] for text in texts]
        vectors = topics[[place % 10 for place in places]] + 0.6 * own[places]
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
