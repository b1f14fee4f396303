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
    }
    for stage in stages.values():
        build_report(stage)
    return {name: stage.out / "report.html" for name, stage in stages.items()}


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
        self.page.wait_for_function("document.querySelectorAll('.chart svg.marks').length === 4")

    def colour(self, selector: str, name: str) -> str:
        found: str = self.page.eval_on_selector(selector, f"node => getComputedStyle(node)['{name}']")
        return found

    def overflow(self) -> int:
        found: int = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        return found


@pytest.mark.parametrize("name", ["ship", "worse", "hostile", "pairs"])
@pytest.mark.parametrize("width", [380, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_opens_offline_and_fits(browser: Browser, reports: dict[str, Path], name: str, width: int, scheme: str) -> None:
    opened = Opened(browser, reports[name], viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert opened.said == []
    assert opened.asked == [reports[name].as_uri()]
    assert opened.overflow() == 0
    assert opened.page.locator(CHARTS).count() == 4
    for summary in opened.page.locator("details > summary").all():
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


def test_details_open_from_the_keyboard(browser: Browser, reports: dict[str, Path]) -> None:
    opened = Opened(browser, reports["ship"])
    first = opened.page.locator("details.query").first
    assert first.get_attribute("open") is None
    for _ in range(40):
        opened.page.keyboard.press("Tab")
        if opened.page.evaluate("document.activeElement.matches('details.query:first-of-type > summary')"):
            break
    assert opened.colour("details.query > summary", "outline-style") == "solid"
    opened.page.keyboard.press("Enter")
    assert first.get_attribute("open") is not None
    assert first.get_by_text("right passage", exact=True).count() == 2
    opened.context.close()


def test_charts_shrink_with_the_window(browser: Browser, reports: dict[str, Path]) -> None:
    opened = Opened(browser, reports["ship"])
    opened.page.set_viewport_size({"width": 380, "height": 800})
    opened.page.wait_for_function("document.querySelector('#chart-scatter svg').getBoundingClientRect().right <= 380")
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
    assert opened.page.locator("details:not([open])").count() == 0
    opened.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert opened.page.locator("details[open]").count() == 0
    opened.context.close()
