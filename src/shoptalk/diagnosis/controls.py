"""Control queries of general knowledge, for teams that name none of their own: written for shoptalk, and made for the corpus."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from shoptalk.vocabulary import Background

_SHORTEST = 5
_GENERAL = 6_000

CONTROL_QUERIES: tuple[str, ...] = (
    "What is a CPU?",
    "How do vaccines work?",
    "Why is the sky blue?",
    "How is bread made?",
    "What causes earthquakes?",
    "Who painted the ceiling of the Sistine Chapel?",
    "How does a bicycle stay upright?",
    "What is photosynthesis?",
    "How many players are on a football team?",
    "What is the capital of Australia?",
    "How do I boil an egg?",
    "What is inflation in economics?",
    "How does a refrigerator cool food?",
    "What is the difference between a virus and a bacterium?",
    "When did the Roman Empire fall?",
    "How do birds find their way when they migrate?",
    "What are the rules of chess?",
    "How is glass made?",
    "Why do leaves change colour in autumn?",
    "What is a black hole?",
    "How do I change a flat tyre?",
    "What does a heart valve do?",
    "How are mountains formed?",
    "What is the longest river in the world?",
    "How does a piano make sound?",
    "What is a sonnet?",
    "How do solar panels produce electricity?",
    "What should I feed a kitten?",
    "Why does the moon have phases?",
    "How is cheese made?",
    "What is the speed of light?",
    "How do I grow tomatoes?",
    "What is a prime number?",
    "Who discovered penicillin?",
    "How does a sailing boat move against the wind?",
    "What is the water cycle?",
    "How do I treat a sunburn?",
    "What language is spoken in Brazil?",
    "How does a camera lens work?",
    "What are the seven wonders of the ancient world?",
)


def made_controls(
    background: Background, known: Collection[str], n: int, rng: np.random.Generator, english: bool = True
) -> list[str]:
    """Up to n questions about general words that the corpus does not use, so that none of them is about its domain.

    known: the words of the corpus, case-folded; a word that begins as one of them is left out too. Without English documents
    the words stand alone, without a question around them.
    """
    stems = {word[:_SHORTEST] for word in known}
    free = [word for word in background.words(_GENERAL) if len(word) >= _SHORTEST and word[:_SHORTEST] not in stems]
    chosen = [free[i] for i in sorted(rng.choice(len(free), min(n, len(free)), replace=False))] if free else []
    return [f"What is {word}?" for word in chosen] if english else chosen
