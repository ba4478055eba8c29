"""The vectorstore as its own process, as it runs in a cluster."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.processes import free_ports, program

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Service:
    url: str
    grpc_address: str
    http: httpx.Client

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


def environment(**variables: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("VECTORSTORE_")}
    return {**inherited, "PYTHONPATH": str(ROOT), **variables}


@contextlib.contextmanager
def running(index_root: Path, embedder_url: str, **variables: str) -> Iterator[Service]:
    http_port, grpc_port = free_ports(2)
    variables = {
        "VECTORSTORE_HOST": "127.0.0.1",
        "VECTORSTORE_HTTP_PORT": str(http_port),
        "VECTORSTORE_GRPC_PORT": str(grpc_port),
        "VECTORSTORE_INDEX_ROOT": str(index_root),
        "VECTORSTORE_EMBEDDER_URL": embedder_url,
        "VECTORSTORE_RELOAD_INTERVAL_S": "0.05",
        **variables,
    }
    url = f"http://127.0.0.1:{http_port}"
    with (
        program([sys.executable, "-m", "vectorstore"], f"{url}/v2/health/live", environment(**variables)),
        httpx.Client(base_url=url, timeout=60) as http,
    ):
        yield Service(url, f"127.0.0.1:{grpc_port}", http)
