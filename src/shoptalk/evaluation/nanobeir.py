"""NanoBEIR: what is left of general retrieval, on public sets of fifty queries over a few thousand passages each.

Read from the Hub, and only when evaluate.nanobeir names sets: by default nothing leaves the machine. A set that cannot be had is said
to be not measured, in words; it never fails a run. The copies that sentence-transformers' own NanoBEIREvaluator reads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shoptalk.errors import SourceError
from shoptalk.evaluation.retention import mean
from shoptalk.evaluation.scoring import measure
from shoptalk.models.encoder import Encoder
from shoptalk.progress import task
from shoptalk.records import Dataset, Passage, Qrels, Query
from shoptalk.retrieval.metrics import PRIMARY, of_metric
from shoptalk.retrieval.significance import paired_delta
from shoptalk.settings import Settings

COLLECTION = "sentence-transformers/NanoBEIR-en"
"""The Hub's id of the dataset: the configurations corpus, queries and qrels, with a split for every set."""
_CONFIGS = ("corpus", "queries", "qrels")
_SPLIT = "test"
_DEPTH = 100


def with_nanobeir(
    retention: dict[str, Any] | None, base: Encoder, tuned: Encoder, settings: Settings
) -> dict[str, Any] | None:
    """comparison.json's "retention" with what evaluate.nanobeir asks for under "nanobeir"; as it came when nothing is asked for."""
    if retention is None or not settings.evaluate.nanobeir:
        return retention
    return retention | {"nanobeir": measure_nanobeir(base, tuned, settings)}


def measure_nanobeir(base: Encoder, tuned: Encoder, settings: Settings) -> dict[str, Any]:
    """Both models on every named set, in the shape of "cross_lingual": all queries together, and each set under "sets".

    {"measured", "queries", "base", "tuned", "delta", "sets": {"NanoNQ": {"measured", "queries", "passages", "base", "tuned", "delta",
    "revision"}}}. base, tuned: mean nDCG@10; delta as `Delta.as_json` writes it. What cannot be had: {"measured": False, "words": why}.
    """
    sets: dict[str, dict[str, Any]] = {}
    before: dict[str, float] = {}
    after: dict[str, float] = {}
    groups: dict[str, str] = {}
    reachable = True
    with task("NanoBEIR", len(settings.evaluate.nanobeir)) as bar:
        for name in dict.fromkeys(settings.evaluate.nanobeir):
            try:
                folder = _download(name, cached_only=not reachable)
                dataset = read_nano(folder, name)
            except _Unreachable as error:
                reachable = False  # the next sets are not waited for, but taken if they are cached
                sets[name] = {"measured": False, "words": f"not measured: the Hub could not be reached{error}"}
            except SourceError as error:
                sets[name] = {"measured": False, "words": f"not measured: {error}"}
            else:
                one, other = _ndcg(base, dataset), _ndcg(tuned, dataset)
                sets[name] = _compared(one, other, dataset.groups, settings) | {
                    "passages": len(dataset.passages),
                    "revision": folder.name,
                }
                before |= one
                after |= other
                groups |= dataset.groups
            bar.advance()
    if not before:
        words = next((entry["words"] for entry in sets.values()), "not measured: no set is named")
        return {"measured": False, "queries": 0, "words": words, "sets": sets}
    return _compared(before, after, groups, settings) | {"sets": sets}


def read_nano(folder: Path, name: str) -> Dataset:
    """A set from its parquet files in the Hub's layout, as a dataset with one split, test. Raises SourceError."""
    columns = ("_id", "text")
    passages = {
        row["_id"]: Passage(row["_id"], row["text"]) for row in _rows(folder, "corpus", name, columns) if row["text"]
    }
    queries = {  # named with their set, since two sets may use the same id
        query_id: Query(query_id, row["text"])
        for row in _rows(folder, "queries", name, columns)
        if row["text"] and (query_id := f"{name}/{row['_id']}")
    }
    qrels: Qrels = {}
    for row in _rows(folder, "qrels", name, ("query-id", "corpus-id")):
        query_id, answers = f"{name}/{row['query-id']}", row["corpus-id"]
        known = {passage: 1 for passage in (answers if isinstance(answers, list) else [answers]) if passage in passages}
        if query_id in queries and known:
            qrels.setdefault(query_id, {}).update(known)
    if not qrels:
        raise SourceError(f"{COLLECTION}: {name} holds no query with a passage that answers it")
    # Queries that share a passage rise and fall together: its name is their unit of chance.
    groups = {query_id: f"{name}/{min(judged)}" for query_id, judged in qrels.items()}
    return Dataset("retrieval", passages, queries, {_SPLIT: qrels}, groups=groups)


def _compared(
    before: Mapping[str, float], after: Mapping[str, float], groups: Mapping[str, str], settings: Settings
) -> dict[str, Any]:
    return {
        "measured": True,
        "queries": len(before),
        "base": mean(before),
        "tuned": mean(after),
        "delta": paired_delta(before, after, groups, settings.evaluate.resamples, settings.seed).as_json(),
    }


def _ndcg(encoder: Encoder, dataset: Dataset) -> Mapping[str, float]:
    """By query, over all passages, as the comparison itself measures."""
    return of_metric(measure(encoder, dataset, _DEPTH, _SPLIT).per_query, PRIMARY)


class _Unreachable(Exception):
    """No answer from the Hub and no copy in its cache; the text is the detail, with its own separator."""


def _download(name: str, cached_only: bool) -> Path:
    """The folder of the collection's snapshot that holds the set's files; its name is the commit. Raises _Unreachable, SourceError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError

    patterns = [f"{config}/{name}-*.parquet" for config in _CONFIGS]
    try:
        folder = Path(
            snapshot_download(COLLECTION, repo_type="dataset", allow_patterns=patterns, local_files_only=cached_only)
        )
    except RepositoryNotFoundError:
        raise SourceError(f"the Hub has no dataset {COLLECTION}") from None
    except Exception as error:  # the client's own errors, and those of whichever HTTP library stands under it
        raise _Unreachable(_offline() or f": {' '.join(str(error).split())[:200]}") from None
    # Without a network the client may give a snapshot in which this set's files never were.
    if not all(any(folder.glob(pattern)) for pattern in patterns):
        raise SourceError(f"neither the Hub's {COLLECTION} nor the copy in its cache has files of {name}")
    return folder


def _offline() -> str:
    return " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""


def _rows(folder: Path, config: str, name: str, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The rows of one configuration's split, its files in order. Raises SourceError for what is not such a table."""
    import pyarrow
    import pyarrow.parquet

    for path in sorted((folder / config).glob(f"{name}-*.parquet")):
        try:
            yield from pyarrow.parquet.read_table(path, columns=list(columns)).to_pylist()
        except (pyarrow.ArrowException, OSError, KeyError) as error:
            raise SourceError(f"{path}: not readable as parquet: {' '.join(str(error).split())[:200]}") from None
