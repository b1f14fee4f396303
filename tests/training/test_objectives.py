from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from shoptalk.errors import ModelError, SettingsError, SourceError
from shoptalk.models.encoder import TorchEncoder
from shoptalk.models.finding import find_model
from shoptalk.models.hardware import Hardware
from shoptalk.models.loading import load_model, quiet_libraries, training_dropout
from shoptalk.records import Example, ScoredPair
from shoptalk.settings import ModelSettings, Settings, TrainSettings
from shoptalk.training.dev import DevScore
from shoptalk.training.negatives import make_examples
from shoptalk.training.objectives import (
    OBJECTIVES,
    Objective,
    ObjectiveContext,
    Rows,
    choose_objective,
    matryoshka,
    matryoshka_dimensions,
)
from shoptalk.training.teacher import score_examples
from toy import toy_retrieval, toy_settings, toy_similarity

CPU = Hardware("cpu", "fp32", "")
SIZES = (16, 4)
FEWER_EPOCHS = {"gist": 5, "triplet": 4}
RETRIEVAL = [name for name, row in OBJECTIVES.items() if row.task == "retrieval"]
DISTILLED = [name for name, row in OBJECTIVES.items() if "teacher" in row.needs]


def toy_examples(n_negatives: int = 2) -> list[Example]:
    dataset, rng = toy_retrieval(), np.random.default_rng(0)
    ids = [next(iter(judged)) for judged in dataset.qrels["train"].values()]
    mined = {
        query: [str(i) for i in rng.permutation(ids) if i not in judged][:n_negatives]
        for query, judged in dataset.qrels["train"].items()
    }
    return make_examples(dataset, mined, rng)


@dataclass
class Outcome:
    before: float
    after: float
    model: Any
    loss: Any
    settings: Settings
    rows: Rows


def fit(base: Path, settings: Settings, rows: Rows, folder: Path, n_epochs: int = 8) -> Outcome:
    """Train as sentence-transformers' own trainer does, with columns and a loss that come from the table alone."""
    from datasets import Dataset as Table
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from transformers.trainer_callback import PrinterCallback

    class Trainer(SentenceTransformerTrainer):
        def add_model_card_callback(self, *arguments: Any, **named: Any) -> None: ...

    objective = OBJECTIVES[settings.train.loss]
    dev = DevScore(toy_retrieval() if objective.task == "retrieval" else toy_similarity(), CPU)
    with quiet_libraries():
        model = load_model(find_model(str(base)), settings.model, "cpu")
        before = dev(model)["dev"]
        loss = matryoshka(objective.build(model, context_for(settings)), model, settings.train)
        arguments = SentenceTransformerTrainingArguments(
            output_dir=str(folder),
            num_train_epochs=n_epochs,
            per_device_train_batch_size=16,
            learning_rate=5e-3,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=Table.from_dict(dict(rows)), loss=loss)
        trainer.remove_callback(PrinterCallback)
        with training_dropout(model, 0.0, 0.0):
            trainer.train()
    return Outcome(before, dev(model)["dev"], model.eval(), loss, settings, rows)


def context_for(settings: Settings) -> ObjectiveContext:
    if settings.train.loss != "info-nce":
        return ObjectiveContext(settings)
    infonce = pytest.importorskip("shoptalk.training.infonce")
    return ObjectiveContext(settings, known=infonce.Known.of(toy_examples(), toy_retrieval()))


