from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoptalk.dataset.splitting import assign_splits, audit, group_queries
from shoptalk.errors import ShoptalkError
from shoptalk.settings import DatasetSettings


def assign(groups: dict[str, str], given: dict[str, str] | None = None, seed: int = 1, **values: float):
    return assign_splits(groups, given or {}, DatasetSettings(**values), np.random.default_rng(seed))


def alone(n: int) -> dict[str, str]:
    return {f"q{i}": f"g{i}" for i in range(n)}


def sizes(assignment) -> dict[str, int]:
    return dict(Counter(assignment.split.values()))


def test_queries_of_one_passage_of_near_duplicates_or_of_one_text_are_one_group():
    judged = {"a": {"p1": 1}, "b": {"p1": 1, "p5": 1}, "c": {"p2": 1}, "d": {"p9": 1}, "e": {"p8": 1}, "f": {"p7": 1}}
    clusters = {p: p for p in ("p1", "p5", "p7", "p8", "p9")} | {"p2": "p5"}
    texts = {"a": "one", "b": "two", "c": "three", "d": "Same  Text", "e": "same text", "f": "other"}
    groups = group_queries(judged, clusters, texts)
    assert groups["a"] == groups["b"] == groups["c"]  # c meets b in the cluster of p5
    assert groups["d"] == groups["e"]
    assert len(set(groups.values())) == 3


@pytest.mark.parametrize(
    ("n", "test", "dev"),
    [(2_000, 400, 300), (1_000, 200, 150), (700, 200, 105), (500, 150, 75), (100, 30, 15), (10, 3, 2)],
)
def test_the_shares_with_200_test_queries_where_that_is_no_more_than_30_percent(n, test, dev):
    found = sizes(assign(alone(n)))
    assert found["test"] == pytest.approx(test, abs=2)
    assert found["dev"] == pytest.approx(dev, abs=2)
    assert sum(found.values()) == n


def test_the_shares_are_settings():
    found = sizes(assign(alone(1_000), test_share=0.4, dev_share=0.1, min_test=1))
    assert found == {"test": 400, "dev": 100, "train": 500}


def test_the_same_seed_gives_the_same_split_and_another_seed_another():
    first, again, other = (assign(alone(300), seed=seed).split for seed in (1, 1, 2))
    assert first == again != other


def test_the_split_is_drawn_and_not_cut_from_an_end():
    test = [int(item[1:]) for item, split in assign(alone(1_000)).split.items() if split == "test"]
    assert 350 < np.mean(test) < 650


def test_a_giant_group_goes_to_train():
    groups = alone(60) | {f"big{i}": "giant" for i in range(200)}
    for seed in range(5):
        found = assign(groups, seed=seed)
        assert {found.split[f"big{i}"] for i in range(200)} == {"train"}
        assert sizes(found)["test"] > 30


def test_a_split_for_which_all_groups_are_large_gets_the_smallest():
    groups = {f"q{i}": f"g{i // 25}" for i in range(100)} | {f"s{i}": "small" for i in range(22)}
    for seed in range(5):
        found = sizes(assign(groups, seed=seed))
        assert found.keys() == {"train", "dev", "test"}
        assert found["dev"] in (22, 25)  # 15% are 18 queries
        assert found["train"] > found["test"]


def test_two_large_groups_are_not_enough_for_three_splits():
    assert "dev" not in sizes(assign({f"q{i}": f"g{i // 50}" for i in range(100)}))


def test_a_given_test_split_is_kept_and_what_leaks_into_it_is_dropped_with_the_reason():
    groups = alone(100) | {"leak1": "g0", "leak2": "g1", "leak3": "g1"}
    given = {f"q{i}": "test" for i in range(40)} | {"leak2": "train", "leak3": "dev"}
    found = assign(groups, given)
    assert {item for item, split in found.split.items() if split == "test"} == {f"q{i}" for i in range(40)}
    assert [(entry.item, entry.check) for entry in found.dropped] == [
        ("leak1", "leak"),
        ("leak2", "leak"),
        ("leak3", "leak"),
    ]
    assert "the given test split" in found.dropped[0].reason
    assert not found.split.keys() & {"leak1", "leak2", "leak3"}
    assert sizes(found)["dev"] == pytest.approx(0.15 * 60, abs=1)


