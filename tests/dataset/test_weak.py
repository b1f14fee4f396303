from __future__ import annotations

import numpy as np
import pytest

from shoptalk.beir import read_dataset, read_qrels, write_dataset
from shoptalk.dataset.building import build_retrieval
from shoptalk.dataset.splitting import assign_splits
from shoptalk.dataset.weak import divide, weights_of, without_weak
from shoptalk.errors import SourceError
from shoptalk.records import SPLITS, Judgement, Passage, Query, Rejected
from shoptalk.settings import DatasetSettings, make_settings

N = 60


def click(i: int, passage: int | None = None, weight: float = 0.5) -> tuple[Judgement, str]:
    return Judgement(f"c{i}", f"p{i if passage is None else passage}", weight=weight, kind="click"), ""


def label(i: int, split: str = "", kind: str = "labelled") -> tuple[Judgement, str]:
    return Judgement(f"q{i}", f"p{i}", kind=kind), split


def build(judgements, **dataset):
    passages = [Passage(f"p{i}", f"passage number {i} with the words {i * 7} and {i * 11} in it") for i in range(N)]
    queries = {f"q{i}": Query(f"q{i}", f"question {i}") for i in range(N)}
    queries |= {f"c{i}": Query(f"c{i}", f"clicked {i}", kind="click") for i in range(N)}
    settings = make_settings({"dataset": dataset, "input": {"source": "docs"}})
    return build_retrieval(passages, queries, judgements, {}, settings, np.random.default_rng(1))


def split_of(dataset) -> dict[str, str]:
    return {query: split for split in SPLITS for query in dataset.qrels[split]}


def test_clicks_train_and_never_test_and_those_on_tested_passages_are_dropped():
    judgements = [*(label(i) for i in range(30)), *(click(i) for i in range(N))]
    dataset, notes, rejected = build(judgements)
    alone, _, _ = build(judgements[:30])
    assert {q: s for q, s in split_of(dataset).items() if q.startswith("q")} == split_of(alone)
    assert {s for q, s in split_of(dataset).items() if q.startswith("c")} == {"train"}
    tested = {p for split in ("dev", "test") for found in dataset.qrels[split].values() for p in found}
    dropped = {one.item for one in rejected if one.check == "leak"}
    assert dropped == {f"c{p[1:]}" for p in tested}
    assert notes["click_queries"] == {"train": N - len(tested), "dev": 0, "test": 0}
    assert notes["weak_training_pairs"] == N - len(tested)


def test_clicks_may_test_when_that_is_asked_for():
    dataset, notes, rejected = build([click(i) for i in range(N)], test_on_clicks=True)
    assert not rejected
    assert all(dataset.qrels[split] for split in SPLITS)
    assert notes["click_queries"]["test"] == len(dataset.qrels["test"])


def test_clicks_alone_cannot_be_tested_and_the_error_says_what_to_do():
    with pytest.raises(SourceError, match=r"no test queries are left.*--test-queries.*dataset\.test_on_clicks=true"):
        build([click(i) for i in range(N)])


def test_with_a_given_test_and_clicks_alone_dev_is_drawn_from_the_clicks():
    dataset, _, _ = build([*(label(i, "test") for i in range(10)), *(click(i) for i in range(10, N))])
    assert set(dataset.qrels["test"]) == {f"q{i}" for i in range(10)}
    assert dataset.qrels["dev"]
    assert dataset.qrels["train"]
    assert set(dataset.qrels["dev"]) <= {f"c{i}" for i in range(10, N)}


def test_made_queries_beside_labels_only_train_and_without_labels_are_split():
    beside = [*(label(i) for i in range(30)), *((Judgement(f"c{i}", f"p{i}", kind="faq"), "") for i in range(N))]
    assert {s for q, s in split_of(build(beside)[0]).items() if q.startswith("c")} == {"train"}
    made = [label(i, kind="faq") for i in range(N)]
    assert set(split_of(build(made)[0]).values()) == set(SPLITS)


