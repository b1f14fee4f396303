"""Slices: which query is in which, and what is said of each."""

from __future__ import annotations

import numpy as np
import pytest

from shoptalk.evaluation.slices import MIN_QUERIES, Training, measure_slices, passage_type, slice_names
from shoptalk.records import Dataset, Passage, Query
from shoptalk.retrieval.significance import holm, paired_delta


def dataset_of(queries: dict[str, Query], passages: dict[str, Passage], qrels: dict[str, dict[str, int]]) -> Dataset:
    return Dataset("retrieval", passages, queries, {"test": qrels})


def test_queries_are_cut_by_length_language_and_kind() -> None:
    texts = ["", "one two three four", "one two three four five", "w " * 16, "w " * 17, "退款退款退款"]
    queries = {
        f"q{i}": Query(f"q{i}", text, kind="faq" if i else "labelled", language="de" if i % 2 else "")
        for i, text in enumerate(texts)
    }
    names = slice_names(dataset_of(queries, {"p": Passage("p", "x")}, {q: {"p": 1} for q in queries}), "test", None)
    assert names["query length"] == {
        "q1": "1 to 4 words",
        "q2": "5 to 8 words",
        "q3": "9 to 16 words",
        "q4": "17 words or more",
        "q5": "5 to 8 words",
    }
    assert names["query language"] == dict.fromkeys(("q1", "q3", "q5"), "de")
    assert names["query kind"] == {"q0": "labelled", **dict.fromkeys(("q1", "q2", "q3", "q4", "q5"), "faq")}
    assert names["passage language"] == names["source"] == {}
    assert "rare words" not in names


def test_the_best_judged_passage_says_what_the_answer_is() -> None:
    passages = {
        "low": Passage("low", "a", source="low.md", language="en"),
        "zero": Passage("zero", "a", source="zero.md", language="xx"),
        "high": Passage("high", "- a\n- b\n- c", source="high.md", language="fr"),
    }
    names = slice_names(
        dataset_of({"q": Query("q", "a")}, passages, {"q": {"zero": 0, "low": 1, "high": 2}}), "test", None
    )
    assert names["passage language"] == {"q": "fr"}
    assert names["passage type"] == {"q": "list"}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("| a | b |\n| --- | --- |\n| 1 | 2 |", "table"),
        ("name\tage\tcity\nx\t1\ty\nz\t2\tw", "table"),
        ("- one\n- two\n- three", "list"),
        ("Steps to take:\n1. open\n2. press\n3) wait", "list"),
        ("Run it:\n```\nmake install\n```", "code"),
        ("def f(x):\n    return g(x)\nprint(f(2))", "code"),
        ("int main() {\n  return 0;\n}", "code"),
        ("$ pip install x\n$ x --help", "code"),
        ("A sentence; another one.\nAnd a third, which ends here.", "prose"),
        ("It was a dark night - and a stormy one | said he.", "prose"),
        ("For more see the form.\nIf it is late, wait.\nReturn it to us.", "prose"),
        ("", "prose"),
    ],
)
def test_passages_are_told_apart_by_their_lines(text: str, kind: str) -> None:
    assert passage_type(text) == kind


def test_documents_with_few_queries_pool_into_their_folder() -> None:
    def source(i: int) -> str:
        return (
            "a/big.md" if i < 35 else f"a/small-{i}.md" if i < 70 else f"b/c/only-{i}.md" if i < 110 else f"top-{i}.md"
        )

    passages = {f"p{i}": Passage(f"p{i}", "x", source=source(i)) for i in range(150)}
    queries = {f"q{i}": Query(f"q{i}", "x") for i in range(150)}
    names = slice_names(dataset_of(queries, passages, {f"q{i}": {f"p{i}": 1} for i in range(150)}), "test", None)[
        "source"
    ]
    assert {names.get(f"q{i}", "") for i in range(35)} == {"a/big.md"}
    assert {names.get(f"q{i}", "") for i in range(35, 70)} == {"a/"}
    assert {names.get(f"q{i}", "") for i in range(70, 110)} == {"b/c/"}
    assert {names.get(f"q{i}", "") for i in range(110, 150)} == {""}


