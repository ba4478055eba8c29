"""Maximum connection age, so that load rebalances when replicas of an upstream change."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from chassis.context import CallContext
from chassis.errors import BadUpstreamError, NotReadyError
from chassis.http import HttpUpstream

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Service:
    """Counts its connections and answers on them. A stream continues once `go_on` is set."""

    def __init__(self) -> None:
        self.opened = 0
        self.open = 0
        self.go_on = asyncio.Event()
        self.all_closed = asyncio.Event()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        self.open += 1
        self.all_closed.clear()
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"GET"):
                    writer.write(ANSWER)
                    continue
                await reader.readexactly(2)
                writer.write(STREAM + b"9\r\ndata: 1\n\n\r\n")
                await self.go_on.wait()
                writer.write(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")
        writer.close()
        self.open -= 1
        if not self.open:
            self.all_closed.set()


@pytest.fixture
async def service() -> AsyncIterator[tuple[Service, str]]:
    service = Service()
    server = await asyncio.start_server(service.connected, "127.0.0.1", 0)
    async with server:
        yield service, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@contextlib.asynccontextmanager
async def serving(response: bytes) -> AsyncIterator[HttpUpstream]:
    """A service that sends this to each request and closes the connection."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response)
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        upstream = HttpUpstream(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", name="service")
        yield upstream
        await upstream.aclose()


@pytest.mark.parametrize(
    ("response", "message"),
    [(b"", "closed the connection without a response"), (ANSWER[:-1], "ended its response early")],
)
async def test_a_service_that_exits_is_not_ready(response: bytes, message: str) -> None:
    """Triton closes connections without a response while it exits. Callers get 503 and can retry."""
    async with serving(response) as upstream:
        with pytest.raises(NotReadyError, match=message) as lost:
            await upstream.get_json("/", context())
    assert lost.value.retry_after_s


def context() -> CallContext:
    return CallContext.start(30)


async def test_connections_are_reused(service: tuple[Service, str]) -> None:
    counted, url = service
    upstream = HttpUpstream(url, name="service")
    for _ in range(5):
        assert await upstream.get_json("/", context()) == {}
    assert counted.opened == 1
    await upstream.aclose()


async def test_connections_have_a_maximum_age(service: tuple[Service, str]) -> None:
    counted, url = service
    upstream = HttpUpstream(url, name="service", max_connection_age_s=0)
    for _ in range(5):
        await upstream.get_json("/", context())
    assert counted.opened == 5
    await upstream.aclose()
    await asyncio.wait_for(counted.all_closed.wait(), 10)


async def test_an_old_connection_finishes_its_request(service: tuple[Service, str]) -> None:
    counted, url = service
    upstream = HttpUpstream(url, name="service", max_connection_age_s=0)
    stream = upstream.stream_events("/", {}, context())
    assert await anext(stream) == "1"
    await upstream.get_json("/", context())
    assert counted.opened == 2
    counted.go_on.set()
    assert [event async for event in stream] == ["2"]
    await upstream.aclose()
    await asyncio.wait_for(counted.all_closed.wait(), 10)


GZIP = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n\x1f\x8b"
LARGE = b"HTTP/1.1 200 OK\r\ncontent-length: 101\r\n\r\n" + 101 * b" "
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + 200 * b"1\r\n \r\n"


@pytest.mark.parametrize(
    ("response", "message"), [(GZIP, "compressed"), (LARGE, "more than 100 bytes"), (CHUNKED, "more than 100 bytes")]
)
async def test_the_size_of_a_response_is_bounded(response: bytes, message: str) -> None:
    async with serving(response) as service:
        upstream = HttpUpstream(service.base_url, name="service", max_response_bytes=100)
        with pytest.raises(BadUpstreamError, match=message):
            await upstream.get_json("/", context())
        await upstream.aclose()


def test_a_share_never_exceeds_the_deadline() -> None:
    whole = CallContext.start(3600)
    assert whole.share(at_most_s=7200).deadline == pytest.approx(whole.deadline)
    assert whole.share(at_most_s=1).remaining_s() <= 1
    assert whole.share(0.5).remaining_s() <= 1800
    assert CallContext(0).share(0.5).remaining_s() < 0
