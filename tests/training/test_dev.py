from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from shoptalk.models.encoder import Encoder
from shoptalk.models.hardware import Hardware
from shoptalk.records import Dataset, Passage, Query
from shoptalk.retrieval.haystack import dev_part
from shoptalk.retrieval.ranking import rank
from shoptalk.settings import TrainSettings
from shoptalk.training.dev import DevScore
from toy import toy_retrieval, toy_similarity

N_PASSAGES, N_QUERIES = 400, 30
CPU = Hardware("cpu", "fp32", "")


@pytest.fixture(scope="module")
def large() -> Dataset:
    """400 passages, of which 60 answer 30 dev queries; a passage judged 0 each."""
    qrels = {f"q{i}": {f"p{2 * i}": 1, f"p{2 * i + 1}": 2, f"p{100 + i}": 0} for i in range(N_QUERIES)}
    return Dataset(
        "retrieval",
        {f"p{i}": Passage(f"p{i}", f"passage number {i}") for i in range(N_PASSAGES)},
        {q: Query(q, f"question {q}") for q in qrels},
        {"train": {"other": {"p300": 1}}, "dev": qrels},
    )


def part_of(dataset: Dataset, encoder: Encoder, seed: int = 12, **values: int) -> Dataset:
    return dev_part(dataset, encoder, TrainSettings.model_validate(values), seed)


def test_a_small_haystack_is_kept_whole(large: Dataset, hash_encoder: Encoder) -> None:
    part = part_of(large, hash_encoder, dev_haystack=N_PASSAGES)
    assert part.passages == large.passages
    assert part.qrels == {"dev": large.qrels["dev"]}


def test_the_part_has_the_size_asked_for_and_every_judged_passage(large: Dataset, hash_encoder: Encoder) -> None:
    part = part_of(large, hash_encoder, dev_haystack=150)
    assert len(part.passages) == 150
    assert {p for judged in large.qrels["dev"].values() for p in judged} <= part.passages.keys()


def test_positives_stay_even_when_they_are_more_than_the_size(large: Dataset, hash_encoder: Encoder) -> None:
    many = {f"q{i}": {f"p{(9 * i + k) % N_PASSAGES}": 1 for k in range(9)} for i in range(N_QUERIES)}
    dataset = Dataset("retrieval", large.passages, large.queries, {"dev": many})
    assert part_of(dataset, hash_encoder, dev_haystack=100).passages.keys() == {p for m in many.values() for p in m}


def test_the_base_models_nearest_passages_are_in_the_part(large: Dataset, hash_encoder: Encoder) -> None:
    nearest = {found[0][0] for found in rank(hash_encoder, large, list(large.qrels["dev"]), 1).values()}
    judged = {p for found in large.qrels["dev"].values() for p in found}
    assert nearest - judged, "the test needs a distractor"
    assert nearest <= part_of(large, hash_encoder, dev_haystack=200).passages.keys()


def test_the_passages_keep_their_order(large: Dataset, hash_encoder: Encoder) -> None:
    part = part_of(large, hash_encoder, dev_haystack=150)
    assert list(part.passages) == [name for name in large.passages if name in part.passages]


def test_the_same_seed_gives_the_same_part_and_another_seed_another(large: Dataset, hash_encoder: Encoder) -> None:
    def chosen(seed: int) -> tuple[list[str], list[str]]:
        part = part_of(large, hash_encoder, seed, dev_haystack=150, max_dev_queries=20)
        return list(part.passages), list(part.qrels["dev"])

    assert chosen(1) == chosen(1)
    assert chosen(1)[0] != chosen(2)[0]
    assert chosen(1)[1] != chosen(2)[1]


def test_no_more_dev_queries_than_asked_for(large: Dataset, hash_encoder: Encoder) -> None:
    part = part_of(large, hash_encoder, max_dev_queries=10)
    assert len(part.qrels["dev"]) == 10
    assert all(large.qrels["dev"][q] == judged for q, judged in part.qrels["dev"].items())


class Knowing:
    """An Encoder that puts a query on the passage that answers it; `wrong` queries stand on passage 0."""

    digest = "knowing"

    def __init__(self, dataset: Dataset, wrong: int = 0) -> None:
        place = {p.content: i for i, p in enumerate(dataset.passages.values())}
        answers = {
            dataset.queries[q].text: list(dataset.passages).index(next(iter(judged)))
            for q, judged in dataset.qrels["dev"].items()
        }
        self.place = place | dict(list(answers.items())[wrong:])

    def encode_passages(self, texts: list[str]) -> np.ndarray:
        vectors = np.zeros((len(texts), len(self.place)), np.float32)
        vectors[range(len(texts)), [self.place.get(text, 0) for text in texts]] = 1
        return vectors

    encode_queries = encode_passages


@pytest.mark.parametrize(("wrong", "expected"), [(0, 1.0), (5, 0.75), (20, 0.0)])
def test_the_score_of_retrieval_is_ndcg_at_10(wrong: int, expected: float) -> None:
    dataset = toy_retrieval(n_dev=20)
    assert DevScore(dataset, CPU).score(Knowing(dataset, wrong)) == pytest.approx(expected, abs=0.02)


def test_the_score_of_pairs_is_spearman(make_encoder: Callable[[int], Encoder]) -> None:
    dataset = toy_similarity()

    class Faithful:
        digest = "faithful"

        def __init__(self, sign: int) -> None:
            self.sign = sign

        def encode_queries(self, asked: list[str]) -> np.ndarray:
            cosine = [
                1.0 if text == pair.sentence1 else 0.9 * self.sign * pair.score
                for text, pair in zip(asked, dataset.pairs["dev"], strict=True)
            ]
            return np.array([[c, np.sqrt(1 - c * c)] for c in cosine], np.float32)

    score = DevScore(dataset, CPU).score
    assert score(Faithful(1)) == pytest.approx(1.0)
    assert score(Faithful(-1)) == pytest.approx(-1.0)
    assert abs(score(make_encoder(8))) < 0.4
