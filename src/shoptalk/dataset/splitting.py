"""The split by unit of chance, and the audit that proves that nothing leaks.

A group is what may not be torn apart: queries whose relevant passages share a near-duplicate cluster, or that ask the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from shoptalk.dataset.clusters import UnionFind
from shoptalk.errors import ShoptalkError
from shoptalk.records import SPLITS, Qrels, Rejected
from shoptalk.settings import DatasetSettings


def group_queries(judged: Qrels, clusters: Mapping[str, str], texts: Mapping[str, str]) -> dict[str, str]:
    """Group id by query id. judged: relevant passages only. texts: query id -> text."""
    sets = UnionFind()
    for query_id, found in judged.items():
        sets.union(("query", query_id), ("text", " ".join(texts[query_id].casefold().split())))
        for passage_id in found:
            sets.union(("query", query_id), ("cluster", clusters[passage_id]))
    names: dict[object, str] = {}
    return {query_id: names.setdefault(sets.find(("query", query_id)), f"g{len(names):05d}") for query_id in judged}


@dataclass(frozen=True)
class Assignment:
    """Split by item id; what was dropped because it would have leaked; whether dev had to be drawn from weak items."""

    split: dict[str, str]
    dropped: list[Rejected]
    dev_is_weak: bool = False


def assign_splits(
    groups: Mapping[str, str],
    given: Mapping[str, str],
    settings: DatasetSettings,
    rng: np.random.Generator,
    weak: Collection[str] = (),
) -> Assignment:
    """Splits by item id, whole groups at a time. given: item id -> split that must be kept ("" for none).

    A given test or dev split is kept as it is; other items of their groups are dropped, test before dev. Without a given one,
    test takes `test_share` (up to `min_test` where that leaves enough), dev `dev_share`. weak: items that only train; those in
    a group of test or dev are dropped. Where nothing else is left for dev, it is drawn from them, test never.
    """
    split: dict[str, str] = {}
    dropped: list[Rejected] = []
    fixed = {name: {groups[i] for i, s in given.items() if s == name} for name in ("test", "dev")}
    free: dict[str, list[str]] = {}
    for item, group in groups.items():
        wanted = given.get(item, "")
        if wanted == "test":
            split[item] = "test"
        elif group in fixed["test"]:
            dropped.append(
                Rejected(item, "leak", "shares a passage, a near-duplicate or its text with the given test split")
            )
        elif wanted == "dev":
            split[item] = "dev"
        elif group in fixed["dev"]:
            dropped.append(
                Rejected(item, "leak", "shares a passage, a near-duplicate or its text with the given dev split")
            )
        else:
            free.setdefault(group, []).append(item)
    apart = set(weak)
    strong = {group: own for group, items in free.items() if (own := [item for item in items if item not in apart])}
    # Groups of weak items alone come last, so that weak labels do not change how the others are split.
    order = [list(strong)[i] for i in rng.permutation(len(strong))]
    only_weak = [group for group in free if group not in strong]
    order += [only_weak[i] for i in rng.permutation(len(only_weak))] if only_weak else []
    n_free = sum(map(len, strong.values()))
    dev_is_weak = n_free == 0 and "dev" not in split.values()
    drawn = free if dev_is_weak else strong
    want = {
        "test": 0 if fixed["test"] else _test_size(n_free, settings),
        "dev": 0 if "dev" in split.values() else round(sum(map(len, drawn.values())) * settings.dev_share),
    }
    order = _fill("test", want["test"], order, strong, split)
    order = _fill("dev", want["dev"], order, drawn, split)
    split.update({item: "train" for group in order for item in free[group]})
    for item, group in groups.items():
        if item not in split and group in free:
            dropped.append(Rejected(item, "leak", "a weak label of a passage or text that test or dev queries ask for"))
    return Assignment({item: split[item] for item in groups if item in split}, dropped, dev_is_weak and bool(free))


def _test_size(n: int, settings: DatasetSettings) -> int:
    """The wanted share; more, up to `min_test`, as long as it takes no more than 30%."""
    return max(round(n * settings.test_share), min(settings.min_test, round(n * 0.3)))


def _fill(name: str, want: int, order: list[str], free: Mapping[str, list[str]], split: dict[str, str]) -> list[str]:
    """Give groups to a split until it has `want` items; a group that would overshoot by far is left. Returns the rest.

    A group without items in `free` is never given.
    """
    rest: list[str] = []
    have = 0
    for group in order:
        size = len(free.get(group, ()))
        if size and have < want and have + size <= want * 1.2 + 1:
            split.update(dict.fromkeys(free[group], name))
            have += size
        else:
            rest.append(group)
    left = [group for group in rest if group in free]
    if want and not have and left and len(rest) > 2:  # all groups are large: the smallest is better than an empty split
        smallest = min(left, key=lambda group: len(free[group]))
        split.update(dict.fromkeys(free[smallest], name))
        rest.remove(smallest)
    return rest


def audit(
    qrels: Mapping[str, Qrels], clusters: Mapping[str, str], texts: Mapping[str, str]
) -> dict[str, dict[str, int]]:
    """What every two splits share: relevant passages, near-duplicate clusters, query texts. Raises ShoptalkError unless all 0."""
    shared: dict[str, dict[str, int]] = {}
    relevant = {
        s: {p for found in qrels.get(s, {}).values() for p, grade in found.items() if grade > 0} for s in SPLITS
    }
    for left, right in combinations(SPLITS, 2):
        plain = [{" ".join(texts[q].casefold().split()) for q in qrels.get(side, {})} for side in (left, right)]
        shared[f"{left}-{right}"] = {
            "passages": len(relevant[left] & relevant[right]),
            "clusters": len({clusters[p] for p in relevant[left]} & {clusters[p] for p in relevant[right]}),
            "query_texts": len(plain[0] & plain[1]),
        }
    leaks = {pair: counts for pair, counts in shared.items() if any(counts.values())}
    if leaks:
        raise ShoptalkError(f"the split leaks, which is a defect of shoptalk: {leaks}; please report it")
    return shared
