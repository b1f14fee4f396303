"""The section on the training data: each part where its artifact is, escaped, with the numbers that the artifacts have."""

from __future__ import annotations

import html
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from report.runs import HOSTILE, Kind, make_run, make_similarity_run
from report.trained_on import write_usage
from shoptalk.report import build_report
from shoptalk.report.artifacts import Artifacts, read_artifacts
from shoptalk.report.hard_negatives import hard_negatives
from shoptalk.report.training_data import TrainingData, gather
from shoptalk.report.wording import learning_words
from shoptalk.workspace import StageContext

BARE = Kind(trained_on=False)


def data_of(run: Artifacts) -> TrainingData:
    data = gather(run)
    assert data is not None
    return data


def section_of(stage: StageContext) -> str:
    build_report(stage)
    page = (stage.out / "report.html").read_text(encoding="utf-8")
    return page.split('<section id="training-data">')[1].split("</section>")[0]


def test_the_section_stands_before_training_and_in_the_contents(tmp_path: Path) -> None:
    stage = make_run(tmp_path)
    build_report(stage)
    page = (stage.out / "report.html").read_text(encoding="utf-8")
    assert page.index('href="#training-data"') < page.index('href="#training"')
    assert page.index('<section id="vocabulary">') < page.index('<section id="training-data">')
    assert page.index('<section id="training-data">') < page.index('<section id="training">')


def test_made_queries_by_kind_add_up_and_say_why(tmp_path: Path) -> None:
    data = data_of(read_artifacts(make_run(tmp_path)))
    assert [(kind.name, kind.drafted, kind.kept, kind.rejected) for kind in data.kinds] == [
        ("heading", 40, 30, (("copied from its passage", 8), ("off the record", 2))),
        ("key phrase", 1, 0, (("its passage had enough queries", 1),)),
    ]
    assert data.total is not None
    assert (data.total.drafted, data.total.kept) == (41, 30)
    assert sum(n for _, n in data.total.rejected) == 11


def test_samples_name_their_passage_and_the_reason(tmp_path: Path) -> None:
    heading, phrase = data_of(read_artifacts(make_run(tmp_path))).kinds
    assert (len(heading.samples), len(heading.turned_down), len(phrase.samples)) == (5, 4, 0)
    assert all(one.place.startswith("Meetings › Minutes") and not one.why for one in heading.samples)
    assert heading.turned_down[0].why.startswith("copied from its passage: the passage says 'Who keeps")
    assert (phrase.turned_down[0].place, phrase.turned_down[0].why) == (
        "gone",
        "its passage had enough queries: gone has 2 already",
    )


def test_thresholds_are_told_and_those_switched_off_are_not(tmp_path: Path) -> None:
    run = read_artifacts(make_run(tmp_path / "on"))
    words = " ".join(data_of(run).thresholds)
    for part in ("8 words in a row", "among the first 20", "less than 97%", "less than 80%", "2 queries", "3 of 5"):
        assert part in words
    off = {"round_trip_k": 0, "copied_words": 0, "off_language": False}
    run = replace(run, yields={"kinds": run.yields["kinds"], "thresholds": run.yields["thresholds"] | off})
    words = " ".join(data_of(run).thresholds)
    for part in ("in a row", "among the first", "97%", "language", "of 5"):
        assert part not in words


def test_usage_of_a_language_model_is_told_for_this_run_and_all(tmp_path: Path) -> None:
    section = " ".join(html.unescape(section_of(make_run(tmp_path, Kind(term="small-one")))).split())
    assert "written by small-one (openai): 34 calls in this run, 1 retry, 1,200 answers from the cache" in section
    rows = data_of(read_artifacts(make_run(tmp_path / "again"))).taken
    assert rows is not None
    assert [row[1:] for row in rows.rows] == [("12,345", "112,345"), ("678", "2,678"), ("0.0421", "1.54")]
    assert "1,500 tokens sent and 300 written, cost 0.0012. 1 query got no usable scores and was kept." in section
    assert "2 calls ended without an answer" in section


@pytest.mark.parametrize(
    ("provider", "words"),
    [
        ("openai", "Cost unknown: no prices given."),
        ("transformers", "Nothing was paid: the model ran on this machine."),
    ],
)
def test_without_prices_the_cost_is_unknown(tmp_path: Path, provider: str, words: str) -> None:
    stage = make_run(tmp_path)
    write_usage(tmp_path / "queries", "m", known=False, provider=provider)
    section = section_of(stage)
    assert words in section
    assert ">Cost<" not in section
    assert ", cost" not in section


def test_a_judge_alone_is_told_as_well(tmp_path: Path) -> None:
    stage = make_run(tmp_path, settings={"llm": {"provider": "anthropic", "model": "judging-one"}})
    (tmp_path / "queries" / "usage.json").unlink()
    section = section_of(stage)
    assert "Queries were judged by judging-one (anthropic)." in section
    assert "Cost unknown: no prices given." in section


def test_hard_negatives_show_the_audit(tmp_path: Path) -> None:
    run = read_artifacts(make_run(tmp_path))
    told = hard_negatives(run)
    assert told.words == run.mining["sentence"]
    assert sum(bar.count for bar in told.positions) == run.mining["mined"]
    assert [bar.count for bar in told.shares] == run.mining["shares"]["counts"]
    assert max(bar.size for bar in told.shares) == 100.0
    assert told.positions[0].name == "1"
    assert told.positions[1].name == "2 to 3"
    assert told.margin == 95.0
    assert {bar.name for bar in told.left_out} >= {"judged for this query already", "scores too near to the answer"}
    section = section_of(make_run(tmp_path / "again"))
    assert section.count("<title>") == sum(bar.count > 0 for bar in told.shares)


