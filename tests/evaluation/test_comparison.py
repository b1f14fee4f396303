from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoptalk.beir import read_jsonl, read_qrels
from shoptalk.evaluation.comparison import compare
from shoptalk.evaluation.scoring import (
    Measured,
    compare_measured,
    delta_from_json,
    measure,
    measure_bm25,
    outcomes,
    per_query_rows,
)
from shoptalk.models.encoder import Encoder
from shoptalk.records import Dataset, Delta, Ranking
from shoptalk.retrieval.fusion import reciprocal_rank
from shoptalk.retrieval.metrics import METRICS, PRIMARY, mean, per_query
from shoptalk.retrieval.trec import read_trec, write_trec
from shoptalk.settings import EvaluateSettings
from shoptalk.workspace import StageContext, sha256_of
from toy import saved, stage_in, toy_retrieval, toy_settings, toy_similarity, train_toy

QUICKLY = EvaluateSettings(resamples=500)


def compared(folder: Path, dataset: Dataset, base: Path, tuned: Path, **audit: Any) -> tuple[dict[str, Any], Path]:
    """comparison.json of the stage, read by a parser that takes no NaN, and the stage's folder."""
    data = saved(folder / "dataset", dataset, **audit)
    stage = stage_in(folder / "evaluation", toy_settings(base), dataset=data, model=tuned)
    compare(stage)
    return comparison_of(stage), stage.out


def comparison_of(stage: StageContext) -> dict[str, Any]:
    text = (stage.out / "comparison.json").read_text(encoding="utf-8")
    record: dict[str, Any] = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in comparison.json"))
    return record


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, taught_bert: Path) -> tuple[dict[str, Any], Path]:
    """The untaught model against the taught one."""
    return compared(tmp_path_factory.mktemp("lesson"), toy_retrieval(), tiny_bert, taught_bert)


# The stage


@pytest.mark.parametrize("make", [toy_retrieval, toy_similarity])
def test_a_model_against_itself_differs_by_exactly_nothing(
    tmp_path: Path, tiny_bert: Path, make: Callable[[], Dataset]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_bert, copy)
    (copy / "shoptalk.json").write_text("{}", encoding="utf-8")  # as select leaves it; its digest is another
    record, folder = compared(tmp_path, make(), tiny_bert, copy)
    assert record["tuned"] == record["base"]
    for delta in record["delta"].values():
        assert (delta["value"], delta["ci95"], delta["p"]) == (0, [0, 0], 1)
    assert record["verdict"] == "inconclusive"
    assert (record["won"], record["lost"]) == (0, 0)
    assert record["unchanged"] == sum(1 for _ in read_jsonl(folder / "per_query.jsonl"))


def test_both_models_get_the_same_prompts_whatever_the_run_folder_is_called(tmp_path: Path, tiny_bert: Path) -> None:
    copy = tmp_path / "e5-base" / "model"  # a family whose models want "query: " when their configuration has no prompt
    shutil.copytree(tiny_bert, copy)
    (copy / "shoptalk.json").write_text("{}", encoding="utf-8")
    record, _ = compared(tmp_path, toy_retrieval(), tiny_bert, copy)
    assert record["tuned"] == record["base"]


def test_a_lesson_learned_shows_in_every_number(lesson: tuple[dict[str, Any], Path]) -> None:
    record, _ = lesson
    assert record["metric"] == PRIMARY
    assert record["queries"] == record["groups"] == 20
    for metric in METRICS:
        delta = record["delta"][metric]
        assert delta["value"] == pytest.approx(record["tuned"][metric] - record["base"][metric])
        assert delta["ci95"][0] <= delta["value"] <= delta["ci95"][1]
    assert record["delta"][PRIMARY]["ci95"][0] > 0
    assert record["won"] > 15
    assert record["verdict"] == "inconclusive"
    assert record["reasons"][0].startswith("20 test queries: under 50")
    assert record["rule"].startswith("ship: nDCG@10 up by at least 0.01")


def test_a_lesson_unlearned_is_not_shipped(tmp_path: Path, tiny_bert: Path, taught_bert: Path) -> None:
    record, _ = compared(tmp_path, toy_retrieval(), taught_bert, tiny_bert)
    assert record["verdict"] == "do-not-ship"
    assert record["lost"] > 15


def test_the_origin_of_the_test_queries_caps_the_verdict(tmp_path: Path, tiny_bert: Path, taught_bert: Path) -> None:
    data = toy_retrieval(n_train=40, n_dev=12)
    human, _ = compared(tmp_path / "human", data, tiny_bert, taught_bert, training_pairs=500)
    offline, _ = compared(tmp_path / "offline", data, tiny_bert, taught_bert, training_pairs=500, test_origin="offline")
    assert (human["queries"], human["verdict"], offline["verdict"]) == (80, "ship", "inconclusive")


