"""Requests lost when each service is restarted or killed, in turn.

32 clients ask the transformer without a pause, each on its own connection, half of them for a stream, and none of
them retries. Meanwhile `kserve-rag restart` replaces the process of a service, or SIGKILL ends it and the supervisor
restarts it. A request is lost if it does not get a complete response with status 200; a 503 with Retry-After is
counted apart. A killed process loses the requests that it was working on. Seconds are until the command returns, or
until `kserve-rag status` calls the service ready again; the pause is the longest time in which nobody got an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import aiohttp

from benchmarks.document import Options
from evaluation.markdown import table
from kserve_rag.local.graph import SERVICES, GraphState, ServiceName, ServiceStatus, need_running, restart, status
from kserve_rag.settings import Settings

TITLE = "Restarts under load"
CLIENTS = 32
POLL_S = 0.1
MAX_TOKENS = 4
MARGIN_S = 3.0
"""Seconds of load before and after the change."""


@dataclass
class LoadResult:
    """Outcomes of the clients' requests."""

    answered_at: list[float] = field(default_factory=list)
    refused: int = 0
    """Number of responses 503 with Retry-After."""
    lost: list[str] = field(default_factory=list)
    """Reasons of failed requests."""

    @property
    def requests(self) -> int:
        """Number of requests."""
        return len(self.answered_at) + self.refused + len(self.lost)

    @property
    def longest_pause_s(self) -> float:
        """Maximum time without an answer to any client."""
        return max((later - earlier for earlier, later in itertools.pairwise(self.answered_at)), default=0.0)


async def ask_until(url: str, ended: asyncio.Event, clients: int) -> LoadResult:
    """Sends requests until `ended` is set, then waits for those in flight."""
    load, numbers = LoadResult(), itertools.count()

    async def client(path: str) -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
            while not ended.is_set():
                # Every question differs, so that no cache answers.
                question = f"What is index version {next(numbers)}?"
                try:
                    async with session.post(path, json={"text_input": question, "max_tokens": MAX_TOKENS}) as response:
                        text = await response.text()
                except aiohttp.ClientError as error:
                    load.lost.append(repr(error))
                    continue
                if response.status == 200 and '"finish_reason"' in text:
                    load.answered_at.append(time.perf_counter())
                elif response.status == 503 and "retry-after" in response.headers:
                    load.refused += 1
                    await asyncio.sleep(0.2)
                else:
                    load.lost.append(f"{response.status}: {text[-300:]}")

    paths = itertools.cycle([f"{url}/v2/models/rag/generate", f"{url}/v2/models/rag/generate_stream"])
    await asyncio.gather(*(client(path) for path in itertools.islice(paths, clients)))
    return load


async def under_load(url: str, change: Callable[[], None]) -> tuple[LoadResult, float]:
    """Makes a change under load. Returns the load and the duration of the change in seconds."""
    ended = asyncio.Event()
    load = asyncio.create_task(ask_until(url, ended, CLIENTS))
    await asyncio.sleep(MARGIN_S)
    began = time.perf_counter()
    await asyncio.to_thread(change)
    seconds = time.perf_counter() - began
    await asyncio.sleep(MARGIN_S)
    ended.set()
    return await load, seconds


def kill(settings: Settings, service: ServiceName) -> None:
    """Kills the process of a service and waits until the service is ready again."""
    pid = status(settings).services[service].pid
    os.kill(pid, signal.SIGKILL)
    while (found := status(settings).services[service]).pid in (0, pid) or not is_up(found):
        time.sleep(POLL_S)


def is_up(found: ServiceStatus) -> bool:
    """Whether a service is ready. The page's server counts as ready without a page."""
    return found.ready or "not built" in str(found.reason)


@contextlib.contextmanager
def graph() -> Iterator[tuple[Settings, GraphState]]:
    """A graph in a separate home."""
    shared = Settings()
    with tempfile.TemporaryDirectory() as folder:
        chosen = {name: "0" for name in Settings.model_fields if name.endswith("port")}
        chosen |= {"home": folder, "models_dir": str(shared.models), "envs_dir": str(shared.envs)}
        environ = {**os.environ, **{f"KSERVE_RAG_{name.upper()}": value for name, value in chosen.items()}}
        command = [sys.executable, "-m", "kserve_rag"]
        subprocess.run([*command, "up", "--detach"], env=environ, check=True, stdout=subprocess.DEVNULL)
        settings = Settings.model_validate(chosen)
        try:
            yield settings, need_running(settings)
        finally:
            subprocess.run([*command, "down"], env=environ, check=False, stdout=subprocess.DEVNULL)


def measure(options: Options) -> list[str]:
    """The table."""
    rows = []
    with graph() as (settings, state):
        changes: dict[str, Callable[[ServiceName], None]] = {
            "restart": lambda service: restart(settings, state, service),
            "SIGKILL": lambda service: kill(settings, service),
        }
        for how, change in changes.items():
            for service in SERVICES[:1] if options.quick else SERVICES:
                url = state.services["transformer"].url
                load, seconds = asyncio.run(under_load(url, functools.partial(change, service)))
                rows.append(
                    {
                        "service": service,
                        "change": how,
                        "requests": str(load.requests),
                        "lost": str(len(load.lost)),
                        "503 with Retry-After": str(load.refused),
                        "longest pause s": f"{load.longest_pause_s:.1f}",
                        "seconds": f"{seconds:.1f}",
                    }
                )
                print(rows[-1], *load.lost[:5], sep="\n  lost: ", file=sys.stderr, flush=True)
    return [table(rows)]
