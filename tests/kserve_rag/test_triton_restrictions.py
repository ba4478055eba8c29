"""Triton runs code, maps memory and writes files for nobody, although its repository API could."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest

from kserve_rag.local.triton import TritonEnvironment, TritonPorts, triton_command
from tests.processes import free_ports, program

CONFIG = """
backend: "python"
input { name: "x" data_type: TYPE_INT32 dims: [1] }
output { name: "y" data_type: TYPE_INT32 dims: [1] }
instance_group { kind: KIND_CPU }
"""
MODEL = "class TritonPythonModel:\n    def execute(self, requests): return []\n"


@pytest.fixture(scope="module")
def served(
    triton_environment: TritonEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str, dict[str, str]]]:
    """URL, gRPC address, and the keys that stand in the arguments, which other users of the machine can read."""
    folder = tmp_path_factory.mktemp("restricted")
    (folder / "models" / "tiny" / "1").mkdir(parents=True)
    (folder / "models" / "tiny" / "config.pbtxt").write_text(CONFIG)
    (folder / "models" / "tiny" / "1" / "model.py").write_text(MODEL)
    http_port, grpc_port = free_ports(2)
    ports = TritonPorts(http=http_port, grpc=grpc_port)
    command, environ = triton_command(triton_environment, folder / "models", ports, folder / "run", model="tiny")
    keys = {
        name: argument.rpartition("=")[2].strip()
        for name in ("http-restricted-api", "grpc-restricted-protocol")
        for argument in command
        if argument.startswith(f"--{name}=")
    }
    url = f"http://127.0.0.1:{http_port}"
    with program(command, f"{url}/v2/health/ready", {**os.environ, **environ}, log=folder / "log"):
        yield url, f"127.0.0.1:{grpc_port}", keys


def test_a_model_in_a_request_is_not_loaded(served: tuple[str, str, dict[str, str]], tmp_path: Path) -> None:
    url, _, keys = served
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\n{MODEL}"
    config = {"backend": "python", "instance_group": [{"kind": "KIND_CPU"}]}
    parameters = {"config": json.dumps(config), "file:1/model.py": base64.b64encode(code.encode()).decode()}
    for headers in (
        {},
        {"content-type": "text/plain", "host": "evil.example", "origin": "https://evil.example"},
        {"key": keys["http-restricted-api"]},
    ):
        response = httpx.post(
            f"{url}/v2/repository/models/x/load", json={"parameters": parameters}, headers=headers, timeout=60
        )
        assert response.status_code == 403
    assert not (tmp_path / "ran").exists()
    assert httpx.get(f"{url}/v2/models/x/ready", timeout=60).status_code != 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "repository/index"),
        *(("POST", f"repository/models/tiny/{verb}") for verb in ("load", "unload")),
        *(
            (method, path)
            for method in ("GET", "POST")
            for path in ("logging", "trace/setting", "models/tiny/trace/setting")
        ),
        *(("GET", f"{kind}sharedmemory/status") for kind in ("system", "cuda")),
        *(("POST", f"{kind}sharedmemory/region/r/register") for kind in ("system", "cuda")),
        *(("POST", f"{kind}sharedmemory/unregister") for kind in ("system", "cuda")),
    ],
)
def test_routes_that_reconfigure_are_closed(served: tuple[str, str, dict[str, str]], method: str, path: str) -> None:
    url, _, keys = served
    for headers in ({}, {"key": keys["http-restricted-api"]}):
        response = httpx.request(method, f"{url}/v2/{path}", content=b"{}", headers=headers, timeout=60)
        assert response.status_code == 403


def test_calls_that_reconfigure_are_closed(served: tuple[str, str, dict[str, str]]) -> None:
    _, address, keys = served
    sent = (("triton-grpc-protocol-key", keys["grpc-restricted-protocol"]),)
    with grpc.insecure_channel(address) as channel:
        for name in (
            *("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload", "TraceSetting", "LogSettings"),
            *(
                f"{kind}SharedMemory{verb}"
                for kind in ("System", "Cuda")
                for verb in ("Status", "Register", "Unregister")
            ),
        ):
            call = channel.unary_unary(f"/inference.GRPCInferenceService/{name}")
            for metadata in ((), sent):
                with pytest.raises(grpc.RpcError, match="restricted"):
                    call(b"", metadata=metadata, timeout=60)
        # Inference and readiness stay open.
        assert channel.unary_unary("/inference.GRPCInferenceService/ServerReady")(b"", timeout=60) == b"\x08\x01"
