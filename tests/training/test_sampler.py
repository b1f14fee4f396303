from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from shoptalk.records import Dataset, Example, Passage, Query
from shoptalk.training.sampler import ConflictFreeBatchSampler, Conflicts


def dataset_of(
    clusters: list[int], relevant: list[list[int]], labelled: list[list[int]]
) -> tuple[Dataset, list[Example]]:
    """Passage i is in cluster clusters[i]; query j is answered by relevant[j] and has labelled[j] as its negatives."""
    passages = {f"p{i}": Passage(f"p{i}", f"text {i}") for i in range(len(clusters))}
    queries = {f"q{j}": Query(f"q{j}", f"question {j}") for j in range(len(relevant))}
    qrels = {f"q{j}": {f"p{i}": 1 for i in found} for j, found in enumerate(relevant)}
    dataset = Dataset(
        "retrieval", passages, queries, {"train": qrels}, {f"p{i}": f"c{c}" for i, c in enumerate(clusters)}
    )
    examples = [
        Example(f"q{j}", f"p{i}", f"question {j}", f"text {i}", tuple(f"text {n}" for n in labelled[j]))
        for j, found in enumerate(relevant)
        for i in found
    ]
    return dataset, examples


def one_answer_each(clusters: list[int]) -> tuple[Dataset, list[Example]]:
    """One query a passage; those whose passages share a cluster conflict."""
    return dataset_of(clusters, [[i] for i in range(len(clusters))], [[] for _ in clusters])


def sampler_of(dataset: Dataset, examples: list[Example], batch_size: int, seed: int = 12) -> ConflictFreeBatchSampler:
    return ConflictFreeBatchSampler(Conflicts.of(examples, dataset), batch_size, seed)


def batches_of(sampler: ConflictFreeBatchSampler, epoch: int = 0) -> list[list[int]]:
    sampler.set_epoch(epoch)
    return list(sampler)


@st.composite
def labelled_data(draw: st.DrawFn) -> tuple[Dataset, list[Example]]:
    """Passages in clusters, queries with one to three answers, and negatives, among them other queries' answers."""
    n = draw(st.integers(2, 14))
    clusters = draw(st.lists(st.integers(0, 8), min_size=n, max_size=n))
    passage = st.integers(0, n - 1)
    relevant = draw(st.lists(st.lists(passage, min_size=1, max_size=3, unique=True), min_size=1, max_size=12))
    labelled = []
    for found in relevant:
        known = {clusters[i] for i in found}
        others = draw(st.lists(passage, max_size=3, unique=True))
        labelled.append([i for i in others if clusters[i] not in known])
    return dataset_of(clusters, relevant, labelled)


@settings(max_examples=300, deadline=None)
@given(labelled_data(), st.integers(2, 8), st.integers(0, 5))
def test_no_batch_shows_a_query_an_answer_of_its_own_as_a_negative(
    data: tuple[Dataset, list[Example]], batch_size: int, epoch: int
) -> None:
    dataset, examples = data
    cluster_of = {passage.text: dataset.clusters[i] for i, passage in dataset.passages.items()}
    for batch in batches_of(sampler_of(dataset, examples, batch_size), epoch):
        assert 1 <= len(batch) <= batch_size
        for row in batch:
            answers = {dataset.clusters[i] for i in dataset.qrels["train"][examples[row].query_id]}
            for other in batch:
                if other != row:
                    shown = (examples[other].positive, *examples[other].negatives)
                    assert answers.isdisjoint(cluster_of[text] for text in shown)


@settings(max_examples=200, deadline=None)
@given(labelled_data(), st.integers(2, 8))
def test_every_epoch_has_the_number_of_batches_that_len_says(
    data: tuple[Dataset, list[Example]], batch_size: int
) -> None:
    sampler = sampler_of(*data, batch_size)
    for epoch in range(4):
        assert len(batches_of(sampler, epoch)) == len(sampler)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=48), st.integers(2, 8), st.integers(0, 20))
def test_every_row_is_dealt_once_an_epoch_whatever_the_clusters(
    clusters: list[int], batch_size: int, epoch: int
) -> None:
    dataset, examples = one_answer_each(clusters)
    sampler = sampler_of(dataset, examples, batch_size)
    assert sorted(row for batch in batches_of(sampler, epoch) for row in batch) == list(range(len(clusters)))
    assert len(sampler) == max(-(-len(clusters) // batch_size), max(Counter(clusters).values()))


def test_full_batches_leave_no_row_over() -> None:
    dataset, examples = one_answer_each([row // 4 for row in range(256)])
    sampler = sampler_of(dataset, examples, 32)
    for epoch in range(20):
        assert [len(batch) for batch in batches_of(sampler, epoch)] == [32] * 8


def test_a_row_that_meets_nobody_gets_a_batch_of_its_own_and_the_others_theirs() -> None:
    hub, n = 0, 20
    dataset, examples = dataset_of(
        list(range(n)), [[i] for i in range(n)], [[] if i == hub else [hub] for i in range(n)]
    )
    for epoch in range(10):
        batches = batches_of(sampler_of(dataset, examples, 32), epoch)
        assert sorted(map(len, batches)) == [1, 19]
        assert [hub] in batches


def test_twelve_answers_to_one_query_go_into_twelve_batches() -> None:
    relevant = [list(range(12 * q, 12 * q + 12)) for q in range(10)]
    dataset, examples = dataset_of(list(range(120)), relevant, [[] for _ in relevant])
    batches = batches_of(sampler_of(dataset, examples, 32))
    assert len(batches) == 12
    assert all(sorted(examples[row].query_id for row in batch) == sorted(dataset.queries) for batch in batches)


def test_the_same_seed_and_epoch_give_the_same_batches() -> None:
    data = one_answer_each([row // 2 for row in range(60)])
    assert batches_of(sampler_of(*data, 16), 3) == batches_of(sampler_of(*data, 16), 3)


def test_another_epoch_or_seed_gives_other_batches() -> None:
    data = one_answer_each([row // 2 for row in range(60)])
    sampler = sampler_of(*data, 16)
    assert batches_of(sampler, 0) != batches_of(sampler, 1)
    assert batches_of(sampler, 0) != batches_of(sampler_of(*data, 16, seed=13), 0)


def test_rows_do_not_keep_the_same_company() -> None:
    sampler = sampler_of(*one_answer_each(list(range(64))), 16)
    together = Counter(
        frozenset((a, b)) for e in range(20) for batch in batches_of(sampler, e) for a in batch for b in batch if a < b
    )
    assert max(together.values()) < 20
    assert len(together) > 0.9 * 64 * 63 / 2


def test_a_passage_in_the_cluster_of_an_answer_counts_as_the_answer() -> None:
    dataset, examples = dataset_of([7, 7, 1, 2], [[0], [2], [3]], [[], [1], []])
    for epoch in range(10):
        batch = next(b for b in batches_of(sampler_of(dataset, examples, 4), epoch) if 0 in b)
        assert 1 not in batch