def test_false_negatives_are_shown_by_margin_with_their_interval(tmp_path: Path) -> None:
    run = read_artifacts(make_run(tmp_path))
    answers, copies = hard_negatives(run).held_back
    found = run.mining["false_negatives"]["other_answers"]
    assert (answers.trials, copies.trials) == (
        found["trials"],
        run.mining["false_negatives"]["near_duplicates"]["trials"],
    )
    assert [row.margin for row in answers.rows] == ["80%", "90%", "95%", "98%", "100%", "none"]
    assert [row.margin for row in answers.rows if row.used] == ["95%"]
    free = found["by_margin"][-1]
    assert free["taken"] > found["by_margin"][0]["taken"]
    assert answers.rows[-1].rate == f"{free['taken'] / found['trials']:.1%}"
    assert answers.rows[-1].interval == f"{free['ci95'][0]:.1%} to {free['ci95'][1]:.1%}"
    assert answers.rows[-1].strip.low < answers.rows[-1].strip.value < answers.rows[-1].strip.high


def test_without_mining_one_line_says_what_served_instead(tmp_path: Path) -> None:
    stage = make_run(tmp_path, BARE)
    run = read_artifacts(stage)

    def told(**more: Any) -> str:
        return hard_negatives(replace(run, training=run.training | more)).words

    assert told(negatives_per_example=0).startswith("No hard negatives were mined. In-batch negatives alone were used")
    assert "those that came with the queries, up to 2 a training pair" in told(negatives_per_example=2)
    assert "against all passages" in told(method="query-linear", negatives_per_example=0)
    section = section_of(stage)
    assert "No hard negatives were mined." in section
    for part in (
        "Made queries",
        "Language model",
        "Second round",
        "weigh less",
        "<svg",
        "Candidates that were left out",
    ):
        assert part not in section


def test_mining_that_found_nothing_says_why(tmp_path: Path) -> None:
    run = read_artifacts(make_run(tmp_path))
    nothing = run.mining | {
        "mined": 0,
        "sentence": "No hard negative was found.",
        "ranks": {"median": None, "counts": []},
    }
    told = hard_negatives(replace(run, mining=nothing, training=run.training | {"negatives_per_example": 0}))
    assert told.words.startswith("No hard negative was found. In-batch negatives alone were used")
    assert (told.positions, told.shares, told.held_back) == ((), (), ())
    assert told.left_out


def test_second_round_and_weak_labels_are_told(tmp_path: Path) -> None:
    stage = make_run(tmp_path)
    (tmp_path / "candidates" / "round-2").mkdir()
    (tmp_path / "candidates" / "round-2" / "audit.json").write_text('{"sentence": "77 hard <negatives>."}')
    section = section_of(stage)
    assert "What the tuned model mined: 77 hard &lt;negatives&gt;." in section
    assert "The second round is not used: trained on hard negatives that the tuned model mined" in section
    assert "30 of them weigh less than 1" in section
    assert "Queries from a click log: 24 train." in section


def test_hostile_samples_are_text(tmp_path: Path) -> None:
    braces = HOSTILE.replace("{", "{{").replace("}", "}}")
    stage = make_run(tmp_path, Kind(query=f"{braces} {{i}}", title=braces, term=HOSTILE))
    section = section_of(stage)
    assert "<img" not in section
    assert section.count(html.escape("<img src=x onerror=alert(1)>")) > 15
    harmless = section_of(make_run(tmp_path / "harmless"))
    assert section.count("<li>") == harmless.count("<li>")


def test_a_reason_that_is_not_known_and_a_source_that_is_not_are_shown_as_text(tmp_path: Path) -> None:
    stage = make_run(tmp_path)
    path = tmp_path / "examples" / "audit.json"
    audit = json.loads(path.read_text(encoding="utf-8"))
    audit |= {"by_source": {"<b>new</b>": 3}, "candidates_left_out": {"<i>other</i>": 2}, "sentence": "<u>words</u>"}
    path.write_text(json.dumps(audit), encoding="utf-8")
    section = section_of(stage)
    for text in ("<b>new</b>", "<i>other</i>", "<u>words</u>"):
        assert text not in section
        assert html.escape(text) in section


def test_scored_pairs_have_no_such_section(tmp_path: Path) -> None:
    stage = make_similarity_run(tmp_path)
    assert gather(read_artifacts(stage)) is None
    build_report(stage)
    assert "training-data" not in (stage.out / "report.html").read_text(encoding="utf-8").split("</style>")[1]


def test_why_a_checkpoint_is_kept_is_true_whichever_it_is(tmp_path: Path) -> None:
    run = read_artifacts(make_run(tmp_path))

    def said(**more: Any) -> str:
        return learning_words(replace(run, training=run.training | more))[1]

    assert said().endswith("0.740 at the last checkpoint (step 12), which is the one kept; none is clearly higher.")
    assert "at the last checkpoint (step 12)" in said(highest_dev=0.76)
    assert "The highest, 0.760, is ahead of it by no more than two standard errors" in said(highest_dev=0.76)
    clearly = said(best_dev=0.66, highest_dev=0.66, best_step=8)
    assert "0.660 at the highest checkpoint (step 8), which is the one kept: it is ahead of the last" in clearly
    adapter = replace(run, training={name: value for name, value in run.training.items() if name != "highest_dev"})
    assert learning_words(adapter)[1].endswith("0.740 at the checkpoint that is kept (step 12), the highest.")


def test_an_early_stop_is_a_clear_fall(tmp_path: Path) -> None:
    run = read_artifacts(make_run(tmp_path))
    words = learning_words(replace(run, training=run.training | {"steps": 40}))[0]
    assert words.endswith("12 steps of 40 were done. It stopped early, as the dev score had clearly fallen.")
    assert "early" not in learning_words(run)[0]
