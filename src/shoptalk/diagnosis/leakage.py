"""Leakage: the test asks what training already told. Checked on the texts, apart from the split's own audit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from shoptalk.diagnosis.evidence import Evidence
from shoptalk.records import Finding
from shoptalk.retrieval.bm25 import words

_GRAM = 3
_COLUMNS = 1 << 22
_BLOCK = 256
_MOST = 20_000
_SAME_QUESTION = 0.9  # in a question one other word asks something else


def find(evidence: Evidence) -> Finding | None:
    """Looks at the test queries that evaluate wrote and the passages it found to answer them, against the training queries and
    their positives: the same words, or near-duplicates by their word 3-grams.
    """
    if not evidence.is_retrieval or not evidence.per_query or not evidence.examples:
        return None
    tested = {str(row["query_id"]): str(row["text"]) for row in evidence.per_query}
    limit = evidence.settings.dataset.near_duplicate
    twins = near_duplicates(list(tested.values()), evidence.asked, max(limit, _SAME_QUESTION))
    asked = [list(tested)[i] for i in twins]
    answered = _answered(evidence, limit)
    leaked = {*asked, *answered} & tested.keys()
    if not leaked:
        return None
    share = len(leaked) / len(tested)
    example = next(iter(sorted(leaked)))
    return Finding(
        "leakage",
        "high" if share >= evidence.settings.diagnose.leak_share else "warning",
        f"{len(leaked):,} of {len(tested):,} test queries ({share:.1%}) were seen in training: {len(asked):,} ask the same as a "
        f"training query, {len(answered):,} are answered by a training positive or a near-duplicate of one (as {tested[example]!r})",
        "the gain is overstated; take these queries out of the test file or their passages out of the training data, then run again "
        "with shoptalk run --from dataset",
    )


def _answered(evidence: Evidence, limit: float) -> list[str]:
    """The test queries one of whose known answers is, or nearly is, a training positive."""
    trained = {example.positive_id for example in evidence.examples}
    known = evidence.dataset.passages
    pairs = [(q, p) for q, found in evidence.test_answers.items() for p in found if p in known]
    seen = {q for q, p in pairs if p in trained}
    left = [(q, p) for q, p in pairs if q not in seen]
    texts = list(dict.fromkeys(known[p].content for _, p in left))
    positives = list(dict.fromkeys(example.positive for example in evidence.examples))
    if len(positives) > _MOST:
        rng = np.random.default_rng(evidence.settings.seed)
        positives = [positives[i] for i in rng.choice(len(positives), _MOST, replace=False)]
    copies = {texts[i] for i in near_duplicates(texts, positives, limit)}
    return sorted(seen | {q for q, p in left if known[p].content in copies})


def near_duplicates(left: Sequence[str], right: Sequence[str], threshold: float) -> dict[int, int]:
    """index in left -> index in right of the text most like it, where the Jaccard similarity of their word 3-grams is
    `threshold` or more. Exact but for collisions of 22-bit hashes.
    """
    numbers: dict[str, int] = {}
    a, b = (_grams(texts, numbers) for texts in (left, right))
    sizes = [np.asarray(matrix.sum(axis=1)).ravel() for matrix in (a, b)]
    columns = b.T.tocsr()
    found: dict[int, int] = {}
    for start in range(0, len(left), _BLOCK):
        shared = (a[start : start + _BLOCK] @ columns).tocoo()
        rows = shared.row + start
        alike = shared.data / (sizes[0][rows] + sizes[1][shared.col] - shared.data)
        for at in np.flatnonzero(alike >= threshold)[np.argsort(alike[alike >= threshold], kind="stable")]:
            found[int(rows[at])] = int(shared.col[at])
    return found


def _grams(texts: Sequence[str], numbers: dict[str, int]) -> sparse.csr_matrix:
    """(n_texts, 2^22) ones where a text has a 3-gram; of a shorter text all its words are one."""
    indices: list[NDArray[np.int64]] = []
    for text in texts:
        ids = [numbers.setdefault(word, len(numbers)) for word in words(text)]
        size = min(_GRAM, len(ids))
        grams = {hash(tuple(ids[i : i + size])) % _COLUMNS for i in range(len(ids) - size + 1)} if ids else set()
        indices.append(np.fromiter(grams, np.int64, len(grams)))
    ends = np.cumsum([0, *(len(row) for row in indices)])
    flat = np.concatenate(indices) if indices else np.zeros(0, np.int64)
    return sparse.csr_matrix((np.ones(len(flat), np.float32), flat, ends), shape=(len(texts), _COLUMNS))