def test_a_given_dev_split_is_kept_and_what_leaks_into_it_is_dropped():
    groups = alone(100) | {"leak": "g0"}
    found = assign(groups, {f"q{i}": "dev" for i in range(20)})
    assert {item for item, split in found.split.items() if split == "dev"} == {f"q{i}" for i in range(20)}
    assert [entry.item for entry in found.dropped] == ["leak"]
    assert "the given dev split" in found.dropped[0].reason
    assert sizes(found)["test"] == pytest.approx(24, abs=1)


def test_queries_given_for_training_may_become_test_where_none_is_given():
    found = sizes(assign(alone(100), {f"q{i}": "train" for i in range(100)}))
    assert found.keys() == {"train", "dev", "test"}


items = st.lists(
    st.tuples(st.integers(0, 12), st.sampled_from(["", "", "", "train", "dev", "test"])), min_size=1, max_size=60
)


@settings(max_examples=200, deadline=None)
@given(items, st.integers(0, 5), st.floats(0.05, 0.6), st.floats(0.05, 0.6), st.integers(1, 40))
def test_no_group_is_ever_torn_apart_and_no_item_lost(items, seed, test_share, dev_share, min_test):
    groups = {f"q{i}": f"g{group}" for i, (group, _) in enumerate(items)}
    given = {f"q{i}": split for i, (_, split) in enumerate(items)}
    found = assign(groups, given, seed, test_share=test_share, dev_share=dev_share, min_test=min_test)

    dropped = [entry.item for entry in found.dropped]
    assert sorted([*found.split, *dropped]) == sorted(groups)
    assert list(found.split) == [item for item in groups if item in found.split]
    splits: dict[str, set[str]] = {}
    for item, split in found.split.items():
        splits.setdefault(groups[item], set()).add(split)
    assert all(len(own) == 1 for own in splits.values())
    for item, split in given.items():
        if split == "test":
            assert found.split[item] == "test"
        elif split == "dev":
            assert found.split.get(item) == "dev" or item in dropped
    if "test" in given.values():
        assert all(given[item] == "test" for item, split in found.split.items() if split == "test")


def qrels(**splits: dict[str, dict[str, int]]):
    return {"train": {}, "dev": {}, "test": {}} | splits


def test_the_audit_counts_what_two_splits_share():
    clean = qrels(train={"a": {"p1": 1}}, dev={"b": {"p2": 1}}, test={"c": {"p3": 1, "p1": 0}})
    nothing = {"passages": 0, "clusters": 0, "query_texts": 0}
    found = audit(clean, {p: p for p in ("p1", "p2", "p3")}, {"a": "one", "b": "two", "c": "three"})
    assert found == {"train-dev": nothing, "train-test": nothing, "dev-test": nothing}


@pytest.mark.parametrize(
    ("train", "clusters", "text", "leak"),
    [
        ({"p3": 1}, {}, "one", "'passages': 1, 'clusters': 1"),
        ({"p1": 1}, {"p1": "p3"}, "one", "'passages': 0, 'clusters': 1"),
        ({"p1": 1}, {}, "THREE ", "'query_texts': 1"),
    ],
)
def test_the_audit_raises_on_a_planted_leak(train, clusters, text, leak):
    names = {p: p for p in ("p1", "p2", "p3")} | clusters
    with pytest.raises(ShoptalkError, match=f"the split leaks.*train-test.*{leak}"):
        audit(qrels(train={"a": train}, test={"c": {"p3": 1}}), names, {"a": text, "c": "three"})
