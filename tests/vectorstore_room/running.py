"""The vectorstore as its own process, as it runs in a cluster."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Service:
    url: str
    grpc_address: str
    http: httpx.Client
    process: subprocess.Popen[bytes]

    def search(self, *instances: dict[str, Any], **headers: str) -> httpx.Response:
        return self.http.post("/v1/models/vectorstore:predict", json={"instances": list(instances)}, headers=headers)

    def passages(self, text: str, **more: Any) -> list[dict[str, Any]]:
        response = self.search({"input": text, **more})
        assert response.status_code == 200, response.text
        found: list[dict[str, Any]] = response.json()["predictions"][0]["passages"]
        return found

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.http.get("/v1/indexes").json()
        return answer

    def ready(self) -> bool:
        return self.http.get("/v2/models/vectorstore/ready").status_code == 200


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def until(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        time.sleep(0.02)


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def environment(**variables: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("VECTORSTORE_")}
    return {**inherited, "PYTHONPATH": str(ROOT), **variables}


@contextlib.contextmanager
def running(index_root: Path, embedder_url: str, **variables: str) -> Iterator[Service]:
    http_port, grpc_port = free_ports(2)
    process = subprocess.Popen(
        [sys.executable, "-m", "vectorstore"],
        cwd=ROOT,
        env=environment(
            VECTORSTORE_HOST="127.0.0.1",
            VECTORSTORE_HTTP_PORT=str(http_port),
            VECTORSTORE_GRPC_PORT=str(grpc_port),
            VECTORSTORE_INDEX_ROOT=str(index_root),
            VECTORSTORE_EMBEDDER_URL=embedder_url,
            VECTORSTORE_RELOAD_INTERVAL_S="0.05",
            **variables,
        ),
    )
    try:
        url = f"http://127.0.0.1:{http_port}"
        until(lambda: process.poll() is not None or answers(f"{url}/v2/health/live"))
        assert process.poll() is None
        with httpx.Client(base_url=url, timeout=30) as http:
            yield Service(url, f"127.0.0.1:{grpc_port}", http, process)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
