"""What may not enter a dataset, each with its reason: empty, over-long, non-text and contradictory items."""

from __future__ import annotations

import math
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

from shoptalk.records import Judgement, Passage, Query, Rejected, ScoredPair
from shoptalk.settings import DatasetSettings

_CONTRADICTION = 0.25


def text_problem(text: str, max_chars: int) -> tuple[str, str] | None:
    """The check that a text fails and why, or None."""
    if not text.strip():
        return "empty", "no text"
    if len(text) > max_chars:
        return "over-long", f"{len(text):,} characters; at most {max_chars:,}"
    sample = text[:20_000]
    letters = sum(1 for char in sample if char.isalnum() or unicodedata.category(char).startswith("M"))
    broken = sum(
        1
        for char in sample
        if char == "\ufffd" or (unicodedata.category(char) in ("Cc", "Cn", "Co") and char not in "\n\t\r\f")
    )
    if letters == 0 or broken > 0.1 * len(sample):
        return (
            "non-text",
            "no letters or digits" if letters == 0 else f"{broken} of {len(sample)} characters are not text",
        )
    return None


def check_passages(passages: Iterable[Passage], settings: DatasetSettings) -> tuple[list[Passage], list[Rejected]]:
    """The passages that may stay, and the others."""
    kept, rejected = [], []
    for passage in passages:
        problem = text_problem(passage.content, settings.max_passage_chars)
        if problem is None:
            kept.append(passage)
        else:
            rejected.append(Rejected(passage.passage_id, *problem))
    return kept, rejected


def check_queries(queries: Iterable[Query], settings: DatasetSettings) -> tuple[dict[str, Query], list[Rejected]]:
    """The queries that may stay by id, and the others."""
    kept, rejected = {}, []
    for query in queries:
        problem = text_problem(query.text, settings.max_query_chars)
        if problem is None:
            kept[query.query_id] = query
        else:
            rejected.append(Rejected(query.query_id, *problem))
    return kept, rejected


def check_judgements(
    judgements: Iterable[tuple[Judgement, str]],
    queries: dict[str, Query],
    passages: dict[str, Passage],
    negatives: dict[str, list[str]],
) -> tuple[list[tuple[Judgement, str]], list[Rejected]]:
    """The judgements that may stay: both sides exist, the passage is not the query, nothing is positive and negative."""
    kept, rejected = [], []
    for judgement, split in judgements:
        where = f"{judgement.query_id} {judgement.passage_id}"
        query, passage = queries.get(judgement.query_id), passages.get(judgement.passage_id)
        if query is None or passage is None:
            rejected.append(Rejected(where, "orphan", "its query or passage was rejected"))
        elif _plain(query.text) == _plain(passage.text):
            rejected.append(Rejected(where, "copy", "the passage is the query itself"))
        elif judgement.grade > 0 and _plain(passage.text) in {
            _plain(text) for text in negatives.get(judgement.query_id, ())
        }:
            rejected.append(Rejected(where, "contradictory", "the passage is labelled as answer and as non-answer"))
        else:
            kept.append((judgement, split))
    return kept, rejected


def check_pairs(
    pairs: Iterable[tuple[ScoredPair, str]], settings: DatasetSettings
) -> tuple[list[tuple[ScoredPair, str]], list[Rejected]]:
    """Scored pairs that may stay; the same two texts with clearly different scores in one split contradict each other.

    Of the same texts in several splits, a given test split keeps its pair, else a given dev split.
    """
    found = list(pairs)
    scores = [pair.score for pair, _ in found if math.isfinite(pair.score)]
    span = max(scores) - min(scores) if scores else 0.0
    by_texts: dict[tuple[str, ...], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for pair, split in found:
        by_texts[_pair_key(pair)][split].append(pair.score)
    kept, rejected, seen = [], [], set()
    for pair, split in found:
        same = by_texts[_pair_key(pair)]
        problem = text_problem(pair.sentence1, settings.max_query_chars) or text_problem(
            pair.sentence2, settings.max_query_chars
        )
        low, high = min(same[split]), max(same[split])
        if problem is not None:
            rejected.append(Rejected(pair.pair_id, *problem))
        elif not math.isfinite(pair.score):
            rejected.append(Rejected(pair.pair_id, "no-score", f"the score is {pair.score}"))
        elif split != next((name for name in ("test", "dev") if name in same), split):
            rejected.append(Rejected(pair.pair_id, "duplicate", "the same texts are in a given test or dev split"))
        elif span and high - low > _CONTRADICTION * span:
            rejected.append(
                Rejected(pair.pair_id, "contradictory", f"the same texts have scores from {low:g} to {high:g}")
            )
        elif _pair_key(pair) in seen:
            rejected.append(Rejected(pair.pair_id, "duplicate", "the same texts came before"))
        else:
            seen.add(_pair_key(pair))
            kept.append((pair, split))
    return kept, rejected


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _pair_key(pair: ScoredPair) -> tuple[str, ...]:
    return tuple(sorted((_plain(pair.sentence1), _plain(pair.sentence2))))
