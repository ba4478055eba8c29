from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import pytest_asyncio

from kserve_rag.models.store import ModelStore
from kserve_rag.settings import Settings
from predictor.client import PromptFormat
from predictor.tokenizer import TextTokenizer
from tests.fakes.embedder import LoopbackEmbedder
from tests.fakes.upstreams import Upstreams
from tests.processes import free_ports
from tests.transformer.running import Running, transformer


@pytest.fixture(scope="session")
def prompt_format() -> PromptFormat:
    """SmolLM2's own."""
    return PromptFormat.load(ModelStore(Settings().models).materialise("smollm2-135m", "llm").path)


@pytest.fixture(scope="session")
def llm_tokenizer() -> TextTokenizer:
    """SmolLM2's own."""
    return TextTokenizer.load(ModelStore(Settings().models).materialise("smollm2-135m", "llm").path)


@pytest.fixture(scope="session")
def embedder() -> Iterator[LoopbackEmbedder]:
    """The embedder of the shared transformer."""
    with LoopbackEmbedder() as running:
        yield running


@pytest.fixture(scope="session")
def program_between(embedder: LoopbackEmbedder) -> Iterator[tuple[Upstreams, str, str]]:
    """Upstreams, and URL and gRPC address of the transformer between them."""
    grpc_port = str(free_ports(1)[0])
    with (
        Upstreams() as upstreams,
        transformer(
            upstreams.url, upstreams.url, EMBEDDER_URL=embedder.url, ENABLE_GRPC="true", GRPC_PORT=grpc_port
        ) as url,
    ):
        yield upstreams, url, f"127.0.0.1:{grpc_port}"


@pytest_asyncio.fixture
async def service(program_between: tuple[Upstreams, str, str], embedder: LoopbackEmbedder) -> AsyncIterator[Running]:
    """The shared transformer between upstreams that behave well and have forgotten earlier requests."""
    upstreams, url, grpc = program_between
    upstreams.reset()
    embedder.fault, embedder.whole = None, False
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        yield Running(upstreams, client, grpc)
