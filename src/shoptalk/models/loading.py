"""From a verified folder to a SentenceTransformer, with its prompts, maximum length and dropout as asked."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from shoptalk.errors import ModelError
from shoptalk.models.finding import FoundModel
from shoptalk.models.prompts import Prompts, prompts_for
from shoptalk.settings import ModelSettings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# One name per architecture family; only those that a configuration has are set.
_ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout")
_HIDDEN_DROPOUT = ("hidden_dropout_prob", "hidden_dropout", "dropout", "mlp_dropout", "embedding_dropout")


def load_model(found: FoundModel, settings: ModelSettings, device: str) -> SentenceTransformer:
    """Load with safetensors only and no custom code; prompts and maximum length set. Raises ModelError."""
    with quiet_libraries():
        from sentence_transformers import SentenceTransformer

        try:
            model = SentenceTransformer(
                str(found.path),
                device=device,
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={"use_safetensors": True},
            )
        except Exception as error:
            raise ModelError(f"{found.name}: cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is not None and getattr(tokenizer, "pad_token", "") is None:
        raise ModelError(
            f"{found.name}: its tokenizer has no padding token, so texts cannot be batched. Set one in tokenizer_config.json "
            '("pad_token": an unused or the end-of-text token) and use that folder'
        )
    if settings.max_tokens is not None:
        model.max_seq_length = settings.max_tokens
    prompts = model_prompts(model, found, settings)
    model.prompts = {"query": prompts.query, "document": prompts.passage}
    return model


def model_prompts(model: SentenceTransformer, found: FoundModel, settings: ModelSettings) -> Prompts:
    """The prompts in force for a loaded model."""
    return prompts_for(found.family, dict(model.prompts or {}), settings.query_prompt, settings.passage_prompt)


@contextlib.contextmanager
def training_dropout(model: SentenceTransformer, attention: float | None, hidden: float | None) -> Iterator[None]:
    """Dropout set while the block runs; None leaves it. The saved configuration keeps the model's own values.

    With attention dropout above zero a CPU leaves the fused attention kernel and is about twice as slow.
    """
    import torch

    restore: list[tuple[Any, str, float]] = []

    def put(owner: Any, name: str, value: float) -> None:
        restore.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    for path, module in model.named_modules():
        parts = path.split(".")
        is_attention = any("attention" in part or part == "attn" for part in parts) and "output" not in parts[-2:]
        wanted = attention if is_attention else hidden
        if isinstance(module, torch.nn.Dropout) and wanted is not None:
            put(module, "p", wanted)
        for name in ("attention_dropout", "dropout_prob"):
            if attention is not None and is_attention and isinstance(getattr(module, name, None), float):
                put(module, name, attention)
    try:
        yield
    finally:
        for owner, name, value in reversed(restore):
            setattr(owner, name, value)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """No progress bars and no chatter of the libraries below; shoptalk reports progress itself."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import datasets
    import transformers

    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)
