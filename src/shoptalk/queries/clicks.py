"""Click logs and search logs as weak labels: what people chose, weighed by how it was shown and how often.

A click says less than a label: people click what stands on top, and a single click may be a slip. The position-based model takes
both into account: a result is clicked when it is looked at and relevant, and it is looked at with a chance that falls with its
rank. The weight of a query and a passage is the relevance that this model finds in the log, with a few unclicked looks added
beforehand so that one click is no certainty.
Sources: Joachims, Swaminathan and Schnabel 2017, Unbiased learning-to-rank with biased feedback (chance to be looked at: (1/rank)^eta);
Chuklin, Markov and de Rijke 2015, Click models for web search (the position-based model and its EM).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from shoptalk.labelled import Label
from shoptalk.queries.click_logs import Event
from shoptalk.queries.mapping import PassageFinder
from shoptalk.records import Passage, Rejected
from shoptalk.retrieval.bm25 import BM25
from shoptalk.settings import QuerySettings

_STEPS = 200
_CLOSE = 1e-9


@dataclass(frozen=True, slots=True)
class WeakLabel:
    """That people who asked `query` chose a passage; `weight` in (0, 1)."""

    query: str
    passage_id: str
    weight: float


@dataclass(frozen=True)
class WeakLabels:
    """What a log says: labels, passages passed over by query (only where that was asked for), and what was left out."""

    labels: list[WeakLabel]
    skipped: dict[str, list[str]]
    rejected: list[Rejected]


@dataclass
class _Pair:
    """What a log holds of one query and one passage: `unclicked` counts looks without a click by rank (0: not known)."""

    clicks: int = 0
    unclicked: Counter[int] = field(default_factory=Counter)
    clicked_at: Counter[int] = field(default_factory=Counter)
    skipped: int = 0


def weak_labels(events: Sequence[Event], passages: Sequence[Passage], settings: QuerySettings) -> WeakLabels:
    """Labels from a log, in the order in which it first names them."""
    target_of = _Targets(passages)
    rejected: dict[tuple[str, str], Rejected] = {}
    pairs: dict[str, dict[str, _Pair]] = defaultdict(lambda: defaultdict(_Pair))
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    chosen_only: Counter[str] = Counter()
    for event in _one_vote_a_session(events):
        query = " ".join(event.query.casefold().split())
        found, reason = target_of.find(event)
        if not found:
            rejected.setdefault((query, event.target), Rejected(event.where, "maps-to-nothing", reason))
            continue
        spellings[query][event.query] += 1
        for passage_id in found:
            pair = pairs[query][passage_id]
            pair.clicks += event.clicks
            pair.clicked_at[event.position] += event.clicks
            pair.unclicked[event.position] += max(0, event.looks - event.clicks)
            pair.skipped += event.skipped
        if event.chosen_only:
            chosen_only[query] += event.clicks
    labels: list[WeakLabel] = []
    skipped: dict[str, list[str]] = {}
    for query, found_pairs in pairs.items():
        text = max(spellings[query], key=lambda spelling: (spellings[query][spelling], spelling))
        for passage_id, pair in found_pairs.items():
            _add_other_searches(pair, chosen_only[query])
            weight = relevance(pair.clicks, pair.unclicked, settings.click_eta, settings.click_prior)
            if pair.clicks and weight >= settings.click_min_weight:
                labels.append(WeakLabel(text, passage_id, round(weight, 4)))
            elif pair.clicks:
                rejected[query, passage_id] = Rejected(
                    f"{text} {passage_id}", "weak-click", _why(pair, weight, settings)
                )
        over = [p for p, pair in found_pairs.items() if pair.skipped and not pair.clicks]
        if settings.skip_above and over:
            skipped[text] = over
    return WeakLabels(labels, skipped, list(rejected.values()))


def relevance(clicks: int, unclicked: Counter[int], eta: float, prior: float) -> float:
    """The chance that a looker finds the passage relevant, by EM of the position-based model.

    unclicked: results shown without a click, by rank (0: looked at for certain). A click proves a look; a result without one was
    looked at with chance p (1 - r) / (1 - p r), where p = (1 / rank)^eta and r the relevance so far. `prior` looks are unclicked.
    """
    r = 0.5
    for _ in range(_STEPS):
        looks = 0.0
        for rank, n in unclicked.items():
            p = max(1, rank) ** -eta
            looks += n * (p * (1 - r) / (1 - p * r) if p * r < 1 else 1.0)
        new = clicks / (clicks + looks + prior)
        if abs(new - r) < _CLOSE:
            return new
        r = new
    return r


def _add_other_searches(pair: _Pair, searches: int) -> None:
    """In a log of choices alone, a search that chose something else was an occasion to choose this, at its usual rank."""
    others = searches - pair.clicks
    if searches and others > 0 and pair.clicks:
        usual, _ = pair.clicked_at.most_common(1)[0]
        pair.unclicked[usual] += others


def _why(pair: _Pair, weight: float, settings: QuerySettings) -> str:
    unclicked = sum(pair.unclicked.values())
    return (
        f"weight {weight:.2f}, under {settings.click_min_weight:g}: {pair.clicks} clicks, {unclicked} times not clicked"
    )


def _one_vote_a_session(events: Sequence[Event]) -> list[Event]:
    """Of the same session, query and target only one event: that with a click, else the highest placed."""
    kept: dict[object, Event] = {}
    for row, event in enumerate(events):
        key = (event.session, " ".join(event.query.casefold().split()), event.target) if event.session else row
        other = kept.get(key)
        if other is None or (event.clicks > 0, -event.position) > (other.clicks > 0, -other.position):
            kept[key] = event if not event.session else event.as_one()
    return list(kept.values())


class _Targets:
    """What a log calls a result, as a passage: its id, a document (the passage of it that BM25 finds best), or its text."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._finder = PassageFinder(passages)
        self._indexes: dict[str, BM25] = {}
        self._known: dict[tuple[str, str], tuple[list[str], str]] = {}

    def find(self, event: Event) -> tuple[list[str], str]:
        """The ids of the passages, or none and the reason."""
        key = (event.query.casefold(), event.target)
        if key not in self._known:
            self._known[key] = self._find(event.query, event.target)
        return self._known[key]

    def _find(self, query: str, target: str) -> tuple[list[str], str]:
        by_id, no_id = self._finder.find(Label("", query, passage_id=target))
        if by_id:
            return by_id, ""
        document = self._finder.in_document(target)
        if document:
            if target not in self._indexes:
                self._indexes[target] = BM25([p.passage_id for p in document], [p.content for p in document])
            best = self._indexes[target].search([""], [query], 1)[""]
            if best or len(document) == 1:
                return [best[0][0] if best else document[0].passage_id], ""
            return [], f"{target} has {len(document)} passages, and none shares a word with the query {query[:60]!r}"
        by_text, _ = self._finder.find(Label("", query, positive=target)) if " " in target else ([], "")
        return by_text, "" if by_text else f"{no_id}, and no document is called so"