def test_rare_words_are_those_of_few_passages_and_are_looked_up_in_training() -> None:
    passages = {f"p{i}": Passage(f"p{i}", f"the common words of passage number{i}") for i in range(400)}
    passages |= {"x": Passage("x", "the kubectl command and the etcd store"), "y": Passage("y", "the flannel mesh")}
    training = Training.of(
        Dataset("retrieval", passages, {"t": Query("t", "what is kubectl")}, {"train": {"t": {"x": 1, "y": 0}}})
    )
    assert training is not None
    assert {"kubectl", "etcd", "what"} <= training.words
    assert "flannel" not in training.words
    texts = ["the kubectl etcd", "the kubectl flannel", "the flannel typpo", "the common words"]
    queries = {f"q{i}": Query(f"q{i}", text) for i, text in enumerate(texts)}
    names = slice_names(dataset_of(queries, passages, {q: {"x": 1} for q in queries}), "test", training)["rare words"]
    assert list(names.values()) == [
        "all seen in training",
        "some seen in training",
        "none seen in training",
        "no rare words",
    ]


def test_without_training_pairs_nothing_is_known_of_it() -> None:
    assert Training.of(Dataset("retrieval", qrels={"train": {}})) is None
    assert Training.of(Dataset("retrieval")) is None


def test_a_slice_needs_thirty_queries_and_is_not_all_of_them() -> None:
    names = {
        "kind": {f"q{i}": "a" if i < MIN_QUERIES else "b" if i < 2 * MIN_QUERIES - 1 else "all but" for i in range(100)}
    }
    names["language"] = {f"q{i}": "en" for i in range(100)}
    values = {f"q{i}": 0.5 for i in range(100)}
    rows = measure_slices(names, values, values, {}, 200, 12)
    assert sorted((row["by"], row["name"], row["queries"]) for row in rows) == [
        ("kind", "a", 30),
        ("kind", "all but", 41),
    ]
    assert all(row["delta"]["value"] == 0 and not row["worse"] for row in rows)


def test_what_got_worse_comes_first_and_holm_goes_over_all_slices_of_all_kinds() -> None:
    rng = np.random.default_rng(1)
    queries = [f"q{i}" for i in range(160)]
    base = dict.fromkeys(queries, 0.6)
    change = np.where(np.arange(160) < 40, -0.3, 0.1) + 0.1 * rng.standard_normal(160)
    tuned = {q: base[q] + change[i] for i, q in enumerate(queries)}
    names = {
        "length": {q: ("short", "long")[i >= 80] for i, q in enumerate(queries)},
        "kind": {q: f"kind {i // 40}" for i, q in enumerate(queries)},
    }
    groups = {q: f"g{i // 2}" for i, q in enumerate(queries)}
    rows = measure_slices(names, base, tuned, groups, 2_000, 12)
    assert len(rows) == 6
    assert [(row["by"], row["name"]) for row in rows if row["worse"]] == [("length", "short"), ("kind", "kind 0")]
    assert [row["worse"] for row in rows] == sorted((row["worse"] for row in rows), reverse=True)
    alone = {f"{row['by']}/{row['name']}": row["delta"]["p"] for row in rows}
    for row in rows:
        own = [q for q in queries if names[row["by"]][q] == row["name"]]
        expected = paired_delta({q: base[q] for q in own}, {q: tuned[q] for q in own}, groups, 2_000, 12)
        assert (row["delta"]["value"], row["delta"]["p"]) == (expected.value, expected.p)
        assert row["delta"]["ci95"] == list(expected.ci95)
        assert row["delta"]["p_holm"] == holm(alone)[f"{row['by']}/{row['name']}"]
        assert row["groups"] == len(own) // 2
        assert row["tuned"] - row["base"] == pytest.approx(row["delta"]["value"])


def test_a_slice_that_is_worse_by_chance_is_not_named() -> None:
    rng = np.random.default_rng(2)
    queries = [f"q{i}" for i in range(120)]
    base = dict.fromkeys(queries, 0.5)
    tuned = {q: 0.5 + 0.2 * rng.standard_normal() for q in queries}
    names = {"kind": {q: f"kind {i % 4}" for i, q in enumerate(queries)}}
    rows = measure_slices(names, base, tuned, {}, 2_000, 12)
    assert any(row["delta"]["value"] < 0 for row in rows)
    assert not any(row["worse"] for row in rows)
