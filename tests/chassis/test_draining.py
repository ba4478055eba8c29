"""Draining on SIGUSR1: connections end between two requests, another process takes over, then this one exits."""

from __future__ import annotations

import contextlib
import signal
import socket
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

from tests.processes import ENDS_WITHIN_S, free_ports, until

ECHO = Path(__file__).parents[1] / "fakes" / "echo_service.py"
PREDICT = "/v1/models/echo:predict"


@dataclass
class Echo:
    """Echo services on one listening socket, which the test owns like a supervisor."""

    listener: socket.socket
    grpc_port: int
    folder: Path
    stack: contextlib.ExitStack

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def start(self) -> subprocess.Popen[bytes]:
        """Returns when the process says that it accepts connections."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notified.bind(str(self.folder / "notify"))
            notified.settimeout(ENDS_WITHIN_S)
            environ = {
                "PYTHONPATH": str(ECHO.parents[2]),
                "ECHO_HTTP_FD": str(self.listener.fileno()),
                "ECHO_HOST": "127.0.0.1",
                "ECHO_GRPC_PORT": str(self.grpc_port),
                "NOTIFY_SOCKET": str(self.folder / "notify"),
            }
            command = [sys.executable, ECHO, self.folder]
            process = subprocess.Popen(command, env=environ, pass_fds=[self.listener.fileno()])
            self.stack.callback(process.wait, ENDS_WITHIN_S)
            self.stack.callback(process.kill)
            assert notified.recv(100) == b"READY=1"
        (self.folder / "notify").unlink()
        return process


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[Echo]:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        yield Echo(listener, free_ports(1)[0], tmp_path, stack)


def drain(process: subprocess.Popen[bytes], client: httpx.Client) -> httpx.Response:
    """The first response that closes its connection."""
    process.send_signal(signal.SIGUSR1)
    answers: list[httpx.Response] = []

    def closes() -> bool:
        answers.append(client.post(PREDICT, json={"do": "echo"}))
        return answers[-1].headers.get("connection") == "close"

    until(closes)
    return answers[-1]


def test_the_next_process_takes_over_and_the_first_one_exits(echo: Echo) -> None:
    first = echo.start()
    with httpx.Client(base_url=echo.url, limits=httpx.Limits(max_connections=1)) as client:
        assert "connection" not in client.post(PREDICT, json={"do": "echo"}).headers
        assert drain(first, client).status_code == 200
        assert first.wait(ENDS_WITHIN_S) == 0
        with contextlib.closing(socket.create_connection(echo.listener.getsockname())) as waiting:
            # In the backlog until the next process accepts it.
            waiting.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: echo\r\n\r\n")
            echo.start()
            assert waiting.recv(12) == b"HTTP/1.1 200"
        assert client.post(PREDICT, json={"do": "echo"}).status_code == 200


def test_a_request_in_flight_finishes_and_its_connection_stays_open_for_the_next(echo: Echo) -> None:
    """Its response began before the drain, without `connection: close`: the client sends another request."""
    process = echo.start()
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
    process.send_signal(signal.SIGUSR1)
    asking.join(30)
    assert first == [None, "begun, ended"]
    assert second[0].status_code == 200
    assert second[0].headers["connection"] == "close"
    assert process.wait(ENDS_WITHIN_S) == 0


def test_an_idle_connection_is_closed(echo: Echo) -> None:
    process = echo.start()
    with httpx.Client(base_url=echo.url) as client:
        stream = client.get("/v2/health/live").extensions["network_stream"]
        process.send_signal(signal.SIGUSR1)
        until(lambda: stream.get_extra_info("is_readable"))
        assert stream.read(1) == b""


async def ask_until_refused(stub: GRPCInferenceServiceStub) -> None:
    while True:
        await stub.ModelReady(ModelReadyRequest(name="echo"))


async def test_grpc_callers_get_a_status_that_they_can_retry(echo: Echo) -> None:
    request = ModelReadyRequest(name="echo")
    process = echo.start()
    async with aio.insecure_channel(f"127.0.0.1:{echo.grpc_port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        assert (await stub.ModelReady(request)).ready
        process.send_signal(signal.SIGUSR1)
        with pytest.raises(aio.AioRpcError) as refused:
            await ask_until_refused(stub)
        # CANCELLED: the call arrived just as the server began to drain.
        assert refused.value.code() in (StatusCode.UNAVAILABLE, StatusCode.CANCELLED)


def test_a_descriptor_that_is_no_socket_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, ECHO, tmp_path]
    environ = {"PYTHONPATH": str(ECHO.parents[2]), "ECHO_HTTP_FD": "250", "ECHO_ENABLE_GRPC": "false"}
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=ENDS_WITHIN_S, check=False)
    assert ended.returncode == 2
    assert "HTTP_FD: descriptor 250 is not an inherited socket" in ended.stdout
