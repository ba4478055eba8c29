"""Overhead of the page's server on streamed answers, for one user and for 32 concurrent users.

The transformer is a stub whose events have the time of sending. One user asks it directly and through the page's
server, in turn, for answers of one event. Then 32 users ask both for answers of 30 events, one every 20 ms; before each
question through the page's server they fetch the page with its 500 kB script.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np
import psutil
import uvloop

from benchmarks.document import Options
from benchmarks.processes import free_port, running
from evaluation.markdown import table

TITLE = "The page's server"
USERS = 32
QUESTIONS = 300
"""Questions of the single user, per route."""
WARM_UP = 20
EVENTS, EVERY_MS = 30, 20
STREAM = "/v2/models/rag/generate_stream"
SCRIPT = "/assets/index-1.js"


@dataclass
class Seen:
    """Client-side latencies in milliseconds."""

    first: list[float] = field(default_factory=list)
    """From a question to the first event of its answer."""
    events: list[float] = field(default_factory=list)
    """From the sending of an event to its arrival."""
    errors: int = 0


async def in_turn(*urls: str) -> list[Seen]:
    """One user, sequential questions."""
    seen = [Seen() for _ in urls]
    async with aiohttp.ClientSession() as session:
        for number in range(QUESTIONS + WARM_UP):
            for url, kept in zip(urls, seen, strict=True):
                await _ask(session, url, 1, kept if number >= WARM_UP else Seen())
    return seen


async def at_once(url: str, seconds: float, pages: Sequence[str] = ()) -> Seen:
    """Concurrent users, who each fetch the page and ask, repeatedly."""
    seen, end = Seen(), time.perf_counter() + seconds

    async def user(session: aiohttp.ClientSession) -> None:
        while time.perf_counter() < end:
            for page in pages:
                await _fetch(session, page, seen)
            await _ask(session, url, EVENTS, seen)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(user(session) for _ in range(USERS)))
    return seen


async def _fetch(session: aiohttp.ClientSession, url: str, seen: Seen) -> None:
    try:
        async with session.get(url) as response:
            await response.read()
            seen.errors += response.status != 200
    except aiohttp.ClientError:
        seen.errors += 1


async def _ask(session: aiohttp.ClientSession, url: str, events: int, seen: Seen) -> None:
    asked, sent = _now_ms(), []
    body = {"text_input": "How often are records sent?", "max_tokens": events}
    try:
        async with session.post(url, json=body) as response:
            async for line in response.content:
                if line.startswith(b"data:"):
                    now = _now_ms()
                    sent.append(now - json.loads(line[5:])["sent_ns"] / 1e6)
                    if len(sent) == 1:
                        seen.first.append(now - asked)
    except aiohttp.ClientError:
        pass
    seen.events += sent
    seen.errors += len(sent) != events


def _now_ms() -> float:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) / 1e6


def measure(options: Options) -> list[str]:
    """The table, and the added time."""
    stub, port = free_port(), free_port()
    direct, through = f"http://127.0.0.1:{stub}{STREAM}", f"http://127.0.0.1:{port}/api/transformer{STREAM}"
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder)
        (page / "assets").mkdir()
        (page / "index.html").write_text(f"<!doctype html><script type=module src=.{SCRIPT}></script>")
        (page / SCRIPT.lstrip("/")).write_text("".join(f"export const a{n} = {n * n};\n" for n in range(20_000)))
        base, upstream = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{stub}"
        variables = {"HOST": "127.0.0.1", "HTTP_PORT": str(port), "TRANSFORMER_URL": upstream, "PAGE_DIR": folder}
        environ = {f"FRONTEND_{name}": value for name, value in variables.items()}
        with (
            running(["-m", "benchmarks.event_stub", str(stub), str(EVERY_MS)], f"{upstream}/ready"),
            running(["-m", "frontend"], f"{base}/ready", **environ) as server,
        ):
            alone, passed = uvloop.run(in_turn(direct, through))
            many_alone = uvloop.run(at_once(direct, options.seconds))
            process = psutil.Process(server.pid)
            before_s = sum(process.cpu_times()[:2])
            many_passed = uvloop.run(at_once(through, options.seconds, (f"{base}/", f"{base}{SCRIPT}")))
            used_ms = (sum(process.cpu_times()[:2]) - before_s) * 1000
            memory_mb = _peak_mb(server.pid)
    seen = {
        "1 user, directly": alone,
        "1 user, through the page's server": passed,
        f"{USERS} users, directly": many_alone,
        f"{USERS} users, through the page's server": many_passed,
    }
    rows = []
    for name, one in seen.items():
        row = {"": name, "answers": str(len(one.first)), "errors": str(one.errors)}
        for what, times in (("first event", one.first), ("each event", one.events)):
            row |= {f"{what} {share} ms": f"{np.percentile(times, int(share[1:])):.1f}" for share in ("p50", "p99")}
        rows.append(row)
    p50, p99 = np.quantile(passed.first, [0.5, 0.99]) - np.quantile(alone.first, [0.5, 0.99])
    return [
        table(rows),
        f"Added to the first event of one user: {p50:.1f} ms (p50), {p99:.1f} ms (p99). At {USERS} users the page's "
        f"server takes {used_ms / len(many_passed.events):.2f} ms of processor time for an event, the page included, "
        f"and {memory_mb:.0f} MB of memory.",
    ]


def _peak_mb(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6
