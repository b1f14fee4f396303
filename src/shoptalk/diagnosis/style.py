"""Query style of the test unlike training: what was learned from one kind of question is measured on another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from shoptalk.diagnosis.evidence import Evidence
from shoptalk.records import Finding
from shoptalk.retrieval.bm25 import words
from shoptalk.retrieval.significance import holm

_FEWEST = 20
_MOST = 2_000
_ALPHA = 0.01
_RARE = 0.01
# First words of questions in the languages that documents are most often in.
_ASKING = frozenset(
    "what how why when where who whom whose which can could do does did is are was were should shall will would may must has have "
    "was wie warum wann wo wer welche welcher welches kann muss darf gibt ist sind "
    "que qué cómo como cuándo cuando dónde donde quién cuál puedo "
    "quoi comment pourquoi quand où qui quel quelle est-ce puis "
    "che cosa perché quando dove chi quale posso o que qual onde".split()
)


@dataclass(frozen=True, slots=True)
class Shift:
    """A trait in which test queries differ from training queries. effect: Cliff's delta of a number, the difference of a share,
    or the part of a distribution that would have to move; 0 is none and 1 the most there can be, either way.
    """

    trait: str
    train: str
    test: str
    effect: float
    p: float


def find(evidence: Evidence) -> Finding | None:
    """Looks at the texts of training and test queries: length, question form, language, share of rare words."""
    shifts = differences(evidence)
    if not shifts:
        return None
    asked, tested = _queries(evidence)
    return Finding(
        "query-style-shift",
        "warning",
        f"{len(tested):,} test queries differ from {len(asked):,} training queries: " + "; ".join(map(_words, shifts)),
        "train on queries as people ask them: label some of the kind that the test has, or have them made in that style "
        "(queries.make); if the test is the one that is unlike real use, replace it",
    )


def differences(evidence: Evidence) -> list[Shift]:
    """The traits in which the difference is large and no chance (Holm over the traits), the largest first."""
    asked, tested = _queries(evidence)
    if min(len(asked), len(tested)) < _FEWEST:
        return []
    found = list(_shifts(evidence, asked, tested))
    sure = holm({shift.trait: shift.p for shift in found})
    least = evidence.settings.diagnose.style_effect
    large = [shift for shift in found if abs(shift.effect) >= least and sure[shift.trait] < _ALPHA]
    return sorted(large, key=lambda shift: -abs(shift.effect))


def _queries(evidence: Evidence) -> tuple[list[str], list[str]]:
    if not evidence.is_retrieval:
        return [], []
    tested = list(dict.fromkeys(str(row["text"]) for row in evidence.per_query))
    return evidence.asked[:_MOST], tested[:_MOST]


def _shifts(evidence: Evidence, asked: Sequence[str], tested: Sequence[str]) -> Iterator[Shift]:
    yield _of_numbers("length in words", lambda text: float(len(words(text))), asked, tested, "{:.0f}")
    yield _of_shares("questions", _is_question, asked, tested)
    rare = _rare_words(evidence)
    yield _of_numbers("share of rare words", rare, asked, tested, "{:.0%}")
    said = {query.text: query.language for query in evidence.dataset.queries.values()}
    said |= {str(row["text"]): str(row.get("language") or "") for row in evidence.per_query}
    languages = [[name for text in side if (name := said.get(text, ""))] for side in (asked, tested)]
    if all(len(known) >= max(_FEWEST, len(side) / 2) for known, side in zip(languages, (asked, tested), strict=True)):
        yield _of_languages(*languages)


def _of_numbers(
    trait: str, measure: Callable[[str], float], asked: Sequence[str], tested: Sequence[str], shown: str
) -> Shift:
    left, right = (np.array([measure(text) for text in side]) for side in (asked, tested))
    medians = [shown.format(float(np.median(side))) for side in (left, right)]
    if np.ptp(np.concatenate([left, right])) == 0:
        return Shift(trait, medians[0], medians[1], 0.0, 1.0)
    test = stats.mannwhitneyu(right, left)
    return Shift(
        trait, medians[0], medians[1], float(2 * test.statistic / (len(left) * len(right)) - 1), float(test.pvalue)
    )


def _of_shares(trait: str, has: Callable[[str], bool], asked: Sequence[str], tested: Sequence[str]) -> Shift:
    counts = [sum(map(has, side)) for side in (asked, tested)]
    shares = [count / len(side) for count, side in zip(counts, (asked, tested), strict=True)]
    table = np.array([[counts[0], len(asked) - counts[0]], [counts[1], len(tested) - counts[1]]])
    p = float(stats.fisher_exact(table).pvalue)
    return Shift(trait, f"{shares[0]:.0%}", f"{shares[1]:.0%}", shares[1] - shares[0], p)


def _of_languages(asked: Sequence[str], tested: Sequence[str]) -> Shift:
    names = sorted({*asked, *tested})
    counts = np.array([[Counter(side)[name] for name in names] for side in (asked, tested)])
    shares = counts / counts.sum(axis=1, keepdims=True)
    shown = [", ".join(f"{names[i]} {row[i]:.0%}" for i in np.argsort(-row)[:2] if row[i]) for row in shares]
    p = float(stats.chi2_contingency(counts).pvalue) if len(names) > 1 else 1.0
    return Shift("language", shown[0], shown[1], float(np.abs(shares[0] - shares[1]).sum() / 2), p)


def _is_question(text: str) -> bool:
    first = text.casefold().split(maxsplit=1)[:1]
    return text.rstrip().endswith(("?", "？", "؟")) or (bool(first) and first[0].strip("¿'’") in _ASKING)


def _rare_words(evidence: Evidence) -> Callable[[str], float]:
    """The share of a text's words that stand in under 1% of the passages."""
    documents: Counter[str] = Counter(word for text in evidence.sample for word in set(words(text)))
    fewest = _RARE * len(evidence.sample)

    def share(text: str) -> float:
        own = words(text)
        return sum(documents[word] < fewest for word in own) / len(own) if own else 0.0

    return share


def _words(shift: Shift) -> str:
    return f"{shift.trait} {shift.train} in training, {shift.test} in the test (effect {shift.effect:+.2f}, p {shift.p:.1g})"
