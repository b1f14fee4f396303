"""report.html: what stands in it, what is escaped, that it is one file, and that it is always the same."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from report.runs import FINDING, HOSTILE, Kind, make_run, make_similarity_run
from shoptalk.report import build_report
from shoptalk.report.artifacts import read_artifacts
from shoptalk.report.charts import learning_charts, rank_places, retrieval_charts, sample
from shoptalk.report.examples import won_and_lost
from shoptalk.report.wording import answer, count, p_value, plain, queries_needed, sentence, sides, signed
from shoptalk.workspace import StageContext

WORSE = Kind(ranks=((1, 2), (1, 4), (3, 3), (1, 12), (5, 30), (4, 3)))
UNSURE = Kind(ranks=((1, 2), (4, 1), (3, 3), (6, 5), (30, 30), (2, 3), (9, 4), (1, 2)))


class Page(HTMLParser):
    """A page as a browser would parse it: its words, the scripts, the tags with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._words: list[str] = []
        self._inside = ""
        self.feed(text)
        self.close()

    @property
    def words(self) -> str:
        return " ".join(" ".join(self._words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif not self._inside:
            self._words.append(data)

    @property
    def charts(self) -> dict[str, Any]:
        charts: dict[str, Any] = json.loads(self.scripts[0])["charts"]
        return charts


def page_of(stage: StageContext) -> Page:
    build_report(stage)
    return Page((stage.out / "report.html").read_text(encoding="utf-8"))


def first_screen(page: Page) -> str:
    return page.words.split(" Gate Comparison ")[0]


def test_first_screen_has_verdict_gain_interval_and_reasons(tmp_path: Path) -> None:
    stage = make_run(tmp_path)
    page = page_of(stage)
    comparison = json.loads((tmp_path / "evaluation" / "comparison.json").read_text(encoding="utf-8"))
    delta, words = comparison["delta"]["ndcg@10"], first_screen(page)
    assert "Ship Use the tuned model" in words
    assert f"{signed(delta['value'])} nDCG@10" in words
    assert f"{signed(delta['ci95'][0])} to {signed(delta['ci95'][1])}" in words
    for reason in comparison["reasons"]:
        assert sentence(reason) in words
    assert "What to do next Switch to the folder model/" in words


@pytest.mark.parametrize(
    ("kind", "word", "advice"),
    [
        (WORSE, "Do not ship Keep the base model", "Leave your retrieval system as it is."),
        (UNSURE, "Inconclusive The test cannot tell", "Keep the base model for now."),
        (Kind(n_queries=12), "Inconclusive", "Label 38 more test queries"),
        (Kind(origin="offline"), "Inconclusive", "Collect 50 or more questions that people really asked"),
    ],
)
def test_every_verdict_says_what_to_do(tmp_path: Path, kind: Kind, word: str, advice: str) -> None:
    words = first_screen(page_of(make_run(tmp_path, kind)))
    assert word in words
    assert advice in words


def test_offline_queries_and_their_cap_are_named_on_the_first_screen(tmp_path: Path) -> None:
    words = first_screen(page_of(make_run(tmp_path, Kind(origin="offline"))))
    assert "made from the documents by rules" in words
    assert "the verdict is capped at inconclusive" in words


def test_findings_are_shown_and_serious_ones_reach_the_first_screen(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path, Kind(findings=(FINDING, FINDING | {"name": "memorised", "severity": "high"}))))
    assert "One sided bias warning" in page.words
    assert "Add examples from outside the domain." in page.words
    assert "Serious finding: memorised." in first_screen(page)
    assert "Look at the serious finding below before you switch." in first_screen(page)


def test_without_findings_the_report_says_so_and_shows_the_drift(tmp_path: Path) -> None:
    words = page_of(make_run(tmp_path)).words
    assert "None of the known problems was found." in words
    assert "40 control queries from outside the domain moved +0.012" in words


def test_repeated_looks_at_the_test_are_named(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path, Kind(evaluations=3)))
    assert "has been evaluated 3 times in this run folder" in first_screen(page)


