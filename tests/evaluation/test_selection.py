from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from shoptalk.beir import write_jsonl
from shoptalk.evaluation.selection import Point, choose, midway, select
from shoptalk.models.finding import find_model
from shoptalk.records import Dataset
from shoptalk.workspace import StageContext, list_files
from toy import (
    SAID,
    saved,
    sentence_pairs,
    stage_in,
    toy_retrieval,
    toy_settings,
    toy_similarity,
    train_toy,
    training_of,
)


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> StageContext:
    return train_toy(tmp_path_factory.mktemp("training"), toy_retrieval(), toy_settings(tiny_bert))


def selected(folder: Path, training: StageContext, **sections: dict[str, Any]) -> tuple[dict[str, Any], Path]:
    settings = toy_settings(Path(training.settings.model.base), **sections)
    stage = stage_in(folder, settings, candidates=training.out, dataset=saved(folder / "dataset", toy_retrieval()))
    select(stage)
    return json.loads((stage.out / "shoptalk.json").read_text(encoding="utf-8")), stage.out


def toy_folder(folder: Path) -> Path:
    """The toy task as a retention set."""
    pairs = sentence_pairs()
    write_jsonl(folder / "corpus.jsonl", ({"_id": f"p{i}", "text": said} for i, (_, said) in enumerate(pairs)))
    write_jsonl(folder / "queries.jsonl", ({"_id": f"q{i}", "text": asked} for i, (asked, _) in enumerate(pairs)))
    (folder / "qrels").mkdir()
    lines = [f"q{i}\tp{i}\t1\n" for i in range(len(pairs))]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines), encoding="utf-8")
    return folder


def contradicted() -> Dataset:
    """The toy task with other answers to the same questions: who learns it forgets the first."""
    dataset = toy_retrieval()
    words = dict(zip(SAID, SAID[5:] + SAID[:5], strict=True))
    moved = {
        name: replace(p, text=" ".join(words.get(word, word) for word in p.text.split()))
        for name, p in dataset.passages.items()
    }
    return replace(dataset, passages=moved)


def test_the_tuned_model_is_shipped_unchanged_when_it_is_asked_for_alone(
    tmp_path: Path, training: StageContext
) -> None:
    choice, folder = selected(tmp_path, training, select={"weights": [1]})
    best, shipped, summary = list_files(training.out / "best"), list_files(folder), training_of(training)
    assert shipped.keys() - best.keys() == {"shoptalk.json"}
    assert {name: shipped[name] for name in best} == best
    assert (choice["dev"], choice["step"]) == (summary["best_dev"], summary["best_step"])
    assert find_model(str(folder)).model_type == "bert"


def test_the_frontier_goes_from_the_base_to_the_tuned_model(tmp_path: Path, training: StageContext) -> None:
    choice, folder = selected(tmp_path, training)
    points, summary = choice["frontier"], training_of(training)
    assert [point["weight"] for point in points] == [0, 0.25, 0.5, 0.75, 1]
    assert points[0]["dev"] == pytest.approx(summary["base_dev"])
    assert points[-1]["dev"] == pytest.approx(summary["best_dev"])
    assert points[0]["dev_gain"] == 0
    assert points[-1]["dev_gain"] > 0.2
    assert [point["weight"] for point in points if point["chosen"]] == [choice["weight"]]
    assert choice["weight"] == 1
    assert points[1]["general"] is None
    assert SentenceTransformer(str(folder), device="cpu").encode(["a"]).shape == (1, 32)


def test_what_forgets_too_much_is_not_shipped(tmp_path: Path, taught_bert: Path) -> None:
    first, second = toy_folder(tmp_path / "first"), contradicted()
    training = train_toy(tmp_path / "training", second, toy_settings(taught_bert))

    def shipped(name: str, limit: float) -> dict[str, Any]:
        chosen = {"retention": str(first), "max_general_loss": limit, "refine": 0}
        settings = toy_settings(taught_bert, select=chosen)
        stage = stage_in(
            tmp_path / name, settings, candidates=training.out, dataset=saved(tmp_path / f"{name}-data", second)
        )
        select(stage)
        choice: dict[str, Any] = json.loads((stage.out / "shoptalk.json").read_text(encoding="utf-8"))
        return choice

    free, held = shipped("free", 1), shipped("held", 0.1)
    losses = {point["weight"]: point["general_loss"] for point in held["frontier"]}
    assert losses[0] == 0
    assert losses[1] > 0.5
    assert held["frontier"][-1]["dev_gain"] > 0.5
    assert free["weight"] > held["weight"]
    assert losses[held["weight"]] <= 0.1
    barred = [point["weight"] for point in held["frontier"] if not point["allowed"]]
    assert barred == [weight for weight, loss in losses.items() if loss > 0.1]
    assert 1 in barred
    assert "left out for what they lose" in held["words"] or held["weight"] == 0


