"""The gate's, the comparison's, the retention's, the map's and the methods' sections: what they say, and that each stays away
where its data is not there.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from report.runs import FINDING, HOSTILE, Kind, make_run, make_similarity_run
from report.test_report import Page
from shoptalk.report.artifacts import Artifacts, read_artifacts
from shoptalk.report.comparison import compared
from shoptalk.report.corpus_map import SIZE, corpus_map
from shoptalk.report.cost import cost
from shoptalk.report.facts import prices
from shoptalk.report.gate import assessed
from shoptalk.report.methods import paragraph
from shoptalk.report.page import render
from shoptalk.report.retention import retained
from shoptalk.report.wording import duration, excerpt, size, speed


def run_of(folder: Path, kind: Kind | None = None, settings: dict[str, Any] | None = None) -> Artifacts:
    return read_artifacts(make_run(folder, kind, settings))


def section(run: Artifacts, name: str) -> str:
    """The words of a section."""
    return Page(render(run).split(f'<section id="{name}">')[1].split("</section>")[0]).words


# The gate


def test_the_gate_shows_all_systems_with_speed_and_size(tmp_path: Path) -> None:
    gate = assessed(run_of(tmp_path))
    assert [row.name for row in gate.rows] == ["Base model", "BM25", "Base and BM25 fused", "models/candidate"]
    assert [row.seconds for row in gate.rows] == ["4.8", "< 0.1", "4.8", "9.6"]
    assert [row.index for row in gate.rows] == ["23.0 MB", "410.0 kB", "23.4 MB", "46.0 MB"]
    assert [(row.delta, row.sure) for row in gate.rows] == [
        ("", False),
        ("−0.090", True),
        ("+0.030", False),
        ("+0.060", True),
    ]
    assert gate.rows[3].detail == "768 dimensions"


def test_the_gate_shows_headroom_power_forecast_and_rules(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    gate, words = assessed(run), section(run, "gate")
    assert [(part.start, part.width) for part in gate.headroom] == [(0, 50), (50, 35), (85, 15)]
    assert gate.forecast is not None
    assert "+0.080 (+0.050 to +0.120) with 480" in gate.forecast.caption
    for part in (
        "a perfect reranker could add 0.350",
        "smallest gain seen four times in five",
        f"{run.gate['power']['more_needed']:,}",
        "Forecast: A quick adapter",
        "1 of 2 reached",
        "Recall@10 0.700 0.9 – no",
    ):
        assert part in words, part


def test_a_gate_of_an_earlier_version_has_its_two_rows(tmp_path: Path) -> None:
    run = run_of(tmp_path, Kind(assessed=False))
    assert [row.name for row in assessed(run).rows] == ["Base model", "BM25"]
    words = section(run, "gate")
    for part in ("What is left to gain", "What the test set can show", "Rule of thumb", "Index"):
        assert part not in words


def test_why_there_is_no_forecast_is_said(tmp_path: Path) -> None:
    stage = make_run(tmp_path)
    path = tmp_path / "baseline" / "gate.json"
    gate = json.loads(path.read_text()) | {"forecast": None, "no_forecast": "no forecast: too few queries"}
    path.write_text(json.dumps(gate))
    run = read_artifacts(stage)
    assert assessed(run).forecast is None
    assert "No forecast: too few queries." in section(run, "gate")


# The comparison


def test_quality_size_and_speed_stand_in_one_table(tmp_path: Path) -> None:
    rows = compared(run_of(tmp_path)).table
    assert [(row.name, row.vectors, row.size, row.seconds, row.ships) for row in rows] == [
        ("Base model", "384 float32", "1.5 kB", "4.8", False),
        ("Tuned model", "384 float32", "1.5 kB", "4.8", True),
        ("Tuned model", "128 int8", "128 B", "4.8", False),
        ("BM25", "—", "210 B", "< 0.1", False),
        ("doc-run", "—", "0 B", "—", False),
    ]


def test_what_keywords_add_is_said_with_its_doubt(tmp_path: Path) -> None:
    assert compared(run_of(tmp_path)).fusion == (
        "BM25 fused with a model adds in nDCG@10 +0.050 to the base model (+0.020 to +0.080) and +0.012 to the tuned model "
        "(−0.010 to +0.030, which may be chance)."
    )


def test_labels_added_since_are_counted_and_mark_the_right_passages(tmp_path: Path) -> None:
    stage = make_run(tmp_path)
    path = tmp_path / "evaluation" / "comparison.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"labels": {"file": "a.csv", "judgements": 3}}))
    lines = "query-id\tcorpus-id\tscore\nq0\tp0\t1\nq0\tp5\t1\n"
    (tmp_path / "evaluation" / "qrels.tsv").write_text(lines)
    run = read_artifacts(stage)
    assert run.relevant["q0"] == {"p0": 1, "p5": 1}
    assert compared(run).holes.endswith("3 judgements labelled since are counted.")


def test_slices_that_got_worse_are_named_first(tmp_path: Path) -> None:
    stage = make_run(tmp_path)
    path = tmp_path / "evaluation" / "comparison.json"
    found = json.loads(path.read_text())
    names = [row["name"] for row in found["slices"] if row["by"] == "query language"]
    for row in found["slices"]:
        if row["by"] == "query language" and row["name"] == names[-1]:
            row |= {"worse": True, "delta": {"value": -0.1, "ci95": [-0.15, -0.05], "p": 0.001, "p_holm": 0.006}}
    path.write_text(json.dumps(found))
    run = read_artifacts(stage)
    slices = compared(run).slices
    assert slices is not None
    name = {"de": "German", "en": "English"}[names[-1]]
    assert slices.worse == (f"{name} (query language)",)
    languages = next(rows for by, rows in slices.kinds if by == "query language")
    assert (languages[0].name, languages[0].worse) == (name, True)
    assert f"Worse for {name} (query language)." in section(run, "comparison")


def test_no_worse_slice_is_said_too_and_kinds_keep_their_order(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    slices = compared(run).slices
    assert slices is not None
    assert [by for by, _ in slices.kinds] == ["query length", "query language", "source"]
    if not slices.worse:
        assert "No slice of 30 queries or more got surely worse." in section(run, "comparison")


def test_holes_are_counted_for_both_models(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    holes = run.comparison["holes"]
    words = section(run, "comparison")
    assert f"{holes['base']['judged_share']:.0%} for the base model" in words
    assert f"{holes['base']['unjudged']:,} and {holes['tuned']['unjudged']:,} places" in words
    assert "evaluation/holes.csv" in words


def test_a_comparison_of_an_earlier_version_has_its_metrics_alone(tmp_path: Path) -> None:
    words = section(run_of(tmp_path, Kind(assessed=False)), "comparison")
    assert "MRR@10" in words
    for part in ("Quality, size and speed", "Slice", "nobody judged"):
        assert part not in words


# Retention


def test_retention_shows_both_sides_and_the_frontier(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    kept = retained(run)
    assert kept is not None
    assert [(side.name, side.whole, side.able) for side in kept.sides] == [
        ("General text", True, True), ("Other languages, together", True, True), ("German", False, True), ("Japanese", False, False),
        ("NanoBEIR, together", True, True), ("NanoNQ", False, True),
    ]  # fmt: skip
    assert kept.chart is not None
    assert "Ringed: the one that is shipped, 75%, with +0.230 on dev and −0.009 on general text" in kept.chart.caption
    points = [row for rows in kept.chart.spec["datasets"].values() for row in rows if row.get("kept") == "general text"]
    chosen = [point["weight"] for point in points if point["chosen"]]
    assert set(chosen) == {"75%"}
    words = section(run, "retention")
    assert "75%, shipped" in words
    assert "not counted: the base could not either" in words
    assert "Too much was lost" not in words
    assert "NanoMSMARCO: not measured: the Hub could not be reached." in words


def test_a_broken_limit_is_loud(tmp_path: Path) -> None:
    stage = make_run(tmp_path)
    path = tmp_path / "evaluation" / "comparison.json"
    found = json.loads(path.read_text())
    found["retention"]["general"] |= {"broken": True, "delta": {"value": -0.06, "ci95": [-0.08, -0.04], "p": 0.001}}
    path.write_text(json.dumps(found))
    run = read_artifacts(stage)
    assert "Too much was lost." in section(run, "retention")
    assert [price.tone for price in prices(run, None)] == ["bad", ""]


def test_without_retention_there_is_no_such_section(tmp_path: Path) -> None:
    page = render(run_of(tmp_path, Kind(assessed=False)))
    assert 'id="retention"' not in page
    assert 'href="#retention"' not in page
    assert 'id="map"' not in page
    assert 'href="#map"' not in page


def test_a_frontier_without_a_retention_set_has_words_and_no_chart(tmp_path: Path) -> None:
    stage = make_run(tmp_path)
    path = tmp_path / "model" / "shoptalk.json"
    found = json.loads(path.read_text())
    nothing = {"general": None, "general_loss": None, "cross_lingual": None, "cross_lingual_loss": None}
    found["frontier"] = [row | nothing for row in found["frontier"]]
    path.write_text(json.dumps(found))
    path = tmp_path / "evaluation" / "comparison.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"retention": None}))
    run = read_artifacts(stage)
    kept = retained(run)
    assert kept is not None
    assert kept.chart is None
    assert "75% of the way from base to tuned weights" in section(run, "retention")


# The map


def test_the_map_has_every_passage_on_both_sides_and_labels_that_do_not_touch(tmp_path: Path) -> None:
    drawn = corpus_map(run_of(tmp_path))
    assert drawn is not None
    for side in drawn.sides:
        assert len(side.dots) == len(drawn.names) == 60
        assert all(0 <= dot.x <= SIZE and 0 <= dot.y <= SIZE for dot in side.dots)
        labels = [term.label for term in side.terms if term.label]
        assert len(labels) >= 4
        for i, (x, y, anchor) in enumerate(labels):
            for other_x, other_y, other_anchor in labels[i + 1 :]:
                assert abs(y - other_y) >= 12 or anchor != other_anchor or abs(x - other_x) > 30
    assert drawn.names[1] == "Meetings › Minutes 1"
    assert [term.was is None for term in drawn.sides[0].terms] == [True] * 9
    assert [term.was is None for term in drawn.sides[1].terms] == [False] * 9


def test_the_map_is_told_in_words(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    words = section(run, "map")
    assert "1: LLM cluster 0, minutes 20 33%" in words
    assert re.search(r"LLM \d \d+% ", words)
    drawn = corpus_map(run)
    assert drawn is not None
    distances = [move.distance for move in drawn.moves]
    assert distances == sorted(distances, reverse=True)


def test_hostile_terms_and_clusters_are_text(tmp_path: Path) -> None:
    page = render(run_of(tmp_path, Kind(term=HOSTILE)))
    assert "<img src=x" not in page
    assert "<!-- {{ 7" not in page


# Findings, cost, methods


def test_findings_stand_by_severity(tmp_path: Path) -> None:
    kinds = [FINDING | {"name": name, "severity": name} for name in ("info", "warning", "high")]
    run = run_of(tmp_path, Kind(findings=tuple(kinds)))
    assert [finding["severity"] for finding in run.findings] == ["high", "warning", "info"]
    words = section(run, "findings")
    assert words.index("High high") < words.index("Warning warning") < words.index("Info info")


def test_the_first_screen_says_what_it_cost(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    first = Page(render(run).split("<nav")[0]).words
    assert "What it cost Time 13 s train 12 s, dataset 0.4 s Language model 1.54" in first
    assert "General text −0.008 nDCG@10, limit −0.020 Other languages −0.011" in first


def test_time_stands_by_stage_and_money_counts_what_was_judged(tmp_path: Path) -> None:
    took = cost(run_of(tmp_path))
    assert took is not None
    assert [(stage.name, stage.time) for stage in took.stages] == [
        ("Checking and splitting", "0.4 s"),
        ("Training", "12 s"),
    ]
    assert took.money == "1.54"  # 1.5421 for writing in all runs, 0.00123 for judging
    unpaid = cost(run_of(tmp_path / "b", Kind(trained_on=False)))
    assert unpaid is not None
    assert unpaid.money == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (9.96, "10 s"), (59.7, "1 min 00 s"), (187.4, "3 min 07 s"), (7_530, "2 h 05 min")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_sizes_speeds_and_excerpts_in_words() -> None:
    assert [size(n) for n in (0, 999, 1536, 23_000_000, 2.5e9)] == ["0 B", "999 B", "1.5 kB", "23.0 MB", "2.5 GB"]
    assert [speed(value) for value in (0.04, 0.05, 1234.5)] == ["< 0.1", "0.1", "1,234.5"]
    assert excerpt("one  two\nthree", 20) == "one two three"
    assert excerpt("one two three four", 12) == "one two…"
    assert len(excerpt("x" * 50, 12)) == 12


def test_the_methods_paragraph_has_the_numbers(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    words = paragraph(run)
    low, high = run.delta["ci95"]
    for part in (
        "All weights of all-MiniLM-L6-v2 were fine-tuned on 120 query-passage pairs for 3 epochs",
        "75% of the way from the base to the tuned ones, a point chosen on dev queries and on one half of a retention set",
        "60 passages for the same 60 test queries, asked by people",
        "200 resamples",
        f"+{low:.3f} to +{high:.3f}",
        "On 151 queries of general knowledge not used to choose the model, nDCG@10 went from 0.810 to 0.802",
        "The test split was evaluated once.",
    ):
        assert part in words, part
    assert "\n" not in words
    assert words in section(run, "methods")


def test_the_methods_paragraph_of_scored_pairs_speaks_of_pairs(tmp_path: Path) -> None:
    words = paragraph(read_artifacts(make_similarity_run(tmp_path)))
    assert "the same 60 test pairs, scored by people" in words
    assert "Spearman was" in words
    assert "passage" not in words
