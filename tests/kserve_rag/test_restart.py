"""A new process in the place of a running one, under load: nothing is lost, and what fails changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from grpc import aio
from kserve import InferInput, InferRequest
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from kserve_rag.client import AsyncClient
from kserve_rag.errors import LaunchError, UnavailableError
from kserve_rag.local.graph import ANSWERING, ServiceName, follow, logs, status
from kserve_rag.local.indexing import index, wait_until_served
from kserve_rag.local.launcher import Graph, launch
from kserve_rag.local.replicas import replicas
from kserve_rag.local.supervisor import CONTROL
from kserve_rag.settings import Settings
from tests.processes import until

CORPUS = Path(__file__).parents[1] / "corpus"
CLIENTS = 8


@pytest.fixture(scope="module")
def own(graph_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, Graph]]:
    """A graph that may be changed."""
    settings = graph_settings.model_copy(update={"home": tmp_path_factory.mktemp("restarted")})
    with launch(settings) as graph:
        graph.wait_ready("embedder")
        summary = index(graph.state, [CORPUS])
        assert summary.version is not None
        graph.wait_ready()
        wait_until_served(graph.state, summary.version)
        yield settings, graph


class Load:
    """Clients that ask without a pause, on a connection each, and do not try again."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._ended, self._enough = asyncio.Event(), asyncio.Event()
        self._awaited = 0
        self._numbers = itertools.count()
        self.answered = 0
        self.refused = 0
        """503 with Retry-After."""
        self.lost: list[str] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        clients = [asyncio.create_task(self._ask(stream=number % 2 == 0)) for number in range(CLIENTS)]
        try:
            await self.answers(CLIENTS)
            yield
            await self.answers(CLIENTS)
        finally:
            self._ended.set()
            await asyncio.gather(*clients)

    async def answers(self, count: int) -> None:
        """Returns when there were so many more, or one was lost."""
        self._awaited = count
        self._enough.clear()
        await self._enough.wait()

    def _tell(self) -> None:
        self._awaited -= 1
        if self._awaited <= 0 or self.lost:
            self._enough.set()

    async def _ask(self, *, stream: bool) -> None:
        path = f"{self._url}/v2/models/rag/generate{'_stream' if stream else ''}"
        # Without a pool that looks whether a connection was closed before it is used again.
        async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=1)) as client:
            while not self._ended.is_set():
                question = f"What does error code E{next(self._numbers):02} mean?"
                try:
                    answer = await client.post(path, json={"text_input": question, "max_tokens": 2})
                except httpx.HTTPError as error:
                    self.lost.append(repr(error))
                    self._tell()
                    continue
                if answer.status_code == 200 and '"finish_reason"' in answer.text:
                    self.answered += 1
                elif answer.status_code == 503 and "retry-after" in answer.headers:
                    self.refused += 1
                    await asyncio.sleep(0.1)
                else:
                    self.lost.append(f"{answer.status_code} {answer.text}")
                self._tell()


def restart(settings: Settings, graph: Graph, *names: ServiceName) -> None:
    with replicas(settings, graph.state) as processes:
        for name in names:
            processes.restart(name)


def pids(graph: Graph, name: ServiceName) -> list[int]:
    return [replica.pid for replica in graph.state.services[name].replicas]


@pytest.mark.parametrize("name", ANSWERING)
async def test_with_one_replica_nothing_is_lost(own: tuple[Settings, Graph], name: ServiceName) -> None:
    settings, graph = own
    before = pids(graph, name)
    load = Load(graph.url("transformer"))
    async with load.running():
        await asyncio.to_thread(restart, settings, graph, name)
    assert load.lost == []
    assert len(pids(graph, name)) == 1
    assert not set(pids(graph, name)) & set(before)
    assert not any(psutil.pid_exists(pid) for pid in before)
    assert status(settings).services[name].ready


async def test_what_is_under_way_is_answered_to_its_end(own: tuple[Settings, Graph]) -> None:
    """A stream that outlasts the restarts of all that it passes through."""
    settings, graph = own
    async with AsyncClient(graph.url("transformer")) as client:
        answer = client.stream("What is in the manual? Tell everything.", max_tokens=200, temperature=0)
        first = await anext(answer)
        restarting = asyncio.create_task(asyncio.to_thread(restart, settings, graph, "transformer", "predictor"))
        events = [first, *[event async for event in answer]]
        await restarting
    assert events[-1].finish_reason in ("stop", "length")  # type: ignore[union-attr]


GRPC_RETRIES = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            },
        }
    ]
}
"""A call that comes at the very moment in which gRPC's server begins to drain is answered CANCELLED by it."""


