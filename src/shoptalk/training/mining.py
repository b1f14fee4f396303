"""Hard negatives: passages that the mining model, or BM25, takes for an answer and that are none as far as is known.

The search is exact. A candidate is left out when it is judged, when it is too much like a known answer (near-duplicate, same
section, same text), or when it scores so near to the answers that it may be one nobody labelled.
Sources: Xiong et al. 2021 (ANCE: negatives by the model itself), Karpukhin et al. 2020 (DPR: BM25's beside them),
Moreira et al. 2024 (NV-Retriever: the margin relative to the positive, TopK-PercPos, and the absolute one, TopK-MarginPos).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shoptalk.models.encoder import Encoder, Vectors
from shoptalk.records import Dataset, Passage
from shoptalk.retrieval.bm25 import BM25
from shoptalk.retrieval.topk import pair_scores, top_k
from shoptalk.settings import NegativeSettings
from shoptalk.training.false_negatives import Doubt, Judge

Source = Literal["base", "tuned", "bm25"]
Scored = tuple[str, float]
_JUDGED = 3  # times `mine`: candidates of a ranking that a judge is asked about


@dataclass(frozen=True, slots=True)
class Mined:
    """A hard negative. `rank` counts from 1 in the ranking that it was found in, that of `source`. `score` and `positive_score`
    are the mining model's cosines of the query to it and to the lowest known answer, also where BM25 found it.
    """

    query_id: str
    passage_id: str
    rank: int
    score: float
    positive_score: float
    source: Source


@dataclass(frozen=True, slots=True)
class Candidate:
    """A passage of a ranking, its rank from 1, and why it is no negative ("" when it can be one)."""

    passage_id: str
    rank: int
    score: float
    left_out: str


@dataclass(frozen=True)
class Searched:
    """What was found for the training queries, in the order of their judgements; scores are the mining model's cosines."""

    query_ids: Sequence[str]
    passage_ids: Sequence[str]
    indices: NDArray[np.int64]
    scores: NDArray[np.float32]
    positives: Sequence[dict[str, float]]
    bm25: Sequence[Sequence[Scored]]

    def by_model(self, row: int) -> list[Scored]:
        """The mining model's ranking for a query."""
        found = zip(self.indices[row].tolist(), self.scores[row].tolist(), strict=True)
        return [(self.passage_ids[index], score) for index, score in found]


@dataclass(frozen=True)
class Mining:
    """The hard negatives of all queries, how many candidates were left out for which reason, and what was searched.

    judging: what a judge tells of its work (see `Ruling`).
    """

    mined: list[Mined]
    left_out: Counter[str]
    searched: Searched
    judging: Mapping[str, Any] = field(default_factory=dict)

    @property
    def by_query(self) -> dict[str, list[str]]:
        """Passage ids by query, hardest first."""
        found: dict[str, list[str]] = {query_id: [] for query_id in self.searched.query_ids}
        for negative in self.mined:
            found[negative.query_id].append(negative.passage_id)
        return found


def mine(
    dataset: Dataset,
    encoder: Encoder,
    settings: NegativeSettings,
    rng: np.random.Generator,
    judge: Judge | None = None,
    source: Source = "base",
) -> Mining:
    """`settings.mine` hard negatives for every training query, or as many as there are, hardest (highest score) first.

    A share of `bm25_share` comes from BM25's ranking, what it falls short of from the model's, and the other way round; of a
    near-duplicate cluster one passage is enough. `rng` decides where the share is no whole number. `judge` has the last word.
    """
    searched = search_candidates(dataset, encoder, settings)
    known = KnownAnswers(dataset, settings)
    left_out: Counter[str] = Counter()
    rankings: list[tuple[list[Candidate], list[Candidate]]] = []
    for row, query_id in enumerate(searched.query_ids):
        own = known.of(query_id)
        ceiling = ceiling_under(min(searched.positives[row].values()), settings)
        pair = (list(own.sift(searched.by_model(row), ceiling)), list(own.sift(searched.bm25[row], ceiling)))
        left_out.update(candidate.left_out for ranking in pair for candidate in ranking if candidate.left_out)
        rankings.append((_usable(pair[0]), _usable(pair[1])))
    judging: Mapping[str, Any] = {}
    if judge is not None:
        rankings, by_judge, judging = _judged(dataset, searched.query_ids, rankings, judge, settings.number)
        left_out.update(by_judge)
    mined: list[Mined] = []
    wanted = np.floor(settings.number * settings.bm25_share + rng.random(len(rankings))).astype(int)
    for row, query_id in enumerate(searched.query_ids):
        chosen = mixed(*rankings[row], settings.number, int(wanted[row]), dataset)
        lowest = min(searched.positives[row].values())
        mined += [
            Mined(query_id, one.passage_id, one.rank, one.score, lowest, "bm25" if lexical else source)
            for one, lexical in sorted(chosen, key=lambda pick: -pick[0].score)
        ]
    return Mining(mined, left_out, searched, judging)


