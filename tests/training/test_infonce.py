"""InfoNCE against hand-worked batches, and against sentence-transformers' own loss where both say the same."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shoptalk.models.finding import find_model
from shoptalk.models.loading import load_model, training_dropout
from shoptalk.records import Dataset, Example, Passage, Query
from shoptalk.settings import make_settings
from shoptalk.training.infonce import InfoNCE, Known
from shoptalk.training.negatives import make_examples
from toy import toy_retrieval

NOTHING: Any = torch.nn.Identity()


def unit(*angles: float) -> torch.Tensor:
    """Vectors in the plane, so that a cosine is the cosine of a difference of angles in degrees."""
    return torch.tensor([[math.cos(math.radians(a)), math.sin(math.radians(a))] for a in angles], dtype=torch.float64)


def cosine(a: float, b: float) -> float:
    return math.cos(math.radians(a - b))


def known(
    positive: list[int],
    answers: list[set[int]],
    negatives: list[tuple[int, ...]] | None = None,
    weights: tuple[float, ...] | None = None,
) -> Known:
    return Known(
        tuple(positive),
        tuple(frozenset(found) for found in answers),
        tuple(negatives or [() for _ in positive]),
        weights or (1.0,) * len(positive),
    )


def cross_entropy(own: float, others: list[float], temperature: float) -> float:
    return -own / temperature + math.log(sum(math.exp(s / temperature) for s in [own, *others]))


def test_a_shared_passage_counts_once_and_is_no_negative_of_its_other_query() -> None:
    """Queries 0 and 1 share passage 0; query 2 has passage 1."""
    loss = InfoNCE(NOTHING, known([0, 0, 1], [{0}, {0}, {1}]), 0.5)
    queries, passages = (0.0, 20.0, 80.0), (10.0, 10.0, 90.0)
    found = loss.loss(unit(*queries), unit(*passages), torch.tensor([0, 1, 2]))
    by_hand = [
        cross_entropy(cosine(0, 10), [cosine(0, 90)], 0.5),
        cross_entropy(cosine(20, 10), [cosine(20, 90)], 0.5),
        cross_entropy(cosine(80, 90), [cosine(80, 10)], 0.5),
    ]
    assert found.item() == pytest.approx(sum(by_hand) / 3, abs=1e-12)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_row_counts_by_its_weight_and_its_passage_stays_a_negative_in_full(symmetric: bool) -> None:
    queries, passages, labels = unit(0, 40, 80), unit(5, 50, 90), torch.tensor([0, 1, 2])
    each = [
        InfoNCE(NOTHING, known([0, 1, 2], [{0}, {1}, {2}], weights=weights), 0.2, symmetric)
        .loss(queries, passages, labels)
        .item()
        for weights in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.25, 0.5), (1.0, 1.0, 1.0))
    ]
    assert each[3] == pytest.approx(each[0] + 0.25 * each[1] + 0.5 * each[2], abs=1e-12)
    assert each[4] == pytest.approx(sum(each[:3]), abs=1e-12)


def test_another_known_answer_of_a_query_is_masked() -> None:
    """Query 0 is answered by passages 0 and 1, which is the positive of row 1; row 1's query is answered by 1 alone."""
    loss = InfoNCE(NOTHING, known([0, 1], [{0, 1}, {1}]), 0.1)
    found = loss.loss(unit(0, 40), unit(5, 50), torch.tensor([0, 1]))
    by_hand = [cross_entropy(cosine(0, 5), [], 0.1), cross_entropy(cosine(40, 50), [cosine(40, 5)], 0.1)]
    assert found.item() == pytest.approx(sum(by_hand) / 2, abs=1e-12)


