from __future__ import annotations

import random
from itertools import combinations

import pytest

from shoptalk.dataset.clusters import UnionFind, _shingles, jaccard, near_duplicate_clusters
from shoptalk.retrieval.bm25 import words


def numbered(n: int, start: int = 0) -> list[str]:
    return [f"word{i}" for i in range(start, start + n)]


def together(threshold: float, **texts: str) -> list[set[str]]:
    """The clusters as sets of names, without those of one."""
    clusters, _ = near_duplicate_clusters(texts, threshold)
    found: dict[str, set[str]] = {}
    for name, cluster in clusters.items():
        found.setdefault(cluster, set()).add(name)
    return [names for names in found.values() if len(names) > 1]


def test_the_same_words_are_duplicates_whatever_their_case_space_and_punctuation():
    assert together(1.0, a="Tea, and  MILK", b="tea\nand milk!", c="tea and milk too") == [{"a", "b"}]


def test_a_pair_at_the_threshold_is_one_cluster_and_just_under_it_two():
    # n words have n - 2 runs of three; another last word changes one of them: Jaccard (n - 3) / (n - 1).
    eleven, ten = numbered(11), numbered(10)
    assert together(0.8, a=" ".join(eleven), b=" ".join([*eleven[:-1], "other"])) == [{"a", "b"}]  # 8 / 10
    assert together(0.8, a=" ".join(ten), b=" ".join([*ten[:-1], "other"])) == []  # 7 / 9


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95])
def test_every_pair_is_judged_as_its_exact_similarity_says(threshold):
    """300 pairs close to the threshold: what hashing proposes is verified, and it proposes (nearly) all."""
    rng = random.Random(1)
    wrong = 0
    for _ in range(100):
        base = [f"w{rng.randrange(10**6)}" for _ in range(60)]
        texts = {"a": " ".join(base)}
        for name in "bc":
            copy = list(base)
            for place in rng.sample(range(60), rng.randint(1, int(26 * (1 - threshold)) + 1)):
                copy[place] = f"x{rng.randrange(10**6)}"
            texts[name] = " ".join(copy)
        shingles = {name: _shingles(words(text)) for name, text in texts.items()}
        clusters, verified = near_duplicate_clusters(texts, threshold)
        alike = [pair for pair in combinations("abc", 2) if jaccard(shingles[pair[0]], shingles[pair[1]]) >= threshold]
        assert verified <= len(alike)  # never a pair that is under the threshold
        wrong += len(alike) - verified
        if verified == len(alike):
            expected = UnionFind()
            for left, right in alike:
                expected.union(left, right)
            assert {(x, y) for x, y in combinations("abc", 2) if clusters[x] == clusters[y]} == {
                (x, y) for x, y in combinations("abc", 2) if expected.find(x) == expected.find(y)
            }
    assert wrong <= 1


def test_clusters_are_chains_of_near_duplicates_named_after_their_first_text():
    chain = [" ".join(numbered(40, start)) for start in range(0, 9, 2)]
    clusters, verified = near_duplicate_clusters(dict(zip("abcde", chain, strict=True)), 0.85)
    assert set(clusters.values()) == {"a"}
    assert verified == 4  # each only with its neighbours


def test_texts_shorter_than_three_words():
    assert together(0.8, a="tea", b="Tea!", c="tea milk", d="milk tea", e="tea  milk", f="") == [{"a", "b"}, {"c", "e"}]


def test_texts_in_scripts_without_spaces():
    long = "申请退款需要提供购买发票和护照复印件，并在三十天之内提交到办公室。"
    assert together(
        0.8, a=long, b=long.replace("。", "！"), c=long.replace("办公室", "售票处"), d="预订酒店需要护照"
    ) == [{"a", "b", "c"}]


def test_texts_that_differ_in_vowel_signs_only_are_not_the_same():
    assert together(0.8, a="दिन में काम", b="दान में कम") == []


def test_unrelated_texts_are_alone():
    texts = {f"t{i}": " ".join(numbered(30, 100 * i)) for i in range(50)}
    assert near_duplicate_clusters(texts, 0.8) == ({name: name for name in texts}, 0)


def test_no_texts():
    assert near_duplicate_clusters({}, 0.8) == ({}, 0)


def test_exact_copies_are_not_counted_as_verified_pairs():
    text = " ".join(numbered(30))
    clusters, verified = near_duplicate_clusters(dict.fromkeys("abcd", text), 0.8)
    assert (set(clusters.values()), verified) == ({"a"}, 0)


def test_jaccard():
    assert jaccard(frozenset({1, 2, 3}), frozenset({2, 3, 4, 5})) == 2 / 5
    assert jaccard(frozenset(), frozenset()) == 0.0


def test_sets_are_named_after_the_member_that_was_seen_first():
    sets = UnionFind()
    sets.union("b", "c")
    sets.union("a", "c")
    sets.union("x", "y")
    assert [sets.find(name) for name in "abcxy"] == ["b", "b", "b", "x", "x"]
