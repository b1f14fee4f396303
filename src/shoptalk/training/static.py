"""Static models: one vector a token and their mean, no transformer at inference, two orders of magnitude faster on a CPU.

A transformer is distilled by model2vec's method: every token of its vocabulary goes through it alone, the vectors are reduced
with PCA, and frequent tokens are weighed down (SIF, by Zipf's law over the vocabulary's order). Words of the team's own texts
that the tokenizer cuts into pieces become tokens too, so that "kubernetes" has a vector of its own, which training then moves.
The result is an ordinary SentenceTransformer of a `StaticEmbedding` and a `Normalize`, and is fine-tuned like any other.

Source: Tulkens and van Dongen 2024, https://github.com/MinishLab/model2vec; Arora et al. 2017 (SIF).
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from shoptalk.errors import MissingPart, ModelError
from shoptalk.progress import Task, task

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

LEARNING_RATE = 1e-2
"""What suits the vectors of a distilled model. docs/experiments.md: static."""
_UNUSED = r"\[unused\d+\]|<unused\d+>"
_WORD = re.compile(r"\w{3,40}")
_POOLINGS = {"cls": "first", "lasttoken": "last"}


def distil_static(
    model: SentenceTransformer,
    texts: Sequence[str] = (),
    dims: int = 256,
    max_words: int = 2_000,
    min_texts: int = 3,
) -> SentenceTransformer:
    """A static model of the base tokenizer's tokens and of the words of `texts`, on the model's device, without prompts.

    model: a loaded transformer; it stays as it is, nothing is read from disk and nothing from the network. dims: of the
    vectors, at most the transformer's own. max_words, min_texts: how many of the texts' own words become tokens at most, the
    most frequent first, and in how many texts a word must stand. The base's heads behind its pooling are not distilled. An
    unknown token counts for nothing, and a text has no maximum length. Raises MissingPart without model2vec, ModelError for a
    model without transformer or fast tokenizer.
    """
    _distill = _model2vec()
    transformer = model.transformers_model
    if transformer is None or not getattr(model.tokenizer, "is_fast", False):
        raise ModelError(
            "train.method=static distils a transformer with a fast tokenizer, and this model has none; a model that is static "
            "already is trained with train.method=full"
        )
    from sentence_transformers import SentenceTransformer as Model
    from sentence_transformers.base.modules import Normalize

    words = domain_words(model, texts, max_words, min_texts)
    with _quiet(transformer):
        distilled = _distill(
            transformer,
            model.tokenizer,
            vocabulary=words,
            device=str(model.device),
            pca_dims=min(dims, _width(transformer)),
            token_remove_pattern=_UNUSED,
            quantize_to="float32",
            pooling=_pooling(model),
        )
    return Model(modules=[_embedding(distilled), Normalize()], device=str(model.device))


def domain_words(model: SentenceTransformer, texts: Sequence[str], max_words: int, min_texts: int) -> list[str]:
    """The words of `texts` that the model's tokenizer cuts into pieces, those in most texts first.

    A word is three letters or more, digits among them but not alone; it is lower-cased where the tokenizer does so.
    """
    tokenizer = model.tokenizer
    normalizer = tokenizer.backend_tokenizer.normalizer
    lowers = normalizer is not None and "a" in normalizer.normalize_str("A")
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(set(_WORD.findall(text.lower() if lowers else text)))
    frequent = sorted((-n, word) for word, n in counts.items() if n >= min_texts and not word.isdecimal())
    chosen: list[str] = []
    for _, word in frequent:
        if len(chosen) == max_words:
            break
        # Behind a space: there a word stands in most texts, and some tokenizers know it only there.
        if len(tokenizer.tokenize(f"a {word}")) > 1 + len(tokenizer.tokenize("a")):
            chosen.append(word)
    return chosen


def _embedding(distilled: Any) -> Any:
    """model2vec's result as a module: weights folded in, the unknown token's vector zero, no padding and no truncation."""
    import torch
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    tokenizer = distilled.tokenizer
    tokenizer.no_truncation()  # the base tokenizer's state, which depends on what was encoded last
    tokenizer.no_padding()
    weights = torch.from_numpy(distilled.embedding).float() * torch.from_numpy(distilled.weights).float()[:, None]
    weights = weights.contiguous()  # PCA leaves it by columns, and safetensors saves no such thing
    unknown = _unknown(tokenizer)
    if unknown is not None:
        weights[unknown] = 0
    return StaticEmbedding(tokenizer, embedding_weights=weights)


def _unknown(tokenizer: Any) -> int | None:
    """The id of the unknown token, if there is one."""
    described = json.loads(tokenizer.to_str())["model"]
    if described.get("unk_id") is not None:
        return int(described["unk_id"])
    found: int | None = tokenizer.token_to_id(described["unk_token"]) if described.get("unk_token") else None
    return found


def _width(transformer: Any) -> int:
    return int(transformer.config.get_text_config().hidden_size)


def _pooling(model: SentenceTransformer) -> str:
    """model2vec's name of the model's own pooling; the mean for one that it does not know."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    own = next((module.pooling_mode for module in model.modules() if isinstance(module, Pooling)), "mean")
    return _POOLINGS.get(own if isinstance(own, str) else "", "mean")


def _model2vec() -> Any:
    try:
        from model2vec.distill import distill_from_model
    except ImportError:
        raise MissingPart("train.method=static needs model2vec: pip install 'shoptalk[static]'") from None
    return distill_from_model


class _Bar:
    """Stands in for the progress bar that model2vec would draw."""

    def __init__(self, running: Task) -> None:
        self._running = running

    def update(self, n: int = 1) -> None:
        self._running.advance(n)


@contextlib.contextmanager
def _quiet(transformer: Any) -> Iterator[None]:
    """model2vec without its bar and its chatter, and without a look at the Hub for a model card.

    It asks the Hub about any model whose name is no path that exists; the current folder is one.
    """
    import model2vec.distill.inference as inference

    name, bar = transformer.name_or_path, inference.tqdm
    loggers = {logger: logger.level for logger in map(logging.getLogger, ("model2vec", "skeletoken"))}
    with task("distilling tokens", None) as running:
        try:
            transformer.name_or_path = "."
            inference.tqdm = lambda *_, **__: _Bar(running)
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            transformer.name_or_path = name
            inference.tqdm = bar
            for logger, level in loggers.items():
                logger.setLevel(level)
