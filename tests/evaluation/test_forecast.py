from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from shoptalk.evaluation import forecast as module
from shoptalk.evaluation.forecast import Curve, learning_curve, predict
from shoptalk.models.encoder import unit
from shoptalk.records import Dataset, Passage, Query

DIM = 32


class Planted:
    """An Encoder of texts "p3" and "q3": a query is its passage turned by a rotation that is the same for all, with noise; with
    `hopeless`, it has nothing to do with its passage.
    """

    digest = "planted"

    def __init__(self, n: int, hopeless: bool = False) -> None:
        rng = np.random.default_rng(0)
        self.passages = unit(rng.standard_normal((n, DIM)).astype(np.float32))
        q, r = np.linalg.qr(np.eye(DIM) + 0.2 * rng.standard_normal((DIM, DIM)))
        turn = (q * np.sign(np.diag(r))).astype(np.float32)
        noise = rng.standard_normal(self.passages.shape).astype(np.float32)
        self.queries = unit(noise if hopeless else self.passages @ turn + 0.2 * noise)

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        return self.queries[[int(text[1:]) for text in texts]]

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        return self.passages[[int(text[1:]) for text in texts]]


def planted_dataset(n_train: int, n_dev: int, n: int = 400) -> Dataset:
    return Dataset(
        "retrieval",
        {f"p{i}": Passage(f"p{i}", f"p{i}") for i in range(n)},
        {f"q{i}": Query(f"q{i}", f"q{i}") for i in range(n)},
        {
            "train": {f"q{i}": {f"p{i}": 1} for i in range(n_train)},
            "dev": {f"q{i}": {f"p{i}": 1} for i in range(n - n_dev, n)},
        },
        {f"p{i}": f"p{i}" for i in range(n)},
        {f"q{i}": f"g{i}" for i in range(n)},
    )


def curve_of(n_train: int, n_dev: int = 60, hopeless: bool = False, seed: int = 3) -> Curve:
    found = learning_curve(planted_dataset(n_train, n_dev), Planted(400, hopeless=hopeless), seed)
    assert found is not None
    return found


def test_more_data_gains_more_and_the_forecast_goes_on_from_there() -> None:
    found = predict(curve_of(240), 240, seed=1)
    points, predicted = found["points"], found["predicted"]
    assert [point["pairs"] for point in points] == [30, 60, 120, 240]
    gains = [point["gain"] for point in points]
    assert gains == sorted(gains)
    assert gains[-1] > gains[0] + 0.2
    assert [row["pairs"] for row in predicted] == [240, 480, 960]
    assert predicted[0]["gain"] < predicted[1]["gain"] <= predicted[2]["gain"]
    assert all(row["low"] <= row["gain"] <= row["high"] <= 1 - (points[0]["ndcg@10"] - gains[0]) for row in predicted)
    assert predicted[0]["low"] < gains[-1] < predicted[0]["high"]
    assert points[0]["ndcg@10"] == pytest.approx(points[1]["ndcg@10"] - gains[1] + gains[0])


def test_what_four_times_the_data_really_gains_lies_in_the_forecast_range() -> None:
    ahead = predict(curve_of(80), 80, seed=1)["predicted"][2]
    really = predict(curve_of(320), 320, seed=1)["points"][-1]
    assert ahead["pairs"] == really["pairs"] == 320
    assert ahead["low"] < really["gain"] < ahead["high"]


def test_where_nothing_can_be_learned_nothing_is_forecast() -> None:
    found = predict(curve_of(240, hopeless=True), 240, seed=1)
    assert abs(found["points"][-1]["gain"]) < 0.04
    assert found["predicted"][0]["gain"] < 0.02


def test_a_lucky_epoch_is_no_gain() -> None:
    """Of several adapters that know nothing the best on dev looks good; chosen on one half it is not, on the other."""
    encoder, dev = Planted(400, hopeless=True), [f"q{i}" for i in range(370, 400)]
    queries = encoder.queries[:40]
    qrels = {query: {f"p{query[1:]}": 1} for query in dev}
    scorer = module._Scorer(qrels, encoder.encode_queries(dev), [f"p{i}" for i in range(400)], encoder.passages)
    base, honest, lucky = scorer.values(None).mean(), [], []
    for seed in range(12):
        said: list[float] = []
        watched = Watched(scorer, said)
        kept = module._fit(queries, encoder.passages, [[i] for i in range(40)], watched, dev, seed)
        honest.append(kept.mean() - base)
        lucky.append(max(said) - base)
    assert np.mean(honest) < 0.002 < 0.005 < np.mean(lucky)


