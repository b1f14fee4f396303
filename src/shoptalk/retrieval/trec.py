"""TREC run files: query, Q0, passage, rank, score, name of the system; best first. Written with tabs; others' are read too."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from shoptalk.errors import SourceError
from shoptalk.records import Ranking
from shoptalk.retrieval.topk import as_ranking

_COLUMNS = 6


@dataclass(frozen=True)
class Run:
    """A run file of another system, checked against a dataset. `ranking` holds the queries that were asked for, each with its own
    depth; `missing` are those that the file does not have.
    """

    name: str
    ranking: Ranking
    missing: tuple[str, ...]

    @property
    def depths(self) -> tuple[int, int, int]:
        """Smallest, median and largest number of passages of a query."""
        sizes = sorted(len(found) for found in self.ranking.values())
        return sizes[0], int(median(sizes)), sizes[-1]

    @property
    def words(self) -> str:
        """The run as a person needs to know it before comparing."""
        low, middle, high = self.depths
        depth = f"{low:,}" if low == high else f"{low:,} to {high:,} (median {middle:,})"
        said = f"run {self.name!r}: {depth} passages a query; what is deeper counts as not found"
        if self.missing:
            said += f"; {len(self.missing):,} queries are not in it and count as zero, such as {self.missing[0]}"
        return said


def write_trec(path: Path, ranking: Ranking, name: str) -> None:
    """Write a ranking as a run file of the system `name`."""
    with path.open("w", encoding="utf-8", newline="\n") as out:
        for query_id, found in ranking.items():
            for place, (passage_id, score) in enumerate(found, 1):
                out.write(f"{query_id}\tQ0\t{passage_id}\t{place}\t{score:.9g}\t{name}\n")


def read_trec(path: Path, depth: int, queries: Collection[str] | None = None) -> Ranking:
    """The first `depth` entries of the rankings in a file that `write_trec` wrote; with `queries`, of those only."""
    ranking: Ranking = {}
    with path.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            query_id, _, rest = line.split("\t", 2)
            if queries is not None and query_id not in queries:
                continue
            found = ranking.setdefault(query_id, [])
            if len(found) < depth:
                passage_id, _, score, _ = rest.rsplit("\t", 3)
                found.append((passage_id, float(score)))
    return ranking


def read_run(path: Path, queries: Collection[str], passages: Collection[str], depth: int) -> Run:
    """A run file that another system wrote, columns apart by tabs or by spaces, checked line by line.

    As trec_eval does it, the score orders and not the rank; equal scores stand in the order of their ranks. Queries that were not
    asked for are left out. Raises SourceError for a line that is no run, a score that is no number, a passage twice for a query,
    a passage that the corpus does not have (a run over another haystack cannot be compared), and a file without any of the queries.
    """
    found: dict[str, dict[str, tuple[float, float]]] = {}
    name = ""
    for number, parts in _lines(path):
        where = f"{path}, line {number}"
        query_id, passage_id = parts[0], parts[2]
        if query_id not in queries:
            continue
        if passage_id not in passages:
            raise SourceError(
                f"{where}: passage {passage_id[:80]!r} is not in the corpus; a run is compared over the same passages under the "
                "same ids, so export it with the ids of corpus.jsonl"
            )
        own = found.setdefault(query_id, {})
        if passage_id in own:
            raise SourceError(f"{where}: passage {passage_id[:80]!r} comes twice for query {query_id[:80]!r}")
        own[passage_id] = (_number(parts[4], "score", where), _number(parts[3], "rank", where))
        name = name or parts[5]
    if not found:
        raise SourceError(
            f"{path}: holds none of the {len(queries):,} queries; their ids must be those of queries.jsonl"
        )
    ranking = {query_id: _ordered(query_id, found[query_id], depth) for query_id in queries if query_id in found}
    return Run(name, ranking, tuple(query_id for query_id in queries if query_id not in found))


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                parts = line.rstrip("\r\n").split("\t") if "\t" in line else line.split()
                if len(parts) != _COLUMNS:
                    raise SourceError(
                        f"{path}, line {number}: expected query Q0 passage rank score name, apart by tabs or spaces; "
                        f"got {line.rstrip()[:80]!r}"
                    )
                yield number, parts
    except FileNotFoundError:
        raise SourceError(f"{path}: no such run file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: cannot be read as UTF-8 text: {error}") from None


def _number(text: str, what: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SourceError(f"{where}: the {what} is {text[:40]!r}, which is not a number")
    return value


def _ordered(query_id: str, found: dict[str, tuple[float, float]], depth: int) -> list[tuple[str, float]]:
    best = sorted(found, key=lambda passage_id: (-found[passage_id][0], found[passage_id][1]))[:depth]
    scores = np.array([[found[passage_id][0] for passage_id in best]], np.float32)
    return as_ranking([query_id], best, np.arange(len(best))[None, :], scores)[query_id]
