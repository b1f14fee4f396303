"""Every loss that shoptalk trains with, one row of OBJECTIVES each: what it needs, its rows for the trainer, its module."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from shoptalk.errors import SettingsError, SourceError
from shoptalk.models.finding import find_model
from shoptalk.models.loading import load_model
from shoptalk.records import Example, ScoredPair, Task
from shoptalk.settings import ModelSettings, Settings, TrainSettings
from shoptalk.training.teacher import Scores, as_cosines

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from shoptalk.training.infonce import Known

Rows = Mapping[str, list[Any]]
"""Columns for the trainer: the texts in the order in which the loss takes them, then the labels, if it has any."""

_TRIPLET_MARGIN = 0.3  # of cosine; Schroff et al. 2015 take 0.1 (0.2 of the squared distance). Not measured here yet
_CACHED_ROWS = 32  # rows in memory at once; any number gives the same gradients
_SMALLEST_HALF = 32


@dataclass(frozen=True)
class ObjectiveContext:
    """What a loss may be built from. `known` is info-nce's: see `shoptalk.training.infonce`."""

    settings: Settings
    device: str = "cpu"
    known: Known | None = None


@dataclass(frozen=True)
class Objective:
    """A way to train. `name` is the value of `train.loss`, `when` a line of docs/training.md, `source` the paper.

    `rows` makes the trainer's columns: of examples (as `arrange` leaves them) or scored pairs, and, where "teacher" is in
    `needs`, the teacher's scores as `score_examples` gives them. `build` makes the torch module.
    """

    name: str
    task: Task
    needs: frozenset[str]
    when: str
    source: str
    rows: Callable[..., Rows]
    build: Callable[[SentenceTransformer, ObjectiveContext], Any]
    one_negative: bool = False

    @property
    def in_batch(self) -> bool:
        """Whether the passages of other rows serve as negatives."""
        return self.name in _IN_BATCH

    def arrange(self, examples: Sequence[Example]) -> list[Example]:
        """The examples that rows and batches go by: one for each negative where the loss takes one negative at a time."""
        if not self.one_negative:
            return list(examples)
        single: list[Example] = []
        for example in examples:
            choices = [(text,) for text in dict.fromkeys(example.negatives)]
            single += [replace(example, negatives=choice) for choice in choices] or [example]
        return single


def choose_objective(settings: TrainSettings, task: Task, has_negatives: bool) -> Objective:
    """The row that `train.loss` names, or for "auto" the one that fits the data. Raises SettingsError, before any training."""
    automatic = "info-nce" if task == "retrieval" else "cosent"
    objective = OBJECTIVES[automatic if settings.loss == "auto" else settings.loss]
    name = objective.name
    if objective.task != task:
        raise SettingsError(
            f"train.loss is {name}, which is for {_DATA[objective.task]}, but the data is {_DATA[task]}; "
            f"use train.loss=auto or one of {', '.join(_names(task))}"
        )
    if "negatives" in objective.needs and not has_negatives:
        raise SettingsError(
            f"train.loss is {name}, but the data has no negatives; set negatives.mine=1 or use train.loss=auto"
        )
    if "teacher" in objective.needs and not settings.teacher:
        raise SettingsError(
            f"train.loss is {name}, but train.teacher is empty; name a cross-encoder or a bi-encoder, or use train.loss=auto"
        )
    used = {*objective.needs, "guide" if name == "gist" else ""}
    for part, losses in (("teacher", "margin-mse or distill-kl"), ("guide", "gist")):
        if (value := getattr(settings, part)) and part not in used:
            raise SettingsError(
                f"train.{part} is {value}, but the loss {name} does not use it; empty it or use {losses}"
            )
    return objective


