"""Why a tuned model may be worse than base: the usual causes, in the order in which they are worth looking at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from shoptalk.diagnosis import duplicates, style
from shoptalk.diagnosis.evidence import Evidence
from shoptalk.records import Example
from shoptalk.retrieval.bm25 import words

_MOST = 400
_FEWEST = 20


@dataclass(frozen=True, slots=True)
class Cause:
    """What is likely to blame, the figures that say so, and what to do."""

    name: str
    shown: str
    advice: str


def first_cause(evidence: Evidence) -> Cause | None:
    """The first cause that holds; None when none does, and for scored pairs."""
    if not evidence.is_retrieval:
        return None
    return next((cause for check in CHECKS if (cause := check(evidence)) is not None), None)


def duplicated(evidence: Evidence) -> Cause | None:
    """Copies of an answer count as wrong in training and in the test."""
    finding = duplicates.find(evidence)
    return Cause("duplicates", finding.evidence, finding.advice) if finding else None


def contradictory(evidence: Evidence) -> Cause | None:
    """The same question answered by unlike passages, or the same text labelled as answer and as non-answer."""
    answers: dict[tuple[str, ...], list[frozenset[str]]] = defaultdict(list)
    denied: dict[tuple[str, ...], set[tuple[str, ...]]] = defaultdict(set)
    said: dict[tuple[str, ...], set[tuple[str, ...]]] = defaultdict(set)
    by_query: dict[str, set[str]] = defaultdict(set)
    names: dict[str, tuple[str, ...]] = {}
    for example in evidence.examples:
        asked = names.setdefault(example.query_id, tuple(words(example.anchor)))
        by_query[example.query_id].add(evidence.dataset.clusters.get(example.positive_id, example.positive_id))
        said[asked].add(tuple(words(example.positive)))
        denied[asked].update(tuple(words(text)) for text in example.negatives)
    for query, clusters in by_query.items():
        answers[names[query]].append(frozenset(clusters))
    bad = [q for q, asked in names.items() if said[asked] & denied[asked] or _disagree(answers[asked])]
    if not names or len(bad) / len(names) < evidence.settings.diagnose.wrong_positives:
        return None
    return Cause(
        "contradictory positives",
        f"{len(bad):,} of {len(names):,} training queries ({len(bad) / len(names):.0%}) contradict another label: the same question "
        "answered by another passage, or a text that is its answer and its non-answer",
        "decide which passage answers each of these questions, or label all that do; drop the others",
    )


def wrong(evidence: Evidence) -> Cause | None:
    """Positives that are no nearer to their query than any passage is, for the base model.

    A wrong positive stands anywhere among the other positives, so half of the wrong ones are in the farther half, where right
    ones hardly ever are: the share of wrong ones is about twice the share of those. Its 95% interval has to be above the limit,
    since a base model that does not know the team's words puts some right ones there.
    """
    drawn = _drawn(evidence)
    texts = list(dict.fromkeys(example.positive for example in drawn))
    if len(texts) < _FEWEST:
        return None
    place = {text: i for i, text in enumerate(texts)}
    cosines = evidence.base.encode_queries([e.anchor for e in drawn]) @ evidence.base.encode_passages(texts).T
    own = np.array([cosines[i, place[example.positive]] for i, example in enumerate(drawn)])
    nearer = (cosines > own[:, None]).sum(axis=1) / (len(texts) - 1)
    far = nearer > 0.5
    sure = stats.binomtest(int(far.sum()), len(far)).proportion_ci(method="wilson").low
    if 2 * sure < evidence.settings.diagnose.wrong_positives:
        return None
    worst = drawn[int(np.argmax(nearer))]
    return Cause(
        "wrong positives",
        f"about {min(1.0, 2 * float(far.mean())):.0%} of the training positives look wrong: {int(far.sum()):,} of {len(drawn):,} are, "
        f"for the base model, farther from their query than half of all other positives (such as {worst.anchor!r} with "
        f"{worst.positive[:60]!r})",
        "read a sample of the training pairs, those that the base model puts farthest apart first, and drop those that do not answer",
    )


def off_style(evidence: Evidence) -> Cause | None:
    """Training queries unlike those that are tested."""
    shifts = style.differences(evidence)
    if not shifts:
        return None
    first = shifts[0]
    return Cause(
        "off-style queries",
        f"training queries are unlike the test's: {first.trait} {first.train} in training, {first.test} in the test (effect "
        f"{first.effect:+.2f})",
        "train on queries in the form in which people ask",
    )


def false_negatives(evidence: Evidence) -> Cause | None:
    """Mined negatives that are answers: as mining's own audit estimates it, or because the base model puts them above the answer
    or they are near-duplicates of it. Negatives that people named are not doubted.
    """
    return _by_audit(evidence) or _by_text(evidence)


_FEWER = (
    "mine farther from the answer (a lower negatives.margin), let a reranker or a language model judge them "
    "(negatives.cross_encoder, negatives.llm_judge), or train "
    "without mined negatives (negatives.mine: 0)"
)


def _by_audit(evidence: Evidence) -> Cause | None:
    margin = evidence.mining.get("settings", {}).get("margin")
    tested = evidence.mining.get("false_negatives", {}).get("other_answers", {})
    row = next((row for row in tested.get("by_margin", ()) if row["margin"] == margin), None)
    if row is None or not evidence.mining.get("mined") or row["ci95"][0] < evidence.settings.diagnose.false_negatives:
        return None
    return Cause(
        "false negatives",
        f"with a known answer held back {tested['trials']:,} times, mining would have taken it as a negative {row['taken']:,} times "
        f"({row['rate']:.0%})",
        _FEWER,
    )


def _by_text(evidence: Evidence) -> Cause | None:
    named = evidence.dataset.negatives
    mined = {
        (e.query_id, e.positive_id): [text for text in e.negatives if text not in named.get(e.query_id, ())]
        for e in _drawn(evidence)
    }
    drawn = [example for example in _drawn(evidence) if mined[example.query_id, example.positive_id]]
    if len(drawn) < _FEWEST:
        return None
    cluster = {p.content: evidence.dataset.clusters.get(name, name) for name, p in evidence.dataset.passages.items()}
    texts = list(dict.fromkeys(text for e in drawn for text in (e.positive, *e.negatives)))
    place = {text: i for i, text in enumerate(texts)}
    cosines = evidence.base.encode_queries([e.anchor for e in drawn]) @ evidence.base.encode_passages(texts).T
    bad = 0
    for row, example in enumerate(drawn):
        negatives = mined[example.query_id, example.positive_id]
        own = cluster.get(example.positive, example.positive)
        above = cosines[row, [place[text] for text in negatives]].max() >= cosines[row, place[example.positive]]
        bad += bool(above) or any(cluster.get(text, text) == own for text in negatives)
    if bad / len(drawn) < evidence.settings.diagnose.false_negatives:
        return None
    return Cause(
        "false negatives",
        f"{bad:,} of {len(drawn):,} training queries ({bad / len(drawn):.0%}) have a mined negative that the base model puts above the "
        "answer, or that is a near-duplicate of it",
        _FEWER,
    )


CHECKS: tuple[Callable[[Evidence], Cause | None], ...] = (duplicated, contradictory, wrong, off_style, false_negatives)


def _disagree(answers: list[frozenset[str]]) -> bool:
    return any(not one & other for i, one in enumerate(answers) for other in answers[:i])


def _drawn(evidence: Evidence) -> list[Example]:
    rng = np.random.default_rng(evidence.settings.seed)
    n = len(evidence.examples)
    return [evidence.examples[i] for i in sorted(rng.choice(n, min(n, _MOST), replace=False))]
