from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from chassis.context import CallContext
from kserve_rag.local.triton import TritonEnvironment, package_folder
from predictor.client import PredictorClient, PromptFormat
from tests.processes import Triton, triton


@pytest.fixture(scope="session")
def predictor_server(
    triton_environment: TritonEnvironment, llm_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Triton]:
    """The CPU model with SmolLM2, small enough that its queue and its window can be filled."""
    repository = package_folder("predictor") / "model_repository"
    sizes = {"PREDICTOR_MAX_RUNNING": "10", "PREDICTOR_MAX_WAITING": "4", "PREDICTOR_CONTEXT_TOKENS": "2048"}
    run_dir = tmp_path_factory.mktemp("predictor")
    with triton(
        triton_environment, repository, "tensorrt_llm", run_dir, PREDICTOR_MODEL_DIR=str(llm_folder), **sizes
    ) as server:
        yield server


@pytest.fixture(scope="session")
def predictor_url(predictor_server: Triton) -> str:
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