def matryoshka_dimensions(settings: TrainSettings, full: int) -> tuple[int, ...]:
    """The dimensions that must work when vectors are cut off, largest first; () for "off". `full`: the model's own.

    "halves" is the full size, its half, and so on, the last at 32 or more (384, 192, 96, 48). Named dimensions always get the
    full size added, else the whole vector would be left untrained. Raises SettingsError.
    """
    wanted = settings.matryoshka
    if wanted == "off":
        return ()
    if wanted == "halves":
        sizes = [full]
        while sizes[-1] // 2 >= _SMALLEST_HALF:
            sizes.append(sizes[-1] // 2)
        return tuple(sizes)
    wrong = [size for size in wanted if not 1 <= size <= full]
    if wrong or not wanted:
        raise SettingsError(
            f"train.matryoshka is {list(wanted)}, but {f'{wrong[0]} is not' if wrong else 'it names no dimension'} "
            f"within 1 and {full}, the model's own size; use halves, off or sizes such as [{full}, {max(1, full // 2)}]"
        )
    return tuple(sorted({full, *wanted}, reverse=True))


def matryoshka(loss: Any, model: SentenceTransformer, settings: TrainSettings) -> Any:
    """The loss summed over `train.matryoshka`'s dimensions, or as it is. Raises SettingsError. Source: Kusupati et al. 2022."""
    dimensions = matryoshka_dimensions(settings, model.get_embedding_dimension() or 0)
    if not dimensions:
        return loss
    from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss

    wrapped = MatryoshkaLoss(model, loss, dimensions)
    # MatryoshkaLoss takes labels that are as wide as the model for embeddings and cuts them. Ours are scores, so they pass it
    # inside a tuple, which it leaves alone.
    wrapped.register_forward_pre_hook(lambda _, given: (given[0], (given[1],)))
    loss.register_forward_pre_hook(lambda _, given: (given[0], *given[1]))
    return wrapped


# Rows


def _texts(examples: Sequence[Example]) -> Rows:
    rows: dict[str, list[Any]] = {
        "anchor": [example.anchor for example in examples],
        "positive": [example.positive for example in examples],
    }
    for column in range(len(examples[0].negatives)):
        rows[f"negative_{column + 1}"] = [example.negatives[column] for example in examples]
    return rows


def _numbered(examples: Sequence[Example]) -> Rows:
    return {**_texts(examples), "label": list(range(len(examples)))}


def _taught(examples: Sequence[Example], scores: Scores) -> Rows:
    return {**_texts(examples), "label": as_cosines(scores).tolist()}


def _scored(pairs: Sequence[ScoredPair]) -> Rows:
    return {
        "sentence1": [pair.sentence1 for pair in pairs],
        "sentence2": [pair.sentence2 for pair in pairs],
        "score": [float(pair.score) for pair in pairs],
    }


def _scored_from_0_to_1(pairs: Sequence[ScoredPair]) -> Rows:
    """The lowest training score becomes 0 and the highest 1, whatever scale people scored on."""
    scores = np.array([pair.score for pair in pairs], np.float64)
    if not np.ptp(scores) > 0:
        raise SourceError(
            f"all {len(pairs):,} training pairs have the score {scores[0]:g}; nothing can be learned from it"
        )
    return {**_scored(pairs), "score": ((scores - scores.min()) / np.ptp(scores)).tolist()}


# Modules


def _info_nce(model: SentenceTransformer, context: ObjectiveContext) -> Any:
    from shoptalk.training.infonce import InfoNCE

    if context.known is None:
        raise ValueError("info-nce needs ObjectiveContext.known: Known.of(examples, dataset)")
    return InfoNCE(model, context.known, context.settings.train.temperature, context.settings.train.symmetric)


def _multiple_negatives(model: SentenceTransformer, context: ObjectiveContext) -> Any:
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    return MultipleNegativesRankingLoss(model, scale=1 / context.settings.train.temperature)


def _cached_multiple_negatives(model: SentenceTransformer, context: ObjectiveContext) -> Any:
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    scale = 1 / context.settings.train.temperature
    return CachedMultipleNegativesRankingLoss(model, scale=scale, mini_batch_size=_CACHED_ROWS)


def _gist(model: SentenceTransformer, context: ObjectiveContext) -> Any:
    """The guide is a model of its own, frozen, also when it is the base; it sees the texts with the student's prompts."""
    from sentence_transformers.sentence_transformer.losses import GISTEmbedLoss

    name = context.settings.train.guide or context.settings.model.base
    guide = load_model(find_model(name), ModelSettings(), context.device)
    guide.requires_grad_(False)  # the trainer optimises every free parameter below a loss
    return GISTEmbedLoss(model, guide.eval(), temperature=context.settings.train.temperature)


def _triplet(model: SentenceTransformer, context: ObjectiveContext) -> Any:
    from sentence_transformers.sentence_transformer.losses import TripletDistanceMetric, TripletLoss

    return TripletLoss(model, distance_metric=TripletDistanceMetric.COSINE, triplet_margin=_TRIPLET_MARGIN)


def _margin_mse(model: SentenceTransformer, context: ObjectiveContext) -> Any:
    from sentence_transformers.sentence_transformer.losses import MarginMSELoss
    from sentence_transformers.util import pairwise_cos_sim

    return MarginMSELoss(model, similarity_fct=pairwise_cos_sim)


def _distill_kl(model: SentenceTransformer, context: ObjectiveContext) -> Any:
    """Teacher and student are both cosines here, so both are divided by the one temperature."""
    from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss
    from sentence_transformers.util import pairwise_cos_sim

    temperature = context.settings.train.temperature

    def logits(queries: Any, passages: Any) -> Any:
        return pairwise_cos_sim(queries, passages) / temperature

    # Not its student_temperature, which would multiply the loss by temperature squared: 0.0025.
    return DistillKLDivLoss(model, similarity_fct=logits, teacher_temperature=temperature)


def _cosine_similarity(model: SentenceTransformer, context: ObjectiveContext) -> Any:
    from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss

    return CosineSimilarityLoss(model)


def _cosent(model: SentenceTransformer, context: ObjectiveContext) -> Any:
    from sentence_transformers.sentence_transformer.losses import CoSENTLoss

    return CoSENTLoss(model, scale=1 / context.settings.train.temperature)


_DATA: Mapping[Task, str] = {"retrieval": "queries with passages", "similarity": "scored pairs"}
_NOTHING: frozenset[str] = frozenset()
_IN_BATCH = frozenset({"info-nce", "multiple-negatives", "cached-multiple-negatives", "gist"})

_ROWS = (
    Objective(
        "info-nce",
        "retrieval",
        _NOTHING,
        "the default for queries with passages: every other passage of the batch is a negative, unless it is known to answer",
        "van den Oord et al. 2018",
        _numbered,
        _info_nce,
    ),
    Objective(
        "multiple-negatives",
        "retrieval",
        _NOTHING,
        "the same without that knowledge, exactly as sentence-transformers has it: to repeat a published recipe",
        "Henderson et al. 2017",
        _texts,
        _multiple_negatives,
    ),
    Objective(
        "cached-multiple-negatives",
        "retrieval",
        _NOTHING,
        "for batches of hundreds of rows that do not fit into memory otherwise; every text is encoded twice",
        "Gao et al. 2021",
        _texts,
        _cached_multiple_negatives,
    ),
    Objective(
        "gist",
        "retrieval",
        _NOTHING,
        "when many passages answer a query though only one is labelled: a guide model takes the likely ones out of the negatives",
        "Solatorio 2024",
        _texts,
        _gist,
        one_negative=True,
    ),
    Objective(
        "triplet",
        "retrieval",
        frozenset({"negatives"}),
        "when the labelled negatives are to be trusted and no other passage may count as one; weaker than the ones above",
        "Schroff et al. 2015",
        _texts,
        _triplet,
        one_negative=True,
    ),
    Objective(
        "margin-mse",
        "retrieval",
        frozenset({"negatives", "teacher"}),
        "with a good teacher: learns by how much the teacher prefers the positive to each negative; forgives false negatives",
        "Hofstätter et al. 2021",
        _taught,
        _margin_mse,
    ),
    Objective(
        "distill-kl",
        "retrieval",
        frozenset({"negatives", "teacher"}),
        "with a good teacher and several negatives a query: learns how likely the teacher finds each of them to be the answer",
        "Lin et al. 2020",
        _taught,
        _distill_kl,
    ),
    Objective(
        "cosine-similarity",
        "similarity",
        _NOTHING,
        "when the scores themselves matter: the cosine becomes the score, scaled to 0 to 1, as for a fixed threshold",
        "Reimers and Gurevych 2019",
        _scored_from_0_to_1,
        _cosine_similarity,
    ),
    Objective(
        "cosent",
        "similarity",
        _NOTHING,
        "the default for scored pairs: only the order of the scores counts",
        "Su 2022",
        _scored,
        _cosent,
    ),
)

OBJECTIVES: Mapping[str, Objective] = {objective.name: objective for objective in _ROWS}
"""Every loss by the name that `train.loss` gives it."""


def _names(task: Task) -> list[str]:
    return [objective.name for objective in _ROWS if objective.task == task]
