"""report.html in a real browser: `pytest -m browser tests/report`. Needs Chromium (apt-get install chromium)."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from report.runs import FINDING, HOSTILE, Kind, make_run, make_similarity_run
from shoptalk.report import build_report
from shoptalk.report.artifacts import read_artifacts
from shoptalk.report.page import render

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

_NO = ("first-run", "sandbox")
_OFF = ("gpu", "background-networking", "component-update", "sync")
ARGUMENTS = [*(f"--no-{name}" for name in _NO), *(f"--disable-{name}" for name in _OFF)]
CHARTS = ".chart svg.marks"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'shoptalk[dev]'")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    braces = HOSTILE.replace("{", "{{").replace("}", "}}")
    wide = "unbroken" * 40
    stages = {
        "ship": make_run(tmp_path_factory.mktemp("ship")),
        "worse": make_run(tmp_path_factory.mktemp("worse"), Kind(ranks=((1, 4), (1, 2)), findings=(FINDING,))),
        "hostile": make_run(
            tmp_path_factory.mktemp("hostile"),
            Kind(query=f"{braces} {wide} {{i}}", title=f"{braces} {wide}", term=f"{HOSTILE} {wide}"),
            {"report": {"title": HOSTILE + wide}},
        ),
        "pairs": make_similarity_run(tmp_path_factory.mktemp("pairs"), Kind(query=f"{braces} {{i}}")),
        "old": make_run(tmp_path_factory.mktemp("old"), Kind(assessed=False)),
    }
    for stage in stages.values():
        build_report(stage)
    redacted = stages["ship"].out / "report.redacted.html"
    redacted.write_text(render(read_artifacts(stages["ship"]), redact=True), encoding="utf-8", newline="\n")
    return {name: stage.out / "report.html" for name, stage in stages.items()} | {"redacted": redacted}


class Opened:
    """A page with everything that it said or asked for."""

    def __init__(self, browser: Browser, path: Path, **options: Any) -> None:
        self.context = browser.new_context(offline=True, **({"viewport": {"width": 1440, "height": 900}} | options))
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page: Page = self.context.new_page()
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: (self.said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        # Not wait_for_function: it evaluates text again and again, which the page's policy forbids.
        self.page.locator(CHARTS).nth(self.page.locator(".chart").count() - 1).wait_for(state="attached")

    def colour(self, selector: str, name: str) -> str:
        found: str = self.page.eval_on_selector(selector, f"node => getComputedStyle(node)['{name}']")
        return found

    def overflow(self) -> int:
        found: int = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        return found


@pytest.mark.parametrize("name", ["ship", "worse", "hostile", "pairs", "old", "redacted"])
@pytest.mark.parametrize("width", [380, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_opens_offline_and_fits(browser: Browser, reports: dict[str, Path], name: str, width: int, scheme: str) -> None:
    opened = Opened(browser, reports[name], viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert opened.said == []
    assert opened.asked == [reports[name].as_uri()]
    assert opened.overflow() == 0
    assert opened.page.locator(CHARTS).count() == {"pairs": 4, "old": 4}.get(name, 6)
    for summary in opened.page.locator("details > summary:visible").all()[:40]:
        summary.click()
    assert opened.overflow() == 0
    for chart in opened.page.locator(CHARTS).all():
        box = chart.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert box["height"] > 150
    opened.context.close()


def test_first_screen_is_on_the_first_screen(browser: Browser, reports: dict[str, Path]) -> None:
    for width, height in ((1440, 900), (380, 800)):
        opened = Opened(browser, reports["ship"], viewport={"width": width, "height": height})
        for text in ("Ship", "Use the tuned model", "95% interval"):
            box = opened.page.get_by_text(text, exact=text == "Ship").first.bounding_box()
            assert box is not None
            assert box["y"] + box["height"] <= height
        opened.context.close()


def test_colours_follow_the_system_the_button_and_paper(browser: Browser, reports: dict[str, Path]) -> None:
    opened = Opened(browser, reports["ship"], color_scheme="light")
    line = "#chart-dev .mark-line path"
    light = opened.colour("body", "background-color"), opened.colour(line, "stroke")
    opened.page.emulate_media(color_scheme="dark")
    dark = opened.colour("body", "background-color"), opened.colour(line, "stroke")
    assert light[0] != dark[0]
    assert light[1] != dark[1]
    opened.page.get_by_role("button", name="Switch to light colours").click()
    assert (opened.colour("body", "background-color"), opened.colour(line, "stroke")) == light
    opened.page.get_by_role("button", name="Switch to dark colours").click()
    assert (opened.colour("body", "background-color"), opened.colour(line, "stroke")) == dark
    opened.page.emulate_media(media="print")
    assert (opened.colour("body", "background-color"), opened.colour(line, "stroke")) == light
    opened.context.close()


ROWS = "#explorer-rows details.query"


def test_the_explorer_lists_sorts_filters_and_searches(browser: Browser, reports: dict[str, Path]) -> None:
    opened = Opened(browser, reports["ship"])
    page = opened.page
    status = page.locator("#explorer-status")
    assert status.inner_text() == "25 of 60 queries"
    changes = page.locator(f"{ROWS} .change").all_inner_texts()
    assert changes[0] == "+1.000"
    page.get_by_role("button", name="Show 25 more").click()
    page.get_by_role("button", name="Show 10 more").click()
    assert page.locator(ROWS).count() == 60
    assert not page.locator("#explorer-more").is_visible()
    page.get_by_label("Sort").select_option("loss")
    losses = [float(text.replace("\u2212", "-")) for text in page.locator(f"{ROWS} .change").all_inner_texts()]
    assert losses == sorted(losses)
    assert losses[0] < 0
    page.get_by_label("Sort").select_option("text")
    names = page.locator(f"{ROWS} .text").all_inner_texts()
    assert names[:3] == [f"Who keeps the minutes of meeting {i}?" for i in range(3)]
    for kind, n in (("better", 30), ("worse", 10), ("unchanged", 20), ("all", 60)):
        page.get_by_role("radio", name=kind).check()
        assert status.inner_text() in (f"{n} queries", f"25 of {n} queries")
    page.get_by_label("Search").fill("MEETING 17")
    page.locator("#explorer-status", has_text=re.compile("^1 query$")).wait_for()
    assert page.locator(f"{ROWS} mark").all_inner_texts() == ["meeting", "17"]
    page.get_by_label("Search").fill("no such thing")
    page.locator("#explorer-status", has_text="No query is like that.").wait_for()
    assert page.locator(ROWS).count() == 0
    assert opened.said == []
    opened.context.close()


def test_an_explored_query_shows_both_rankings_with_what_moved(browser: Browser, reports: dict[str, Path]) -> None:
    opened = Opened(browser, reports["ship"])
    first = opened.page.locator(ROWS).first
    assert first.locator(".ranking").count() == 0  # built when it is opened
    first.locator("summary").click()
    first.locator(".ranking").nth(1).wait_for()
    assert first.locator("h4").all_inner_texts() == ["Before: nDCG@10 0.000", "After: nDCG@10 1.000"]
    before, after = first.locator(".ranking").all()
    assert before.locator("li.relevant .rank").inner_text() == "25"
    assert "up 24 (after: 1)" in before.locator("li.relevant").inner_text()
    assert after.locator("li.relevant .rank").inner_text() == "1"
    assert after.locator("li.relevant.up").count() == 1
    assert after.locator("li").count() == 10
    boxes = before.bounding_box(), after.bounding_box()
    assert boxes[0]
    assert boxes[1]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    opened.page.set_viewport_size({"width": 380, "height": 800})
    assert opened.overflow() == 0
    opened.context.close()


def test_the_explorer_opens_from_the_keyboard(browser: Browser, reports: dict[str, Path]) -> None:
    opened = Opened(browser, reports["ship"])
    page = opened.page
    page.locator("#explorer-find").focus()
    for expected in ("explorer-sort", "", "summary"):
        page.keyboard.press("Tab")
        found = page.evaluate("document.activeElement.id || document.activeElement.tagName.toLowerCase()")
        assert expected in found or found == "input"
    assert opened.colour("#explorer-rows details.query > summary", "outline-style") == "solid"
    page.keyboard.press("Enter")
    page.locator(ROWS).first.locator(".ranking").nth(1).wait_for()  # built when it is opened
    assert page.locator(ROWS).first.get_by_text("right passage", exact=True).count() == 2
    page.locator("#explorer-more").focus()
    page.keyboard.press("Enter")
    assert (
        page.evaluate(
            "[...document.querySelectorAll('#explorer-rows > *')].indexOf(document.activeElement.parentElement)"
        )
        == 25
    )
    opened.context.close()


def test_without_javascript_the_largest_changes_are_there(browser: Browser, reports: dict[str, Path]) -> None:
    context = browser.new_context(offline=True, java_script_enabled=False)
    page = context.new_page()
    page.goto(reports["ship"].as_uri())
    assert not page.locator("#explorer").is_visible()
    assert page.locator("#largest details.query").count() == 20
    assert page.locator("#largest details.query").first.is_visible()
    assert "Searching all queries needs JavaScript" in page.locator("#queries noscript p").inner_text()
    page.locator("#largest summary").first.click()
    assert page.locator("#largest details.query").first.get_by_text("right passage", exact=True).count() == 2
    context.close()


def test_the_explorer_shows_hostile_text_as_text(browser: Browser, reports: dict[str, Path]) -> None:
    opened = Opened(browser, reports["hostile"], viewport={"width": 380, "height": 800})
    first = opened.page.locator(ROWS).first
    assert "</script><img src=x onerror=alert(1)>" in first.locator(".text").inner_text()
    first.locator("summary").click()
    first.locator(".ranking").nth(1).wait_for()
    assert "</script><img src=x onerror=alert(1)>" in first.locator(".title").first.inner_text()
    assert opened.page.locator("img").count() == 0
    assert opened.overflow() == 0
    assert opened.said == []
    opened.context.close()


def test_the_map_marks_on_both_sides_and_a_cluster_can_stand_alone(browser: Browser, reports: dict[str, Path]) -> None:
    opened = Opened(browser, reports["ship"])
    page = opened.page
    page.locator("#map").scroll_into_view_if_needed()
    page.locator(".maps svg").first.locator("[data-i='7']").hover(force=True)
    assert page.locator(".maps .near").evaluate_all("nodes => nodes.map((node) => node.dataset.i)") == ["7", "7"]
    assert page.locator("#map-pointed").inner_text() == "Meetings \u203a Minutes 7"
    button = page.locator(".cluster").first
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "true"
    assert page.locator(".maps.alone circle.on").count() == 2 * 20
    button.click()
    assert page.locator(".maps.alone").count() == 0
    for svg in page.locator("svg.map").all():
        assert "60 passages" in (svg.get_attribute("aria-label") or "")
    opened.context.close()


def test_the_methods_paragraph_can_be_copied(browser: Browser, reports: dict[str, Path]) -> None:
    opened = Opened(browser, reports["ship"])
    opened.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened.page.get_by_role("button", name="Copy").click()
    opened.page.get_by_text("Copied.").wait_for()
    assert opened.page.evaluate("navigator.clipboard.readText()") == opened.page.locator("#quote").inner_text()
    opened.context.close()


def test_text_has_enough_contrast_in_light_and_dark(browser: Browser, reports: dict[str, Path]) -> None:
    """WCAG AA: 4.5 to 1 for text on the page and on marked rows; 3 to 1 for the clusters' colours."""
    for scheme in ("light", "dark"):
        opened = Opened(browser, reports["ship"], color_scheme=scheme)
        for name in ("ink", "muted", "link", "good", "bad", "unsure"):
            for ground in ("page", "panel", "mark"):
                assert opened.page.evaluate(CONTRAST, [f"--{name}", f"--{ground}"]) >= 4.5, (scheme, name, ground)
        for i in range(8):
            assert opened.page.evaluate(CONTRAST, [f"--c{i}", "--page"]) >= 3, (scheme, i)
            assert opened.page.evaluate(CONTRAST, ["--on-colour", f"--c{i}"]) >= 3, (scheme, i)
        opened.context.close()


