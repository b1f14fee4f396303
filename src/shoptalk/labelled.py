"""Labelled files as people have them: pairs, triplets and scored pairs in .jsonl, .csv, .tsv or .parquet.

Column names that people really use are recognised; `input.columns` names any other. A row that cannot be used is a Rejected
with its reason; a file that cannot be understood is a SourceError that lists its columns.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from shoptalk.beir import read_jsonl
from shoptalk.errors import SourceError
from shoptalk.records import Rejected

SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")
Shape = Literal["pairs", "scored"]
_MAX_CELL_CHARS = 2_000_000

# Ours -> what people call it, the likeliest first. Compared in lower case with "-" and " " as "_".
_ALIASES: dict[str, tuple[str, ...]] = {
    "query": ("query", "anchor", "question", "queries", "query_text", "search_query", "q", "input", "instruction", "prompt"),
    "positive": (
        "positive", "pos", "quote", "passage", "answer", "context", "positive_passage", "positives", "positive_doc", "relevant",
        "chunk", "content", "response", "output", "document_text", "passage_text", "text",
    ),
    "negative": ("negative", "neg", "hard_negative", "negatives", "hard_negatives", "negative_passage", "negative_passages"),
    "sentence1": ("sentence1", "sentence_1", "sentence_a", "sentencea", "text1", "text_1", "text_a", "s1", "premise"),
    "sentence2": ("sentence2", "sentence_2", "sentence_b", "sentenceb", "text2", "text_2", "text_b", "s2", "hypothesis"),
    "score": ("score", "similarity", "similarity_score", "label", "gold", "cosine", "rating"),
    "query_id": ("query_id", "qid", "question_id"),
    "passage_id": ("passage_id", "corpus_id", "positive_id", "pid", "chunk_id", "doc_id", "document_id", "docid"),
    "document": ("document", "doc", "file", "filename", "source", "path", "url"),
    "offset": ("offset", "start", "char_start", "start_char", "position", "answer_start"),
    "grade": ("grade", "relevance", "rel", "score", "label"),
    "language": ("language", "lang"),
}  # fmt: skip
_CLICKS = frozenset(["clicked", "is_clicked", "is_click"])
_NUMBERED_NEGATIVE = re.compile(r"^(hard_)?neg(ative)?s?_?\d+$")


@dataclass(frozen=True, slots=True)
class Label:
    """One labelled row. Of `positive`, `passage_id` and `document` + `offset`, at least one says which passage answers."""

    where: str
    query: str
    query_id: str = ""
    positive: str = ""
    negatives: tuple[str, ...] = ()
    passage_id: str = ""
    document: str = ""
    offset: int | None = None
    grade: int = 1
    language: str = ""


@dataclass(frozen=True, slots=True)
class ScoredLabel:
    """One row of a scored file."""

    where: str
    sentence1: str
    sentence2: str
    score: float


@dataclass(frozen=True)
class LabelledFile:
    """What a labelled file holds: `labels` for pairs and triplets, `scored` for scored pairs, never both."""

    shape: Shape
    labels: tuple[Label, ...]
    scored: tuple[ScoredLabel, ...]
    rejected: tuple[Rejected, ...]


def is_labelled_file(path: Path) -> bool:
    """Whether the name says that this is a file of labelled rows."""
    return path.suffix.lower() in SUFFIXES


def read_labelled(path: Path, columns: Mapping[str, str]) -> LabelledFile:
    """Read a labelled file. `columns` maps our names to the file's. Raises SourceError."""
    rows = read_rows(path)
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    clicks = [name for name in names if plain_column(name) in _CLICKS and name not in columns.values()]
    if clicks:
        raise SourceError(
            f"{path}: its column {clicks[0]} is that of a click log, in which not every row says that a passage answers; "
            f"give it with --set input.clicks={path.name}, or rename the column"
        )
    found = _match_columns(path, names, columns)
    if {"sentence1", "sentence2", "score"} <= found.keys():
        return _scored(path, rows, found)
    if "query" not in found or not found.keys() & {"positive", "passage_id", "document"}:
        raise SourceError(
            f"{path}: columns {', '.join(names)}; shoptalk looks for a query (query, anchor, question, ...) with what answers "
            "it (positive, passage, answer, ..., or passage_id, or document and offset), or for sentence1, sentence2 and score. "
            "Name yours: --set input.columns.query=YOUR_COLUMN --set input.columns.positive=YOUR_COLUMN"
        )
    negatives = [
        name for name in names if name == found.get("negative") or _NUMBERED_NEGATIVE.match(plain_column(name))
    ]
    return _pairs(path, rows, found, negatives)


def read_rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The rows of a .jsonl, .csv, .tsv or .parquet file with their line or row numbers. Raises SourceError when there are none."""
    if not path.is_file():
        raise SourceError(f"{path}: {'a folder, not a file of labels' if path.is_dir() else 'no such file'}")
    if not is_labelled_file(path):
        raise SourceError(f"{path}: not a labelled file; shoptalk reads {', '.join(SUFFIXES)}")
    rows = list(_rows(path))
    if not rows:
        raise SourceError(f"{path}: holds no rows")
    return rows


def _match_columns(path: Path, names: Sequence[str], columns: Mapping[str, str]) -> dict[str, str]:
    for ours, theirs in columns.items():
        if ours not in _ALIASES:
            raise SourceError(f"input.columns: {ours} is not one of ours ({', '.join(_ALIASES)})")
        if theirs not in names:
            raise SourceError(f"{path}: has no column {theirs!r} (input.columns.{ours}); it has {', '.join(names)}")
    by_plain = {plain_column(name): name for name in names}
    found = dict(columns)
    for ours, aliases in _ALIASES.items():
        taken = set(found.values())
        match = next(
            (by_plain[alias] for alias in aliases if by_plain.get(alias, "") and by_plain[alias] not in taken),
            None,
        )
        if ours not in found and match is not None:
            found[ours] = match
    if (
        not found.keys() & {"sentence1", "sentence2", "grade"}
        and plain_column(found.get("score", "")) in _ALIASES["grade"]
    ):
        found["grade"] = found.pop("score")  # beside a query, a score or label says whether the passage answers
    if not found.keys() & {"positive", "passage_id", "offset"} and plain_column(found.get("document", "")) in (
        "document",
        "doc",
    ):
        found["positive"] = found.pop("document")  # only a "document" beside the query: it is the text
    return found


def plain_column(name: str) -> str:
    """A column's name for comparing: lower case, "_" for spaces and hyphens."""
    return re.sub(r"[\s\-]+", "_", name.strip().lower())


