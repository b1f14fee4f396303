"""The phrase that sets a passage apart: frequent in it, rare in the corpus (tf-idf over two- and three-word phrases)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from shoptalk.queries.generators import Draft
from shoptalk.queries.generators.stop_words import STOP_WORDS
from shoptalk.queries.language import is_english
from shoptalk.records import Passage

_WORD = re.compile(r"[^\W\d_][\w’'\-]*")


def generate(passages: Sequence[Passage]) -> Iterator[Draft]:
    """A question about the best phrase of every passage; where the text is not English, the phrase alone."""
    for passage, phrase in zip(passages, best_phrases(passages), strict=True):
        if phrase:
            text = f"What should I know about {phrase}?" if is_english(passage) else phrase
            yield Draft(text, (passage.passage_id,), "key-phrase")


def best_phrases(passages: Sequence[Passage]) -> list[str]:
    """The phrase that tells each passage from the others, "" where none is said twice."""
    phrases = [_phrases(passage.text) for passage in passages]
    spread = Counter(phrase for found in phrases for phrase in found)
    chosen = []
    for passage, found in zip(passages, phrases, strict=True):
        # A phrase said once is seldom what a text is about.
        worth = {p: n * math.log(len(passages) / spread[p] + 1) for p, n in found.items() if n > 1}
        enough = worth and len(passage.text.split()) >= 20
        chosen.append(max(worth, key=lambda phrase: (worth[phrase], phrase)) if enough else "")
    return chosen


def _phrases(text: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for sentence in re.split(r"[.!?;:,()\n\"]", text):
        tokens = _WORD.findall(sentence)
        for size in (2, 3):
            for start in range(len(tokens) - size + 1):
                part = tokens[start : start + size]
                if part[0].casefold() not in STOP_WORDS and part[-1].casefold() not in STOP_WORDS and len(part[-1]) > 2:
                    found[" ".join(part).casefold()] += 1
    return found
