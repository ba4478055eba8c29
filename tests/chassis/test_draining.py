"""A service that leaves (SIGUSR1): its connections end between two requests, whoever holds them."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from grpc import StatusCode, aio
from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelReadyRequest
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from tests.processes import free_ports, program, until

ECHO = Path(__file__).parents[1] / "fakes" / "echo_service.py"
PREDICT = "/v1/models/echo:predict"


@dataclass
class Echo:
    url: str
    grpc_url: str
    process: subprocess.Popen[bytes]

    def drain(self) -> None:
        """Returns once every answer is its connection's last."""
        self.process.send_signal(signal.SIGUSR1)
        with httpx.Client(base_url=self.url) as client:
            until(lambda: client.get("/v2/health/live").headers.get("connection") == "close")


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[Echo]:
    http_port, grpc_port = free_ports(2)
    environ = {
        "PYTHONPATH": str(ECHO.parents[2]),
        "ECHO_HOST": "127.0.0.1",
        "ECHO_HTTP_PORT": str(http_port),
        "ECHO_GRPC_PORT": str(grpc_port),
        "ECHO_REUSE_PORT": "true",
    }
    url = f"http://127.0.0.1:{http_port}"
    with program([sys.executable, ECHO, tmp_path], f"{url}/v2/health/live", environ) as process:
        yield Echo(url, f"127.0.0.1:{grpc_port}", process)


def test_an_answer_is_its_connections_last(echo: Echo) -> None:
    with httpx.Client(base_url=echo.url, limits=httpx.Limits(max_connections=1)) as client:
        assert "connection" not in client.post(PREDICT, json={"do": "echo"}).headers
        echo.drain()
        for _ in range(3):
            answer = client.post(PREDICT, json={"do": "echo"})
            assert answer.status_code == 200
            assert answer.headers["connection"] == "close"


def test_what_was_begun_before_ends_and_its_connection_is_not_closed_under_the_next_request(echo: Echo) -> None:
    """Its answer began without the word that it is the last: the client asks once more."""
    first, second = [], []

    def ask() -> None:
        with httpx.Client(base_url=echo.url, timeout=30) as client:
            with client.stream("GET", "/other/slowly", params={"seconds": 5.5}) as answer:
                first.append(answer.headers.get("connection"))
                begun.set()
                first.append(answer.read().decode())
            second.append(client.post(PREDICT, json={"do": "echo"}))

    begun = threading.Event()
    asking = threading.Thread(target=ask)
    asking.start()
    assert begun.wait(30)
    echo.drain()
    asking.join(30)
    assert first == [None, "begun, ended"]
    assert second[0].status_code == 200
    assert second[0].headers["connection"] == "close"


def test_a_silent_connection_is_closed(echo: Echo) -> None:
    with httpx.Client(base_url=echo.url) as client:
        stream = client.get("/v2/health/live").extensions["network_stream"]
        echo.drain()
        until(lambda: stream.get_extra_info("is_readable"))
        assert stream.read(1) == b""


async def test_callers_of_grpc_go_elsewhere(echo: Echo) -> None:
    request = ModelReadyRequest(name="echo")
    async with aio.insecure_channel(echo.grpc_url) as channel:
        stub = GRPCInferenceServiceStub(channel)
        assert (await stub.ModelReady(request)).ready
        echo.drain()
        with pytest.raises(aio.AioRpcError) as refused:
            await stub.ModelReady(request, timeout=30)
        assert refused.value.code() is StatusCode.UNAVAILABLE