def test_the_rankings_on_disk_give_the_same_metrics(lesson: tuple[dict[str, Any], Path]) -> None:
    record, folder = lesson
    dataset = toy_retrieval()
    for name in ("base", "tuned", "bm25"):
        ranking = read_trec(folder / f"{name}.trec", 100)
        assert mean(per_query(dataset.qrels["test"], ranking)) == pytest.approx(record[name])
    assert {len(found) for found in read_trec(folder / "base.trec", 1_000).values()} == {100}
    assert (folder / "base.trec").read_text(encoding="utf-8").splitlines()[0].split("\t")[1::2][:2] == ["Q0", "1"]


def test_there_is_a_row_for_every_test_query(lesson: tuple[dict[str, Any], Path]) -> None:
    record, folder = lesson
    rows = [row for _, row in read_jsonl(folder / "per_query.jsonl")]
    dataset = toy_retrieval()
    assert [row["query_id"] for row in rows] == list(dataset.qrels["test"])
    for row in rows:
        assert row["change"] == row["tuned"][PRIMARY] - row["base"][PRIMARY]
        assert row["text"] == dataset.queries[row["query_id"]].text
        assert row["group"] == dataset.groups[row["query_id"]]
        assert row["tuned"]["mrr@10"] == pytest.approx(1 / row["rank_tuned"] if row["rank_tuned"] <= 10 else 0)
    assert np.mean([row["change"] for row in rows]) == pytest.approx(record["delta"][PRIMARY]["value"])


def test_scored_pairs_are_compared_by_spearman(tmp_path: Path, tiny_bert: Path) -> None:
    settings = toy_settings(tiny_bert, train={"epochs": 4})
    tuned = train_toy(tmp_path / "training", toy_similarity(), settings).out / "best"
    record, folder = compared(tmp_path, toy_similarity(), tiny_bert, tuned)
    assert record["metric"] == "spearman"
    assert record["delta"]["spearman"]["value"] > 0.4
    assert record["verdict"] == "ship"
    rows = [row for _, row in read_jsonl(folder / "per_query.jsonl")]
    pairs = toy_similarity().pairs["test"]
    assert [row["query_id"] for row in rows] == [pair.pair_id for pair in pairs]
    for row, pair in zip(rows, pairs, strict=True):
        before, after = (abs(pair.score - max(0, row[side]["cosine"])) for side in ("base", "tuned"))
        assert row["change"] == pytest.approx(before - after)
        assert pair.sentence1 in row["text"]
        assert pair.sentence2 in row["text"]
    assert not list(folder.glob("*.trec"))


# Deltas


def measured(values: dict[str, list[float]]) -> Measured:
    """A system from its values by metric, one a query."""
    n = len(next(iter(values.values())))
    rows = {f"q{i}": {metric: column[i] for metric, column in values.items()} for i in range(n)}
    return Measured(mean(rows), rows, {})


def test_holms_correction_is_for_all_but_the_deciding_metric() -> None:
    rng = np.random.default_rng(3)
    base = {metric: list(rng.random(40)) for metric in METRICS}
    better = {metric: [v + 0.06 * i + rng.normal() * 0.1 for v in base[metric]] for i, metric in enumerate(METRICS)}
    deltas = compare_measured(measured(base), measured(better), {}, QUICKLY, 12)
    assert list(deltas) == list(METRICS)
    assert deltas[PRIMARY].p_holm is None
    others = sorted((deltas[metric] for metric in METRICS if metric != PRIMARY), key=lambda delta: delta.p)
    expected = 0.0
    for place, delta in enumerate(others):
        expected = max(expected, min(1.0, delta.p * (len(others) - place)))
        assert delta.p_holm == pytest.approx(expected)
    assert any(delta.p_holm > delta.p for delta in others if delta.p_holm is not None)


def test_the_deciding_metric_is_the_same_whatever_else_is_measured() -> None:
    base, other = [0.1, 0.5, 0.3, 0.9, 0.2, 0.4], [0.3, 0.6, 0.2, 0.9, 0.5, 0.8]
    alone = compare_measured(measured({PRIMARY: base}), measured({PRIMARY: other}), {}, QUICKLY, 12)
    beside = compare_measured(
        measured({PRIMARY: base, "mrr@10": base}), measured({PRIMARY: other, "mrr@10": other}), {}, QUICKLY, 12
    )
    assert alone[PRIMARY] == beside[PRIMARY]


def test_queries_of_one_group_count_as_one() -> None:
    base, other = [0.0] * 40, [0.2, -0.1] * 20
    groups = {f"q{i}": f"g{i // 10}" for i in range(40)}
    shared = {f"q{i}": f"g{i % 2}" for i in range(40)}
    systems = measured({PRIMARY: base}), measured({PRIMARY: other})
    even = compare_measured(*systems, groups, QUICKLY, 12)[PRIMARY]
    torn = compare_measured(*systems, shared, QUICKLY, 12)[PRIMARY]
    assert even.ci95[0] > 0 > torn.ci95[0]


