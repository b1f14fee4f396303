"""The BEIR layout, read and written: corpus.jsonl, queries.jsonl, qrels/{train,dev,test}.tsv.

Also shoptalk's own additions beside it: clusters.jsonl, groups.jsonl, negatives.jsonl, weights.jsonl, pairs/{split}.jsonl. The dataset
folder that `write_dataset` makes is what MTEB, ranx, ir_measures and every BEIR tool read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from shoptalk.errors import SourceError
from shoptalk.records import SPLITS, Dataset, Origin, Passage, Qrels, Query, ScoredPair

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def looks_like_beir(folder: Path) -> bool:
    """Whether a folder holds what BEIR calls a data set."""
    return (folder / "corpus.jsonl").is_file() and (folder / "queries.jsonl").is_file()


def read_jsonl(path: Path, max_line_chars: int = 2_000_000) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON-lines file with their line numbers. Raises SourceError that names file and line."""
    try:
        with path.open("rb") as lines:
            for number, raw in enumerate(lines, 1):
                if len(raw) > max_line_chars:
                    raise SourceError(
                        f"{path}, line {number}: {len(raw):,} bytes in one line; a row is at most {max_line_chars:,}. "
                        "Is this JSON lines (one object a line)?"
                    )
                if not raw.strip():
                    continue
                yield number, _json_object(raw, path, number)
    except FileNotFoundError:
        raise SourceError(f"{path}: no such file") from None
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from None


def _json_object(raw: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{path}, line {number}: not UTF-8 (byte {error.start} is 0x{raw[error.start]:02x}); save the file as UTF-8"
        ) from None
    try:
        row = json.loads(text)
        if _SURROGATE.search(text):  # JSON may hold half of a character pair, which no file and no tokenizer takes
            row = json.loads(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path}, line {number}: not JSON ({error}); each line is one JSON object") from None
    if not isinstance(row, dict):
        raise SourceError(f"{path}, line {number}: a {type(row).__name__}, not a JSON object")
    return row


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line, UTF-8; never NaN."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def _identified(path: Path, what: str) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """The id, the row and the metadata of every row. Raises SourceError unless it has a usable, unique _id and a text."""
    seen: dict[str, int] = {}
    for number, row in read_jsonl(path):
        where = f"{path}, line {number}"
        if "_id" not in row or not isinstance(row.get("text"), str):
            raise SourceError(f"{where}: a {what} needs _id and text; this has {', '.join(row) or 'nothing'}")
        name = str(row["_id"])
        if not name or any(mark in name for mark in "\t\n\r"):
            raise SourceError(
                f"{where}: _id {name!r} is empty or holds a tab or line break; qrels files cannot hold it"
            )
        if name in seen:
            raise SourceError(f"{where}: _id {name!r} was already used in line {seen[name]}; ids are unique")
        seen[name] = number
        meta = row.get("metadata")
        yield name, row, meta if isinstance(meta, dict) else {}


def read_passages(path: Path) -> list[Passage]:
    """A corpus.jsonl. Raises SourceError on a row without `_id` or `text`, or an id that comes twice."""
    return [
        Passage(
            passage_id,
            row["text"],
            str(row.get("title") or ""),
            str(meta.get("source", "")),
            start if isinstance(start := meta.get("start"), int) else 0,
            page if isinstance(page := meta.get("page"), int) else 0,
            str(meta.get("language", "")),
        )
        for passage_id, row, meta in _identified(path, "passage")
    ]


def write_passages(path: Path, passages: Iterable[Passage]) -> None:
    """A corpus.jsonl; where a passage stands goes into `metadata`."""
    write_jsonl(
        path,
        (
            {"_id": p.passage_id, "title": p.title, "text": p.text}
            | ({"metadata": metadata} if (metadata := _place(p)) else {})
            for p in passages
        ),
    )


def _place(passage: Passage) -> dict[str, Any]:
    """Where a passage stands, and its language; what is not known is left out."""
    place: dict[str, Any] = {"source": passage.source, "start": passage.start} if passage.source else {}
    if passage.page:
        place["page"] = passage.page
    if passage.language:
        place["language"] = passage.language
    return place


def read_queries(path: Path) -> dict[str, Query]:
    """A queries.jsonl, by query id. Raises SourceError."""
    return {
        query_id: Query(
            query_id,
            row["text"],
            _origin(meta.get("origin")),
            str(meta.get("kind", "labelled")),
            str(meta.get("language", "")),
        )
        for query_id, row, meta in _identified(path, "query")
    }


def _origin(said: Any) -> Origin:
    return said if said in get_args(Origin) else "human"


def write_queries(path: Path, queries: Iterable[Query]) -> None:
    """A queries.jsonl; origin, kind and language go into `metadata`."""
    write_jsonl(
        path,
        (
            {
                "_id": q.query_id,
                "text": q.text,
                "metadata": {"origin": q.origin, "kind": q.kind, "language": q.language},
            }
            for q in queries
        ),
    )


def read_qrels(path: Path) -> Qrels:
    """A qrels file: query-id, corpus-id, score, tab-separated, with or without its header. Raises SourceError."""
    qrels: Qrels = {}
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        parts = line.removesuffix("\r").split("\t")
        if len(parts) == 4:  # TREC: query 0 document grade
            parts = [parts[0], parts[2], parts[3]]
        if number == 1 and parts[-1].strip().lower() in ("score", "relevance", "rel", "grade"):
            continue
        if len(parts) != 3 or not _is_integer(parts[2]):
            raise SourceError(
                f"{path}, line {number}: expected query-id, corpus-id and a whole-number score, tab-separated; got {line[:80]!r}"
            )
        qrels.setdefault(parts[0], {})[parts[1]] = int(float(parts[2]))
    return qrels


def _is_integer(text: str) -> bool:
    try:
        return float(text) == int(float(text))
    except (ValueError, OverflowError):
        return False


def write_qrels(path: Path, qrels: Qrels) -> None:
    """A qrels file with BEIR's header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{query}\t{passage}\t{grade}\n" for query, found in qrels.items() for passage, grade in found.items()]
    path.write_text("query-id\tcorpus-id\tscore\n" + "".join(rows), encoding="utf-8")


