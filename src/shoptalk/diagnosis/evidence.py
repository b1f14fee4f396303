"""What a finding may look at. Vectors are computed when first asked for and cached in the run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from shoptalk.models.encoder import Encoder, TorchEncoder, Vectors
from shoptalk.models.finding import FoundModel, find_model
from shoptalk.records import Dataset, Example, Ranking
from shoptalk.retrieval.metrics import PRIMARY, per_query
from shoptalk.retrieval.ranking import rank
from shoptalk.settings import Settings
from shoptalk.vocabulary import Background, Term, find_terms

DEPTH = 10
_SAMPLE = 512
_QUERIES = 400
_HAYSTACK = 50_000


@dataclass(frozen=True)
class Models:
    """The folders of the base model and of the one that is shipped, and the weights that training left."""

    base: FoundModel
    tuned: FoundModel
    candidate: Path


@dataclass(frozen=True)
class Evidence:
    """A finished run as a finding sees it. `dataset` holds train and dev; of the test split there is only what evaluate wrote:
    `comparison`, the rows of `per_query`, and the `rankings` of "base" and "tuned".

    card: what select says of the model it chose (shoptalk.json). mining: the audit of the mined negatives.
    """

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
    per_query: Sequence[Mapping[str, Any]] = ()
    rankings: Mapping[str, Ranking] = field(default_factory=dict)
    models: Models | None = None
    card: Mapping[str, Any] = field(default_factory=dict)
    mining: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_retrieval(self) -> bool:
        """Whether there are queries and passages; scored pairs have neither."""
        return self.dataset.task == "retrieval"

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
        asked = [example.anchor for example in self.examples]
        return find_terms(list(self.dataset.passages.values()), self.background, asked)

    @cached_property
    def background(self) -> Background | None:
        """General language as the base model's tokenizer has it; None where it says nothing."""
        return Background.of(find_model(self.settings.model.base).path / "tokenizer.json")

    @cached_property
    def asked(self) -> list[str]:
        """The different texts of the training queries."""
        return list(dict.fromkeys(example.anchor for example in self.examples))

    @cached_property
    def judged(self) -> Dataset:
        """Up to 400 train and 400 dev queries, drawn by the run's seed, with the corpus (of more than 50,000 passages as many of
        them, those that answer among these).
        """
        rng = np.random.default_rng(self.settings.seed)
        qrels = {}
        for split in ("train", "dev"):
            names = [q for q, found in self.dataset.qrels.get(split, {}).items() if any(g > 0 for g in found.values())]
            drawn = sorted(rng.choice(len(names), min(_QUERIES, len(names)), replace=False)) if names else []
            qrels[split] = {names[i]: self.dataset.qrels[split][names[i]] for i in drawn}
        passages = self.dataset.passages
        if len(passages) > _HAYSTACK:
            names = list(passages)
            chosen = {names[i] for i in rng.choice(len(names), _HAYSTACK, replace=False)}
            chosen |= {passage for judged in qrels.values() for found in judged.values() for passage in found}
            passages = {name: passage for name, passage in passages.items() if name in chosen}
        return replace(self.dataset, qrels=qrels, passages=passages)

    @cached_property
    def found(self) -> tuple[Ranking, Ranking]:
        """The ten best passages of every query of `judged` under base and tuned."""
        names = [query for judged in self.judged.qrels.values() for query in judged]
        base, tuned = (rank(model, self.judged, names, DEPTH) if names else {} for model in (self.base, self.tuned))
        return base, tuned

    @cached_property
    def scores(self) -> dict[str, tuple[float, float]]:
        """split ("train", "dev") -> mean nDCG@10 of its queries in `judged` under base and tuned; splits without queries left
        out.
        """
        scores = {}
        for split, judged in self.judged.qrels.items():
            if judged:
                values = (per_query(judged, ranking, [PRIMARY]) for ranking in self.found)
                before, after = (float(np.mean([found[PRIMARY] for found in one.values()])) for one in values)
                scores[split] = before, after
        return scores

    @cached_property
    def test_answers(self) -> dict[str, set[str]]:
        """test query -> passages known to answer it: those whose place in the rankings evaluate gives."""
        answers: dict[str, set[str]] = {}
        for row in self.per_query:
            for name, ranking in self.rankings.items():
                place, found = row.get(f"rank_{name}"), ranking.get(row["query_id"], ())
                if place and place <= len(found):
                    answers.setdefault(row["query_id"], set()).add(found[place - 1][0])
        return answers

    @property
    def engine(self) -> TorchEncoder | None:
        """The tuned model itself, loaded, for its tokenizer; None for an encoder that is none of torch."""
        loaded = getattr(self.tuned, "loaded", self.tuned)
        return loaded if isinstance(loaded, TorchEncoder) else None

    def passages(self, texts: list[str]) -> tuple[Vectors, Vectors]:
        """(n, dim) vectors of passages under base and tuned."""
        return self.base.encode_passages(texts), self.tuned.encode_passages(texts)

    def queries(self, texts: list[str]) -> tuple[Vectors, Vectors]:
        """(n, dim) vectors of queries under base and tuned."""
        return self.base.encode_queries(texts), self.tuned.encode_queries(texts)