def test_a_delta_survives_json() -> None:
    for delta in (Delta(0.1, (-0.2, 0.3), 0.04, 0.08), Delta(0.1, (-0.2, 0.3), 0.04)):
        assert delta_from_json(json.loads(json.dumps(delta.as_json()))) == delta


# Won and lost


def row(query_id: str, change: float) -> dict[str, Any]:
    return {"query_id": query_id, "change": change}


def test_won_lost_and_unchanged_are_counted() -> None:
    rows = [row("a", 0.5), row("b", -0.1), row("c", 0.0), row("d", 1e-12), row("e", -1e-12), row("f", 0.01)]
    found = outcomes(rows)
    assert (found["won"], found["lost"], found["unchanged"]) == (2, 1, 3)
    assert found["largest_won"] == ["a", "f"]
    assert found["largest_lost"] == ["b"]


def test_the_ten_largest_are_named_the_largest_first_and_ties_by_id() -> None:
    changes = [0.1 * (1 + i % 6) for i in range(24)]
    rows = [row(f"w{i:02d}", change) for i, change in enumerate(changes)]
    rows += [row(f"l{i:02d}", -change) for i, change in enumerate(changes)]
    expected = sorted(range(24), key=lambda i: (-changes[i], i))[:10]
    for order in (rows, rows[::-1]):
        found = outcomes(order)
        assert found["largest_won"] == [f"w{i:02d}" for i in expected]
        assert found["largest_lost"] == [f"l{i:02d}" for i in expected]


def test_nothing_to_compare_is_nothing_won() -> None:
    assert outcomes([]) == {"won": 0, "lost": 0, "unchanged": 0, "largest_won": [], "largest_lost": []}


# Systems and rows


def test_a_system_is_measured_on_the_split_that_is_named(hash_encoder: Encoder) -> None:
    dataset = toy_retrieval()
    for split in ("train", "dev", "test"):
        found = measure(hash_encoder, dataset, 100, split)
        assert found.per_query.keys() == found.ranking.keys() == dataset.qrels[split].keys()
        assert found.metrics == mean(found.per_query)
        assert measure_bm25(dataset, 100, split).per_query.keys() == dataset.qrels[split].keys()


def test_the_whole_corpus_is_the_haystack(make_encoder: Callable[..., Encoder]) -> None:
    dataset = toy_retrieval()
    found = {p for ranking in measure(make_encoder(64), dataset, 132).ranking.values() for p, _ in ranking}
    assert found == dataset.passages.keys()


def test_a_passage_that_was_not_found_has_no_rank() -> None:
    dataset = toy_retrieval(n_train=92, n_dev=38)
    first, second = dataset.qrels["test"]
    base = Measured({}, {q: {PRIMARY: 0.0} for q in (first, second)}, {first: [("p0", 1.0), ("p130", 0.5)], second: []})
    tuned = replace(base, ranking={first: [("p130", 1.0)], second: [("p1", 2.0), ("p2", 1.0), ("p131", 0.5)]})
    rows = per_query_rows(dataset, base, tuned)
    assert [(r["rank_base"], r["rank_tuned"]) for r in rows] == [(2, 1), (None, 3)]


def test_a_passage_judged_as_no_answer_does_not_count_as_found() -> None:
    dataset = toy_retrieval(n_train=92, n_dev=38)
    first, second = dataset.qrels["test"]
    dataset.qrels["test"][first]["p0"] = 0
    found = Measured(
        {}, {q: {PRIMARY: 0.0} for q in (first, second)}, {first: [("p0", 1.0), ("p130", 0.5)], second: []}
    )
    assert per_query_rows(dataset, found, found)[0]["rank_base"] == 2


# Run files


def test_a_ranking_survives_its_run_file_to_the_last_bit_of_float32(tmp_path: Path, hash_encoder: Encoder) -> None:
    ranking = measure(hash_encoder, toy_retrieval(), 100).ranking
    path = tmp_path / "run.trec"
    write_trec(path, ranking, "name")
    assert as_float32(read_trec(path, 100)) == as_float32(ranking)
    assert as_float32(read_trec(path, 7)) == as_float32({q: found[:7] for q, found in ranking.items()})
    some = list(ranking)[:3]
    assert list(read_trec(path, 100, set(some))) == some


def as_float32(ranking: Ranking) -> Ranking:
    return {q: [(p, float(np.float32(score))) for p, score in found] for q, found in ranking.items()}


