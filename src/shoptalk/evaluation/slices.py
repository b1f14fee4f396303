"""Where the change happened: the test queries cut into slices by what they and their answers are, each with its own test.

A mean can rise while one kind of query gets worse. A slice is reported from 30 queries on, with the same paired interval and
permutation test over groups as the whole; Holm's correction goes over all slices of all kinds together.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from shoptalk.progress import task
from shoptalk.records import Dataset, Delta, Passage
from shoptalk.retrieval.bm25 import words
from shoptalk.retrieval.significance import holm, paired_delta

MIN_QUERIES = 30
_LEVEL = 0.05
_LENGTHS = ((4, "1 to 4 words"), (8, "5 to 8 words"), (16, "9 to 16 words"), (1 << 30, "17 words or more"))
_RARE_SHARE = 0.01
_SAMPLE = 5_000  # passages in which words are counted: enough to tell 1% from more
_RARE_AT_LEAST = 3  # in a small corpus 1% is less than one passage

_CODE = re.compile(
    r"\s*(?:[$#>]\s|>>>|(?:def|class|import|from|return|function|var|let|const|public|private|void|if|for|while)\b.*[:;{()]\s*$|"
    r"#include\b|</?\w[^>]*>\s*$|[\w.]+\(.*\);?\s*$|.*[;{}]\s*$|[\w.-]+\s*[:=]{1,2}\s*[\"'\[{\d])"
)
_ITEM = re.compile(r"\s*(?:[-*+•‣◦–]|\d{1,3}[.)]|[a-zA-Z][.)])\s+\S")


@dataclass(frozen=True)
class Training:
    """The words that training saw: those of its queries and of their relevant passages."""

    words: frozenset[str]

    @classmethod
    def of(cls, dataset: Dataset, split: str = "train") -> Training | None:
        """From a split; None when it holds nothing."""
        judged = dataset.qrels.get(split, {})
        if not judged:
            return None
        texts = [dataset.queries[query_id].text for query_id in judged]
        relevant = {p for found in judged.values() for p, grade in found.items() if grade > 0}
        texts += [dataset.passages[p].content for p in relevant if p in dataset.passages]
        return cls(frozenset(word for text in texts for word in words(text)))


def slice_names(dataset: Dataset, split: str, training: Training | None) -> dict[str, dict[str, str]]:
    """Kind of slice -> query id -> the slice it is in; a query that a kind says nothing about is not in it.

    What a query's answer is (language, source, type) is that of its best-judged passage, the first of equals.
    """
    judged = dataset.qrels[split]
    answers = {
        query_id: dataset.passages[max(found, key=lambda p: found[p])]
        for query_id, found in judged.items()
        if any(grade > 0 for grade in found.values())
    }
    queries = {query_id: dataset.queries[query_id] for query_id in answers}
    kinds = {
        "query length": {q: _length(query.text) for q, query in queries.items()},
        "query language": {q: query.language for q, query in queries.items()},
        "passage language": {q: passage.language for q, passage in answers.items()},
        "source": _sources(answers),
        "query kind": {q: query.kind for q, query in queries.items()},
        "passage type": {q: passage_type(passage.text) for q, passage in answers.items()},
    }
    if training is not None:
        texts = {q: query.text for q, query in queries.items()}
        kinds["rare words"] = _rare_words(texts, list(dataset.passages.values()), training)
    return {kind: {q: name for q, name in named.items() if name} for kind, named in kinds.items()}


def measure_slices(
    names: Mapping[str, Mapping[str, str]],
    base: Mapping[str, float],
    tuned: Mapping[str, float],
    groups: Mapping[str, str],
    resamples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Every slice of 30 queries or more that is not all of them, as comparison.json holds it; those that got worse first.

    names: as `slice_names` gives them. base, tuned: query id -> value of the deciding metric. "worse" is Holm's p under 0.05 and a
    value below zero.
    """
    found: list[tuple[str, str, list[str]]] = []
    for kind, named in names.items():
        sizes = Counter(named[q] for q in base if q in named)
        for name, size in sizes.items():
            if MIN_QUERIES <= size < len(base):
                found.append((kind, name, [q for q in base if named.get(q) == name]))
    deltas: list[Delta] = []
    with task("slices", len(found)) as bar:
        for _, _, own in found:
            before, after = {q: base[q] for q in own}, {q: tuned[q] for q in own}
            deltas.append(paired_delta(before, after, groups, resamples, seed))
            bar.advance()
    corrected = holm({str(i): delta.p for i, delta in enumerate(deltas)})
    rows = []
    for i, ((kind, name, own), delta) in enumerate(zip(found, deltas, strict=True)):
        p_holm = corrected[str(i)]
        rows.append(
            {
                "by": kind,
                "name": name,
                "queries": len(own),
                "groups": len({groups.get(q, q) for q in own}),
                "base": float(np.mean([base[q] for q in own])),
                "tuned": float(np.mean([tuned[q] for q in own])),
                "delta": Delta(delta.value, delta.ci95, delta.p, p_holm).as_json(),
                "worse": p_holm < _LEVEL and delta.value < 0,
            }
        )
    order = {kind: place for place, kind in enumerate(names)}
    return sorted(
        rows, key=lambda row: (not row["worse"], order[str(row["by"])], -int(row["queries"]), str(row["name"]))
    )


