"""The page in headless Chromium: first paint, delay until a token is visible, longest tasks while streaming.

A stub transformer sends 100 tokens per second, behind the page's own server. First paint is with a fresh profile. A
token is visible in the frame after it is in the document: the delay is from its sending to the start of that frame.
Long tasks are those above 50 ms that the browser reports while the hundredth answer of a conversation streams and is
scrolled, and while a document of 500 passages, 100 of them marked, is opened and scrolled during an answer.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import threading
import time
from collections.abc import Mapping
from typing import Any

from benchmarks.processes import free_port, running

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


class _Transformer:
    """Streams answers from a thread, and records when it sent the first token of each."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.tokens = 0
        """Interval of the next answer's tokens; 0: the whole answer at once."""
        self.sources: list[dict[str, Any]] = []
        self.document: dict[str, Any] = {}
        self.first_sent: list[float] = []
        """Milliseconds since the epoch."""
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._started.wait(10)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        from aiohttp import web

        app = web.Application()
        app.router.add_get("/v1/indexes", self._indexes)
        app.router.add_get("/openai/v1/models", self._models)
        app.router.add_get("/v1/documents/{id}", self._document)
        app.router.add_post("/v2/models/rag/generate_stream", self._stream)
        runner = web.AppRunner(app)
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", self.port).start())
        self._started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _indexes(self, _: Any) -> Any:
        return _json({"default": "default", "indexes": [], "reason": None})

    async def _models(self, _: Any) -> Any:
        return _json({"data": [{"id": "rag"}]})

    async def _document(self, _: Any) -> Any:
        return _json(self.document)

    async def _stream(self, request: Any) -> Any:
        from aiohttp import web

        await request.read()
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)

        async def send(event: Mapping[str, Any]) -> None:
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")

        timings = {"embed": 5.0, "search": 2.0, "retrieval": 9.0, "prompt": 1.0}
        await send({"id": "1", "sources": self.sources, "cut": [], "query": None, "timings": timings})
        await asyncio.sleep(0.05)
        self.first_sent.append(time.time() * 1000)
        if self.tokens:
            for number in range(self.tokens):
                await send({"text_output": _token(number)})
                await asyncio.sleep(1 / TOKENS_PER_S)
        else:
            await send({"text_output": "".join(_token(number) for number in range(120))})
        end = {"finish_reason": "stop", "refused": False, "usage": {}, "topics": [], "citations": None}
        await send({"text_output": "", "sources": self.sources, "timings": timings, **end})
        await response.write_eof()
        return response


def measure() -> list[str]:
    """The table, as lines of Markdown."""
    from playwright.sync_api import sync_playwright

    transformer = _Transformer()
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    variables = {
        "FRONTEND_HOST": "127.0.0.1",
        "FRONTEND_HTTP_PORT": str(port),
        "FRONTEND_TRANSFORMER_URL": transformer.url,
        "FRONTEND_LOG_FORMAT": "json",
    }
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise SystemExit("There is no Chromium on this machine: install one, or name it in CHROMIUM.")
    try:
        with running(["-m", "frontend"], f"{url}ready", variables), sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, args=list(_FLAGS))
            paints = [_first_paint(browser, url) for _ in range(PAINTS)]
            seen, streaming = _conversation(browser, url, transformer)
            reading = _document(browser, url, transformer)
            browser.close()
    finally:
        transformer.close()
    rows = [
        ("first contentful paint, ms", paints, PAINT_MS),
        ("first token, from its sending until it is seen, ms", seen, TOKEN_MS),
        (
            f"longest task while the answer of turn {TURNS} streams and the conversation is scrolled, ms",
            streaming,
            TASK_MS,
        ),
        (f"longest task while a document of {PASSAGES} passages is read beside a stream, ms", reading, TASK_MS),
    ]
    lines = ["| | median | worst | to reach |", "|---|---|---|---|"]
    for name, values, target in rows:
        several = f"{statistics.median(values):.0f}" if len(values) > 1 else ""
        lines.append(f"| {name} | {several} | {max(values):.0f} | {target} |")
    return lines


def _first_paint(browser: Any, url: str) -> float:
    context = browser.new_context()
    page = context.new_page()
    page.goto(url)
    page.wait_for_function("() => performance.getEntriesByName('first-contentful-paint').length > 0")
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    context.close()
    return float(paint)


def _conversation(browser: Any, url: str, transformer: _Transformer) -> tuple[list[float], list[float]]:
    """Delays of all first tokens, and the longest task of the last turn."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(url)
    seen = []
    for turn in range(1, TURNS + 1):
        transformer.tokens = TOKENS if turn == TURNS else 0
        if turn == TURNS:
            page.evaluate(_LONG_TASKS)
        seen.append(_ask(page, transformer, f"Question {turn}: what is an index version?"))
        if turn == TURNS:
            page.evaluate(_SCROLL, ".viewport")
        page.locator(".answer-view").nth(turn - 1).and_(page.locator("[data-status=done]")).wait_for(timeout=60_000)
    longest = max([0.0, *page.evaluate("window.longTasks")])
    context.close()
    return seen, [float(longest)]


def _document(browser: Any, url: str, transformer: _Transformer) -> list[float]:
    """The longest task while a document is opened and scrolled during an answer."""
    passage = "".join(_token(number) for number in range(220)) + " 🦆\n\n"
    text = "".join(f"## Passage {number}\n\n{passage}" for number in range(PASSAGES))
    points = len(text) // PASSAGES
    transformer.document = {"id": "d", "title": "A long document", "url": None, "source": "d.md", "text": text}
    spans = [(points * number * (PASSAGES // SOURCES), points - 10) for number in range(SOURCES)]
    transformer.sources = [
        {
            "number": number,
            "text": text[start : start + size],
            "document_id": "d",
            "chunk_id": str(number),
            "title": "A long document",
            "url": None,
            "source": "d.md",
            "heading_path": [],
            "span": {"start": start, "end": start + size},
            "collection": "default",
            "index_version": "v1",
            "score": 0.5,
        }
        for number, (start, size) in enumerate(spans, start=1)
    ]
    context = browser.new_context()
    page = context.new_page()
    page.goto(url)
    transformer.tokens = TOKENS
    page.evaluate(_LONG_TASKS)
    _ask(page, transformer, "What is in the document?")
    page.get_by_role("button", name="more sources").click()
    page.locator(".source-card").nth(60).click()
    page.locator("[data-testid=document] mark").first.wait_for(state="attached")
    page.evaluate(_SCROLL, ".sheet-body")
    page.locator("[data-status=done]").wait_for(timeout=60_000)
    longest = max([0.0, *page.evaluate("window.longTasks")])
    context.close()
    transformer.sources = []
    return [float(longest)]


def _ask(page: Any, transformer: _Transformer, question: str) -> float:
    """Ask; return the milliseconds from sending the first token until it is visible."""
    page.evaluate(_FIRST_SEEN)
    page.locator("#question").fill(question)
    page.locator("#question").press("Enter")
    page.wait_for_function("() => window.firstSeen !== null")
    return float(page.evaluate("window.firstSeen")) - transformer.first_sent[-1]


def _token(number: int) -> str:
    if number % 80 == 79:
        return ".\n\n"
    return ("An", " index", " **version**", " is", " an", " immutable", " `folder`", " of", " everything", " [1]")[
        number % 10
    ]


def _json(content: Any) -> Any:
    from aiohttp import web

    return web.json_response(content)