def search_candidates(dataset: Dataset, encoder: Encoder, settings: NegativeSettings) -> Searched:
    """Both rankings of every training query with an answer, `settings.depth` deep, and the scores of its answers."""
    judged = {q: [p for p, grade in found.items() if grade > 0] for q, found in dataset.qrels["train"].items()}
    judged = {query_id: positives for query_id, positives in judged.items() if positives}
    ids = list(dataset.passages)
    place = {passage_id: index for index, passage_id in enumerate(ids)}
    texts = [dataset.queries[query_id].text for query_id in judged]
    queries = encoder.encode_queries(texts)
    passages = encoder.encode_passages([passage.content for passage in dataset.passages.values()])
    indices, scores = top_k(queries, passages, settings.depth, "mining hard negatives")
    lexical: list[list[str]] = [[] for _ in judged]
    if settings.bm25_share > 0:
        index = BM25(ids, [passage.content for passage in dataset.passages.values()])
        found = index.search(list(judged), texts, settings.depth)
        lexical = [[passage_id for passage_id, _ in found[query_id]] for query_id in judged]
    return Searched(
        list(judged),
        ids,
        indices,
        scores,
        [dict(scored) for scored in _scored(list(judged.values()), queries, passages, place)],
        _scored(lexical, queries, passages, place),
    )


def _scored(
    named: Sequence[Sequence[str]], queries: Vectors, passages: Vectors, place: dict[str, int]
) -> list[list[Scored]]:
    """For every query its named passages with their cosines."""
    rows = np.array([row for row, names in enumerate(named) for _ in names], np.int64)
    columns = np.array([place[name] for names in named for name in names], np.int64)
    scores = iter(pair_scores(queries, rows, passages, columns).tolist())
    return [[(name, next(scores)) for name in names] for names in named]


def ceiling_under(positive_score: float, settings: NegativeSettings, margin: float | None = None) -> float:
    """The cosine that a negative stays under: `margin` times the positive's (of `settings`, unless another is given), and less
    by `settings.absolute_margin`. Under a positive of cosine 0 or less the share is taken off, not given to it.
    """
    share = settings.margin if margin is None else margin
    ceiling = positive_score - (1 - share) * abs(positive_score)
    return min(ceiling, positive_score - (settings.absolute_margin or 0.0))


# What is known to answer


@dataclass(frozen=True)
class Own:
    """What one query is known to be answered by, and what is too much like it."""

    dataset: Dataset
    query_id: str
    judged: Collection[str]
    clusters: Collection[str]
    sections: Collection[tuple[str, str]]
    texts: Collection[str]
    labelled: Collection[str]

    def sift(self, ranked: Iterable[Scored], ceiling: float) -> Iterator[Candidate]:
        """Every passage of a ranking with the reason why it is left out, if there is one."""
        for rank, (passage_id, score) in enumerate(ranked, 1):
            yield Candidate(passage_id, rank, score, self.reason(passage_id) or ("" if score < ceiling else "margin"))

    def reason(self, passage_id: str) -> str:
        """Why a passage cannot be a negative of this query, whatever it scores; "" when it can."""
        if passage_id in self.judged:
            return "judged"
        if self.dataset.clusters[passage_id] in self.clusters:
            return "near-duplicate"
        passage = self.dataset.passages[passage_id]
        if self.sections and _section(passage, self.dataset.queries[self.query_id].text) in self.sections:
            return "same-section"
        text = _plain(passage.content)
        if text in self.texts:
            return "same-text"
        return "labelled" if text in self.labelled else ""


