"""The map of the corpus: its form, its alignment, its clusters, its size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from shoptalk.diagnosis.corpus_map import as_text, draw_map, picture, within
from shoptalk.diagnosis.evidence import Evidence
from shoptalk.models.encoder import Encoder
from shoptalk.records import Dataset, Passage
from shoptalk.settings import make_settings
from toy import toy_similarity

COOKING = [
    f"Knead the bread dough and bake it in the oven with {what}." for what in "salt rye oats seeds olives".split()
]
SAILING = [f"Hoist the sail and steer the boat against the {what}." for what in "wind tide current waves storm".split()]
TEXTS = [f"{text} Step {i}." for i in range(6) for text in (*COOKING, *SAILING)]


def evidence_of(texts: Sequence[str], base: Encoder) -> Evidence:
    passages = {f"p{i}": Passage(f"p{i}", text, source=f"d{i}.md") for i, text in enumerate(texts)}
    dataset = Dataset("retrieval", passages, {}, {"train": {}, "dev": {}})
    return Evidence(make_settings({}), dataset, {}, {}, [], {}, [], [], base, base)


def test_the_map_of_a_real_run(clean: Evidence) -> None:
    drawn = draw_map(clean)
    assert drawn is not None
    assert drawn.keys() == {"before", "after", "points", "terms", "clusters"}
    assert drawn["before"]["axes"] == "pca"
    assert len(drawn["points"]) == 132
    assert {"id", "cluster", "before", "after"} == drawn["points"][0].keys()
    for side in ("before", "after"):
        places = np.array([point[side] for point in drawn["points"]])
        assert np.abs(places).max() == 1
        assert 0 < sum(drawn[side]["explained"]) <= 1.001
    assert sum(one["size"] for one in drawn["clusters"]) == 132


def test_the_same_model_twice_gives_the_same_picture_twice(clean: Evidence) -> None:
    drawn = draw_map(replace(clean, tuned=clean.base))
    assert drawn is not None
    assert all(point["before"] == pytest.approx(point["after"], abs=2e-3) for point in drawn["points"])


def test_a_turned_and_mirrored_space_is_turned_back() -> None:
    rng = np.random.default_rng(2)
    vectors = (rng.normal(size=(80, 6)) * [5, 3, 1, 1, 1, 1]).astype(np.float32)
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0].astype(np.float32)
    before = picture(vectors)
    after = picture(vectors @ turn, onto=before.points)
    assert after.points == pytest.approx(before.points, abs=1e-4)
    assert after.place(vectors @ turn) == pytest.approx(after.points, abs=1e-6)


def test_clusters_are_the_subjects_and_are_named_by_their_words(minilm: Encoder) -> None:
    drawn = draw_map(evidence_of(TEXTS, minilm))
    assert drawn is not None
    assert len(drawn["clusters"]) == 2
    by_cluster: dict[int, set[bool]] = {}
    for point in drawn["points"]:
        by_cluster.setdefault(point["cluster"], set()).add("dough" in TEXTS[int(point["id"][1:])])
    assert all(len(kinds) == 1 for kinds in by_cluster.values())
    labels = " / ".join(one["label"] for one in drawn["clusters"])
    assert {"bread", "dough", "bake", "oven", "knead"} & set(labels.replace(",", "").split())
    assert {"sail", "boat", "hoist", "steer"} & set(labels.replace(",", "").split())
    assert "the" not in labels.replace(",", "").split()


def test_a_corpus_of_one_cluster_is_named_by_what_stands_in_most_of_it(minilm: Encoder) -> None:
    drawn = draw_map(evidence_of([*COOKING, *COOKING], minilm))
    assert drawn is not None
    (only,) = drawn["clusters"]
    assert set(only["label"].split(", ")) <= {"bread", "dough", "bake", "oven", "knead"}


def test_terms_stand_in_the_middle_of_their_passages(minilm: Encoder) -> None:
    evidence = evidence_of(TEXTS, minilm)
    drawn = draw_map(evidence)
    assert drawn is not None
    assert drawn["terms"]
    places = {point["id"]: point["before"] for point in drawn["points"]}
    terms = {term.text: term for term in evidence.terms}
    for placed in drawn["terms"]:
        middle = np.mean([places[name] for name in terms[placed["term"]].passages], axis=0)
        assert placed["before"] == pytest.approx(middle, abs=2e-3)


def test_the_sample_is_of_six_hundred_and_the_file_stays_small(make_encoder: Callable[..., Encoder]) -> None:
    dataset = Dataset(
        "retrieval", {(name := f"{'folder/' * 9}{i}.md#1"): Passage(name, f"text {i}") for i in range(900)}
    )
    evidence = replace(evidence_of(["a"], make_encoder(16)), dataset=dataset)
    drawn = draw_map(evidence)
    assert drawn is not None
    assert len(as_text(drawn).encode()) < 100_000
    assert 400 < len(drawn["points"]) <= 600
    again = draw_map(replace(evidence, audit={}))
    assert again == drawn
    other = draw_map(replace(evidence, settings=make_settings({"seed": 5})))
    assert other is not None
    assert {p["id"] for p in other["points"]} != {p["id"] for p in drawn["points"]}


def test_points_are_left_out_evenly_to_stay_within_a_size() -> None:
    points = [{"id": f"p{i}", "cluster": i % 2, "before": [0.1, 0.2], "after": [0.1, 0.2]} for i in range(500)]
    small = within({"points": points, "clusters": []}, 9_000)
    assert len(as_text(small).encode()) < 9_000
    assert len(small["points"]) > 100
    assert set(Counter(point["cluster"] for point in small["points"])) == {0, 1}


def test_there_is_no_map_without_passages(clean: Evidence) -> None:
    assert draw_map(replace(clean, dataset=toy_similarity())) is None
    assert as_text(None) == "null"


@pytest.mark.parametrize("texts", [["the same"] * 5, ["one", "two", "three"]])
def test_a_corpus_of_copies_and_a_tiny_one_are_drawn(texts: list[str], minilm: Encoder) -> None:
    drawn = draw_map(evidence_of(texts, minilm))
    assert drawn is not None
    assert len(drawn["points"]) == len(texts)
    assert "NaN" not in as_text(drawn)
