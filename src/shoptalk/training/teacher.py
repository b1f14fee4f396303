"""A teacher's scores of query and passage, for the losses that distil: from a cross-encoder or from a bi-encoder.

Every different pair is scored once and kept on disk by teacher and texts, so that a run that was killed scores only the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shoptalk.errors import ModelError, SettingsError
from shoptalk.models.encoder import CachedEncoder, VectorStore, token_batches
from shoptalk.models.finding import FoundModel, find_model
from shoptalk.models.hardware import Hardware, autocast, choose_hardware
from shoptalk.models.loading import quiet_libraries
from shoptalk.progress import Task, task
from shoptalk.records import Example
from shoptalk.settings import ModelSettings, Settings
from shoptalk.workspace import digest_of

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

Scores = NDArray[np.float32]
Pair = tuple[str, str]
_TOKENS_PER_BATCH = 4_096
_PAIRS_PER_SEGMENT = 2_048  # written to disk this often: what a kill can cost
_SPREAD = 0.25


def score_examples(examples: Sequence[Example], settings: Settings, cache: Path) -> Scores:
    """What `train.teacher` says of each example: its positive first, then its negatives, of which all have the same number.

    Returns (n_examples, 1 + n_negatives) float32, in the teacher's own units. Raises ModelError.
    """
    pairs = [(example.anchor, text) for example in examples for text in (example.positive, *example.negatives)]
    scores = teacher_scores(settings.train.teacher, pairs, settings.model, cache)
    return scores.reshape(len(examples), 1 + len(examples[0].negatives))


def teacher_scores(name: str, pairs: Sequence[Pair], settings: ModelSettings, cache: Path) -> Scores:
    """How well the passage of each (query, passage) answers the query; the same teacher and pairs give the same scores.

    `name` is builtin:NAME, a folder or a Hub id. A cross-encoder gives its logit, before any activation, which would press
    the best answers together; a bi-encoder gives the cosine, with its own prompts and length. `settings` says on what device
    and in what precision. Returns (n_pairs,) float32, higher is better. Raises ModelError.
    Source: Hofstätter et al. 2021 (cross-encoder teachers); Lin et al. 2020 (bi-encoder teachers).
    """
    found = find_model(name)
    own = ModelSettings(base=name, device=settings.device, precision=settings.precision)
    unique = list(dict.fromkeys(pairs))
    score = _by_cross_encoder if is_cross_encoder(found) else _by_bi_encoder
    scores = score(found, unique, own, cache)
    if not np.isfinite(scores).all():
        raise ModelError(
            f"{name}: {np.sum(~np.isfinite(scores)):,} of its {len(unique):,} scores are not finite numbers; "
            "try model.precision=fp32, or use another teacher"
        )
    place = {pair: index for index, pair in enumerate(unique)}
    return scores[[place[pair] for pair in pairs]]


def as_cosines(scores: Scores) -> NDArray[np.float64]:
    """A teacher's scores, of whatever scale, in the units of the student's cosines: mean 0, standard deviation 0.25.

    A cosine ends at 1 and a logit does not, and one teacher's cosines span 0.1, another's 1. Only the proportions between
    margins are kept, over the whole training set, so that a query whose candidates are all alike to the teacher has small
    margins here too. The builtin model's own cosines of positives and negatives deviate by 0.13 (mined) to 0.24 (random):
    0.25 asks for a little more separation than there is. (n, k) -> (n, k). Raises SettingsError.
    """
    values = np.asarray(scores, np.float64)
    if not np.ptp(values) > 0:
        raise SettingsError(
            f"train.teacher gives all {values.size:,} training pairs the same score, {values.flat[0]:.4g}; "
            "there is nothing to learn from it: use another teacher or train.loss=auto"
        )
    standard: NDArray[np.float64] = (values - values.mean()) / values.std()
    return _SPREAD * standard


def is_cross_encoder(found: FoundModel) -> bool:
    """Whether the model reads query and passage together, by its configuration."""
    return any(str(name).endswith("ForSequenceClassification") for name in found.config.get("architectures") or ())


def load_cross_encoder(found: FoundModel, device: str) -> CrossEncoder:
    """Load with safetensors only and no custom code, not even an activation. Raises ModelError."""
    with quiet_libraries():
        from sentence_transformers import CrossEncoder
        from torch.nn import Identity

        try:
            model = CrossEncoder(
                str(found.path),
                device=device,
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={"use_safetensors": True},
                activation_fn=Identity(),
            )
        except Exception as error:
            raise ModelError(f"{found.name}: cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    if model.num_labels != 1:
        raise ModelError(
            f"{found.name}: gives {model.num_labels} values for a pair (it is a classifier); "
            "a teacher gives one, so use a reranker such as cross-encoder/ms-marco-MiniLM-L6-v2"
        )
    return model


def _by_bi_encoder(found: FoundModel, pairs: Sequence[Pair], settings: ModelSettings, cache: Path) -> Scores:
    encoder = CachedEncoder(found, settings, cache)
    queries = encoder.encode_queries([query for query, _ in pairs])
    passages = encoder.encode_passages([passage for _, passage in pairs])
    cosines: Scores = np.sum(queries * passages, axis=1)
    return cosines


def _by_cross_encoder(found: FoundModel, pairs: Sequence[Pair], settings: ModelSettings, cache: Path) -> Scores:
    hardware = choose_hardware(settings, found.model_type)
    digest = digest_of([found.sha256, hardware.device, hardware.precision])
    store = VectorStore(cache / f"teacher-{digest[:16]}")
    names = [digest_of(pair)[:32] for pair in pairs]
    known = store.read(set(names))
    missing = [(name, pair) for name, pair in zip(names, pairs, strict=True) if name not in known]
    if missing:
        model = load_cross_encoder(found, hardware.device)
        with task("scoring with the teacher", len(pairs), len(known)) as bar, quiet_libraries():
            for start in range(0, len(missing), _PAIRS_PER_SEGMENT):
                new, texts = zip(*missing[start : start + _PAIRS_PER_SEGMENT], strict=True)
                logits = _logits(model, texts, hardware, bar)
                store.add(list(new), logits)
                known |= zip(new, logits, strict=True)
    return np.array([known[name][0] for name in names], np.float32)


def _logits(model: CrossEncoder, pairs: Sequence[Pair], hardware: Hardware, bar: Task) -> Scores:
    """(n_pairs, 1) float32, computed in batches of similar length."""
    tokenizer: Any = model.tokenizer
    queries, passages = zip(*pairs, strict=True)
    ids = tokenizer(list(queries), list(passages), truncation=False, padding=False, verbose=False)["input_ids"]
    lengths = np.minimum([len(row) for row in ids], model.max_seq_length or 1 << 30)
    logits = np.zeros((len(pairs), 1), np.float32)
    for batch in token_batches(lengths, _TOKENS_PER_BATCH):
        with autocast(hardware):
            scores = model.predict([pairs[index] for index in batch], batch_size=len(batch), show_progress_bar=False)
        logits[batch, 0] = scores
        bar.advance(len(batch))
    return logits
