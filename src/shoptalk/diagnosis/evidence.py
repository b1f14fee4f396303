"""What a finding may look at. Vectors are computed when first asked for and cached in the run folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from shoptalk.models.encoder import Encoder, Vectors
from shoptalk.models.finding import find_model
from shoptalk.records import Dataset, Example
from shoptalk.settings import Settings
from shoptalk.vocabulary import Background, Term, find_terms

_SAMPLE = 512


@dataclass(frozen=True)
class Evidence:
    """A finished run as a finding sees it. `dataset` holds train and dev; of the test split there is only `comparison`."""

    settings: Settings
    dataset: Dataset
    audit: dict[str, Any]
    training: dict[str, Any]
    log: list[dict[str, Any]]
    comparison: dict[str, Any]
    examples: list[Example]
    controls: list[str]
    base: Encoder
    tuned: Encoder

    @cached_property
    def sample(self) -> list[str]:
        """Up to 512 texts of the corpus (sentences, for scored pairs), drawn by the run's seed."""
        if self.dataset.task == "similarity":
            texts = [
                text for pairs in self.dataset.pairs.values() for p in pairs for text in (p.sentence1, p.sentence2)
            ]
        else:
            texts = [p.content for p in self.dataset.passages.values()]
        rng = np.random.default_rng(self.settings.seed)
        return [texts[i] for i in sorted(rng.choice(len(texts), min(_SAMPLE, len(texts)), replace=False))]

    @cached_property
    def terms(self) -> list[Term]:
        """The team's own words, the most telling first; none for scored pairs, which have no documents."""
        tokenizer = find_model(self.settings.model.base).path / "tokenizer.json"
        asked = [example.anchor for example in self.examples]
        return find_terms(list(self.dataset.passages.values()), Background.of(tokenizer), asked)

    def passages(self, texts: list[str]) -> tuple[Vectors, Vectors]:
        """(n, dim) vectors of passages under base and tuned."""
        return self.base.encode_passages(texts), self.tuned.encode_passages(texts)

    def queries(self, texts: list[str]) -> tuple[Vectors, Vectors]:
        """(n, dim) vectors of queries under base and tuned."""
        return self.base.encode_queries(texts), self.tuned.encode_queries(texts)
