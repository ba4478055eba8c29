from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from chassis.context import CallContext
from kserve_rag.models import ModelStore
from kserve_rag.settings import Settings
from kserve_rag.triton import TritonEnvironment, TritonPorts, ensure_triton_environment, package_folder, triton_command
from predictor.client import PredictorClient, PromptFormat


@dataclass(frozen=True)
class Server:
    """A Triton server on loopback."""

    url: str
    metrics_url: str

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(self.metrics_url, timeout=5) as response:  # noqa: S310
            lines = response.read().decode().splitlines()
        return float(next(line.split()[-1] for line in lines if line.startswith(name + " ")))


@pytest.fixture(scope="session")
def llm_folder() -> Path:
    """The model folder of SmolLM2."""
    return ModelStore(Settings().models).materialise("smollm2-135m", "llm").path


@pytest.fixture(scope="session")
def triton_environment() -> TritonEnvironment:
    return ensure_triton_environment(Settings().envs)


@pytest.fixture(scope="session")
def predictor_server(
    triton_environment: TritonEnvironment, llm_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The CPU model with SmolLM2, small enough that its queue and its window can be filled."""
    repository = package_folder("predictor") / "model_repository"
    sizes = {"PREDICTOR_MAX_RUNNING": "10", "PREDICTOR_MAX_WAITING": "4", "PREDICTOR_CONTEXT_TOKENS": "2048"}
    run_dir = tmp_path_factory.mktemp("predictor")
    with triton(
        triton_environment, repository, "tensorrt_llm", run_dir, PREDICTOR_MODEL_DIR=str(llm_folder), **sizes
    ) as server:
        yield server


@pytest.fixture(scope="session")
def predictor_url(predictor_server: Server) -> str:
    return predictor_server.url


@pytest.fixture(scope="session")
def layouts_url(triton_environment: TritonEnvironment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Models with the exact tensors of the other layouts, which answer with what they were sent."""
    with triton(
        triton_environment, Path(__file__).parent / "layouts", "*", tmp_path_factory.mktemp("layouts")
    ) as server:
        yield server.url


@pytest.fixture(scope="session")
def prompts(llm_folder: Path) -> PromptFormat:
    return PromptFormat.load(llm_folder)


@pytest.fixture
def ctx() -> CallContext:
    return CallContext.start(60)


@pytest_asyncio.fixture
async def client(predictor_url: str) -> AsyncIterator[PredictorClient]:
    client = PredictorClient(predictor_url)
    yield client
    await client.aclose()


@contextlib.contextmanager
def triton(
    environment: TritonEnvironment, repository: Path, model: str, run_dir: Path, **environ: str
) -> Iterator[Server]:
    http, metrics = _free_ports(2)
    command, variables = triton_command(
        environment, repository, TritonPorts(http=http, metrics=metrics), run_dir, model=model
    )
    log = run_dir / "triton.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env={**os.environ, **variables, **environ}, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + 90
        while not _ready(http):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"Triton did not become ready:\n{log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.1)
        yield Server(f"http://127.0.0.1:{http}", f"http://127.0.0.1:{metrics}/metrics")
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ready(port: int) -> bool:
    with (
        contextlib.suppress(OSError),
        urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=2) as response,
    ):
        return bool(response.status == 200)
    return False


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