@pytest.fixture(scope="module")
def expert(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bi-encoder that knows the toy task: guide and teacher of the others."""
    folder = tmp_path_factory.mktemp("expert")
    settings = toy_settings(tiny_bert, train={"loss": "multiple-negatives"})
    outcome = fit(tiny_bert, settings, OBJECTIVES["multiple-negatives"].rows(toy_examples()), folder / "run")
    outcome.model.save_pretrained(str(folder / "model"), create_model_card=False)
    return folder / "model"


@pytest.fixture(scope="module")
def learn(tiny_bert: Path, expert: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Outcome]:
    """learn(LOSS, nested=True): a model trained with it, once for all tests."""
    folder = tmp_path_factory.mktemp("learn")

    @cache
    def learned(name: str, nested: bool = False) -> Outcome:
        objective = OBJECTIVES[name]
        helpers = {"guide": str(expert)} if name == "gist" else {}
        helpers |= {"teacher": str(expert)} if name in DISTILLED else {}
        settings = toy_settings(tiny_bert, train={"loss": name, "matryoshka": SIZES if nested else "off", **helpers})
        return fit(tiny_bert, settings, rows_for(objective, settings, folder), folder, FEWER_EPOCHS.get(name, 8))

    return learned


def rows_for(objective: Objective, settings: Settings, cache_folder: Path) -> Rows:
    if objective.task == "similarity":
        return objective.rows(toy_similarity().pairs["train"])
    examples = objective.arrange(toy_examples())
    if "teacher" in objective.needs:
        return objective.rows(examples, score_examples(examples, settings, cache_folder))
    return objective.rows(examples)


# What is learned


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_loss_of_the_table_learns(learn: Callable[..., Outcome], name: str) -> None:
    outcome = learn(name)
    assert outcome.before < 0.1
    assert outcome.after > 0.6


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_loss_learns_with_matryoshka_for_vectors_that_are_cut_too(
    learn: Callable[..., Outcome], name: str
) -> None:
    plain, nested = learn(name), learn(name, nested=True)
    assert nested.after > 0.5
    assert cut_loss(name, nested, SIZES[-1]) < 0.7 * cut_loss(name, plain, SIZES[-1])


def cut_loss(name: str, outcome: Outcome, size: int) -> float:
    """The plain loss of training rows when every vector has its first numbers only."""
    model, forward = outcome.model, outcome.model.forward
    loss = OBJECTIVES[name].build(model, context_for(outcome.settings))

    def cut(features: Any) -> Any:
        done = forward(features)
        return {**done, "sentence_embedding": done["sentence_embedding"][:, :size]}

    model.forward = cut
    try:
        return value_of(loss, model, outcome.rows, 64)
    finally:
        model.forward = forward


@pytest.mark.parametrize("name", DISTILLED)
def test_what_a_student_learns_is_what_the_teacher_says(
    learn: Callable[..., Outcome], tiny_bert: Path, expert: Path, tmp_path: Path, name: str
) -> None:
    settings = toy_settings(tiny_bert, train={"loss": name, "teacher": str(expert)})
    examples = toy_examples()
    wrong = OBJECTIVES[name].rows(examples, -score_examples(examples, settings, tmp_path))
    assert fit(tiny_bert, settings, wrong, tmp_path, n_epochs=4).after < 0.1 < learn(name).after - 0.5


def test_the_guide_is_the_named_model_frozen_and_without_dropout(learn: Callable[..., Outcome], expert: Path) -> None:
    outcome = learn("gist")
    guide, named = outcome.loss.guide, load_model(find_model(str(expert)), ModelSettings(), "cpu")
    assert not guide.training
    assert not any(weight.requires_grad for weight in guide.parameters())
    for weight, wanted in zip(guide.parameters(), named.parameters(), strict=True):
        assert torch.equal(weight, wanted)


def test_without_a_named_guide_the_base_model_guides_as_a_model_of_its_own(tiny_bert: Path) -> None:
    model, loss = built("gist", tiny_bert)
    assert loss.guide is not model
    with torch.no_grad():
        next(model.parameters()).zero_()
    base = load_model(find_model(str(tiny_bert)), ModelSettings(), "cpu")
    assert torch.equal(next(loss.guide.parameters()), next(base.parameters()))


# The modules


def built(name: str, base: Path, **train: Any) -> tuple[Any, Any]:
    settings = toy_settings(base, train={"loss": name, **train})
    model = load_model(find_model(str(base)), settings.model, "cpu").eval()
    return model, OBJECTIVES[name].build(model, ObjectiveContext(settings))


def value_of(loss: Any, model: Any, rows: Rows, n: int) -> float:
    """The loss of the first n rows as one batch."""
    columns = [model.preprocess(texts[:n]) for name, texts in rows.items() if name not in ("label", "score")]
    labels = next((torch.tensor(values[:n]) for name, values in rows.items() if name in ("label", "score")), None)
    with torch.no_grad():
        return float(loss(columns, labels))


@pytest.mark.parametrize("name", ["multiple-negatives", "cached-multiple-negatives", "distill-kl", "cosent"])
def test_the_temperature_reaches_the_loss(tiny_bert: Path, tmp_path: Path, name: str) -> None:
    settings = toy_settings(tiny_bert, train={"teacher": str(tiny_bert)})
    rows = rows_for(OBJECTIVES[name], settings, tmp_path)
    warm, cold = (built(name, tiny_bert, temperature=t) for t in (0.5, 0.05))
    assert abs(value_of(*warm[::-1], rows, 16) - value_of(*cold[::-1], rows, 16)) > 0.01


def test_the_cached_loss_equals_the_plain_one_on_a_batch_larger_than_its_parts(tiny_bert: Path) -> None:
    rows = OBJECTIVES["multiple-negatives"].rows(toy_examples())
    plain, cached = (built(name, tiny_bert) for name in ("multiple-negatives", "cached-multiple-negatives"))
    assert value_of(*plain[::-1], rows, 70) == pytest.approx(value_of(*cached[::-1], rows, 70), abs=1e-4)


@pytest.mark.parametrize("name", DISTILLED)
def test_a_student_who_agrees_with_the_teacher_has_nothing_to_learn(tiny_bert: Path, name: str) -> None:
    examples = toy_examples()
    encoder = TorchEncoder(load_model(find_model(str(tiny_bert)), ModelSettings(), "cpu"), CPU, "")
    queries = encoder.encode_queries([e.anchor for e in examples])
    texts = encoder.encode_passages([text for e in examples for text in (e.positive, *e.negatives)])
    cosines = np.einsum("qd,qkd->qk", queries, texts.reshape(len(examples), 3, -1)).astype(float)
    model, loss = built(name, tiny_bert)
    texts_alone = OBJECTIVES["multiple-negatives"].rows(examples)
    agreed, doubled = ({**texts_alone, "label": (factor * cosines + 7).tolist()} for factor in (1, 2))
    assert value_of(loss, model, agreed, 16) == pytest.approx(0, abs=1e-6)
    assert value_of(loss, model, doubled, 16) > 1e-5


# Matryoshka


@pytest.mark.parametrize("name", DISTILLED)
def test_scores_that_are_as_many_as_the_model_has_dimensions_are_not_cut(tiny_bert: Path, name: str) -> None:
    """MatryoshkaLoss would take 32 scores for embeddings of a model of 32 dimensions."""
    examples = toy_examples(31)[:8]
    rows = OBJECTIVES[name].rows(examples, np.random.default_rng(3).normal(size=(8, 32)))
    model, loss = built(name, tiny_bert)
    vectors = [torch.tensor(model.encode(texts)) for column, texts in rows.items() if column != "label"]
    labels = torch.tensor(rows["label"])
    wanted = sum(float(loss.compute_loss_from_embeddings([v[:, :n] for v in vectors], labels)) for n in (32, 16))
    nested = matryoshka(loss, model, TrainSettings(matryoshka=(16,)))
    assert value_of(nested, model, rows, 8) == pytest.approx(wanted, rel=1e-4)


def test_matryoshka_off_leaves_the_loss_alone(tiny_bert: Path) -> None:
    model, loss = built("multiple-negatives", tiny_bert)
    assert matryoshka(loss, model, TrainSettings()) is loss


@pytest.mark.parametrize(
    ("wanted", "full", "dimensions"),
    [
        ("off", 384, ()),
        ("halves", 384, (384, 192, 96, 48)),
        ("halves", 768, (768, 384, 192, 96, 48)),
        ("halves", 1024, (1024, 512, 256, 128, 64, 32)),
        ("halves", 300, (300, 150, 75, 37)),
        ("halves", 32, (32,)),
        ((64, 384, 128, 64), 384, (384, 128, 64)),
        ((64, 128), 384, (384, 128, 64)),
        ((384,), 384, (384,)),
        ((1,), 384, (384, 1)),
    ],
)
def test_the_dimensions_run_from_the_full_size_down(wanted: Any, full: int, dimensions: tuple[int, ...]) -> None:
    assert matryoshka_dimensions(TrainSettings(matryoshka=wanted), full) == dimensions


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [((64, 512), "512 is not"), ((0,), "0 is not"), ((-8, 64), "-8 is not"), ((), "no dimension")],
)
def test_dimensions_that_the_model_does_not_have_are_refused(wanted: tuple[int, ...], problem: str) -> None:
    with pytest.raises(SettingsError, match=rf"train\.matryoshka is \[.*{problem}.* within 1 and 384.*\[384, 192\]"):
        matryoshka_dimensions(TrainSettings(matryoshka=wanted), 384)


# The table


def test_the_table_holds_what_the_setting_takes() -> None:
    taken = get_args(TrainSettings.model_fields["loss"].annotation)
    assert {*OBJECTIVES, "auto"} == {*taken}
    assert all(name == objective.name for name, objective in OBJECTIVES.items())


def test_the_table_says_in_a_line_each_when_to_use_what_and_whose_it_is() -> None:
    for objective in OBJECTIVES.values():
        assert 20 < len(objective.when) < 140
        assert not {"\n", "|"} & {*objective.when}
        assert objective.source[-4:].isdigit()
    assert len({objective.when for objective in OBJECTIVES.values()}) == len(OBJECTIVES)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_columns_are_texts_in_the_order_of_the_loss_and_labels_by_the_trainers_name(
    tiny_bert: Path, tmp_path: Path, name: str
) -> None:
    objective = OBJECTIVES[name]
    rows = rows_for(objective, toy_settings(tiny_bert, train={"teacher": str(tiny_bert)}), tmp_path)
    texts = ["anchor", "positive", "negative_1", "negative_2"][: 3 if objective.one_negative else 4]
    texts = texts if objective.task == "retrieval" else ["sentence1", "sentence2"]
    labels = ["score"] * (objective.task == "similarity")
    labels += ["label"] * (name == "info-nce" or "teacher" in objective.needs)
    assert [*rows] == texts + labels
    assert {len(column) for column in rows.values()} == {
        184 if objective.one_negative else 260 if labels == ["score"] else 92
    }


def test_one_negative_at_a_time_gives_a_row_for_each_different_one() -> None:
    examples = [
        Example("q1", "p1", "ask", "say", ("no", "never", "no")),
        Example("q2", "p2", "ask more", "say more"),
    ]
    rows = OBJECTIVES["triplet"].arrange(examples)
    assert [(e.query_id, e.positive, e.negatives) for e in rows] == [
        ("q1", "say", ("no",)),
        ("q1", "say", ("never",)),
        ("q2", "say more", ()),
    ]
    assert OBJECTIVES["gist"].arrange(examples) == rows
    assert OBJECTIVES["gist"].arrange(rows) == rows
    assert OBJECTIVES["multiple-negatives"].arrange(examples) == examples


def test_rows_of_info_nce_are_numbered() -> None:
    assert OBJECTIVES["info-nce"].rows(toy_examples())["label"] == list(range(92))


def test_info_nce_without_what_is_known_says_what_is_missing(tiny_bert: Path) -> None:
    with pytest.raises(ValueError, match=r"Known\.of"):
        built("info-nce", tiny_bert)


def test_scores_on_any_scale_run_from_0_to_1_for_the_cosine_and_stay_for_their_order() -> None:
    pairs = [ScoredPair(str(i), "a", "b", score) for i, score in enumerate([5.0, 1.0, 2.0])]
    assert OBJECTIVES["cosine-similarity"].rows(pairs)["score"] == [1.0, 0.0, 0.25]
    assert OBJECTIVES["cosent"].rows(pairs)["score"] == [5.0, 1.0, 2.0]


def test_scores_that_are_all_the_same_cannot_be_scaled() -> None:
    pairs = [ScoredPair(str(i), "a", "b", 3) for i in range(4)]
    with pytest.raises(SourceError, match="all 4 training pairs have the score 3; nothing"):
        OBJECTIVES["cosine-similarity"].rows(pairs)


# The choice


@pytest.mark.parametrize(
    ("train", "task", "has_negatives", "chosen"),
    [
        ({}, "retrieval", False, "info-nce"),
        ({}, "retrieval", True, "info-nce"),
        ({}, "similarity", False, "cosent"),
        ({"loss": "triplet"}, "retrieval", True, "triplet"),
        ({"loss": "gist"}, "retrieval", False, "gist"),
        ({"loss": "gist", "guide": "some/guide"}, "retrieval", False, "gist"),
        ({"loss": "margin-mse", "teacher": "some/teacher"}, "retrieval", True, "margin-mse"),
        ({"loss": "cosine-similarity"}, "similarity", False, "cosine-similarity"),
    ],
)
def test_the_choice_follows_the_setting_or_the_shape_of_the_data(
    train: dict[str, Any], task: Any, has_negatives: bool, chosen: str
) -> None:
    assert choose_objective(TrainSettings(**train), task, has_negatives).name == chosen


@pytest.mark.parametrize(
    ("train", "task", "has_negatives", "message"),
    [
        (
            {"loss": "triplet"},
            "retrieval",
            False,
            "train.loss is triplet, but the data has no negatives; set negatives.mine=1 or use train.loss=auto",
        ),
        (
            {"loss": "cosent"},
            "retrieval",
            False,
            "train.loss is cosent, which is for scored pairs, but the data is queries with passages; use train.loss=auto or "
            "one of info-nce, multiple-negatives, cached-multiple-negatives, gist, triplet, margin-mse, distill-kl",
        ),
        (
            {"loss": "info-nce"},
            "similarity",
            False,
            "train.loss is info-nce, which is for queries with passages, but the data is scored pairs; use train.loss=auto or "
            "one of cosine-similarity, cosent",
        ),
        (
            {"loss": "distill-kl"},
            "retrieval",
            True,
            "train.loss is distill-kl, but train.teacher is empty; name a cross-encoder or a bi-encoder, or use "
            "train.loss=auto",
        ),
        (
            {"teacher": "some/teacher"},
            "retrieval",
            True,
            "train.teacher is some/teacher, but the loss info-nce does not use it; empty it or use margin-mse or distill-kl",
        ),
        (
            {"loss": "distill-kl", "teacher": "some/teacher", "guide": "some/guide"},
            "retrieval",
            True,
            "train.guide is some/guide, but the loss distill-kl does not use it; empty it or use gist",
        ),
    ],
)
def test_a_choice_that_does_not_fit_is_refused_with_what_to_do(
    train: dict[str, Any], task: Any, has_negatives: bool, message: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        choose_objective(TrainSettings(**train), task, has_negatives)
    assert str(refused.value) == message


def test_a_guide_that_is_not_there_is_named(tiny_bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere: no such folder"):
        built("gist", tiny_bert, guide=str(tmp_path / "nowhere"))
