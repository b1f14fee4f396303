"""TREC run files: query, Q0, passage, rank, score and the system's name, tab-separated, best first."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from shoptalk.records import Ranking


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
