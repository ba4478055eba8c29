"""Restarts under load lose nothing, and killed processes come back by themselves."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from grpc import aio
from kserve import InferInput, InferRequest
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from kserve_rag.client import AsyncClient, Client
from kserve_rag.errors import LaunchError, UnavailableError
from kserve_rag.local.graph import ServiceName, restart, status
from kserve_rag.local.indexing import index, wait_until_served
from kserve_rag.local.launcher import Graph, launch
from kserve_rag.settings import Settings
from tests.processes import until

CORPUS = Path(__file__).parents[1] / "corpus"
CLIENTS = 8
OWN: tuple[ServiceName, ...] = ("transformer", "vectorstore", "ingest", "frontend")
"""The services that share a listening socket."""


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


def pid(settings: Settings, name: ServiceName) -> int:
    return status(settings).services[name].pid


@pytest.mark.parametrize("name", OWN)
async def test_restarts_of_own_services_lose_no_request(own: tuple[Settings, Graph], name: ServiceName) -> None:
    settings, graph = own
    before = pid(settings, name)
    load = Load(graph.url("transformer"))
    async with load.running():
        await asyncio.to_thread(restart, settings, graph.state, name)
    assert load.lost == []
    assert load.refused == 0
    assert not psutil.pid_exists(before)
    assert pid(settings, name) != before


@pytest.mark.parametrize("name", ["embedder", "predictor"])
async def test_callers_wait_or_get_503_during_a_restart_of_triton(
    own: tuple[Settings, Graph], name: ServiceName
) -> None:
    settings, graph = own
    before = pid(settings, name)
    load = Load(graph.url("transformer"))
    async with load.running():
        await asyncio.to_thread(restart, settings, graph.state, name)
    assert load.lost == []
    assert pid(settings, name) != before
    async with AsyncClient(graph.url("transformer")) as client:
        assert (await client.ask("What does error code E08 mean?", max_tokens=2)).sources


async def test_requests_in_flight_finish(own: tuple[Settings, Graph]) -> None:
    """A stream that outlasts the restart of the transformer."""
    settings, graph = own
    async with AsyncClient(graph.url("transformer")) as client:
        answer = client.stream("What is in the manual? Tell everything.", max_tokens=200, temperature=0)
        first = await anext(answer)
        restarting = asyncio.create_task(asyncio.to_thread(restart, settings, graph.state, "transformer"))
        events = [first, *[event async for event in answer]]
        await restarting
    assert events[-1].finish_reason in ("stop", "length")  # type: ignore[union-attr]


async def test_generations_in_flight_finish(own: tuple[Settings, Graph]) -> None:
    """Triton and the model's process end after the last token."""
    settings, graph = own
    service = graph.state.services["predictor"]
    body = {"text_input": "a", "streaming": True, "return_finish_reason": True, "sampling_param_max_tokens": 400}
    body["sampling_param_temperature"] = 100  # any token follows, so that the answer does not end early
    async with httpx.AsyncClient(timeout=60) as client:
        url, headers = f"{service.url}/v2/models/{service.model}/generate_stream", {"connection": "close"}
        async with client.stream("POST", url, json=body, headers=headers) as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            restarting = asyncio.create_task(asyncio.to_thread(restart, settings, graph.state, "predictor"))
            rest = [line async for line in lines if line]
    await restarting
    assert '"finish_reason":"length"' in rest[-1]


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
"""A call that arrives just as the server begins to drain gets CANCELLED."""


async def test_grpc_callers_that_retry_lose_nothing(own: tuple[Settings, Graph]) -> None:
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
    await asyncio.to_thread(restart, settings, graph.state, "transformer")
    ended.set()
    await asyncio.gather(*asking)
    assert answered


def kill_process(settings: Settings, name: ServiceName) -> None:
    os.kill(pid(settings, name), signal.SIGKILL)


def kill_stub(settings: Settings, name: ServiceName) -> None:
    """Kills the process of Triton's Python model. Triton lives on, and says that the model is ready."""
    (stub,) = psutil.Process(pid(settings, name)).children()
    stub.kill()


@pytest.mark.parametrize(
    ("names", "kill"),
    [(OWN, kill_process), (("embedder", "predictor"), kill_process), (("embedder", "predictor"), kill_stub)],
)
def test_killed_processes_are_restarted(
    own: tuple[Settings, Graph],
    names: tuple[ServiceName, ...],
    kill: Callable[[Settings, ServiceName], None],
) -> None:
    settings, graph = own
    before = {name: pid(settings, name) for name in names}
    for name in names:
        kill(settings, name)

    def is_back(name: ServiceName) -> bool:
        found = status(settings).services[name]
        return found.pid not in (0, before[name]) and (found.ready or "not built" in str(found.reason))

    until(lambda: all(map(is_back, names)), 120)
    with Client(graph.url("transformer")) as client:
        assert client.ask("What does error code E08 mean?", max_tokens=2).sources
    services = status(settings).services
    assert all(services[name].restarts for name in names)


def test_a_crash_loop_is_reported(own: tuple[Settings, Graph]) -> None:
    """Last: it leaves the embedder without the environment that its model runs in, until that is put back."""
    settings, graph = own
    broken = settings.run / "embedder" / "python"
    broken.rename(broken.with_suffix(".away"))
    try:
        with pytest.raises(LaunchError, match=r"(?s)The embedder ended with status .* Its last lines:\n  \S"):
            restart(settings, graph.state, "embedder")
        until(lambda: "not restarted any more" in str(status(settings).services["embedder"].reason), 120)
        reason = status(settings).services["embedder"].reason
        assert str(reason).startswith("ended with status ")
        with Client(graph.url("transformer")) as client, pytest.raises(UnavailableError) as refused:
            client.ask("What does error code E08 mean?")
        assert refused.value.retry_after_s
        with pytest.raises(LaunchError, match="The embedder ended with status"):
            graph.watch()
    finally:
        broken.with_suffix(".away").rename(broken)
    restart(settings, graph.state, "embedder")
    assert status(settings).services["embedder"].ready
