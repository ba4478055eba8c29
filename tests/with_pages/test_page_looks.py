"""How the page looks: accessible in both colours and at both widths, and on the screenshots of docs/screenshots.

`pytest tests/with_pages/test_page_looks.py --screenshots` retakes the screenshots.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from tests.with_pages.chromium import ANSWERS_WITHIN_MS, Visitor

FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"

WIDTHS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 800}},
    "phone": {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True},
}

SHOWN = {"welcome", "answer", "source", "refusal", "compare", "documents"}
"""Views with a screenshot in the documentation."""

QUESTION = "What is a chunk?"

Look = Callable[[str], None]


@pytest.fixture(params=["light", "dark"])
def colours(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=list(WIDTHS))
def width(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def viewer(browser: Browser, page_url: str, colours: str, width: str) -> Iterator[Visitor]:
    visitor = Visitor(browser, page_url, color_scheme=colours, reduced_motion="reduce", **WIDTHS[width])
    yield visitor
    assert visitor.complaints == []
    visitor.context.close()


@pytest.fixture
def look(viewer: Visitor, colours: str, width: str, request: pytest.FixtureRequest) -> Look:
    """Looks at the page as it is: no fault of accessibility, nothing wider than the window."""

    def look(name: str) -> None:
        assert faults(viewer) == [], name
        assert not viewer.is_wider_than_window(), name
        if name in SHOWN and request.config.getoption("--screenshots"):
            write(viewer, FOLDER / f"{name}-{width}-{colours}.webp")

    return look


def faults(viewer: Visitor) -> list[tuple[str, list[str]]]:
    """Faults of accessibility that axe finds on the page."""
    return [
        (fault["id"], [f"{node['html'][:100]} {node['failureSummary']}" for node in fault["nodes"]])
        for fault in Axe().run(viewer.page).response["violations"]
    ]


def write(viewer: Visitor, path: Path) -> None:
    from PIL import Image

    path.parent.mkdir(exist_ok=True)
    image = Image.open(io.BytesIO(viewer.page.screenshot(animations="disabled", caret="hide")))
    image.save(path, quality=88, method=6)


def test_before_the_first_question(viewer: Visitor, look: Look) -> None:
    viewer.open()
    expect(viewer.page.get_by_role("list", name="Example questions")).to_be_visible()
    look("welcome")


def test_an_answer_its_hops_and_its_source(viewer: Visitor, look: Look) -> None:
    viewer.open()
    answer = viewer.answer(QUESTION)
    answer.get_by_role("button", name="Timing by step").click()
    look("answer")
    answer.locator(".source-card").first.click()
    expect(viewer.page.get_by_test_id("document").locator("mark.active").first).to_be_in_viewport()
    look("source")


def test_a_refusal(viewer: Visitor, look: Look) -> None:
    viewer.open()
    expect(viewer.answer("What is the capital of Peru?").locator(".refusal")).to_be_visible()
    look("refusal")


def test_a_comparison(viewer: Visitor, look: Look) -> None:
    viewer.open()
    viewer.page.get_by_role("button", name="Compare").click()
    viewer.question.fill(QUESTION)
    viewer.question.press("Enter")
    expect(viewer.answers).to_have_count(2)
    for answer in viewer.answers.all():
        expect(answer).to_have_attribute("data-status", "done", timeout=ANSWERS_WITHIN_MS)
    look("compare")


def test_panels(viewer: Visitor, look: Look, width: str) -> None:
    page = viewer.open()
    viewer.press("Alt+KeyS")
    expect(page.get_by_role("dialog")).to_be_visible()
    look("settings")
    viewer.press("Escape", "Alt+KeyD")
    expect(page.locator(".document-list li")).not_to_have_count(0)
    look("documents")
    viewer.press("Escape")
    viewer.question.blur()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Keyboard")
    look("keyboard")
    viewer.press("Escape")
    if width == "phone":
        page.get_by_role("button", name="Conversations and settings").click()
        expect(page.get_by_role("button", name="Settings", exact=True)).to_be_visible()
        look("conversations")


def test_a_failure(reader: Visitor, browser: Browser, colours: str) -> None:
    reader.context.set_offline(False)
    # What is fading in has too little contrast.
    reader.page.emulate_media(color_scheme="dark" if colours == "dark" else "light", reduced_motion="reduce")
    reader.open()
    reader.context.set_offline(True)
    expect(reader.ask(QUESTION).get_by_role("alert")).to_be_visible()
    assert faults(reader) == []


def test_at_400_percent_there_is_room_to_read(browser: Browser, page_url: str) -> None:
    """WCAG 1.4.10: a window of 1280 × 1024 pixels has 320 × 256 of them at 400 %."""
    visitor = Visitor(browser, page_url, viewport={"width": 320, "height": 256}, reduced_motion="reduce")
    visitor.open()
    visitor.answer(QUESTION)
    assert not visitor.is_wider_than_window()
    composer = visitor.page.locator(".composer-dock").bounding_box()
    assert composer is not None
    assert composer["height"] <= 256 / 2
    assert faults(visitor) == []
    visitor.context.close()


def test_colours_are_chosen_and_kept(visitor: Visitor) -> None:
    page = visitor.open()
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(ground)
    page.get_by_title("Dark").click()
    dark = page.evaluate(ground)
    assert light != dark
    page.reload()
    assert page.evaluate(ground) == dark
