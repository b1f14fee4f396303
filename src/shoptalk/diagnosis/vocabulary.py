"""The team's own words: how the base model misreads them, what the tuned model makes of them, and whether training covers them.

A term is encoded as a query. What the base model hears in it are the nearest words of general language; what a model makes of
it are the passages it finds. A term's own passages are those that training queries with it point to, where there are three
such queries (and, for an acronym, all that write out what it stands for there), else those that use it most. How near a term
is to its own passages is its mean cosine to them less its mean cosine to the whole corpus: tuning moves all cosines up or
down together, and that is no understanding.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shoptalk.diagnosis.evidence import Evidence
from shoptalk.models.encoder import Encoder, Vectors
from shoptalk.records import Finding
from shoptalk.vocabulary import Term
from shoptalk.vocabulary.background import function_words

_HEARD = 5
_FOUND = 3
_ENOUGH_QUERIES = 3
_IMPORTANT = 20
_STEM = 5
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, slots=True)
class Meaning:
    """What an acronym stands for. defined: how often the texts say so; uses: how often they write it out; positives: how many
    passages that training queries with the acronym point to write it out.
    """

    text: str
    defined: int
    uses: int
    positives: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """In how many training queries and in how many different training positives a term stands."""

    queries: int
    positives: int


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage near a term. own: whether it is one of the term's own passages."""

    passage_id: str
    title: str
    own: bool


@dataclass(frozen=True, slots=True)
class Side:
    """A term as one model has it. near: see the module; place: of the best of its own passages in the whole corpus, from 1."""

    near: float
    place: int
    found: tuple[Hit, ...]


