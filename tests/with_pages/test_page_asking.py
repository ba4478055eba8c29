"""Asking on the page, of the real graph."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import httpx
from playwright.sync_api import Browser, Request, expect

from tests.processes import until
from tests.with_pages.chromium import ANSWERS_WITHIN_MS, Visitor

if TYPE_CHECKING:
    from conftest import PeopleGraph

QUESTION = "What is an index version?"
LONG = "Write the numbers from one to one thousand, each on a line of its own."


def sent(visitor: Visitor) -> list[dict[str, object]]:
    """Bodies of the questions that leave the page from now on."""
    bodies: list[dict[str, object]] = []

    def keep(request: Request) -> None:
        if request.url.endswith("/generate_stream"):
            bodies.append(json.loads(request.post_data or "{}"))

    visitor.page.on("request", keep)
    return bodies


def running_requests(graph: PeopleGraph) -> float:
    text = httpx.get(str(graph.state.services["predictor"].metrics_url), timeout=60).text
    return float(next(line.split()[-1] for line in text.splitlines() if line.startswith("predictor_running_requests ")))


def test_an_answer_has_sources_and_timings(visitor: Visitor) -> None:
    page = visitor.open()
    expect(page.get_by_role("list", name="Example questions").get_by_role("button")).not_to_have_count(0)
    answer = visitor.answer(QUESTION)
    expect(answer.get_by_role("list", name="Sources").get_by_role("button")).to_have_count(2)
    assert len(answer.locator(".prose").inner_text()) > 20
    answer.get_by_role("button", name="Timing by step").click()
    for hop in ("embed", "search", "retrieval", "prompt", "first_token", "generation"):
        expect(answer.locator(f"[data-hop={hop}]")).to_be_visible()
    expect(page.get_by_role("status").first).to_contain_text("Answer:")


def test_an_answer_is_shown_as_it_is_generated(visitor: Visitor) -> None:
    visitor.open()
    visitor.page.get_by_role("button", name="Documents", exact=True).first.wait_for()
    visitor.page.locator(".mode", has_text="Documents").click()
    answer = visitor.ask(LONG)
    expect(answer.locator(".prose")).not_to_be_empty(timeout=ANSWERS_WITHIN_MS)
    expect(answer).to_have_attribute("data-status", "writing")
    before = answer.locator(".prose").inner_text()
    visitor.page.wait_for_function(
        "before => document.querySelector('.prose').innerText.length > before", arg=len(before)
    )
    visitor.press("Escape")
    expect(answer).to_have_attribute("data-status", "stopped")


def test_stopping_frees_the_predictor_and_keeps_the_text(visitor: Visitor, graph: PeopleGraph) -> None:
    visitor.open()
    visitor.page.locator(".mode", has_text="Documents").click()
    answer = visitor.ask(LONG)
    expect(answer.locator(".prose")).not_to_be_empty(timeout=ANSWERS_WITHIN_MS)
    until(lambda: running_requests(graph) == 1)
    visitor.page.get_by_role("button", name="Stop the answer").click()
    until(lambda: running_requests(graph) == 0)
    expect(answer).to_have_attribute("data-status", "stopped")
    expect(answer).to_contain_text("Stopped.")
    expect(answer.locator(".prose")).not_to_be_empty()
    expect(visitor.question).to_be_focused()


def test_conversations_are_kept(visitor: Visitor) -> None:
    visitor.open()
    bodies = sent(visitor)
    first = visitor.answer(QUESTION).locator(".prose").inner_text()
    visitor.answer("How do I roll back to an older one?")
    assert bodies[1]["turns"]
    assert "history" not in bodies[1]
    visitor.page.reload()
    expect(visitor.answers).to_have_count(2)
    expect(visitor.answers.first.locator(".prose")).to_have_text(first, use_inner_text=True)
    visitor.page.get_by_role("button", name="New conversation").first.click()
    expect(visitor.answers).to_have_count(0)
    visitor.page.locator(".conversation-open", has_text=QUESTION).click()
    expect(visitor.answers).to_have_count(2)
    visitor.page.locator(".conversation").hover()
    visitor.page.get_by_role("button", name=f"Rename the conversation “{QUESTION}”").click()
    visitor.page.get_by_role("textbox", name="New title").fill("Versions")
    visitor.press("Enter")
    visitor.page.locator(".conversation").hover()
    with visitor.page.expect_download() as download:
        visitor.page.get_by_role("button", name="Export the conversation “Versions”").click()
    assert download.value.suggested_filename == "Versions.md"
    for undone in (True, False):
        visitor.page.locator(".conversation").hover()
        visitor.page.get_by_role("button", name="Delete the conversation “Versions”").click()
        expect(visitor.answers).to_have_count(0)
        if undone:
            visitor.page.get_by_role("button", name="Undo").click()
            expect(visitor.answers).to_have_count(2)
    visitor.page.reload()
    expect(visitor.page.locator(".conversation-open")).to_have_count(0)


def test_settings_are_sent_and_reset(visitor: Visitor) -> None:
    page = visitor.open()
    bodies = sent(visitor)
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Answers", exact=True).select_option("write")
    for label, value in (
        ("Passages", "3"),
        ("Longest answer", "4"),
        ("Temperature", "0"),
        ("Top p", "0"),
        ("Top k", "0"),
    ):
        page.get_by_label(label, exact=True).fill(value)
    visitor.press("Escape")
    visitor.answer(QUESTION)
    numbers = {"num_docs": 3, "max_tokens": 4, "temperature": 0, "top_p": 0, "top_k": 0}
    wanted = {"answers": "write", **numbers, "retrieval": True}
    assert {name: bodies[0][name] for name in wanted} == wanted
    expect(visitor.answers.last).to_contain_text("Stopped at the longest answer")
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("button", name="Reset to defaults").click()
    expect(page.get_by_label("Passages", exact=True)).to_have_value("2")
    page.get_by_role("switch", name="Answer from the documents").uncheck()
    page.get_by_label("Longest answer", exact=True).fill("16")
    visitor.press("Escape")
    answer = visitor.answer("What is the capital of France?")
    assert bodies[1]["retrieval"] is False
    expect(answer.get_by_role("list", name="Sources")).to_have_count(0)


def test_with_and_without_documents_side_by_side(visitor: Visitor) -> None:
    page = visitor.open()
    bodies = sent(visitor)
    page.get_by_role("button", name="Compare").click()
    visitor.question.fill(QUESTION)
    visitor.question.press("Enter")
    expect(visitor.answers).to_have_count(2)
    for answer in visitor.answers.all():
        expect(answer).to_have_attribute("data-status", "done", timeout=ANSWERS_WITHIN_MS)
    assert [body["retrieval"] for body in bodies] == [True, False]
    expect(visitor.answers.nth(0).get_by_role("list", name="Sources")).to_be_visible()
    expect(visitor.answers.nth(1).get_by_role("list", name="Sources")).to_have_count(0)


def test_a_refusal_offers_related_topics(visitor: Visitor) -> None:
    visitor.open()
    answer = visitor.answer("What is the capital of Peru?")
    expect(answer).to_contain_text("The documents do not answer this question.")
    expect(answer.get_by_role("list", name="Sources")).to_have_count(0)
    topics = answer.get_by_role("list", name="Nearest topics").get_by_role("button")
    expect(topics).not_to_have_count(0)
    topics.first.click()
    expect(visitor.page.get_by_test_id("document")).not_to_be_empty()


def test_asking_again_and_editing(visitor: Visitor) -> None:
    page = visitor.open()
    visitor.answer(QUESTION)
    page.get_by_role("button", name="Ask again").click()
    expect(visitor.answers).to_have_count(1)
    expect(visitor.answers.first).to_have_attribute("data-status", "done", timeout=ANSWERS_WITHIN_MS)
    page.locator(".question").hover()
    page.get_by_role("button", name="Edit the question").click()
    edit = page.get_by_role("textbox", name="Edit the question")
    expect(edit).to_be_focused()
    edit.fill("How do I delete a document?")
    edit.press("Enter")
    expect(page.locator(".question-bubble")).to_contain_text("How do I delete a document?")
    expect(visitor.answers).to_have_count(1)
    expect(visitor.answers.first).to_have_attribute("data-status", "done", timeout=ANSWERS_WITHIN_MS)


def test_reloading_during_an_answer_loses_nothing(visitor: Visitor, graph: PeopleGraph) -> None:
    visitor.open()
    visitor.page.locator(".mode", has_text="Documents").click()
    answer = visitor.ask(LONG)
    expect(answer.locator(".prose")).not_to_be_empty(timeout=ANSWERS_WITHIN_MS)
    before = answer.locator(".prose").inner_text()
    visitor.page.reload()
    expect(visitor.answers).to_have_count(1)
    expect(visitor.answers.first).to_have_attribute("data-status", "interrupted")
    assert visitor.answers.first.locator(".prose").inner_text().startswith(before.strip()[:40])
    expect(visitor.answers.first).to_contain_text("Interrupted")
    until(lambda: running_requests(graph) == 0)
    visitor.page.locator(".ending").get_by_role("button", name="Ask again").click()
    expect(visitor.answers.first).to_have_attribute("data-status", "writing", timeout=ANSWERS_WITHIN_MS)
    visitor.press("Escape")


def test_two_visitors_are_independent(browser: Browser, page_url: str) -> None:
    one, other = Visitor(browser, page_url), Visitor(browser, page_url)
    one.open()
    other.open()
    first, second = one.ask(QUESTION), other.ask("How do I delete a document?")
    for answer in (first, second):
        expect(answer).to_have_attribute("data-status", "done", timeout=ANSWERS_WITHIN_MS)
    expect(one.page.locator(".question-bubble")).to_contain_text(QUESTION)
    expect(other.page.locator(".conversation")).to_have_count(1)
    assert one.complaints == other.complaints == []
    one.context.close()
    other.context.close()


def test_everything_with_the_keyboard(visitor: Visitor) -> None:
    page = visitor.open()
    expect(visitor.question).to_be_focused()
    page.keyboard.type("What is an index")
    visitor.press("Shift+Enter")
    page.keyboard.type("version?")
    expect(visitor.question).to_have_value("What is an index\nversion?")
    visitor.press("Enter")
    expect(visitor.answers.last).to_have_attribute("data-status", "done", timeout=ANSWERS_WITHIN_MS)
    page.locator(".source-card").first.focus()
    visitor.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    expect(dialog).to_contain_text("Source 1 of 2")
    visitor.press("ArrowRight")
    expect(dialog).to_contain_text("Source 2 of 2")
    visitor.press("Escape")
    expect(dialog).to_have_count(0)
    expect(page.locator(".source-card").first).to_be_focused()
    visitor.press("/")
    expect(visitor.question).to_be_focused()
    visitor.press("Alt+KeyS")
    expect(page.get_by_role("dialog")).to_contain_text("Settings")
    visitor.press("Escape", "Alt+KeyN")
    expect(visitor.answers).to_have_count(0)
    page.locator("body").press("?")
    page.goto(visitor.url)
    expect(visitor.question).to_be_focused()
    visitor.press("Shift+Tab")
    expect(visitor.question).not_to_be_focused()
    page.locator(".skip-link").focus()
    visitor.press("Enter")
    expect(visitor.question).to_be_focused()