def write_dataset(folder: Path, dataset: Dataset) -> None:
    """Write all splits of a dataset into `folder`."""
    if dataset.task == "similarity":
        for split in SPLITS:
            write_jsonl(folder / "pairs" / f"{split}.jsonl", (asdict(pair) for pair in dataset.pairs.get(split, [])))
        _write_map(folder / "groups.jsonl", dataset.groups)
        return
    write_passages(folder / "corpus.jsonl", dataset.passages.values())
    write_queries(folder / "queries.jsonl", dataset.queries.values())
    for split in SPLITS:
        write_qrels(folder / "qrels" / f"{split}.tsv", dataset.qrels.get(split, {}))
    _write_map(folder / "clusters.jsonl", dataset.clusters)
    _write_map(folder / "groups.jsonl", dataset.groups)
    write_jsonl(
        folder / "negatives.jsonl",
        ({"query_id": q, "texts": list(texts)} for q, texts in dataset.negatives.items()),
    )
    if dataset.weights:  # beside the qrels, whose grades are whole numbers to every BEIR tool
        write_jsonl(
            folder / "weights.jsonl",
            (
                {"query_id": q, "passage_id": p, "weight": weight}
                for q, found in dataset.weights.items()
                for p, weight in found.items()
            ),
        )


def read_dataset(folder: Path, splits: Iterable[str]) -> Dataset:
    """Read a dataset folder, but only the named splits: who does not open the test split cannot leak it."""
    wanted = tuple(splits)
    if (folder / "pairs").is_dir():
        pairs = {s: [ScoredPair(**row) for _, row in read_jsonl(folder / "pairs" / f"{s}.jsonl")] for s in wanted}
        return Dataset("similarity", pairs=pairs, groups=read_groups(folder / "groups.jsonl"))
    qrels = {split: read_qrels(folder / "qrels" / f"{split}.tsv") for split in wanted}
    asked = {query for judged in qrels.values() for query in judged}
    return Dataset(
        "retrieval",
        passages={p.passage_id: p for p in read_passages(folder / "corpus.jsonl")},
        queries={q: query for q, query in read_queries(folder / "queries.jsonl").items() if q in asked},
        qrels=qrels,
        clusters=read_groups(folder / "clusters.jsonl"),
        groups={q: group for q, group in read_groups(folder / "groups.jsonl").items() if q in asked},
        negatives={
            row["query_id"]: tuple(row["texts"])
            for _, row in read_jsonl(folder / "negatives.jsonl")
            if row["query_id"] in asked
        },
        weights=_read_weights(folder / "weights.jsonl", asked),
    )


def _read_weights(path: Path, asked: set[str]) -> dict[str, dict[str, float]]:
    weights: dict[str, dict[str, float]] = {}
    for _, row in read_jsonl(path) if path.is_file() else ():
        if row["query_id"] in asked:
            weights.setdefault(row["query_id"], {})[row["passage_id"]] = float(row["weight"])
    return weights


def _write_map(path: Path, names: Mapping[str, str]) -> None:
    write_jsonl(path, ({"id": key, "group": value} for key, value in names.items()))


def read_groups(path: Path) -> dict[str, str]:
    """A clusters.jsonl or groups.jsonl: id -> group."""
    return {row["id"]: row["group"] for _, row in read_jsonl(path)}
