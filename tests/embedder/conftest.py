from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from embedder.client import EmbedderClient
from kserve_rag.local.triton import TritonEnvironment, package_folder
from tests.processes import triton

if importlib.util.find_spec("openvino") is None:
    collect_ignore = ["in_triton_env"]  # run by test_encoders.py

TINY_BGE_M3 = Path(__file__).parent / "tiny_bge_m3"


@pytest.fixture(scope="session")
def bge_m3_url(triton_environment: TritonEnvironment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Triton on loopback that serves bge_m3 with small random weights."""
    repository = package_folder("embedder") / "model_repository"
    run_dir = tmp_path_factory.mktemp("bge_m3")
    variables = {"EMBEDDER_MODEL_DIR": str(TINY_BGE_M3), "EMBEDDER_PRECISION": "f32"}
    with triton(triton_environment, repository, "bge_m3", run_dir, **variables) as server:
        yield server.url


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
