"""Holes in the judgements: passages at the top of a ranking that nobody ever judged. They count as wrong and may be right.

How many there are says how far a comparison can be trusted; holes.csv holds them for a person to grade, and `read_labels` reads the
grades back as further judgements, of which all systems are judged alike.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shoptalk.errors import SourceError
from shoptalk.records import Dataset, Qrels, Ranking
from shoptalk.spreadsheet import neutralised, read_sheet, restored
from shoptalk.workspace import sha256_of, write_atomically

DEPTH = 10
COLUMNS = ("query_id", "query", "passage_id", "passage", "found_by", "rank", "grade")
_NEEDED = ("query_id", "passage_id", "grade")
_MOST_ROWS = 5_000  # nobody labels more; comparison.json counts all
_PASSAGE_CHARS = 1_000
_HIGHEST = 100
# A spreadsheet takes a cell that begins so for a formula, which may run a program. Source: OWASP, CSV injection.


@dataclass(frozen=True)
class Labels:
    """Grades that a person gave: query id -> passage id -> grade, and the file's digest."""

    file: str
    sha256: str
    grades: Qrels

    @property
    def record(self) -> dict[str, Any]:
        """What comparison.json holds as "labels"."""
        grades = [grade for found in self.grades.values() for grade in found.values()]
        return {
            "file": Path(self.file).name,
            "sha256": self.sha256,
            "judgements": len(grades),
            "relevant": sum(grade > 0 for grade in grades),
            "queries": len(self.grades),
        }


def count_holes(ranking: Ranking, judged: Qrels) -> dict[str, Any]:
    """judged_share: the share of a system's first ten passages, over all judged queries, that somebody judged; unjudged: how many
    nobody did.
    """
    shown = [(q, p) for q in judged for p, _ in ranking.get(q, [])[:DEPTH]]
    unjudged = sum(p not in judged[q] for q, p in shown)
    return {"judged_share": 1 - unjudged / len(shown) if shown else 1.0, "unjudged": unjudged}


def hole_rows(
    rankings: Mapping[str, Ranking], dataset: Dataset, split: str, weight: Mapping[str, float]
) -> list[dict[str, str]]:
    """A row for every unjudged passage among the first ten of any system, those of the queries of largest `weight` first.

    rankings: by system. found_by names the systems, rank is the best place in any of them.
    """
    judged = dataset.qrels[split]
    rows: list[dict[str, str]] = []
    for query_id in sorted(judged, key=lambda q: (-weight.get(q, 0.0), q)):
        found: dict[str, tuple[int, list[str]]] = {}
        for system, ranking in rankings.items():
            for rank, (passage_id, _) in enumerate(ranking.get(query_id, [])[:DEPTH], 1):
                if passage_id not in judged[query_id]:
                    best, systems = found.get(passage_id, (rank, []))
                    found[passage_id] = (min(best, rank), [*systems, system])
        for passage_id, (rank, systems) in sorted(found.items(), key=lambda item: (item[1][0], item[0])):
            rows.append(
                {
                    "query_id": query_id,
                    "query": " ".join(dataset.queries[query_id].text.split()),
                    "passage_id": passage_id,
                    "passage": _excerpt(dataset.passages[passage_id].content),
                    "found_by": " ".join(systems),
                    "rank": str(rank),
                    "grade": "",
                }
            )
    return rows


def write_holes(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """The first 5,000 rows as a CSV for a spreadsheet: UTF-8 with BOM, no cell that is a formula, `grade` empty."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\r\n")
    table.writerow(COLUMNS)
    table.writerows([neutralised(row[name]) for name in COLUMNS] for row in rows[:_MOST_ROWS])
    write_atomically(path, "\ufeff" + out.getvalue())


def read_labels(path: Path, dataset: Dataset, split: str) -> Labels:
    """The graded rows of a holes.csv; rows without a grade are skipped. Raises SourceError with the line and what is wrong with it.

    A grade is a whole number, 0 for judged and not relevant. A row must name a query of the split and a passage of the corpus, and
    may not contradict a judgement that is there, nor another row.
    """
    grades: Qrels = {}
    lines: dict[tuple[str, str], int] = {}
    for line, row in read_sheet(path, _NEEDED, "It needs the columns of an evaluation/holes.csv"):
        where = f"{path}, line {line}"
        said = (row["grade"] or "").strip()
        if not said:
            continue
        query_id, passage_id = (restored((row[name] or "").strip()) for name in ("query_id", "passage_id"))
        grade = _grade(said, where)
        _check(where, row, dataset, split, query_id, passage_id, grade)
        before = lines.setdefault((query_id, passage_id), line)
        if before != line and grades[query_id][passage_id] != grade:
            raise SourceError(
                f"{where}: the same query and passage have another grade in line {before}; delete one of the two"
            )
        grades.setdefault(query_id, {})[passage_id] = grade
    if not grades:
        raise SourceError(
            f"{path}: no row has a grade; write 0 (not relevant), 1 (relevant) or more into the column grade"
        )
    return Labels(str(path), sha256_of(path), grades)


def with_labels(dataset: Dataset, labels: Labels, split: str) -> Dataset:
    """The dataset with the labels as further judgements of the same queries. Groups stay: they are the dataset's units of chance."""
    judged = {q: {**found, **labels.grades.get(q, {})} for q, found in dataset.qrels[split].items()}
    return replace(dataset, qrels={**dataset.qrels, split: judged})


def _grade(said: str, where: str) -> int:
    try:
        grade = float(said.replace(",", "."))
    except ValueError:
        grade = -1.0
    if grade != grade or grade < 0 or grade > _HIGHEST or grade != int(grade):
        raise SourceError(
            f"{where}: grade is {said[:40]!r}; write a whole number: 0 not relevant, 1 relevant, more for better"
        )
    return int(grade)


def _check(
    where: str, row: Mapping[str, str | None], dataset: Dataset, split: str, query_id: str, passage_id: str, grade: int
) -> None:
    judged = dataset.qrels[split]
    if query_id not in judged:
        raise SourceError(
            f"{where}: query_id {query_id[:80]!r} is not a {split} query here; is the file from another run?"
        )
    if passage_id not in dataset.passages:
        raise SourceError(
            f"{where}: passage_id {passage_id[:80]!r} is not in the corpus; is the file from another run?"
        )
    text = restored((row.get("query") or "").strip())
    if text and text.split() != dataset.queries[query_id].text.split():
        raise SourceError(
            f"{where}: query {query_id} reads {dataset.queries[query_id].text[:60]!r} here and {text[:60]!r} in the file; "
            "is the file from another run?"
        )
    known = judged[query_id].get(passage_id)
    if known is not None and known != grade:
        raise SourceError(
            f"{where}: {passage_id} is already judged for {query_id}, with grade {known}; labels fill holes, they do not overrule"
        )


def _excerpt(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= _PASSAGE_CHARS else plain[: _PASSAGE_CHARS - 3] + "..."