def _pairs(
    path: Path, rows: list[tuple[int, dict[str, Any]]], found: dict[str, str], negatives: list[str]
) -> LabelledFile:
    labels: list[Label] = []
    rejected: list[Rejected] = []
    for number, row in rows:
        where = f"{path.name}:{number}"
        cell = {ours: row.get(theirs) for ours, theirs in found.items()}
        query = _text(cell.get("query"))
        positives = _texts(cell.get("positive"))
        if not query:
            rejected.append(Rejected(where, "empty", "the query is empty"))
            continue
        if not positives and not _text(cell.get("passage_id")) and not _text(cell.get("document")):
            rejected.append(Rejected(where, "empty", "nothing says which passage answers"))
            continue
        grade, offset = _grade(cell.get("grade")), _whole(cell.get("offset"), None)
        if grade is None or grade < 1:
            rejected.append(
                Rejected(where, "not-relevant", f"grade {cell.get('grade')!r} does not say that it is relevant")
            )
            continue
        others = tuple(dict.fromkeys(text for name in negatives for text in _texts(row.get(name))))
        for positive in positives or [""]:
            if positive and positive in others:
                rejected.append(Rejected(where, "contradictory", "the same text is positive and negative"))
            elif _same(positive, query):
                rejected.append(Rejected(where, "copy", "the positive is the query itself"))
            else:
                labels.append(
                    Label(
                        where,
                        query,
                        _text(cell.get("query_id")),
                        positive,
                        others,
                        _text(cell.get("passage_id")),
                        _text(cell.get("document")),
                        offset,
                        grade,
                        _text(cell.get("language")),
                    )
                )
    if not labels:
        raise SourceError(
            f"{path}: none of its {len(rows)} rows can be used; the first: {rejected[0].item}: {rejected[0].reason}"
        )
    return LabelledFile("pairs", tuple(labels), (), tuple(rejected))


def _scored(path: Path, rows: list[tuple[int, dict[str, Any]]], found: dict[str, str]) -> LabelledFile:
    scored: list[ScoredLabel] = []
    rejected: list[Rejected] = []
    for number, row in rows:
        where = f"{path.name}:{number}"
        left, right = _text(row.get(found["sentence1"])), _text(row.get(found["sentence2"]))
        score = _float(row.get(found["score"]))
        if not left or not right:
            rejected.append(Rejected(where, "empty", "a sentence is empty"))
        elif score is None:
            rejected.append(Rejected(where, "no-score", f"score {row.get(found['score'])!r} is not a finite number"))
        else:
            scored.append(ScoredLabel(where, left, right, score))
    if not scored:
        raise SourceError(
            f"{path}: none of its {len(rows)} rows can be used; the first: {rejected[0].item}: {rejected[0].reason}"
        )
    return LabelledFile("scored", (), tuple(scored), tuple(rejected))


def _same(left: str, right: str) -> bool:
    return bool(left) and " ".join(left.casefold().split()) == " ".join(right.casefold().split())


def _text(value: Any) -> str:
    if value is None or isinstance(value, (list, dict)) or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value).strip()


def _texts(value: Any) -> list[str]:
    many = value if isinstance(value, list) else [value]
    return [text for one in many if (text := _text(one.get("text") if isinstance(one, dict) else one))]


def _float(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _grade(value: Any) -> int | None:
    """A whole number is a grade; a share between 0 and 1 says relevant from a half on; nothing says 1."""
    number = _float(value)
    if number is not None and 0 < number < 1:
        return 1 if number >= 0.5 else 0
    return _whole(value, 1)


def _whole(value: Any, default: int | None) -> int | None:
    if _text(value) == "":
        return default
    number = _float(value)
    return None if number is None else int(number)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        yield from read_jsonl(path)
    elif suffix == ".parquet":
        yield from _parquet_rows(path)
    else:
        yield from _table_rows(path, "\t" if suffix == ".tsv" else ",")


def _table_rows(path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(_MAX_CELL_CHARS)
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
            for row in reader:
                if any(row.pop(None, ())):
                    raise SourceError(
                        f"{path}, line {reader.line_num}: more cells than the header has columns; quote cells that hold {delimiter!r}"
                    )
                yield reader.line_num, {name: value for name, value in row.items() if name}
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{path}: not UTF-8 (byte {error.start} is 0x{error.object[error.start]:02x}); save the file as UTF-8"
        ) from None
    except csv.Error as error:
        raise SourceError(f"{path}: not readable as {path.suffix[1:]}: {error}") from None


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{path}: not readable as parquet: {' '.join(str(error).split())[:200]}") from None
    yield from enumerate(table.to_pylist(), 1)
