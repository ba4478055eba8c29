"""Requests lost when each service is restarted in turn, with one replica and with two.

32 clients ask the transformer without a pause, each on a connection of its own, half of them for a stream, and none of
them tries again. Meanwhile `kserve-rag restart` puts a new process in the place of each of a service's. Lost is what is
not answered with 200 to its end; a 503 with Retry-After is counted apart. A restart takes as long as the command does;
the pause is the longest time without an answer to anybody.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import aiohttp

from kserve_rag.local.graph import SERVICES, ServiceName, need_running
from kserve_rag.settings import Settings

CLIENTS = 32
REPLICAS = (1, 2)
MAX_TOKENS = 4
MARGIN_S = 3.0
"""Load before a restart and after it."""


@dataclass
class Load:
    """What clients saw."""

    answered_at: list[float] = field(default_factory=list)
    refused: int = 0
    """503 with Retry-After."""
    lost: list[str] = field(default_factory=list)
    """Why, for each."""

    @property
    def requests(self) -> int:
        """All that were sent."""
        return len(self.answered_at) + self.refused + len(self.lost)

    @property
    def longest_pause_s(self) -> float:
        """Without an answer to anybody."""
        return max((later - earlier for earlier, later in itertools.pairwise(self.answered_at)), default=0.0)


async def ask_until(url: str, ended: asyncio.Event, clients: int) -> Load:
    """Has clients ask until `ended` is set; what is under way then is waited for."""
    load, numbers = Load(), itertools.count()

    async def client(path: str) -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
            while not ended.is_set():
                # No two alike, so that no cache answers.
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


async def restart_under_load(url: str, service: ServiceName, environ: Mapping[str, str]) -> tuple[Load, float]:
    """What clients saw of a restart, and the seconds that it took."""
    ended = asyncio.Event()
    load = asyncio.create_task(ask_until(url, ended, CLIENTS))
    await asyncio.sleep(MARGIN_S)
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "kserve_rag", "restart", service], env=environ, stdout=subprocess.DEVNULL
    )
    status = await process.wait()
    seconds = time.perf_counter() - began
    await asyncio.sleep(MARGIN_S)
    ended.set()
    seen = await load
    if status:
        raise SystemExit(f"kserve-rag restart {service} failed.")
    return seen, seconds


@contextlib.contextmanager
def graph(replicas: int) -> Iterator[tuple[str, dict[str, str]]]:
    """URL of the transformer of a graph with so many replicas of each service, and the variables that name it."""
    shared = Settings()
    with tempfile.TemporaryDirectory() as folder:
        chosen = {name: "0" for name in Settings.model_fields if name.endswith("port")}
        chosen |= {"home": folder, "models_dir": str(shared.models), "envs_dir": str(shared.envs)}
        environ = {**os.environ, **{f"KSERVE_RAG_{name.upper()}": value for name, value in chosen.items()}}
        command = [sys.executable, "-m", "kserve_rag"]
        subprocess.run(
            [*command, "up", "--detach", "--replicas", str(replicas)],
            env=environ,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        try:
            yield need_running(Settings.model_validate(chosen)).services["transformer"].url, environ
        finally:
            subprocess.run([*command, "down"], env=environ, check=False, stdout=subprocess.DEVNULL)


def measure(services: tuple[ServiceName, ...] = SERVICES) -> list[str]:
    """The table, as lines of Markdown."""
    lines = [
        "| restarted | replicas | requests | lost | 503 with Retry-After | longest pause s | restart s |",
        "|---|---|---|---|---|---|---|",
    ]
    for replicas in REPLICAS:
        with graph(replicas) as (url, environ):
            for service in services:
                load, seconds = asyncio.run(restart_under_load(url, service, environ))
                lines.append(
                    f"| {service} | {replicas} | {load.requests} | {len(load.lost)} | {load.refused} | "
                    f"{load.longest_pause_s:.1f} | {seconds:.1f} |"
                )
                print(lines[-1], *load.lost[:5], sep="\n  lost: ", file=sys.stderr, flush=True)
    return lines


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("\n".join(measure()))