@dataclass(frozen=True, slots=True)
class TermChange:
    """A term before and after. hears: general words nearest to it for the base model; labelled: how many of its own passages
    come from training queries (0: they are those that use it); meant: the long form that those write out ("" for none).
    """

    text: str
    kind: str
    count: int
    documents: int
    meanings: tuple[Meaning, ...]
    coverage: Coverage
    labelled: int
    meant: str
    hears: tuple[str, ...]
    before: Side
    after: Side
    change: float


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What diagnosis/vocabulary.json holds. found: how many terms there are; asked: how many of them stand in training queries;
    terms: those measured, the most changed first; uncovered: terms, the most telling first, that stand in no training query
    and in no training positive.
    """

    found: int
    asked: int
    terms: tuple[TermChange, ...]
    uncovered: tuple[str, ...]


def find(evidence: Evidence) -> Finding | None:
    """Looks at the most telling terms and the training data."""
    important = evidence.terms[:_IMPORTANT]
    covered = coverage(important, evidence)
    missing = [term.text for term in important if not _is_covered(covered[term.text])]
    if len(important) < 5 or len(missing) < evidence.settings.diagnose.uncovered_share * len(important):
        return None
    return Finding(
        "uncovered-terms",
        "info",
        f"{len(missing)} of the {len(important)} most telling terms of these documents stand in no training query and no training "
        f"positive: {', '.join(missing[:8])}{', ...' if len(missing) > 8 else ''}",
        "add questions that use these words, or let shoptalk make them (queries.make: always); a model learns nothing about words "
        "it is not shown",
    )


def study(evidence: Evidence) -> Vocabulary:
    """The terms of a run before and after, measured on the `diagnose.terms` most telling ones."""
    terms = evidence.terms
    covered = coverage(terms, evidence)
    uncovered = tuple(term.text for term in terms if not _is_covered(covered[term.text]))
    asked = sum(found.queries > 0 for found in covered.values())
    owns = _own_passages(terms[: evidence.settings.diagnose.terms], evidence)
    measured = [term for term in terms if owns.get(term.text) and owns[term.text].passages]
    if not measured:
        return Vocabulary(len(terms), asked, (), uncovered)
    heard = _heard(measured, evidence)
    before, after = (_side(model, measured, owns, evidence) for model in (evidence.base, evidence.tuned))
    changes = [
        TermChange(
            term.text, term.kind, term.count, term.documents, own.meanings, covered[term.text], own.labelled, own.meant,
            heard[i], before[i], after[i], after[i].near - before[i].near,
        )
        for i, term in enumerate(measured)
        if (own := owns[term.text])
    ]  # fmt: skip
    changes.sort(key=lambda one: (-abs(one.change), one.text))
    return Vocabulary(len(terms), asked, tuple(changes), uncovered)


def coverage(terms: Sequence[Term], evidence: Evidence) -> dict[str, Coverage]:
    """term -> in how much of the training data it stands."""
    asked = _spotted(terms, {example.query_id: example.anchor for example in evidence.examples})
    said = _spotted(terms, {example.positive_id: example.positive for example in evidence.examples})
    return {term.text: Coverage(len(asked[term.text]), len(said[term.text])) for term in terms}


def _is_covered(found: Coverage) -> bool:
    return found.queries + found.positives > 0


def _spotted(terms: Sequence[Term], texts: Mapping[str, str]) -> dict[str, set[str]]:
    """term -> names of the texts that hold it, in the plural too; acronyms as they are written, others in any case."""
    found: dict[str, set[str]] = defaultdict(set)
    if not terms:
        return found
    acronyms = [re.escape(term.text) for term in terms if term.kind == "acronym"]
    others = [re.escape(term.text) for term in terms if term.kind != "acronym"]
    named = {term.text if term.kind == "acronym" else term.text.casefold(): term.text for term in terms}
    choices = [
        *(rf"(?P<as_written>{'|'.join(_longest_first(acronyms))})" for _ in acronyms[:1]),
        *(rf"(?i:(?P<any_case>{'|'.join(_longest_first(others))}))" for _ in others[:1]),
    ]
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(choices)})(?:['’]?s)?(?!\w)")
    for name, text in texts.items():
        for hit in pattern.finditer(text):
            written = hit.groupdict()
            term = named.get(written.get("as_written") or (written.get("any_case") or "").casefold())
            if term is not None:
                found[term].add(name)
    return found


def _longest_first(choices: Iterable[str]) -> list[str]:
    return sorted(choices, key=lambda choice: (-len(choice), choice))


def _asked_for(terms: Sequence[Term], evidence: Evidence) -> dict[str, set[str]]:
    """term -> the passages that training queries with it point to, where there are enough such queries."""
    by_term = _spotted(terms, {example.query_id: example.anchor for example in evidence.examples})
    positives: dict[str, set[str]] = defaultdict(set)
    for example in evidence.examples:
        positives[example.query_id].add(example.positive_id)
    return {
        term: {passage for query in queries for passage in positives[query]}
        for term, queries in by_term.items()
        if len(queries) >= _ENOUGH_QUERIES
    }


@dataclass(frozen=True, slots=True)
class _Own:
    passages: frozenset[str]
    labelled: int
    meanings: tuple[Meaning, ...]
    meant: str


def _own_passages(terms: Sequence[Term], evidence: Evidence) -> dict[str, _Own]:
    asked_for = _asked_for(terms, evidence)
    known = evidence.dataset.passages
    texts = {name: passage.content.casefold() for name, passage in known.items()} if asked_for else {}
    found = {}
    for term in terms:
        labelled = frozenset(asked_for.get(term.text, ())) & known.keys()
        meanings = _meanings(term, [texts[name] for name in labelled])
        meant = meanings[0].text if meanings and meanings[0].positives >= _ENOUGH_QUERIES else ""
        writing = {name for name, text in texts.items() if meant.casefold() in text} if meant else set()
        own = (labelled | writing) or frozenset(name for name in term.passages if name in known)
        found[term.text] = _Own(own, len(labelled), meanings, meant)
    return found


def _meanings(term: Term, positives: Sequence[str]) -> tuple[Meaning, ...]:
    """What an acronym stands for; first what is written out in the passages that its training queries point to."""
    found = [
        Meaning(form.text, form.defined, form.uses, sum(form.text.casefold() in text for text in positives))
        for form in term.expansions
    ]
    return tuple(sorted(found, key=lambda one: (-one.positives, -one.defined, -one.uses, one.text)))


def _heard(terms: Sequence[Term], evidence: Evidence) -> list[tuple[str, ...]]:
    """For each term the general words that are nearest to it for the base model; none where there is no list of them."""
    background = evidence.background
    if background is None:
        return [()] * len(terms)
    said = Counter(word.casefold() for text in evidence.sample for word in _WORD.findall(text))
    small = function_words(said)
    words = [word for word in background.words(evidence.settings.diagnose.general_words) if word not in small]
    if not words:
        return [()] * len(terms)
    cosines = evidence.base.encode_queries([term.text for term in terms]) @ evidence.base.encode_passages(words).T
    return [
        _different(term.text, [words[i] for i in np.argsort(-row)[:50]])
        for term, row in zip(terms, cosines, strict=True)
    ]


def _different(term: str, words: Iterable[str]) -> tuple[str, ...]:
    """The first few words that are no form of a word of the term, nor of one before."""
    taken, kept = [word.casefold() for word in _WORD.findall(term)], []
    for word in words:
        if not any(_same_stem(word, other) for other in taken):
            kept.append(word)
            taken.append(word)
    return tuple(kept[:_HEARD])


def _same_stem(one: str, other: str) -> bool:
    size = min(len(one), len(other), _STEM)
    return size >= 3 and one[:size] == other[:size]


def _side(model: Encoder, terms: Sequence[Term], owns: Mapping[str, _Own], evidence: Evidence) -> list[Side]:
    passages = evidence.dataset.passages
    names = list(passages)
    row_of = {name: row for row, name in enumerate(names)}
    vectors: Vectors = model.encode_passages([p.content for p in passages.values()])
    queries = model.encode_queries([term.text for term in terms])
    sides = []
    for term, query in zip(terms, queries, strict=True):
        cosines: NDArray[np.float32] = vectors @ query
        own = owns[term.text].passages
        mine = sorted(row_of[name] for name in own)
        best = np.argsort(-cosines, kind="stable")[:_FOUND]
        hits = tuple(
            Hit(names[i], passages[names[i]].title or passages[names[i]].text[:80], names[i] in own) for i in best
        )
        near = float(cosines[mine].mean() - cosines.mean())
        sides.append(Side(near, 1 + int((cosines > cosines[mine].max()).sum()), hits))
    return sides
