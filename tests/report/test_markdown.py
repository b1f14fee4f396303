"""report.md: what stands in it, that it is well-formed Markdown, and that nothing of a user's is taken for markup."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from report.finished import finished_run
from report.runs import FINDING, HOSTILE, Kind, make_run, make_similarity_run
from shoptalk.pipeline import NAMES
from shoptalk.report.artifacts import Artifacts, read_artifacts
from shoptalk.report.markdown import escaped, render_markdown, render_runs_markdown
from shoptalk.report.runs_compared import compare_runs
from shoptalk.report.wording import answer, plain, sentence, signed

MARKDOWN = MarkdownIt("commonmark").enable("table")


class Words(HTMLParser):
    """What a reader of the rendered page reads, and the tags that stand in it."""

    def __init__(self, markdown: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self._words: list[str] = []
        self.feed(MARKDOWN.render(markdown))
        self.close()

    @property
    def text(self) -> str:
        return " ".join("".join(self._words).replace("\N{WORD JOINER}", "").split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self._words.append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    return read_artifacts(make_run(tmp_path_factory.mktemp("run"), Kind(findings=(FINDING,))))


@pytest.fixture(scope="module")
def page(run: Artifacts) -> str:
    return render_markdown(run)


def tables(markdown: str) -> list[list[str]]:
    """Blocks of lines that are tables."""
    blocks = [block.splitlines() for block in markdown.split("\n\n")]
    return [block for block in blocks if block and block[0].startswith("| ")]


def cells(line: str) -> int:
    return line.replace("\\|", "").count("|") - 1


# What stands in it


def test_verdict_reasons_and_the_gain_with_its_interval_come_first(run: Artifacts, page: str) -> None:
    told, low, high = answer(run), *run.delta["ci95"]
    first = Words(page[: page.index("## Before training")]).text
    assert page.startswith(f"# shoptalk report: docs\n\n## {told.word}: nDCG@10 {signed(run.delta['value'])}\n")
    assert f"95% interval {signed(low)} to {signed(high)}, on 60 test queries asked by people" in first
    for words in (told.headline, *told.reasons, *told.steps):
        assert words in first


def test_the_gate_stands_with_all_its_systems(run: Artifacts, page: str) -> None:
    text = Words(page).text
    for system in run.gate["systems"]:
        low, high = system["ci95"]
        assert f"| {escaped(system['label'])} | {plain(system['ndcg@10'])} | {plain(low)} to {plain(high)} |" in page
    for key in ("headroom", "power", "forecast"):
        assert sentence(run.gate[key]["words"]) in text
    for reason in run.gate["reasons"]:
        assert f"- {escaped(sentence(reason))}\n" in page


def test_every_metric_stands_with_its_change(run: Artifacts, page: str) -> None:
    found, lines = run.comparison, page[page.index("## Before and after") :].splitlines()
    assert len(found["delta"]) >= 7
    for metric, delta in found["delta"].items():
        before, after = plain(found["base"][metric]), plain(found["tuned"][metric])
        row = next(line for line in lines if line.lower().startswith((f"| {metric} |", f"| {metric} (")))
        assert f"| {before} | {plain(found['bm25'][metric])} | {after} | {signed(delta['value'])} |" in row
        assert f"| {signed(delta['ci95'][0])} to {signed(delta['ci95'][1])} |" in row


def test_only_the_slices_that_got_worse_are_named(run: Artifacts) -> None:
    def slice_of(name: str, value: float, worse: bool) -> dict[str, Any]:
        delta = {"value": value, "ci95": [value - 0.02, value + 0.02], "p": 0.01, "p_holm": 0.02}
        return {
            "by": "query length", "name": name, "queries": 40, "groups": 40, "base": 0.6, "tuned": 0.6 + value, "delta": delta,
            "worse": worse,
        }  # fmt: skip

    rows = [slice_of("1 to 4 words", -0.1, True), slice_of("5 to 9 words", 0.2, False)]
    page = render_markdown(replace(run, comparison=run.comparison | {"slices": rows}))
    assert "| query length: 1 to 4 words | 40 | 0.600 | 0.500 | −0.100 | −0.120 to −0.080 | 0.020 |" in page
    assert "5 to 9 words" not in page
    none = render_markdown(replace(run, comparison=run.comparison | {"slices": rows[1:]}))
    assert "None of the 1 slice that were looked at got worse for sure." in none


def test_what_was_kept_stands_with_its_limit_and_the_point_that_ships(run: Artifacts, page: str) -> None:
    general = run.comparison["retention"]["general"]
    low, high = general["delta"]["ci95"]
    assert (
        f"| General text | {general['queries']} | {plain(general['base'])} | {plain(general['tuned'])} | "
        f"{signed(general['delta']['value'])} | {signed(low)} to {signed(high)} |"
    ) in page
    (chosen,) = (point for point in run.card["frontier"] if point["chosen"])
    shipped = [line for line in page.splitlines() if line.endswith("| shipped |")]
    assert [line.split(" | ")[0] for line in shipped] == [f"| {chosen['weight']:g}"]


def test_nanobeir_stands_with_numbers_or_with_why_it_has_none(run: Artifacts) -> None:
    delta = {"value": -0.031, "ci95": [-0.06, -0.004], "p": 0.02}
    sets = {
        "NanoNQ": {"measured": True, "queries": 50, "base": 0.5, "tuned": 0.469, "delta": delta},
        "NanoSciFact": {"measured": False, "words": "not measured: the Hub could not be reached: /home/me"},
    }
    nano = {"measured": True, "queries": 50, "base": 0.5, "tuned": 0.469, "delta": delta, "sets": sets}
    kept = run.comparison["retention"] | {"nanobeir": nano}
    with_nano = replace(run, comparison=run.comparison | {"retention": kept})
    page = render_markdown(with_nano)
    assert "| NanoNQ | 50 | 0.500 | 0.469 | −0.031 | −0.060 to −0.004 |" in page
    assert "| NanoSciFact | — | — | — | — | not measured: the Hub could not be reached: /home/me |" in page
    forwarded = render_markdown(with_nano, redact=True)
    assert "/home/me" not in forwarded
    assert "| NanoSciFact | — | — | — | — | not measured |" in forwarded


def test_findings_stand_with_their_advice(page: str, run: Artifacts) -> None:
    assert (
        "- **One sided bias** (warning). 40 control queries moved toward the domain. **What to do:** Add examples from outside"
    ) in page
    assert "None of the known problems was found." in render_markdown(replace(run, findings=[]))


def test_data_and_methods_are_there(page: str, run: Artifacts) -> None:
    text = Words(page[page.index("## Data") :]).text
    for words in ("120 train, 20 dev, 60 test", "60 passages from 3 documents", "2 empty", run.comparison["rule"]):
        assert words in text
    assert "Hesterberg" in text


def test_the_queries_that_changed_most_stand_with_their_places(page: str, run: Artifacts) -> None:
    worst, best = run.lost[0], run.won[0]
    for row in (worst, best):
        assert f"| {row['text']} | {row['rank_base']} | {row['rank_tuned']} | {signed(row['change'])} |" in page
    assert f"**Largest losses**, 10 of {len(run.lost)} queries" in page


# Its form


@pytest.mark.parametrize("redact", [False, True])
@pytest.mark.parametrize("make", [make_run, make_similarity_run])
@pytest.mark.parametrize("kind", [Kind(findings=(FINDING,)), Kind(assessed=False, trained_on=False, terms=0)])
def test_every_table_is_rectangular_and_renders(tmp_path: Path, make: Any, kind: Kind, redact: bool) -> None:
    page = render_markdown(read_artifacts(make(tmp_path / "run", kind)), redact=redact)
    found = tables(page)
    assert len(found) >= 3
    for table in found:
        assert {cells(line) for line in table} == {cells(table[0])}, table[0]
        assert set(table[1]) <= set("|-: ")
    assert MARKDOWN.render(page).count("<table>") == len(found)
    assert "\n\n\n" not in page
    assert page.endswith(".\n")
    assert not [line for line in page.splitlines() if line != line.rstrip()]


def test_the_same_artifacts_give_the_same_bytes(run: Artifacts, page: str) -> None:
    assert render_markdown(run) == page


# Texts of users


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    text = f"{HOSTILE} | cell | **bold** [link](http://x) @everyone `code` $x$ # {{i}}"
    finding = FINDING | {"evidence": text, "advice": f"- {text}"}
    kind = Kind(query=text, title=text, term="T1", findings=(finding,), candidate=text, source="|*s*")
    settings = {"report": {"title": f"1. {text}"}}
    return read_artifacts(make_run(tmp_path_factory.mktemp("hostile"), kind, settings))


def test_no_text_of_a_user_becomes_markup(hostile: Artifacts, page: str) -> None:
    rendered = Words(render_markdown(hostile))
    assert rendered.tags == Words(page).tags
    assert not rendered.tags & {"a", "img", "script", "code", "em"}
    assert " ".join(hostile.lost[0]["text"].split()) in rendered.text
    assert " ".join(hostile.settings.report.title.split()) in rendered.text


def test_no_one_is_mentioned(hostile: Artifacts) -> None:
    page = render_markdown(hostile)
    assert "@everyone" not in page
    assert "@\N{WORD JOINER}everyone" in page
    assert "nDCG@10" in page


@given(st.text(st.sampled_from("ab1 \\`*_{}[]()#+-.!|<>~$&=@:\n\t\u2028;/\"'"), max_size=30))
def test_an_escaped_text_reads_as_it_was_wherever_it_stands(text: str) -> None:
    shown = " ".join(text.split())
    assert "\n" not in escaped(text)
    for place in ("before {} after", "- x {}", "- {} x", "| a | b |\n| --- | --- |\n| x {} | y |", "**x {} y**"):
        markdown = place.format(escaped(text))
        plain_place = place.replace("| --- | --- |", "").replace("**", "").replace("- ", "").replace("|", " ")
        assert Words(markdown).text == " ".join(plain_place.format(shown).split())


def test_characters_that_nobody_sees_are_left_out() -> None:
    assert escaped("a\u202eb\x00c\x07\u2066d") == "abcd"


# Without texts


def test_redacted_there_is_no_text_of_documents_or_queries(tmp_path: Path) -> None:
    kind = Kind(
        query="Zebra question {i}?", title="Quagga title {i}", term="OKAPI", candidate="models/bongo", source="gnu",
        findings=(FINDING | {"evidence": 'the query "Zebra question 1?" finds Quagga title 3'},),
    )  # fmt: skip
    settings = {"report": {"title": "Kudu report"}, "input": {"source": "addax"}}
    run = read_artifacts(make_run(tmp_path, kind, settings))
    whole, page = render_markdown(run), render_markdown(run, redact=True)
    for word in ("Zebra", "Quagga", "bongo", "Kudu"):
        assert word in whole, "nothing to leave out"
    for word in ("Zebra", "Quagga", "OKAPI", "bongo", "gnu", "Kudu", "addax"):
        assert word.lower() not in page.lower()
    assert signed(run.delta["value"]) in page
    assert "| Query " in page


# Runs side by side


def test_runs_side_by_side_are_well_formed_too(tmp_path: Path) -> None:
    finding = (FINDING,)
    names = [tmp_path / "a|b", tmp_path / "*second*"]
    finished_run(names[0], Kind(findings=finding))
    finished_run(names[1], Kind(ranks=((1, 1), (4, 1), (9, 1))), {"train": {"epochs": 7}})
    record = compare_runs(names, NAMES)
    page = render_runs_markdown(record)
    rendered = Words(page)
    found = tables(page)
    assert len(found) == 3
    for table in found:
        assert {cells(line) for line in table} == {3}
    assert MARKDOWN.render(page).count("<table>") == 3
    for words in (str(names[0]), str(names[1]), "better. nDCG@10 +", "on the same 60 test queries"):
        assert words in rendered.text
    assert '| train.epochs | "auto" | 7 |' in page
    assert "| one sided bias | warning | — |" in page
    for run in record["runs"]:
        assert sentence(run["reasons"][0]) in rendered.text
    assert "\n\n\n" not in page
    same = json.loads(json.dumps(record)) | {"settings": {}, "findings": {}}
    assert "None: the settings are the same." in render_runs_markdown(same)