CONTRAST = """([one, other]) => {
  const probe = document.body.appendChild(document.createElement("i"));
  const light = (name) => {
    probe.style.color = `var(${name})`;
    const parts = getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3).map((value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const [dark, bright] = [light(one), light(other)].sort((x, y) => x - y);
  return (bright + 0.05) / (dark + 0.05);
}"""


def test_charts_shrink_with_the_window(browser: Browser, reports: dict[str, Path]) -> None:
    opened = Opened(browser, reports["ship"])
    opened.page.set_viewport_size({"width": 380, "height": 800})
    width = "document.querySelector('#chart-scatter svg').getBoundingClientRect().right"
    for _ in range(100):
        if opened.page.evaluate(width) <= 380:
            break
        opened.page.wait_for_timeout(50)
    assert opened.page.evaluate(width) <= 380
    assert opened.overflow() == 0
    opened.context.close()


def test_charts_have_a_text_alternative(browser: Browser, reports: dict[str, Path]) -> None:
    for name in ("ship", "pairs"):
        opened = Opened(browser, reports[name])
        for chart in opened.page.locator(".chart").all():
            assert chart.get_attribute("role") == "img"
            assert re.search(r"\d", chart.get_attribute("aria-label") or "")
        assert opened.page.locator("figcaption").count() == opened.page.locator("figure").count() >= 4
        for drawing in opened.page.locator("svg.columns").all():
            assert "answer's" in (drawing.get_attribute("aria-label") or "")
        assert opened.page.locator("svg.columns").count() == (1 if name == "ship" else 0)
        assert opened.page.locator(".vega-actions, details[title]").count() == 0
        opened.context.close()


def test_tooltip_shows_hostile_text_as_text(browser: Browser, reports: dict[str, Path]) -> None:
    opened = Opened(browser, reports["hostile"])
    opened.page.locator("#chart-scatter").scroll_into_view_if_needed()
    opened.page.locator("#chart-scatter .mark-symbol.role-mark path").first.hover(force=True)
    tooltip = opened.page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    assert "</script><img src=x onerror=alert(1)>" in tooltip.inner_text()
    assert opened.page.locator("img").count() == 0
    assert opened.said == []
    opened.context.close()


def test_prints_on_paper_with_everything_opened(browser: Browser, reports: dict[str, Path], tmp_path: Path) -> None:
    opened = Opened(browser, reports["ship"], color_scheme="dark")
    opened.page.pdf(path=str(tmp_path / "report.pdf"), format="A4")
    assert (tmp_path / "report.pdf").stat().st_size > 20_000
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.page.locator("details:not([open]):not(#explorer details)").count() == 0
    opened.page.emulate_media(media="print")
    assert not opened.page.locator("#explorer").is_visible()
    assert opened.page.locator("#largest details.query .ranking").first.is_visible()
    opened.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert opened.page.locator("details[open]").count() == 0
    opened.context.close()