def test_ids_of_any_kind_survive_a_run_file(tmp_path: Path) -> None:
    ranking = {"q 1": [("docs/a b.md#3", 0.5), ("ü", 0.25)], "\u2028q": [("Q0", -1.0)]}
    write_trec(tmp_path / "run.trec", ranking, "name")
    assert read_trec(tmp_path / "run.trec", 100) == ranking


# What the stage writes beside metrics


def test_the_table_holds_every_system_in_every_form(lesson: tuple[dict[str, Any], Path]) -> None:
    record, _ = lesson
    rows = [(row["system"], row["dimensions"], row["precision"]) for row in record["table"]]
    forms = [(32, "float32"), (32, "int8"), (32, "binary")]
    plain = [(name, None, "") for name in ("bm25", "fused", "base-fused")]
    assert rows == [("base", *form) for form in forms] + [("tuned", *form) for form in forms] + plain
    for row in record["table"]:
        if row["precision"] in ("", "float32"):
            assert row["ndcg@10"] == record[row["system"]]["ndcg@10"]
    assert record["table"][0]["bytes_per_passage"] == 128
    assert record["table"][0]["seconds_per_1000"] > 0


def test_fusion_is_measured_for_both_models(lesson: tuple[dict[str, Any], Path]) -> None:
    record, folder = lesson
    base, tuned, bm25 = (read_trec(folder / f"{name}.trec", 100) for name in ("base", "tuned", "bm25"))
    for name, model in (("fused", tuned), ("base-fused", base)):
        fused = reciprocal_rank([model, bm25], depth=100)
        assert mean(per_query(toy_retrieval().qrels["test"], fused)) == pytest.approx(record[name])
        assert {q: [p for p, _ in found] for q, found in read_trec(folder / f"{name}.trec", 100).items()} == {
            q: [p for p, _ in found] for q, found in fused.items()
        }
    for name, model in (("tuned", "tuned"), ("base", "base")):
        fused_name = "fused" if name == "tuned" else "base-fused"
        assert record["fusion"][name]["value"] == pytest.approx(record[fused_name][PRIMARY] - record[model][PRIMARY])


def test_slices_are_those_of_the_dataset(tmp_path: Path, tiny_bert: Path, taught_bert: Path) -> None:
    dataset = toy_retrieval(n_train=20, n_dev=12)
    kinds = {q: replace(query, kind="faq" if i % 2 else "term") for i, (q, query) in enumerate(dataset.queries.items())}
    record, _ = compared(tmp_path, replace(dataset, queries=kinds), tiny_bert, taught_bert)
    found = {(row["by"], row["name"]): row for row in record["slices"]}
    assert found["query kind", "faq"]["queries"] == found["query kind", "term"]["queries"] == 50
    row = found["query kind", "faq"]
    assert row["delta"]["value"] == pytest.approx(row["tuned"] - row["base"])
    assert row["delta"]["p_holm"] >= row["delta"]["p"]
    assert not row["worse"]
    record, _ = compared(tmp_path / "worse", replace(dataset, queries=kinds), taught_bert, tiny_bert)
    assert record["slices"][0]["worse"]


def test_holes_are_counted_written_and_filled(tmp_path: Path, tiny_bert: Path, taught_bert: Path) -> None:
    record, folder = compared(tmp_path / "before", toy_retrieval(), tiny_bert, taught_bert)
    assert record["holes"]["depth"] == 10
    for name in ("base", "tuned", "bm25", "fused"):
        ranking = read_trec(folder / f"{name}.trec", 10)
        judged = toy_retrieval().qrels["test"]
        expected = sum(p not in judged[q] for q, found in ranking.items() for p, _ in found)
        assert record["holes"][name]["unjudged"] == expected
    with (folder / "holes.csv").open(encoding="utf-8-sig", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == record["holes"]["rows"]
    first = next(row for row in rows if "tuned" not in row["found_by"])
    labels = tmp_path / "labels.csv"
    labels.write_text(f"query_id,passage_id,grade\n{first['query_id']},{first['passage_id']},1\n", encoding="utf-8")

    data = saved(tmp_path / "after" / "dataset", toy_retrieval())
    settings = toy_settings(tiny_bert, evaluate={"labels": str(labels)})
    stage = stage_in(tmp_path / "after" / "evaluation", settings, dataset=data, model=taught_bert)
    compare(stage)
    after = comparison_of(stage)
    assert after["labels"] == {
        "file": "labels.csv",
        "sha256": sha256_of(labels),
        "judgements": 1,
        "relevant": 1,
        "queries": 1,
    }
    assert after["holes"]["base"]["unjudged"] == record["holes"]["base"]["unjudged"] - 1
    assert after["base"][PRIMARY] > record["base"][PRIMARY]
    assert read_qrels(stage.out / "qrels.tsv")[first["query_id"]][first["passage_id"]] == 1
    assert not (folder / "qrels.tsv").exists()
