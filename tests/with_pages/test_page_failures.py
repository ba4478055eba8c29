"""Failures on the page: a clear message with the request id, and nothing lost."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Browser, expect

from tests.fakes.scripted_transformer import Exchange, ScriptedTransformer, answering, begun, document, source
from tests.processes import free_ports, program
from tests.with_pages.chromium import Visitor

if TYPE_CHECKING:
    from conftest import PeopleGraph


def failing(status: int, code: str, message: str, **headers: str) -> Any:
    """Refuses everything like this."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda exchange: exchange.reply(status, {"error": message, "code": code, "field": None}, sent)


@pytest.fixture(scope="module")
def page_without_model(graph: PeopleGraph, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A page in front of a real transformer without a predictor."""
    from kserve_rag.local.launcher import model_store

    transformer, grpc, predictor, page = free_ports(4)
    tokenizer = model_store(graph.settings).materialise(graph.state.llm, "llm").path
    logs = tmp_path_factory.mktemp("without-model")
    of_transformer = {
        **os.environ,
        "TRANSFORMER_HOST": "127.0.0.1",
        "TRANSFORMER_HTTP_PORT": str(transformer),
        "TRANSFORMER_GRPC_PORT": str(grpc),
        "TRANSFORMER_MODEL_NAME": "rag",
        "TRANSFORMER_VECTORSTORE_URL": graph.vectorstore_url,
        "TRANSFORMER_PREDICTOR_URL": f"http://127.0.0.1:{predictor}",
        "TRANSFORMER_PREDICTOR_LAYOUT": "llmapi",
        "TRANSFORMER_PROMPT_FORMAT": str(tokenizer),
    }
    of_page = {
        **os.environ,
        "FRONTEND_HOST": "127.0.0.1",
        "FRONTEND_HTTP_PORT": str(page),
        "FRONTEND_TRANSFORMER_URL": f"http://127.0.0.1:{transformer}",
    }
    alive = f"http://127.0.0.1:{transformer}/v2/health/live"
    with (
        program([sys.executable, "-m", "transformer"], alive, of_transformer, log=logs / "transformer.log"),
        program([sys.executable, "-m", "frontend"], f"http://127.0.0.1:{page}/ready", of_page, log=logs / "page.log"),
    ):
        yield f"http://127.0.0.1:{page}/"


def test_a_missing_model(browser: Browser, page_without_model: str) -> None:
    visitor = Visitor(browser, page_without_model)
    page = visitor.open()
    answer = visitor.ask("What is an index version?")
    expect(answer).to_have_attribute("data-status", "failed", timeout=60_000)
    alert = answer.get_by_role("alert")
    expect(alert).to_contain_text("not ready yet")
    assert len(alert.locator("code").inner_text()) == 32
    alert.get_by_text("Details").click()
    expect(alert).to_contain_text("503")
    expect(alert.get_by_role("button", name="Ask again")).to_be_visible()
    expect(page.locator(".question-bubble")).to_contain_text("What is an index version?")
    visitor.context.close()


@pytest.mark.parametrize(
    ("status", "code", "title"),
    [
        (400, "invalid_request", "question was rejected"),
        (413, "payload_too_large", "too large"),
        (429, "busy", "Too many questions"),
        (502, "bad_upstream", "A part of the service failed"),
        (504, "deadline_exceeded", "took too long"),
        (500, "internal", "went wrong"),
    ],
)
def test_failures_are_explained_in_words(
    reader: Visitor, script: ScriptedTransformer, status: int, code: str, title: str
) -> None:
    script.respond = failing(status, code, "The predictor said <b>no</b>.")
    reader.open()
    answer = reader.ask("What swims?")
    alert = answer.get_by_role("alert")
    expect(alert).to_contain_text(title)
    expect(alert.locator("code")).not_to_be_empty()
    alert.get_by_text("Details").click()
    expect(alert).to_contain_text("The predictor said <b>no</b>.")
    script.respond = answering("Ducks.")
    alert.get_by_role("button", name="Ask again").click()
    expect(reader.answers.last).to_contain_text("Ducks.")


def test_retry_after_is_waited_for(reader: Visitor, script: ScriptedTransformer) -> None:
    script.respond = failing(503, "not_ready", "The index is being loaded.", retry_after="8")
    reader.open()
    alert = reader.ask("What swims?").get_by_role("alert")
    expect(alert.get_by_role("button", name="Ask again in")).to_be_disabled()
    script.respond = answering("Ducks.")
    alert.get_by_role("button", name="Ask again", exact=True).click()
    expect(reader.answers.last).to_contain_text("Ducks.")


@pytest.mark.parametrize("status", [401, 403])
def test_an_expired_session_keeps_the_question(reader: Visitor, script: ScriptedTransformer, status: int) -> None:
    script.respond = failing(status, "unauthorized", "The token has expired.")
    page = reader.open()
    reader.question.fill("What swims, and where?")
    reader.question.press("Enter")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("Sign in")
    expect(alert.locator("code")).not_to_be_empty()
    expect(reader.question).to_have_value("What swims, and where?")
    expect(reader.answers).to_have_count(0)
    alert.get_by_role("button", name="Sign in again").click()
    expect(reader.question).to_have_value("What swims, and where?")

    def admits(exchange: Exchange) -> None:
        if exchange.headers["authorization"] == "Bearer right":
            answering("Ducks.")(exchange)
        else:
            failing(status, "unauthorized", "The token has expired.")(exchange)

    script.respond = admits
    reader.question.press("Enter")
    page.get_by_role("button", name="Enter a token").click()
    page.get_by_label("Access token").fill("right")
    reader.press("Escape")
    reader.question.press("Enter")
    expect(reader.answers.last).to_contain_text("Ducks.")
    assert page.evaluate("JSON.stringify(localStorage)").find("right") < 0
    other = reader.context.new_page()
    other.goto(reader.url)
    assert other.evaluate("sessionStorage.length") == 0


def test_an_address_of_another_browser_says_why_it_is_empty(reader: Visitor, script: ScriptedTransformer) -> None:
    script.respond = answering("They swim.")
    reader.open()
    reader.ask("What do ducks do?")
    expect(reader.answers.last).to_contain_text("They swim.")
    address = reader.page.url
    assert "#/c/" in address
    reader.page.goto("about:blank")
    reader.page.goto(f"{address}0")
    expect(reader.page.get_by_text("The conversation of this address is not here.")).to_be_visible()
    reader.page.goto("about:blank")
    reader.page.goto(address)
    expect(reader.answers.last).to_contain_text("They swim.")


def test_a_lost_connection_keeps_the_text_so_far(reader: Visitor, script: ScriptedTransformer) -> None:
    def breaks(exchange: Exchange) -> None:
        exchange.stream([begun(), {"text_output": "Ducks swim, and"}])

    script.respond = breaks
    reader.open()
    answer = reader.ask("What do ducks do?")
    expect(answer).not_to_have_attribute("data-status", "writing")
    expect(answer).to_contain_text("Ducks swim, and")
    script.respond = answering("They swim.")
    answer.get_by_role("button", name="Ask again").first.click()
    expect(reader.answers.last).to_contain_text("They swim.")


def test_an_error_in_the_middle_keeps_the_text_so_far(reader: Visitor, script: ScriptedTransformer) -> None:
    error = {"error": "The predictor ended.", "code": "bad_upstream", "field": None}
    script.respond = lambda exchange: exchange.stream([begun(), {"text_output": "Ducks swim, and"}, error])
    reader.open()
    answer = reader.ask("What do ducks do?")
    expect(answer).to_have_attribute("data-status", "failed")
    expect(answer).to_contain_text("Ducks swim, and")
    expect(answer.get_by_role("alert")).to_contain_text("A part of the service failed")
    expect(answer.get_by_role("alert").locator("code")).not_to_be_empty()


def test_offline_and_back(reader: Visitor, script: ScriptedTransformer) -> None:
    reader.open()
    reader.context.set_offline(True)
    answer = reader.ask("What do ducks do?")
    expect(answer.get_by_role("alert")).to_contain_text("cannot reach its server")
    reader.context.set_offline(False)
    answer.get_by_role("button", name="Ask again").click()
    expect(reader.answers.last).to_contain_text("Yes.")


def test_stopping_before_the_first_text(reader: Visitor, script: ScriptedTransformer) -> None:
    released = threading.Event()

    def waits(exchange: Exchange) -> None:
        released.wait(30)
        answering("Too late.")(exchange)

    script.respond = waits
    reader.open()
    answer = reader.ask("What do ducks do?")
    reader.press("Escape")
    released.set()
    expect(answer).to_have_attribute("data-status", "stopped")
    expect(reader.question).to_be_enabled()


def test_empty_and_very_long_questions(reader: Visitor, script: ScriptedTransformer) -> None:
    page = reader.open()
    ask = page.get_by_role("button", name="Ask", exact=True)
    expect(ask).to_be_disabled()
    reader.question.fill("   \n ")
    reader.question.press("Enter")
    expect(reader.answers).to_have_count(0)
    reader.question.fill("a" * 2_500)
    expect(page.locator("#question-note")).to_have_text("2,500 of 100,000 characters")
    reader.question.fill("😀" * 100_001)
    expect(page.locator("#question-note")).to_contain_text("100,001 characters")
    reader.question.press("Enter")
    expect(ask).to_be_disabled()
    expect(reader.answers).to_have_count(0)
    assert script.requests == []


PASTE = """(input, text) => {
    const data = new DataTransfer();
    data.setData("text/plain", text);
    input.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }));
}"""


def test_pasted_bytes_are_refused_and_control_characters_left_out(reader: Visitor) -> None:
    page = reader.open()
    reader.question.evaluate(PASTE, "%PDF-1.7\u0000\u0001\u0002")
    expect(page.locator("#question-note")).to_contain_text("The clipboard holds a file, not text")
    expect(reader.question).to_have_value("")
    reader.question.evaluate(PASTE, "What\u0007 swims?\u001b")
    expect(reader.question).to_have_value("What swims?")
    expect(page.locator("#question-note")).to_contain_text("2 invisible control characters left out")


def test_no_request_goes_to_another_host(reader: Visitor, tmp_path: Path) -> None:
    asked: list[str] = []
    reader.page.on("request", lambda request: asked.append(request.url))
    reader.open()
    reader.answer("What do ducks do?")
    assert all(url.startswith(reader.url) for url in asked)


def test_a_browser_without_storage(reader: Visitor, script: ScriptedTransformer) -> None:
    """As it is in a frame of another site, where everything that is kept is forbidden."""
    reader.context.add_init_script(
        """for (const name of ["localStorage", "sessionStorage", "indexedDB"]) {
             const get = () => { throw new DOMException("Access is denied for this document.", "SecurityError"); };
             Object.defineProperty(window, name, { configurable: true, get });
           }"""
    )
    page = reader.open()
    expect(reader.ask("What swims?")).to_contain_text("Yes.")
    expect(page.get_by_text("This browser stores nothing")).to_be_visible()


def test_a_token_is_entered_from_a_document(reader: Visitor, script: ScriptedTransformer) -> None:
    stored = document("Ducks swim.")
    script.respond = answering("Ducks.", [source(stored, 0, 11)])
    refused = {"error": "The token has expired.", "code": "unauthorized", "field": None}
    reader.context.route("**/v1/documents/**", lambda route: route.fulfill(status=401, json=refused))
    page = reader.open()
    reader.answer("What swims?").get_by_role("button", name="Source 1").first.click()
    page.get_by_role("button", name="Enter a token").click()
    page.get_by_label("Access token").click()  # nothing lies over it
    reader.complaints.clear()  # the browser names every 401


def test_parts_of_the_page_that_do_not_load(
    browser: Browser, script: ScriptedTransformer, script_url: tuple[ScriptedTransformer, str]
) -> None:
    visitor = Visitor(browser, script_url[1])
    visitor.context.route("**/assets/p*.js", lambda route: route.abort())
    page = visitor.open()
    script.respond = answering("Ducks **swim**.")
    expect(visitor.answer("What do ducks do?").locator(".plain")).to_have_text("Ducks **swim**.")
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_role("dialog")).to_contain_text("could not be loaded")
    visitor.press("Escape")
    expect(visitor.answers.last).to_contain_text("swim")
    visitor.context.close()