def test_methods_rule_data_and_settings_are_told(tmp_path: Path) -> None:
    words = page_of(make_run(tmp_path)).words
    for part in (
        "200 resamples, percentile, widened after Hesterberg 2015",
        "ship: nDCG@10 up by at least 0.01",
        "has been evaluated once in this run folder",
        "Training again with another seed",
        "60 passages from 3 documents",
        "120 train, 20 dev, 60 test",
        "4 passages with a near-duplicate",
        "2 empty",
        'learning_rate "auto: 4e-05"',
    ):
        assert part in words, part


def test_report_is_one_file_without_addresses(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path))
    for tag, attributes in page.tags:
        assert tag not in ("iframe", "img", "object", "embed", "base", "form")
        for name in ("src", "href", "action", "data"):
            value = attributes.get(name) or ""
            assert not value or value.startswith(("#", "data:,")), f"{tag} {name}={value}"
    assert (tmp_path / "out" / "report.html").stat().st_size < 2_000_000


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    braces = HOSTILE.replace("{", "{{").replace("}", "}}")
    stage = make_run(
        tmp_path,
        Kind(query=f"{braces} {{i}}", title=braces, findings=(FINDING | {"evidence": HOSTILE},)),
        {"report": {"title": HOSTILE}, "input": {"source": HOSTILE}},
    )
    page = page_of(stage)
    harmless = page_of(make_run(tmp_path / "harmless", Kind(findings=(FINDING,))))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in harmless.tags]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert " ".join(HOSTILE.split()) in page.words
    assert "{{ 7 * 7 }}" in page.words
    assert "alert(1)" in json.dumps(page.charts["scatter"])
    text = (stage.out / "report.html").read_text(encoding="utf-8")
    assert "<img src=x" not in text
    assert not re.search(r"[<>&\u2028\u2029]", page.scripts[0])


def test_policy_names_the_scripts_that_are_there(tmp_path: Path) -> None:
    import base64
    import hashlib

    page = page_of(make_run(tmp_path))
    policy = next(
        attributes["content"] for tag, attributes in page.tags if tag == "meta" and "http-equiv" in attributes
    )
    hashes = re.findall(r"'sha256-([^']+)'", html.unescape(policy or ""))
    assert hashes == [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in page.scripts[-4:]]
    assert len(page.scripts) == 7
    types = [attributes.get("type") for tag, attributes in page.tags if tag == "script"]
    assert types == ["application/json"] * 3 + [None] * 4


def test_report_is_the_same_in_another_process(tmp_path: Path) -> None:
    stage = make_run(tmp_path)
    build_report(stage)
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from report.runs import make_run; from shoptalk.report import build_report\n"
        "stage = make_run(Path(sys.argv[2])); build_report(stage)"
    )
    again = tmp_path / "again"
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parents[1]), str(again)], check=True, env=environment
    )
    assert (again / "out" / "report.html").read_bytes() == (stage.out / "report.html").read_bytes()


def test_scored_pairs_show_cosines_and_the_largest_changes(tmp_path: Path) -> None:
    page = page_of(make_similarity_run(tmp_path, Kind(assessed=False)))
    assert set(page.charts) == {"dev", "loss", "before", "after"}
    assert "Spearman" in first_screen(page)
    assert "60 test pairs scored by people" in first_screen(page)
    assert "Moved nearer to their score: 54 pairs, the 10 largest" in page.words
    assert "Moved away from their score: 6 pairs" in page.words
    assert "nDCG" not in page.words.split("The rule.")[0]
    assert "BM25" not in page.words