def passage_type(text: str) -> str:
    """What a passage mostly is, by its lines: table, code, list or prose."""
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        return "prose"

    def share(is_one: Callable[[str], object]) -> float:
        return sum(1 for line in lines if is_one(line)) / len(lines)

    if len(lines) > 1 and share(lambda line: line.count("|") >= 2 or line.count("\t") >= 2) >= 0.5:
        return "table"
    if len(lines) > 1 and (text.count("```") >= 2 or share(_CODE.match) >= 0.5):
        return "code"
    if len(lines) > 2 and share(_ITEM.match) >= 0.5:
        return "list"
    return "prose"


def _length(text: str) -> str:
    n = len(words(text))
    return next(name for most, name in _LENGTHS if n <= most) if n else ""


def _sources(answers: Mapping[str, Passage]) -> dict[str, str]:
    """The document of the answer, or the deepest of its folders, that has enough queries of its own to be a slice.

    Documents with few queries thus pool into "FOLDER/", without those that stand alone; what is left over at the top is no slice.
    """
    places = {q: [str(path) for path in _upwards(passage.source)] for q, passage in answers.items() if passage.source}
    named: dict[str, str] = {}
    deepest = max((len(path) for path in places.values()), default=0)
    for depth in range(deepest, 0, -1):
        waiting = {q: path[depth - 1] for q, path in places.items() if q not in named and len(path) >= depth}
        sizes = Counter(waiting.values())
        for q, place in waiting.items():
            if sizes[place] >= MIN_QUERIES:
                named[q] = place if places[q][-1] == place else f"{place}/"
    return named


def _upwards(source: str) -> Iterator[PurePosixPath]:
    """a, a/b, a/b/c.md"""
    parts = PurePosixPath(source).parts
    for n in range(1, len(parts) + 1):
        yield PurePosixPath(*parts[:n])


def _rare_words(texts: Mapping[str, str], passages: Sequence[Passage], training: Training) -> dict[str, str]:
    """How much of a query's rare words training saw. Rare is a word of the query in under 1% of the passages: what the query is
    about, where the words of every query say nothing. Words are counted in 5,000 passages, evenly drawn, of a large corpus.
    """
    asked = {q: set(words(text)) for q, text in texts.items()}
    wanted = set().union(*asked.values()) if asked else set()
    sample = passages[:: max(1, len(passages) // _SAMPLE)]
    found: Counter[str] = Counter()
    for passage in sample:
        found.update(wanted.intersection(words(passage.content)))
    most = max(_RARE_AT_LEAST, _RARE_SHARE * len(sample))
    named = {}
    for q, own in asked.items():
        rare = {word for word in own if found[word] <= most}
        seen = len(rare & training.words)
        if not rare:
            named[q] = "no rare words"
        else:
            named[q] = (
                "all seen in training"
                if seen == len(rare)
                else "some seen in training"
                if seen
                else "none seen in training"
            )
    return named
