"""The page in headless Chromium: first paint, delay until a token is visible, longest tasks while streaming.

A stub transformer sends 100 tokens per second, behind the page's own server. First paint is with a fresh profile. A
token is visible in the frame after it is in the document: the delay is from its sending to the start of that frame.
Long tasks are those above 50 ms that the browser reports while the hundredth answer of a conversation streams and is
scrolled, and while a document of 500 passages, 100 of them marked, is opened and scrolled during an answer.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import time
from collections.abc import Iterator
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.document import Options
from benchmarks.processes import free_port, running
from evaluation.markdown import table
from tests.fakes.scripted_transformer import ScriptedTransformer, begun, document, ended, source

TITLE = "The page"
PAINTS = 7
TURNS = 100
TOKENS = 400
PASSAGES = 500
SOURCES = 100
TOKENS_PER_S = 100

PAINT_MS, TOKEN_MS, TASK_MS = 1000, 150, 200
"""Targets."""

_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")

_LONG_TASKS = """() => {
    window.longTasks = [];
    new PerformanceObserver((list) => window.longTasks.push(...list.getEntries().map((entry) => entry.duration)))
        .observe({ entryTypes: ["longtask"] });
}"""

_FIRST_SEEN = """() => {
    window.firstSeen = null;
    const before = document.querySelectorAll(".answer-view").length;
    const watch = new MutationObserver(() => {
        const answers = document.querySelectorAll(".answer-view");
        const text = answers.length > before && answers[answers.length - 1].querySelector(".prose")?.textContent;
        if (!text) return;
        watch.disconnect();
        requestAnimationFrame(() => requestAnimationFrame(() => {
            window.firstSeen = performance.timeOrigin + performance.now();
        }));
    });
    watch.observe(document.body, { childList: true, subtree: true, characterData: true });
}"""

_SCROLL = """async (selector) => {
    const element = document.querySelector(selector);
    for (let step = 0; step <= 40; step++) {
        element.scrollTop = (element.scrollHeight - element.clientHeight) * Math.abs(Math.cos(step / 8));
        await new Promise(requestAnimationFrame);
    }
}"""


class Transformer(ScriptedTransformer):
    """Streams answers at `TOKENS_PER_S`, or at once, and records when it sent the first token of each."""

    def __init__(self) -> None:
        self.slow = False
        """Whether the next answer has `TOKENS` tokens, one at a time."""
        self.sources: list[dict[str, Any]] = []
        self.first_sent_ms: list[float] = []
        """Since the epoch."""
        super().__init__()
        self.respond = lambda exchange: exchange.stream(self._events())

    def _events(self) -> Iterator[dict[str, Any]]:
        yield begun(self.sources)
        time.sleep(0.05)
        self.first_sent_ms.append(time.time() * 1000)
        if self.slow:
            for number in range(TOKENS):
                yield {"text_output": token(number)}
                time.sleep(1 / TOKENS_PER_S)
        else:
            yield {"text_output": "".join(map(token, range(120)))}
        yield ended(self.sources)


def measure(options: Options) -> list[str]:
    """The table."""
    transformer, port = Transformer(), free_port()
    url = f"http://127.0.0.1:{port}/"
    variables = {"HOST": "127.0.0.1", "HTTP_PORT": str(port), "TRANSFORMER_URL": transformer.url, "LOG_FORMAT": "json"}
    environ = {f"FRONTEND_{name}": value for name, value in variables.items()}
    turns = 5 if options.quick else TURNS
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("There is no Chromium on this machine: install one, or name it in CHROMIUM.")
    try:
        with running(["-m", "frontend"], f"{url}ready", **environ), sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=list(_FLAGS))
            paints = [_first_paint(browser, url) for _ in range(PAINTS)]
            seen, streaming = _conversation(browser, url, transformer, turns)
            reading = _document(browser, url, transformer)
            browser.close()
    finally:
        transformer.close()
    streams = f"longest task while the answer of turn {turns} streams and the conversation is scrolled, ms"
    rows = [
        ("first contentful paint, ms", paints, PAINT_MS),
        ("first token, from its sending until it is seen, ms", seen, TOKEN_MS),
        (streams, [streaming], TASK_MS),
        (f"longest task while a document of {PASSAGES} passages is read beside a stream, ms", [reading], TASK_MS),
    ]
    return [
        table(
            [
                {
                    "": name,
                    "median": f"{statistics.median(values):.0f}" if len(values) > 1 else "",
                    "worst": f"{max(values):.0f}",
                    "target": str(target),
                }
                for name, values, target in rows
            ]
        )
    ]


@contextlib.contextmanager
def _opened(browser: Browser, url: str) -> Iterator[Page]:
    """The page, with a fresh profile."""
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(url)
        yield page


def _first_paint(browser: Browser, url: str) -> float:
    with _opened(browser, url) as page:
        page.wait_for_function("() => performance.getEntriesByName('first-contentful-paint').length > 0")
        return float(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))


def _conversation(browser: Browser, url: str, transformer: Transformer, turns: int) -> tuple[list[float], float]:
    """Delays of all first tokens, and the longest task of the last turn."""
    seen = []
    with _opened(browser, url) as page:
        for turn in range(1, turns + 1):
            transformer.slow = turn == turns
            if transformer.slow:
                page.evaluate(_LONG_TASKS)
            seen.append(_ask(page, transformer, f"Question {turn}: what is an index version?"))
            if transformer.slow:
                page.evaluate(_SCROLL, ".viewport")
            page.locator(".answer-view").nth(turn - 1).and_(page.locator("[data-status=done]")).wait_for(timeout=60_000)
        return seen, _longest_task(page)


def _document(browser: Browser, url: str, transformer: Transformer) -> float:
    """The longest task while a document is opened and scrolled during an answer."""
    passage = "".join(map(token, range(220))) + " 🦆\n\n"
    long = document("".join(f"## Passage {number}\n\n{passage}" for number in range(PASSAGES)), title="A long document")
    transformer.documents[long["id"]] = long
    size = len(long["text"]) // PASSAGES
    starts = [size * number * (PASSAGES // SOURCES) for number in range(SOURCES)]
    transformer.sources = [source(long, start, start + size - 10, number) for number, start in enumerate(starts, 1)]
    transformer.slow = True
    with _opened(browser, url) as page:
        page.evaluate(_LONG_TASKS)
        _ask(page, transformer, "What is in the document?")
        page.get_by_role("button", name="more sources").click()
        page.locator(".source-card").nth(60).click()
        page.locator("[data-testid=document] mark").first.wait_for(state="attached")
        page.evaluate(_SCROLL, ".sheet-body")
        page.locator("[data-status=done]").wait_for(timeout=60_000)
        return _longest_task(page)


def _longest_task(page: Page) -> float:
    return max([0.0, *page.evaluate("window.longTasks")])


def _ask(page: Page, transformer: Transformer, question: str) -> float:
    """Ask; return the milliseconds from sending the first token until it is visible."""
    page.evaluate(_FIRST_SEEN)
    page.locator("#question").fill(question)
    page.locator("#question").press("Enter")
    page.wait_for_function("() => window.firstSeen !== null")
    return float(page.evaluate("window.firstSeen")) - transformer.first_sent_ms[-1]


def token(number: int) -> str:
    """A token of an answer; every eightieth ends a paragraph."""
    words = ("An", " index", " **version**", " is", " an", " immutable", " `folder`", " of", " everything", " [1]")
    return ".\n\n" if number % 80 == 79 else words[number % 10]
