"""The section on the team's own words: what it says, what it escapes, and that it is left out where there is nothing to say."""

from __future__ import annotations

import html
import json
from pathlib import Path

import pytest

from report.runs import HOSTILE, Kind, make_run, make_similarity_run
from shoptalk.report import build_report
from shoptalk.report.artifacts import read_artifacts
from shoptalk.report.vocabulary import CARDS, Story, summary, tell
from shoptalk.workspace import StageContext


def story_of(stage: StageContext) -> Story:
    story = tell(read_artifacts(stage))
    assert story is not None
    return story


def page_of(stage: StageContext) -> str:
    build_report(stage)
    return (stage.out / "report.html").read_text(encoding="utf-8")


def test_the_most_changed_terms_are_cards_and_the_rest_a_table(tmp_path: Path) -> None:
    story = story_of(make_run(tmp_path))
    assert [term.text for term in (*story.cards, *story.rest)] == [f"LLM {i}" for i in range(9)]
    assert len(story.cards) == CARDS


def test_a_card_says_what_is_heard_found_and_meant(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path))
    for text in (
        "Your words, before and after",
        "The base model hears",
        "piano",
        "LLM meaning 0",
        "Finds before",
        "+0.200",
    ):
        assert text in page
    assert "written out in 4 of the 5 passages its training queries point to" in page
    assert "and those that write out “LLM meaning 0”" in page
    assert 'href="#vocabulary"' in page


def test_moves_are_on_one_scale_with_zero_inside(tmp_path: Path) -> None:
    story = story_of(make_run(tmp_path))
    moves = [term.move for term in (*story.cards, *story.rest)]
    assert len({move.zero for move in moves}) == 1
    assert all(0 <= place <= 100 for move in moves for place in (move.before, move.after, move.zero))
    assert (moves[0].after > moves[0].zero > moves[0].before, moves[2].after < moves[2].before) == (True, True)


@pytest.mark.parametrize(
    ("change", "places", "tone"),
    [(0.1, (5, 1), "good"), (-0.1, (1, 5), "bad"), (-0.1, (1, 1), ""), (0.0001, (1, 1), "")],
)
def test_only_a_move_away_that_costs_places_is_bad(
    tmp_path: Path, change: float, places: tuple[int, int], tone: str
) -> None:
    stage = make_run(tmp_path)
    path = tmp_path / "diagnosis" / "vocabulary.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    told["terms"][0] |= {"change": change}
    told["terms"][0]["before"]["place"], told["terms"][0]["after"]["place"] = places
    path.write_text(json.dumps(told), encoding="utf-8")
    assert story_of(stage).cards[0].move.tone == tone


def test_the_summary_names_the_best_term_and_is_silent_when_none_got_better(tmp_path: Path) -> None:
    assert "“LLM 0” moved the most" in summary(story_of(make_run(tmp_path / "a")))
    assert "from place 15 to 2" in summary(story_of(make_run(tmp_path / "b")))
    assert summary(story_of(make_run(tmp_path / "c", Kind(terms=0)))) == ""


def test_coverage_adds_up_and_names_what_training_does_not_show(tmp_path: Path) -> None:
    stage = make_run(tmp_path)
    story = story_of(stage)
    assert (story.found, story.asked, story.said, story.uncovered) == (14, 9, 2, 3)
    assert "LLM unseen 2" in page_of(stage)


def test_hostile_terms_are_text(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path, Kind(term=HOSTILE)))
    assert "<img src=x" not in page
    assert html.escape("<img src=x onerror=alert(1)>") in page


def test_scored_pairs_have_no_such_section(tmp_path: Path) -> None:
    stage = make_similarity_run(tmp_path)
    assert tell(read_artifacts(stage)) is None
    page = page_of(stage)
    assert 'id="vocabulary"' not in page
    assert "#vocabulary" not in page.split("</style>")[1]


def test_the_result_has_the_terms_for_programs(tmp_path: Path) -> None:
    stage = make_run(tmp_path)
    build_report(stage)
    first = json.loads((stage.out / "result.json").read_text(encoding="utf-8"))["vocabulary"][0]
    assert first == {
        "term": "LLM 0",
        "kind": "acronym",
        "means": ["LLM meaning 0"],
        "base_hears": ["LLM heard", "piano", "airport"],
        "nearness": {"base": -0.05, "tuned": pytest.approx(0.15)},
        "place": {"base": 15, "tuned": 2},
        "training": {"queries": 5, "positives": 1},
    }
