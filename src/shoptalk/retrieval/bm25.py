"""BM25 over any language: Unicode words, and single characters where a script writes no spaces. Engine: bm25s (Lucene's BM25)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shoptalk.progress import task
from shoptalk.records import Ranking
from shoptalk.retrieval.topk import as_ranking

# Thai, Lao, Khmer, Japanese kana and Han are written without spaces: each character is a word.
_SPACELESS = r"\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
# Vowel signs and accents, which Python's \w leaves out, belong to the word that they stand in.
_MARKS = "".join(char for char in map(chr, range(0x300, 0x10000)) if unicodedata.category(char) in ("Mn", "Mc"))
_LETTER = rf"[^\W_{_SPACELESS}]"
_WORD = re.compile(rf"[{_SPACELESS}]|{_LETTER}+(?:[{_MARKS}]+{_LETTER}*)*")


def words(text: str) -> list[str]:
    """The words of a text, case folded."""
    return _WORD.findall(unicodedata.normalize("NFC", text.casefold()))


class BM25:
    """An index over passages, in their given order."""

    def __init__(self, passage_ids: Sequence[str], texts: Sequence[str]) -> None:
        import bm25s

        self.passage_ids = list(passage_ids)
        numbers: dict[str, int] = {}  # a word is kept once, not once a place: the texts' words take ten times the texts
        tokens = [[numbers.setdefault(word, len(numbers)) for word in words(text)] for text in texts]
        self._vocabulary_bytes = sum(len(word.encode("utf-8", "surrogatepass")) for word in numbers)
        self._index = bm25s.BM25(method="lucene") if numbers else None
        if self._index is not None:
            self._index.index((tokens, numbers), show_progress=False)

    @property
    def index_bytes(self) -> int:
        """What has to be kept to search: the postings' scores, passages and offsets, and the words."""
        if self._index is None:
            return 0
        return self._vocabulary_bytes + sum(
            int(self._index.scores[part].nbytes) for part in ("data", "indices", "indptr")
        )

    def search(self, query_ids: Sequence[str], texts: Sequence[str], k: int) -> Ranking:
        """Rankings of depth k; passages that share no word with the query are not ranked."""
        ranking: Ranking = {}
        with task("searching with BM25", len(query_ids)) as bar:
            for query_id, text in zip(query_ids, texts, strict=True):
                ranking |= self._one(query_id, words(text), k)
                bar.advance()
        return ranking

    def _one(self, query_id: str, query: list[str], k: int) -> Ranking:
        if self._index is None or not query:
            return {query_id: []}
        scores: NDArray[np.float32] = self._index.get_scores(query)
        found = np.flatnonzero(scores > 0)
        if len(found) > k > 0:
            found = found[scores[found] >= np.partition(scores[found], len(found) - k)[len(found) - k]]
        best = found[np.argsort(-scores[found], kind="stable")[:k]]
        return as_ranking([query_id], self.passage_ids, best[None, :].astype(np.int64), scores[best][None, :])