class KnownAnswers:
    """Judgements of the training queries, those of queries with the same words together."""

    def __init__(self, dataset: Dataset, settings: NegativeSettings) -> None:
        self.dataset = dataset
        self.settings = settings
        self._judged: dict[str, dict[str, int]] = {}
        for query_id, found in dataset.qrels["train"].items():
            together = self._judged.setdefault(_plain(dataset.queries[query_id].text), {})
            for passage_id, grade in found.items():
                together[passage_id] = max(grade, together.get(passage_id, grade))

    def of(self, query_id: str, without: str = "", copies_known: bool = True) -> Own:
        """What a query is known to be answered by. `without` one passage, or not knowing copies: to see what mining would do."""
        query = self.dataset.queries[query_id]
        judged = {name: grade for name, grade in self._judged[_plain(query.text)].items() if name != without}
        answers = [self.dataset.passages[name] for name, grade in judged.items() if grade > 0]
        sections = {_section(passage, query.text) for passage in answers}
        return Own(
            self.dataset,
            query_id,
            judged,
            {self.dataset.clusters[passage.passage_id] for passage in answers} if copies_known else (),
            () if self.settings.same_section else {section for section in sections if section},
            {_plain(passage.content) for passage in answers} if copies_known else (),
            {_plain(text) for text in self.dataset.negatives.get(query_id, ())},
        )


def _section(passage: Passage, query: str) -> tuple[str, str] | None:
    """The source and heading path that a passage stands under; None where passages have no source.

    A heading that became the query was taken out of the passages that it was made from, so it does not count.
    """
    if not passage.source:
        return None
    return passage.source, " > ".join(part for part in passage.title.split(" > ") if part != query)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


# Which are taken


def _usable(ranking: Iterable[Candidate]) -> list[Candidate]:
    return [candidate for candidate in ranking if not candidate.left_out]


def _judged(
    dataset: Dataset,
    query_ids: Sequence[str],
    rankings: Sequence[tuple[list[Candidate], list[Candidate]]],
    judge: Judge,
    n: int,
) -> tuple[list[tuple[list[Candidate], list[Candidate]]], Counter[str], Mapping[str, Any]]:
    """The rankings cut to what the judge was asked about, without what it throws out; how many that was for which reason; and what
    the judge tells of it.
    """
    asked = [(by_model[: _JUDGED * n], lexical[: _JUDGED * n]) for by_model, lexical in rankings]
    doubts = []
    for query_id, (by_model, lexical) in zip(query_ids, asked, strict=True):
        positives = [p for p, grade in dataset.qrels["train"][query_id].items() if grade > 0]
        names = list(dict.fromkeys(candidate.passage_id for candidate in (*by_model, *lexical)))
        contents = ([dataset.passages[name].content for name in group] for group in (positives, names))
        doubts.append((names, Doubt(dataset.queries[query_id].text, *map(tuple, contents))))
    ruling = judge.rule([doubt for _, doubt in doubts])
    kept = []
    left_out: Counter[str] = Counter()
    for (names, _), reasons, pair in zip(doubts, ruling.reasons, asked, strict=True):
        out = {name for name, reason in zip(names, reasons, strict=True) if reason}
        left_out.update(reason for reason in reasons if reason)
        kept.append(
            (
                [one for one in pair[0] if one.passage_id not in out],
                [one for one in pair[1] if one.passage_id not in out],
            )
        )
    return kept, left_out, ruling.told


def mixed(
    by_model: Sequence[Candidate], lexical: Sequence[Candidate], n: int, n_lexical: int, dataset: Dataset
) -> list[tuple[Candidate, bool]]:
    """Up to n candidates, each with whether BM25 found it: the model's best, then BM25's, then whatever is left of either."""
    chosen: list[tuple[Candidate, bool]] = []
    clusters: set[str] = set()

    def take(ranking: Sequence[Candidate], is_lexical: bool, most: int) -> None:
        for candidate in ranking:
            cluster = dataset.clusters[candidate.passage_id]
            if len(chosen) < most and cluster not in clusters:
                clusters.add(cluster)
                chosen.append((candidate, is_lexical))

    take(by_model, False, n - n_lexical)
    take(lexical, True, n)
    take(by_model, False, n)
    return chosen
