"""The Encoder protocol and its torch engine: sorted by tokens, token-budget batches, duplicates once, bf16 by autocast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from shoptalk.models.finding import FoundModel, find_model
from shoptalk.models.hardware import Hardware, autocast, choose_hardware
from shoptalk.models.loading import load_model, quiet_libraries
from shoptalk.models.prompts import prompts_for
from shoptalk.models.store import Vectors, VectorStore, encode_once, unit
from shoptalk.progress import task
from shoptalk.settings import ModelSettings
from shoptalk.workspace import digest_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = [
    "CachedEncoder",
    "Encoder",
    "TorchEncoder",
    "VectorStore",
    "Vectors",
    "load_encoder",
    "token_batches",
    "unit",
]

# docs/experiments.md: encoding-batches
_TOKENS_PER_BATCH = 4_096


class Encoder(Protocol):
    """Turns texts into vectors; queries and passages may differ in their prompt."""

    @property
    def digest(self) -> str:
        """Changes whenever the vectors of a text would."""

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """texts -> (n_texts, dim) float32, unit length, in the order given."""

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        """texts -> (n_texts, dim) float32, unit length, in the order given."""


class TorchEncoder:
    """A SentenceTransformer as an Encoder. Prompts come from the model itself (`model.prompts`)."""

    def __init__(self, model: SentenceTransformer, hardware: Hardware, digest: str) -> None:
        self.model = model
        self.hardware = hardware
        self._digest = digest

    @property
    def digest(self) -> str:
        """sha256 over the weights' digest, prompts, maximum length and precision."""
        return digest_of([self._digest, self.model.prompts, self.model.max_seq_length, self.hardware.precision])

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """texts -> (n_texts, dim) float32, unit length."""
        return self._encode(texts, "query")

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        """texts -> (n_texts, dim) float32, unit length."""
        return self._encode(texts, "document")

    def count_tokens(self, texts: Sequence[str], prompt: str = "") -> list[int]:
        """Tokens of each text with its prompt, before truncation."""
        tokenizer: Any = self.model.tokenizer
        prompted = [prompt + text for text in texts]
        if not callable(tokenizer):  # a static embedding keeps the bare tokenizer of `tokenizers`
            return [len(row) for row in tokenizer.encode_batch(prompted)]
        ids = tokenizer(prompted, truncation=False, padding=False, verbose=False)["input_ids"]
        return [len(row) for row in ids]

    def _padded_lengths(self, texts: Sequence[str], prompt: str) -> NDArray[Any]:
        """Tokens of each text as the model sees them, for batches of similar length; 1 where nothing is ever padded."""
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding

        if not texts or isinstance(self.model[0], StaticEmbedding):  # counting would take as long as encoding
            return np.ones(len(texts), int)
        lengths: NDArray[Any] = np.minimum(self.count_tokens(texts, prompt), self.model.max_seq_length or 1 << 30)
        return lengths

    def _encode(self, texts: Sequence[str], role: Literal["query", "document"]) -> Vectors:
        unique = list(dict.fromkeys(texts))
        vectors = self._encode_unique(unique, role)
        if len(unique) == len(texts):
            return vectors
        place = {text: index for index, text in enumerate(unique)}
        return vectors[[place[text] for text in texts]]

    def _encode_unique(self, texts: list[str], role: Literal["query", "document"]) -> Vectors:
        prompt, what = self.model.prompts.get(role) or "", "queries" if role == "query" else "passages"
        lengths = self._padded_lengths(texts, prompt)
        vectors: Vectors | None = None
        was_training = self.model.training
        self.model.eval()
        with task(f"encoding {what}", len(texts)) as bar, autocast(self.hardware), quiet_libraries():
            for batch in token_batches(lengths, _TOKENS_PER_BATCH):
                encoded = self.model.encode(
                    [texts[index] for index in batch],
                    prompt=prompt,  # "" too: None would let in the model's default prompt
                    task=role,  # what a Router chooses its modules by
                    batch_size=len(batch),
                    show_progress_bar=False,
                    convert_to_numpy=True,
                    normalize_embeddings=True,
                )
                if vectors is None:
                    vectors = np.zeros((len(texts), encoded.shape[1]), np.float32)
                vectors[batch] = unit(encoded.astype(np.float32))
                bar.advance(len(batch))
        self.model.train(was_training)
        if vectors is None:
            vectors = np.zeros((0, self.model.get_embedding_dimension() or 0), np.float32)
        return vectors


def token_batches(lengths: NDArray[Any], budget: int) -> list[NDArray[np.int64]]:
    """Indices in batches of similar length; a batch's padded size stays within `budget` tokens (one text may exceed it)."""
    order = np.argsort(lengths, kind="stable")[::-1]
    batches, start = [], 0
    while start < len(order):
        size = max(1, int(budget // max(1, int(lengths[order[start]]))))
        batches.append(order[start : start + size].astype(np.int64))
        start += size
    return batches


def load_encoder(name: str | FoundModel, settings: ModelSettings) -> TorchEncoder:
    """Find, verify and load a model as an Encoder. Raises ModelError, MissingPart, SettingsError."""
    found = find_model(name) if isinstance(name, str) else name
    hardware = choose_hardware(settings, found.model_type)
    return TorchEncoder(load_model(found, settings, hardware.device), hardware, found.sha256)


class CachedEncoder:
    """An Encoder that keeps every vector on disk, by model and text, so that no text is encoded twice with one model.

    The encoder behind it is loaded only when something is missing. What is damaged is dropped and its texts encoded again. Vectors
    beyond 64 MB come as a memory map.
    """

    def __init__(self, found: FoundModel, settings: ModelSettings, folder: Path) -> None:
        self.found = found
        self.settings = settings
        self.folder = folder
        self._loaded: TorchEncoder | None = None

    @property
    def loaded(self) -> TorchEncoder:
        """The encoder itself, loaded at the first use."""
        if self._loaded is None:
            self._loaded = load_encoder(self.found, self.settings)
        return self._loaded

    @cached_property
    def digest(self) -> str:
        """Changes whenever the vectors of a text would; needs no model in memory. It does not hang on where the model lies."""
        hardware, settings = choose_hardware(self.settings, self.found.model_type), self.settings
        by_name = prompts_for(self.found.family, {}, settings.query_prompt, settings.passage_prompt)
        return digest_of([self.found.sha256, asdict(by_name), settings.max_tokens, hardware.device, hardware.precision])

    @property
    def seconds_per_1000(self) -> float | None:
        """Seconds that 1,000 passages took when they were encoded, without loading the model; None before there were enough."""
        return self._store("passages").effort.seconds_per_1000

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """texts -> (n_texts, dim) float32, unit length."""
        return encode_once(self._store("queries"), texts, lambda: self.loaded.encode_queries, "encoding queries")

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        """texts -> (n_texts, dim) float32, unit length."""
        return encode_once(self._store("passages"), texts, lambda: self.loaded.encode_passages, "encoding passages")

    def _store(self, what: str) -> VectorStore:
        return VectorStore(self.folder / f"{what}-{self.digest[:16]}")