def test_a_click_on_a_labelled_query_trains_and_does_not_enter_the_test():
    judgements = [
        *(label(i) for i in range(N)),
        *((Judgement(f"q{i}", f"p{(i + 1) % 5}", weight=0.4, kind="click"), "") for i in range(5)),
    ]
    judgements.append((Judgement("q7", "p7", weight=0.4, kind="click"), ""))
    dataset, _, rejected = build(judgements)
    split = split_of(dataset)
    for i in range(5):
        clicked = f"p{(i + 1) % 5}" in dataset.qrels[split[f"q{i}"]][f"q{i}"]
        assert clicked == (split[f"q{i}"] == "train")
        assert (
            Rejected(
                f"q{i} p{(i + 1) % 5}", "weak-label", f"its query is in the {split[f'q{i}']} split, which people judge"
            )
            in rejected
        ) != clicked
    assert "q7" not in dataset.weights  # labelled and clicked: the label counts


def test_the_weights_stand_beside_the_qrels_and_come_back_for_training_alone(tmp_path):
    judgements = [*(label(i) for i in range(20)), *(click(i, weight=i / 100) for i in range(20, N))]
    dataset, _, _ = build(judgements)
    assert dataset.weights == {f"c{i}": {f"p{i}": i / 100} for i in range(20, N)}
    write_dataset(tmp_path, dataset)
    assert set(read_qrels(tmp_path / "qrels/train.tsv")["c20"].values()) == {1}
    assert read_dataset(tmp_path, SPLITS) == dataset
    assert read_dataset(tmp_path, ["test"]).weights == {}


def test_a_dataset_without_weak_labels_has_no_file_of_weights(tmp_path):
    dataset, _, _ = build([label(i) for i in range(N)])
    write_dataset(tmp_path, dataset)
    assert dataset.weights == {}
    assert not (tmp_path / "weights.jsonl").exists()
    assert read_dataset(tmp_path, SPLITS) == dataset


# By hand


def test_which_judgements_are_weak():
    human, test, faq = label(1), label(2, "test"), (Judgement("m", "p", kind="faq"), "")
    one_click = click(1)
    assert divide([human, test, faq, one_click], DatasetSettings()) == ([human, test], [faq, one_click])
    assert divide([test, faq], DatasetSettings()) == ([test, faq], [])
    assert divide([human, one_click], DatasetSettings(test_on_clicks=True)) == ([human, one_click], [])


def test_weights_of_a_pair_judged_twice_and_of_what_does_not_train():
    judged = [click(1, weight=0.2), click(1, weight=0.6), click(2, weight=0.3), label(3)]
    assert weights_of(judged, {"c1": {"p1": 1}, "q3": {"p3": 1}}) == {"c1": {"p1": 0.6}}


def test_weak_judgements_are_taken_out_of_test_and_of_a_dev_that_people_judge():
    qrels = {"train": {"q": {"a": 1}}, "dev": {"r": {"a": 1, "b": 1}}, "test": {"s": {"a": 1, "b": 1}}}
    weak = {("q", "a"), ("r", "b"), ("s", "b")}
    kept, rejected = without_weak(qrels, weak, dev_is_weak=False)
    assert kept == {"train": {"q": {"a": 1}}, "dev": {"r": {"a": 1}}, "test": {"s": {"a": 1}}}
    assert [one.item for one in rejected] == ["r b", "s b"]
    assert without_weak(qrels, weak, dev_is_weak=True)[0]["dev"] == qrels["dev"]


def test_weak_items_do_not_change_what_is_drawn_for_test_and_dev():
    groups = {f"q{i}": f"g{i}" for i in range(50)}
    more = groups | {f"w{i}": f"g{i}" for i in range(0, 50, 2)}
    plain = assign_splits(groups, {}, DatasetSettings(), np.random.default_rng(3))
    mixed = assign_splits(more, {}, DatasetSettings(), np.random.default_rng(3), more.keys() - groups.keys())
    assert {q: mixed.split[q] for q in groups} == plain.split
    assert {mixed.split[w] for w in mixed.split if w.startswith("w")} == {"train"}
    assert {one.item for one in mixed.dropped} == {
        f"w{i}" for i in range(0, 50, 2) if plain.split[f"q{i}"] != "train"
    }  # fmt: skip
    assert not mixed.dev_is_weak
