"""The methods query-linear and query-mlp inside the stage train: from a dataset and cached embeddings to a model on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from shoptalk.errors import SettingsError
from shoptalk.models.encoder import CachedEncoder, Vectors
from shoptalk.models.loading import load_model
from shoptalk.models.query_adapter import AdapterSettings, AdapterTraining, QueryAdapter
from shoptalk.records import Dataset
from shoptalk.settings import Settings
from shoptalk.training.dev import DevScore

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@dataclass(frozen=True)
class _Adapted:
    """An Encoder over vectors that are there already: queries go through the adapter, passages do not."""

    queries: Mapping[str, Vectors]
    passages: Mapping[str, Vectors]
    adapter: QueryAdapter
    digest: str = ""

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        return self.adapter(np.stack([self.queries[text] for text in texts]))

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        return np.stack([self.passages[text] for text in texts])


def adapt_queries(
    base: CachedEncoder, dataset: Dataset, dev: DevScore, settings: Settings
) -> tuple[SentenceTransformer, AdapterTraining]:
    """The base with a trained adapter behind it for queries, and how training went. Raises SettingsError, TrainingFailed.

    Every training query is held against every passage of the corpus, with the vectors that the base gave them.
    """
    from shoptalk.training.query_adapter import train_query_adapter, with_query_adapter

    train = settings.train
    if dataset.task != "retrieval":
        raise SettingsError(
            f"train.method is {train.method}, which moves queries towards passages, but the data is scored pairs; "
            "use train.method=full"
        )
    ids = list(dataset.passages)
    place = {passage_id: index for index, passage_id in enumerate(ids)}
    alike: dict[str, list[str]] = {}  # near-duplicates of an answer are answers
    for passage_id, cluster in dataset.clusters.items():
        alike.setdefault(cluster, []).append(passage_id)
    judged = dataset.qrels["train"]
    texts = [dataset.queries[query].text for query in judged]
    passages = base.encode_passages([dataset.passages[i].content for i in ids])
    queries = base.encode_queries(texts)
    dev_texts = [dev.dataset.queries[query].text for query in dev.dataset.qrels["dev"]]
    dev_queries = dict(zip(dev_texts, base.encode_queries(dev_texts), strict=True))
    contents = {dataset.passages[i].content: vector for i, vector in zip(ids, passages, strict=True)}
    own = AdapterSettings()
    trained = train_query_adapter(
        queries,
        passages,
        [
            [place[other] for p, grade in found.items() if grade > 0 for other in alike[dataset.clusters[p]]]
            for found in judged.values()
        ],
        lambda adapter: dev.score(_Adapted(dev_queries, contents, adapter)),
        "linear" if train.method == "query-linear" else "mlp",
        settings.seed,
        AdapterSettings(
            epochs=own.epochs if train.epochs == "auto" else train.epochs,
            learning_rate=own.learning_rate if train.learning_rate == "auto" else train.learning_rate,
            temperature=train.temperature,
        ),
    )
    model = load_model(base.found, settings.model, dev.hardware.device)
    return with_query_adapter(model, trained.adapter), trained
