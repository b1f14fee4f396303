"""From a system's name to its row in the table: every kind measured on one haystack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from shoptalk.errors import ModelError, NotConfirmed, SettingsError, SourceError
from shoptalk.evaluation.scoring import measure, measure_bm25
from shoptalk.evaluation.systems import Bench, Named, find_system
from shoptalk.evaluation.table import encode
from shoptalk.records import Dataset
from shoptalk.retrieval.compression import Form
from shoptalk.retrieval.fusion import reciprocal_rank
from shoptalk.retrieval.metrics import METRICS, mean, per_query
from shoptalk.retrieval.trec import write_trec
from shoptalk.settings import Settings, make_settings
from toy import toy_retrieval


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return toy_retrieval()


def settings_of(**evaluate: object) -> Settings:
    return make_settings({"model": {"precision": "fp32", "device": "cpu"}, "evaluate": {"resamples": 200, **evaluate}})


@pytest.fixture
def bench(dataset: Dataset) -> Callable[..., Bench]:
    return lambda **evaluate: Bench(dataset, "test", settings_of(**evaluate))


@pytest.fixture
def find(tmp_path: Path) -> Callable[[str], Named]:
    return lambda name: find_system(name, settings_of(), tmp_path / "cache")


def test_a_model_is_measured_in_every_form(bench, find, dataset: Dataset, tiny_bert: Path) -> None:
    made, system = bench(dims="halves"), find(str(tiny_bert))  # 32 dimensions have no half
    measured = made.measure(system)
    assert measured == measure(system.encoder, dataset, 100)
    assert [(row["dimensions"], row["precision"], row["bytes_per_passage"]) for row in made.table] == [
        (32, "float32", 128),
        (32, "int8", 32),
        (32, "binary", 4),
    ]
    assert {row["system"] for row in made.table} == {str(tiny_bert)}
    full, *_, binary = made.table
    assert full["ndcg@10"] == measured.metrics["ndcg@10"]
    encoded = encode(system.encoder, dataset, list(dataset.qrels["test"]))
    expected = mean(per_query(dataset.qrels["test"], encoded.kept_as(Form(32, "binary"), 100)))
    assert binary["ndcg@10"] == expected["ndcg@10"]
    assert binary["recall@100"] == expected["recall@100"]
    assert binary["rescored"] is True
    assert full["seconds_per_1000"] > 0
    assert made.about[str(tiny_bert)]["dimensions"] == 32


def test_dimensions_and_precisions_follow_the_settings(bench, find, tiny_bert: Path) -> None:
    made = bench(dims=[16, 8, 64], precisions=["int8"])
    made.measure(find(str(tiny_bert)))
    assert [(row["dimensions"], row["precision"]) for row in made.table] == [
        (size, precision) for size in (32, 16, 8) for precision in ("float32", "int8")
    ]


def test_the_dimensions_that_training_made_are_shown_by_default(dataset: Dataset, find, tiny_bert: Path) -> None:
    settings = settings_of(precisions=["float32"])
    trained = settings.model_copy(update={"train": settings.train.model_copy(update={"matryoshka": (8, 32)})})
    made = Bench(dataset, "test", trained)
    made.measure(find(str(tiny_bert)))
    assert [row["dimensions"] for row in made.table] == [32, 8]


def test_bm25_and_its_fusion_with_a_model(bench, find, dataset: Dataset, tiny_bert: Path) -> None:
    made, name = bench(), str(tiny_bert)
    keywords, fused = made.measure(find("bm25")), made.measure(find(f"fused:{name}"))
    model = made.measure(find(name))
    assert keywords == measure_bm25(dataset, 100)
    assert fused.ranking == reciprocal_rank([model.ranking, keywords.ranking], depth=100)
    rows = {row["system"]: row for row in made.table if row["precision"] in ("", "float32")}
    assert rows[f"fused:{name}"]["bytes_per_passage"] == pytest.approx(128 + rows["bm25"]["bytes_per_passage"])
    assert rows["bm25"]["bytes_per_passage"] > 0
    assert (rows["bm25"]["dimensions"], rows["bm25"]["precision"]) == (None, "")
    assert list(made.about) == ["bm25", name, f"fused:{name}"]


def test_a_system_is_measured_once(bench, find, tiny_bert: Path) -> None:
    made = bench()
    assert made.measure(find("bm25")) is made.measure(find("bm25"))
    assert len(made.table) == 1


def test_a_run_of_the_system_in_production_is_measured_as_it_answered(
    bench, find, dataset: Dataset, tmp_path: Path
) -> None:
    ranking = measure_bm25(dataset, 7).ranking
    first, *rest = ranking
    write_trec(tmp_path / "production.trec", {q: ranking[q] for q in rest}, "prod")
    made = bench()
    measured = made.measure(find(f"run:{tmp_path / 'production.trec'}"))
    values = per_query(dataset.qrels["test"], {q: ranking[q] for q in rest})
    assert measured.metrics == mean(values)
    assert measured.per_query[first] == dict.fromkeys(METRICS, 0.0)
    about = made.about[f"run:{tmp_path / 'production.trec'}"]
    assert about["depth"]["most"] <= 7
    assert about["missing"] == 1
    assert "count as zero" in about["detail"]
    assert made.table[0]["bytes_per_passage"] is None


def test_graded_judgements_and_metrics_at_any_k(bench, find, dataset: Dataset) -> None:
    judged = {q: {**found, "p0": 3} for q, found in dataset.qrels["test"].items()}
    graded = replace(dataset, qrels={"test": judged})
    settings = settings_of(metrics=["ndcg@20", "recall@50", "hit@3", "ndcg@10"])
    measured = Bench(graded, "test", settings).measure(find("bm25"))
    assert list(measured.metrics) == [*METRICS, "ndcg@20", "recall@50", "hit@3"]
    assert measured.metrics == mean(per_query(judged, measured.ranking, [*METRICS, "ndcg@20", "recall@50", "hit@3"]))


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("./nothing", ModelError, "no such folder"),
        ("fused:bm25", SettingsError, "BM25 is fused with another system"),
        ("fused:fused:builtin:all-MiniLM-L6-v2", SettingsError, "BM25 is fused with another system"),
        ("fused:./nothing", ModelError, "no such folder"),
        ("run:nothing.trec", SourceError, r"nothing\.trec: no such run file"),
    ],
)
def test_a_name_that_stands_for_nothing_is_refused(find, name: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        find(name)


def test_metrics_deeper_than_the_rankings_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"recall@500 looks deeper than evaluate\.depth, which is 100"):
        settings_of(metrics=["recall@500"])
    with pytest.raises(SettingsError, match=r"evaluate\.metrics"):
        settings_of(metrics=["accuracy@5"])


def test_what_an_endpoint_costs_is_agreed_before_the_first_call(bench, find, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "none-of-yours")
    system, asked = find("endpoint:embed@http://192.0.2.1/v1"), []
    with pytest.raises(NotConfirmed, match=r"Nobody can be asked here: set endpoint\.max_tokens"):
        bench().agree([system], None)
    fused = replace(system, name="fused", kind="fused", encoder=None, inner=system)
    with pytest.raises(NotConfirmed, match="stopped before the first call, nothing was spent"):
        bench().agree([fused], lambda words: bool(asked.append(words)))
    assert "152 texts" in asked[0]
    bench().agree([system], lambda words: True)
    bench().agree([find("endpoint:embed@http://127.0.0.1:9/v1")], None)