def test_a_model_that_got_worse_is_left_for_the_base(tmp_path: Path, taught_bert: Path) -> None:
    """Trained on contradictions of what dev asks: the way from base to tuned weights only goes down."""
    settings = toy_settings(taught_bert)
    training = train_toy(tmp_path / "training", contradicted(), settings)
    stage = stage_in(
        tmp_path / "model", settings, candidates=training.out, dataset=saved(tmp_path / "data", toy_retrieval())
    )
    select(stage)
    choice = json.loads((stage.out / "shoptalk.json").read_text(encoding="utf-8"))
    assert choice["weight"] == 0
    assert choice["frontier"][-1]["dev_gain"] < -0.3
    assert choice["words"].startswith("the base model")
    texts = ["what is the hotel room", "on the price form"]
    ours, base = (SentenceTransformer(str(path), device="cpu") for path in (stage.out, taught_bert))
    np.testing.assert_array_equal(ours.encode(texts), base.encode(texts))


def test_scored_pairs_have_a_frontier_too(tmp_path: Path, tiny_bert: Path) -> None:
    dataset = toy_similarity()
    training = train_toy(tmp_path / "training", dataset, toy_settings(tiny_bert, train={"epochs": 4}))
    stage = stage_in(
        tmp_path / "model", training.settings, candidates=training.out, dataset=saved(tmp_path / "data", dataset)
    )
    select(stage)
    choice = json.loads((stage.out / "shoptalk.json").read_text(encoding="utf-8"))
    assert len(choice["frontier"]) == 5
    assert choice["frontier"][-1]["dev"] == pytest.approx(training_of(training)["best_dev"])
    assert choice["weight"] > 0


def test_a_model_of_another_kind_is_shipped_as_it_is_and_says_so(tmp_path: Path, tiny_bert: Path) -> None:
    training = train_toy(tmp_path / "t", toy_retrieval(), toy_settings(tiny_bert, train={"method": "query-linear"}))
    choice, _ = selected(tmp_path, training)
    assert [point["weight"] for point in choice["frontier"]] == [0, 1]
    assert choice["weight"] == 1
    assert choice["words"].startswith("the tuned model as it is")


def scores_of(*wins: int, n: int = 40) -> dict[str, float]:
    """Dev scores of which those named are 1, the others 0.5."""
    return {f"q{i}": 1.0 if i in wins else 0.5 for i in range(n)}


def points_at(*scores: dict[str, float], barred: tuple[float, ...] = ()) -> list[Point]:
    return [
        Point(weight, sum(own.values()) / len(own), 0.0, allowed=weight not in barred)
        for weight, own in zip((0.0, 0.25, 0.5, 0.75, 1.0), scores, strict=True)
    ]


def test_a_lead_on_one_dev_query_is_luck_and_the_nearest_to_the_tuned_weights_stays() -> None:
    scores = [scores_of(), scores_of(1), scores_of(1, 2), scores_of(1, 2, 3), scores_of(1, 2)]
    assert choose(points_at(*scores), scores, {}).weight == 1
    assert choose(points_at(*scores, barred=(1.0,)), scores, {}).weight == 0.75


def test_a_clear_lead_on_dev_is_taken() -> None:
    scores = [scores_of(), scores_of(*range(20)), scores_of(1), scores_of(1), scores_of()]
    assert choose(points_at(*scores), scores, {}).weight == 0.25
    assert choose(points_at(*scores, barred=(0.25,)), scores, {}).weight == 1
    one_group = dict.fromkeys(scores_of(), "all")  # twenty queries on one passage say as much as one
    assert choose(points_at(*scores), scores, one_group).weight == 1


def test_the_line_is_searched_again_where_it_crosses_the_limit() -> None:
    points = points_at(*[scores_of()] * 5, barred=(0.5, 0.75, 1.0))
    assert midway(points) == 0.375
    assert midway(points_at(*[scores_of()] * 5, barred=(1.0,))) == 0.875
    assert midway(points_at(*[scores_of()] * 5)) is None


def test_refined_points_lie_between_the_limit_and_what_breaks_it(tmp_path: Path, taught_bert: Path) -> None:
    first, second = toy_folder(tmp_path / "first"), contradicted()
    training = train_toy(tmp_path / "training", second, toy_settings(taught_bert))
    settings = toy_settings(taught_bert, select={"retention": str(first), "max_general_loss": 0.1, "refine": 2})
    stage = stage_in(tmp_path / "model", settings, candidates=training.out, dataset=saved(tmp_path / "data", second))
    select(stage)
    points = json.loads((stage.out / "shoptalk.json").read_text(encoding="utf-8"))["frontier"]
    weights = [point["weight"] for point in points]
    assert len(weights) == 7
    assert weights == sorted(weights)
    last = max(point["weight"] for point in points if point["allowed"])
    first_barred = min(point["weight"] for point in points if point["weight"] > last)
    assert first_barred - last == 0.0625
