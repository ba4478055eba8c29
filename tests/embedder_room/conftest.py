from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from chassis.context import CallContext
from embedder.client import EmbedderClient
from kserve_rag.models import ModelStore
from kserve_rag.settings import Settings
from kserve_rag.triton import TritonEnvironment, TritonPorts, ensure_triton_environment, package_folder, triton_command

if importlib.util.find_spec("openvino") is None:
    collect_ignore = ["in_triton_env"]  # run by test_encoders.py


@pytest.fixture(scope="session")
def embedder_folder() -> Path:
    """The model folder of minilm."""
    return ModelStore(Settings().models).materialise("minilm", "embedder").path


@pytest.fixture(scope="session")
def triton_environment() -> TritonEnvironment:
    return ensure_triton_environment(Settings().envs)


@pytest.fixture(scope="session")
def embedder_url(
    triton_environment: TritonEnvironment, embedder_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A real Triton on loopback that serves minilm."""
    run_dir = tmp_path_factory.mktemp("triton")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command, environ = triton_command(
        triton_environment,
        package_folder("embedder") / "model_repository",
        TritonPorts(http=port),
        run_dir,
        model="minilm",
    )
    log = run_dir / "triton.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environ, "EMBEDDER_MODEL_DIR": str(embedder_folder)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 90
        while not _ready(url):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"Triton did not become ready:\n{log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/v2/models/minilm/ready", timeout=2) as response:  # noqa: S310
            return bool(response.status == 200)
    except OSError:
        return False


@pytest.fixture
def ctx() -> CallContext:
    return CallContext.start(60)


@pytest_asyncio.fixture
async def client(embedder_url: str) -> AsyncIterator[EmbedderClient]:
    client = EmbedderClient(embedder_url, model="minilm")
    yield client
    await client.aclose()