def test_rankings_stand_side_by_side_with_what_moved(tmp_path: Path) -> None:
    won, lost = won_and_lost(read_artifacts(make_run(tmp_path)))
    assert (len(won), len(lost)) == (10, 10)
    best = won[0]
    assert (best.rank_before, best.rank_after) == (25, 1)
    before = next(entry for entry in best.base.entries if entry.relevant)
    after = next(entry for entry in best.tuned.entries if entry.relevant)
    assert (before.rank, before.there, before.moved, before.gap) == (25, 1, 24, True)
    assert (after.rank, after.there, after.moved, after.gap) == (1, 25, 24, False)
    assert [entry.rank for entry in best.base.entries] == [1, 2, 3, 4, 5, 25]
    assert after.title == "Meetings › Minutes 10"
    assert (lost[0].rank_before, lost[0].rank_after) == (2, 3)


def test_a_right_passage_that_is_not_found_is_said_to_be_missing(tmp_path: Path) -> None:
    won, _ = won_and_lost(read_artifacts(make_run(tmp_path, Kind(ranks=((30, 1), (1, 1))))))
    assert won[0].rank_before is None
    assert won[0].base.missing == 1
    assert won[0].tuned.entries[0].there is None


def test_as_many_examples_as_asked_for(tmp_path: Path) -> None:
    stage = make_run(tmp_path, settings={"report": {"examples": 3}})
    assert len(won_and_lost(read_artifacts(stage))[0]) == 3
    assert "Better: 30 queries, the 3 largest" in page_of(stage).words


def test_charts_hold_at_most_2000_points_and_keep_the_extremes() -> None:
    rows = [{"query_id": f"q{i}", "change": (i * 37 % 5000) / 5000} for i in range(5000)]
    kept = sample(rows)
    assert len(kept) == 2000
    assert len({row["query_id"] for row in kept}) == 2000
    assert min(row["change"] for row in kept) == min(row["change"] for row in rows)
    assert max(row["change"] for row in kept) == max(row["change"] for row in rows)


def test_queries_on_one_spot_are_counted(tmp_path: Path) -> None:
    run = read_artifacts(make_run(tmp_path))
    scatter = retrieval_charts(run)[0].spec
    points = next(rows for rows in scatter["datasets"].values() if "queries" in rows[0])
    assert sum(point["queries"] for point in points) == 60
    assert rank_places(run) == {"before": [10, 10, 20, 10, 10], "after": [30, 20, 0, 0, 10]}


def test_a_run_without_logged_losses_still_has_its_curves(tmp_path: Path) -> None:
    run = replace(read_artifacts(make_run(tmp_path)), log=[{"step": 0, "dev": 0.5}])
    charts = learning_charts(run)
    assert charts[1].caption.startswith("No training loss was logged.")


def test_how_many_queries_would_settle_it(tmp_path: Path) -> None:
    run = read_artifacts(make_run(tmp_path, UNSURE))
    for value, interval, needed in ((0.02, [-0.03, 0.07], 770), (0.005, [-0.03, 0.04], 0), (0.05, [0.01, 0.09], 0)):
        run.comparison["delta"]["ndcg@10"] = {"value": value, "ci95": interval, "p": 0.3}
        assert queries_needed(run) == needed
    run.comparison["delta"]["ndcg@10"] = {"value": 0.02, "ci95": [-0.03, 0.07], "p": 0.3}
    assert "if the gain is really +0.020, about 770 would show it" in " ".join(answer(run).steps)


def test_numbers_in_words() -> None:
    assert [signed(value) for value in (0.2, -0.0131, 0.0001, -0.0001)] == ["+0.200", "−0.013", "0.000", "0.000"]
    assert [plain(value) for value in (0.4012, -0.02, -0.0001)] == ["0.401", "−0.020", "0.000"]
    assert [p_value(value) for value in (None, 0.0002, 0.369)] == ["—", "< 0.001", "0.369"]
    assert [count(n, "query") for n in (1, 0, 1204)] == ["1 query", "0 queries", "1,204 queries"]
    assert sentence("nDCG@10 fell by -0.1, 10-30 times") == "nDCG@10 fell by −0.1, 10-30 times."
    assert sentence("the end.") == "The end."
    assert sides("left  |  right") == ["left", "right"]
    assert sides("a  |  b  |  c") == ["a  |  b  |  c"]