async def test_callers_of_grpc_that_try_again_notice_nothing(own: tuple[Settings, Graph]) -> None:
    settings, graph = own
    options = [("grpc.service_config", json.dumps(GRPC_RETRIES))]
    text = InferInput("input", [1, 1], "BYTES", ["What does error code E08 mean?"])
    limit = InferInput("max_tokens", [1, 1], "INT32", [1])
    request = InferRequest("rag", [text, limit]).to_grpc()
    ended, answered = asyncio.Event(), 0

    async def ask() -> None:
        nonlocal answered
        async with aio.insecure_channel(graph.state.services["transformer"].grpc_url or "", options=options) as channel:
            stub = GRPCInferenceServiceStub(channel)
            while not ended.is_set():
                await stub.ModelInfer(request, timeout=60)
                answered += 1

    asking = [asyncio.create_task(ask()) for _ in range(4)]
    await asyncio.to_thread(restart, settings, graph, "transformer")
    ended.set()
    await asyncio.gather(*asking)
    assert answered


async def test_what_does_not_become_ready_changes_nothing(own: tuple[Settings, Graph]) -> None:
    settings, graph = own
    before = pids(graph, "embedder")
    # What Triton's models of a new process are run with; the running ones need it no more.
    broken = settings.run / "embedder" / "python"
    broken.rename(broken.with_suffix(".away"))
    try:
        async with Load(graph.url("transformer")).running():
            with pytest.raises(LaunchError, match="ended with status") as raised:
                await asyncio.to_thread(restart, settings, graph, "embedder")
    finally:
        broken.with_suffix(".away").rename(broken)
    failed = raised.value.message
    assert last_line(settings, graph) in failed
    assert pids(graph, "embedder") == before
    assert all(service.ready for name, service in status(settings).services.items() if name != "frontend")
    graph.wait_ready()  # which would tell of a process that has ended


def last_line(settings: Settings, graph: Graph) -> str:
    """Of the process of the embedder that was started last."""
    newest = f"embedder-{graph.state.services['embedder'].started}"
    lines = [line for name, line in follow(settings.run, ["embedder"], until=lambda: True) if name == newest]
    return [line for line in lines if line.strip()][-1]


def test_one_that_takes_too_long_is_given_up(own: tuple[Settings, Graph]) -> None:
    settings, graph = own
    before = pids(graph, "vectorstore")
    hasty = settings.model_copy(update={"start_timeout_s": 0.01})
    with pytest.raises(LaunchError, match=r"vectorstore-\d+ was not ready within 0 s"):
        restart(hasty, graph, "vectorstore")
    assert pids(graph, "vectorstore") == before
    assert [child.pid for child in children(graph, "-m", "vectorstore")] == before


def children(graph: Graph, *arguments: str) -> list[psutil.Process]:
    """Of the supervisor, by their arguments."""
    found = psutil.Process(graph.state.supervisor_pid).children()
    return [child for child in found if set(arguments) <= set(child.cmdline())]


async def test_two_replicas_share_the_work_and_are_replaced_one_after_the_other(own: tuple[Settings, Graph]) -> None:
    settings, graph = own
    graph.scale({"embedder": 2})
    up = [sys.executable, "-m", "kserve_rag", "up", "--replicas", "transformer=2"]
    home = {"KSERVE_RAG_HOME": str(settings.home)}
    await asyncio.to_thread(subprocess.run, up, env={**os.environ, **home}, check=True, stdout=subprocess.DEVNULL)
    with replicas(settings, graph.state):
        """Which brings the state up to date."""
    found = status(settings).services
    assert [replica.ready for replica in found["transformer"].replicas] == [True, True]
    assert len({replica.metrics_url for replica in graph.state.services["embedder"].replicas}) == 2
    load = Load(graph.url("transformer"))
    async with load.running():
        before = pids(graph, "transformer")
        await asyncio.to_thread(restart, settings, graph, "transformer")
    assert len(pids(graph, "transformer")) == 2
    assert not set(pids(graph, "transformer")) & set(before)
    assert load.lost == []
    assert load.refused == 0


def test_two_do_not_change_a_graph_at_once(own: tuple[Settings, Graph]) -> None:
    settings, graph = own
    with replicas(settings, graph.state), pytest.raises(LaunchError, match="under way"):
        restart(settings, graph, "vectorstore")


def test_nobody_else_may_command(own: tuple[Settings, Graph]) -> None:
    settings, _ = own
    assert stat.S_IMODE((settings.run / CONTROL).stat().st_mode) == 0o600


async def test_a_service_that_has_ended_is_started_again(own: tuple[Settings, Graph]) -> None:
    """Last: it leaves the word that a service has ended to whoever started the graph."""
    settings, graph = own
    os.kill(pids(graph, "vectorstore")[0], signal.SIGKILL)
    until(lambda: "ended by signal 9" in str(status(settings).services["vectorstore"].reason))
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{graph.url('vectorstore')}/v2/models/vectorstore/ready")
    assert answer.status_code == 503
    assert "kserve-rag status" in answer.json()["error"]
    assert "retry-after" in answer.headers
    async with AsyncClient(graph.url("transformer")) as rag:
        with pytest.raises(UnavailableError) as refused:
            await rag.ask("What does error code E08 mean?")
        assert refused.value.retry_after_s
        await asyncio.to_thread(restart, settings, graph, "vectorstore")
        assert (await rag.ask("What does error code E08 mean?", max_tokens=2)).sources
    assert status(settings).services["vectorstore"].ready
    assert len(logs(settings.run, ["vectorstore"])) >= 2