def test_hard_negatives_are_candidates_of_every_query_but_those_they_answer() -> None:
    """Row 0's negative is the cluster of row 1's positive: it is one candidate, and none against query 1."""
    rows = known([0, 1], [{0}, {1}], [(1,), (7,)])
    loss = InfoNCE(NOTHING, rows, 0.2)
    found = loss.loss(unit(0, 40), unit(5, 50, 50, 100), torch.tensor([0, 1]))
    by_hand = [
        cross_entropy(cosine(0, 5), [cosine(0, 50), cosine(0, 100)], 0.2),
        cross_entropy(cosine(40, 50), [cosine(40, 5), cosine(40, 100)], 0.2),
    ]
    assert found.item() == pytest.approx(sum(by_hand) / 2, abs=1e-12)


def test_symmetric_asks_each_passage_for_its_query_as_well() -> None:
    loss = InfoNCE(NOTHING, known([0, 0, 1], [{0}, {0}, {1}]), 0.5, symmetric=True)
    one_way = InfoNCE(NOTHING, loss.known, 0.5)
    vectors = unit(0, 20, 80), unit(10, 10, 90), torch.tensor([0, 1, 2])
    back = [
        cross_entropy(cosine(0, 10), [cosine(80, 10)], 0.5),
        cross_entropy(cosine(20, 10), [cosine(80, 10)], 0.5),
        cross_entropy(cosine(80, 90), [cosine(0, 90), cosine(20, 90)], 0.5),
    ]
    wanted = (one_way.loss(*vectors).item() + sum(back) / 3) / 2
    assert loss.loss(*vectors).item() == pytest.approx(wanted, abs=1e-12)


def test_labels_say_which_rows_stand_in_the_batch() -> None:
    rows = known([0, 1, 2, 3], [{0, 3}, {1}, {2}, {3}])
    loss = InfoNCE(NOTHING, rows, 0.1)
    found = loss.loss(unit(0, 40), unit(5, 50), torch.tensor([0, 3]))  # row 3's passage answers row 0's query
    by_hand = [cross_entropy(cosine(0, 5), [], 0.1), cross_entropy(cosine(40, 50), [cosine(40, 5)], 0.1)]
    assert found.item() == pytest.approx(sum(by_hand) / 2, abs=1e-12)


@pytest.mark.parametrize("negatives", [False, True])
def test_with_one_query_a_passage_it_is_multiple_negatives_ranking(negatives: bool, tiny_bert: Path) -> None:
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    dataset = toy_retrieval(negatives=False)
    examples = make_examples(dataset, {}, np.random.default_rng(1))[:12]
    if negatives:
        examples = [
            Example(e.query_id, e.positive_id, e.anchor, e.positive, (f"hotel {i}",)) for i, e in enumerate(examples)
        ]
    model = load_model(find_model(str(tiny_bert)), make_settings({}).model, "cpu").double()
    columns = [[e.anchor for e in examples], [e.positive for e in examples]]
    columns += [[e.negatives[0] for e in examples]] if negatives else []
    with training_dropout(model, 0.0, 0.0):
        features = [model.preprocess(column) for column in columns]
        ours = InfoNCE(model, Known.of(examples, dataset), 0.05)(features, torch.arange(12))
        theirs = MultipleNegativesRankingLoss(model, scale=20.0)([model.preprocess(c) for c in columns], None)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-9)


def test_near_duplicates_of_an_answer_are_known_too() -> None:
    dataset = Dataset(
        "retrieval",
        {i: Passage(i, f"text {i}") for i in ("p0", "p1", "p2")},
        {q: Query(q, q) for q in ("q0", "q1")},
        {"train": {"q0": {"p0": 1}, "q1": {"p2": 1}}},
        {"p0": "c", "p1": "c", "p2": "d"},
    )
    examples = [Example("q0", "p0", "q0", "text p0", ("text p2",)), Example("q1", "p2", "q1", "text p2", ("text p1",))]
    rows = Known.of(examples, dataset)
    places, answers = rows.candidates([0, 1], 2)
    assert places == [0, 1]  # each row's negative is, up to near-duplicates, the other's positive
    assert answers.tolist() == [[True, False], [False, True]]
    assert Known.of([Example("q0", "p0", "q0", "text p0", ("from outside",))], dataset).negatives == ((-1,),)
