"""The phrase that sets a passage apart: frequent in it, rare in the corpus (tf-idf over two- and three-word phrases)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from shoptalk.queries.generators import Draft
from shoptalk.records import Passage

_WORD = re.compile(r"[^\W\d_][\w’'\-]*")
# Words that do not begin or end a phrase. Short on purpose: idf does the rest, in any language.
_STOP = frozenset(
    [
        "a",
        "about",
        "after",
        "all",
        "also",
        "an",
        "and",
        "any",
        "are",
        "as",
        "at",
        "be",
        "been",
        "before",
        "but",
        "by",
        "can",
        "could",
        "do",
        "does",
        "for",
        "from",
        "had",
        "has",
        "have",
        "how",
        "i",
        "if",
        "in",
        "into",
        "is",
        "it",
        "its",
        "may",
        "more",
        "most",
        "must",
        "no",
        "not",
        "of",
        "on",
        "one",
        "only",
        "or",
        "other",
        "our",
        "out",
        "over",
        "own",
        "s",
        "so",
        "some",
        "such",
        "than",
        "that",
        "the",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "those",
        "to",
        "under",
        "up",
        "use",
        "used",
        "using",
        "was",
        "we",
        "were",
        "what",
        "when",
        "where",
        "which",
        "who",
        "why",
        "will",
        "with",
        "within",
        "would",
        "you",
        "your",
    ]
)


def generate(passages: Sequence[Passage]) -> Iterator[Draft]:
    """A question about the best phrase of every passage."""
    phrases = [_phrases(passage.text) for passage in passages]
    spread = Counter(phrase for found in phrases for phrase in found)
    for passage, found in zip(passages, phrases, strict=True):
        repeated = {
            phrase: n for phrase, n in found.items() if n > 1
        }  # a phrase said once is seldom what a text is about
        if not repeated or len(passage.text.split()) < 20:
            continue
        best = max(
            repeated,
            key=lambda phrase: (repeated[phrase] * math.log(len(passages) / spread[phrase] + 1), phrase),
        )
        yield Draft(f"What should I know about {best}?", (passage.passage_id,), "key-phrase")


def _phrases(text: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for sentence in re.split(r"[.!?;:,()\n\"]", text):
        tokens = _WORD.findall(sentence)
        for size in (2, 3):
            for start in range(len(tokens) - size + 1):
                part = tokens[start : start + size]
                if part[0].casefold() not in _STOP and part[-1].casefold() not in _STOP and len(part[-1]) > 2:
                    found[" ".join(part).casefold()] += 1
    return found
