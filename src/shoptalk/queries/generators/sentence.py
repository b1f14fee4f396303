"""Cropped sentences: a sentence is asked, the rest of its passage answers (the inverse cloze task).

Source: Lee, Chang and Toutanova 2019, Latent retrieval for weakly supervised open domain question answering.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from shoptalk.queries.generators import Draft
from shoptalk.queries.generators.markup import without_markup
from shoptalk.records import Passage
from shoptalk.retrieval.bm25 import words

# A single line break may stand within a sentence; one before a list item, and an empty line, end it.
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n\s*\n|\n(?=\s*(?:[-*•|#>]|\d+[.)]))|(?<=[。！？])")
_ENDS = (".", "!", "?", "。", "！", "？")
_FEWEST, _MOST = 6, 30
_FEWEST_LEFT = 30
# Words that point back: what comes before them is gone once the sentence stands alone. English, German, French, Spanish.
_POINTS_BACK = frozenset(
    """
    this that these those it they he she such however therefore thus also then otherwise instead here there so but and or
    dies diese dieser dieses er sie es daher deshalb dazu dabei damit jedoch außerdem und oder aber
    ce cette ces il elle ils elles cela donc ainsi cependant et ou mais
    esto esta este estos estas eso él ella ellos por y o pero además
    """.split()
)
_EXAMPLE = (["for", "example"], ["for", "instance"], ["zum", "beispiel"], ["par", "exemple"])


def generate(passages: Sequence[Passage]) -> Iterator[Draft]:
    """The sentence of each passage that shares the most rare words with the rest of it, and points back to nothing."""
    tokens = [words(passage.text) for passage in passages]
    spread = Counter(word for found in tokens for word in set(found))
    for passage, found in zip(passages, tokens, strict=True):
        count = Counter(found)
        best, best_score = "", 0.0
        for sentence in dict.fromkeys(part.strip() for part in _SENTENCE.split(passage.text)):
            own = words(sentence)
            if not _FEWEST <= len(own) <= _MOST or len(found) - len(own) < _FEWEST_LEFT or own[0] in _POINTS_BACK:
                continue
            if own[:2] in _EXAMPLE or "|" in sentence or sentence not in passage.text:
                continue
            if not sentence[0].isalnum() or sentence[0].islower() or not sentence.endswith(_ENDS):
                continue
            mine = Counter(own)
            shared = [word for word in mine if count[word] > mine[word]]
            score = sum(math.log(len(passages) / spread[word] + 1) for word in shared) / math.sqrt(len(own))
            if score > best_score:
                best, best_score = sentence, score
        if best:
            yield Draft(without_markup(best), (passage.passage_id,), "sentence", best)