class Watched(module._Scorer):
    """A scorer that writes down the mean of every adapter it was shown."""

    def __init__(self, scorer: module._Scorer, said: list[float]) -> None:
        super().__init__(scorer.qrels, scorer.queries, scorer.passage_ids, scorer.passages)
        object.__setattr__(self, "said", said)

    def values(self, adapter: Any) -> np.ndarray:
        found = super().values(adapter)
        self.said.append(float(found.mean()))  # type: ignore[attr-defined]
        return found


@pytest.mark.parametrize(("a", "b"), [(0.10, 100.0), (0.05, 2_000.0), (0.0, 50.0)])
def test_a_known_curve_is_read_from_noisy_points(a: float, b: float) -> None:
    rng = np.random.default_rng(4)
    parts = np.array([0, 0, 0, 1, 1, 2, 2, 3])
    pairs = np.array([50.0, 100.0, 200.0, 400.0])[parts]
    gains = (a * pairs / (pairs + b))[:, None] + 0.05 * rng.standard_normal((8, 300))
    curve = Curve(parts, pairs, gains, tuple(f"g{i}" for i in range(300)), 0.5)
    for row in predict(curve, 400, seed=1)["predicted"]:
        truth = a * row["pairs"] / (row["pairs"] + b)
        assert row["low"] - 0.003 <= truth <= row["high"] + 0.003
        assert row["gain"] == pytest.approx(truth, abs=0.02)


def test_fewer_dev_queries_make_the_range_wider() -> None:
    widths = []
    for n_dev in (15, 120):
        row = predict(curve_of(200, n_dev), 200, seed=1)["predicted"][0]
        widths.append(row["high"] - row["low"])
    assert widths[0] > 1.5 * widths[1]


def test_the_same_seed_gives_the_same_forecast() -> None:
    first, again, other = (predict(curve_of(60, seed=seed), 60, seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_the_words_say_what_it_is() -> None:
    words = predict(curve_of(60), 60, seed=1)["words"]
    assert "60 training pairs" in words
    assert "with 4 times as many" in words
    assert "lower bound in practice, not as a promise" in words


@pytest.mark.parametrize(("n_train", "n_dev"), [(19, 60), (60, 9)])
def test_too_few_queries_give_no_curve(n_train: int, n_dev: int) -> None:
    assert learning_curve(planted_dataset(n_train, n_dev), Planted(400), 1) is None


def test_dev_queries_of_one_group_give_no_curve() -> None:
    dataset = planted_dataset(60, 20)
    alone = replace(dataset, groups=dict.fromkeys(dataset.groups, "g"))
    assert learning_curve(alone, Planted(400), 1) is None


def test_queries_judged_without_an_answer_are_left_out() -> None:
    dataset = planted_dataset(60, 20)
    judged: dict[str, Any] = {split: dict(qrels) for split, qrels in dataset.qrels.items()}
    judged["train"]["q100"] = {"p5": 0}
    judged["dev"]["q101"] = {"p5": 0}
    found = learning_curve(replace(dataset, qrels=judged), Planted(400), 3)
    assert found is not None
    assert found.pairs.max() == 60
    assert found.gains.shape[1] == 20


def test_a_near_duplicate_of_an_answer_is_an_answer() -> None:
    dataset = planted_dataset(3, 10)
    twins = replace(dataset, clusters={**dataset.clusters, "p2": "c", "p7": "c"})
    assert module._answers(twins, twins.qrels["train"]) == {"q0": [0], "q1": [1], "q2": [2, 7]}


def test_of_a_large_corpus_a_part_is_taken_with_all_that_is_judged() -> None:
    dataset = planted_dataset(200, 50, n=16_000)
    part = module._haystack(dataset, dataset.qrels["train"], dataset.qrels["dev"], np.random.default_rng(1))
    judged = {p for split in dataset.qrels.values() for found in split.values() for p in found}
    assert judged <= part.passages.keys()
    assert 15_000 <= len(part.passages) < 15_250
    assert list(part.passages) == [p for p in dataset.passages if p in part.passages]
    small = planted_dataset(20, 10)
    assert module._haystack(small, {}, {}, np.random.default_rng(1)) is small
