from __future__ import annotations

import contextlib
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

TINY_BGE_M3 = Path(__file__).parent / "tiny_bge_m3"


@pytest.fixture(scope="session")
def embedder_folder() -> Path:
    """The model folder of minilm."""
    return ModelStore(Settings().models).materialise("minilm", "embedder").path


@pytest.fixture(scope="session")
def triton_environment() -> TritonEnvironment:
    return ensure_triton_environment(Settings().envs)


@pytest.fixture(scope="session")
def bge_m3_url(triton_environment: TritonEnvironment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Triton on loopback that serves bge_m3 with small random weights."""
    with _triton(triton_environment, "bge_m3", TINY_BGE_M3, tmp_path_factory.mktemp("bge_m3")) as url:
        yield url


@pytest.fixture
def ctx() -> CallContext:
    return CallContext.start(60)


@pytest_asyncio.fixture
async def client(embedder_url: str) -> AsyncIterator[EmbedderClient]:
    client = EmbedderClient(embedder_url, model="minilm")
    yield client
    await client.aclose()


@pytest_asyncio.fixture
async def bge_m3(bge_m3_url: str) -> AsyncIterator[EmbedderClient]:
    client = EmbedderClient(bge_m3_url, model="bge_m3", rows_per_request=3)
    yield client
    await client.aclose()


@contextlib.contextmanager
def _triton(environment: TritonEnvironment, model: str, folder: Path, run_dir: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    repository = package_folder("embedder") / "model_repository"
    command, environ = triton_command(environment, repository, TritonPorts(http=port), run_dir, model=model)
    log = run_dir / "triton.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environ, "EMBEDDER_MODEL_DIR": str(folder)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 90
        while not _ready(f"{url}/v2/models/{model}/ready"):
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
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310
            return bool(response.status == 200)
    except OSError:
        return False
