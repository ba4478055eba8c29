"""A browser for the page's tests, and a visitor's actions."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, expect, sync_playwright

ANSWERS_WITHIN_MS = 120_000
"""Deadline for the small model on a busy machine; no test asserts its speed."""

expect.set_options(timeout=30_000)
"""Deadline for the page itself. Playwright's default of 5 s is too short on a busy machine."""

_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

_HARMLESS = ("Failed to load resource", "Password field is not contained in a form")
"""Messages of Chromium itself about failed requests and about the token field."""


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """The machine's Chromium: CHROMIUM, or one on the PATH."""
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("There is no Chromium on this machine: install one, or name it in CHROMIUM.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(_FLAGS))
        yield browser
        browser.close()


class Visitor:
    """A visitor of the page, with a new browser profile."""

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self.url = url
        self.context: BrowserContext = browser.new_context(**options)
        self.context.set_default_timeout(30_000)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        """Errors that the browser reports: of scripts, and of the Content-Security-Policy."""
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def open(self, path: str = "") -> Page:
        self.page.goto(self.url + path)
        expect(self.question).to_be_visible()
        return self.page

    @property
    def question(self) -> Locator:
        return self.page.get_by_role("textbox", name="Question")

    @property
    def answers(self) -> Locator:
        return self.page.locator(".answer-view")

    def ask(self, question: str) -> Locator:
        """Asks, and returns the answer while it is being generated."""
        before = self.answers.count()
        self.question.fill(question)
        self.question.press("Enter")
        expect(self.answers).not_to_have_count(before)
        return self.answers.last

    def answer(self, question: str) -> Locator:
        """Asks, and gives the answer once it is whole."""
        answer = self.ask(question)
        expect(answer).to_have_attribute("data-status", "done", timeout=ANSWERS_WITHIN_MS)
        return answer

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def is_wider_than_window(self) -> bool:
        return bool(self.page.evaluate("document.documentElement.scrollWidth > window.innerWidth"))

    def is_hacked(self) -> bool:
        """Whether any injected script has run."""
        return bool(self.page.evaluate("window.hacked === true")) or "hacked" in self.page.title()

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not message.text.startswith(_HARMLESS):
            self.complaints.append(message.text)
