"""One running graph for all tests of a session: real Triton, KServe and Chroma on loopback, with small real models.

What starts it is imported by the fixtures: tests/with_torch runs in an environment that has none of it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from chassis.context import CallContext
    from kserve_rag.local.graph import GraphState
    from kserve_rag.local.triton import TritonEnvironment
    from kserve_rag.settings import Settings
    from predictor.client import PromptFormat
    from tests.fakes.llama_cpp import LlamaCpp
    from tests.fakes.otlp_collector import Collector
    from tests.processes import Triton

_SHARED_SERVERS = (("graph", "telemetry", "kserve_rag", "embedder", "evaluation"), ("predictor", "contracts"))
"""Folders whose tests share servers that take long to start."""

CORPUS = Path(__file__).parent / "corpus"
"""Documents about an invented product, so that no model knows the answers."""


def pytest_configure() -> None:
    """KServe parses the command line when it is imported, and knows none of pytest's options.

    The tiny LLM keeps the tests fast; none of them needs good answers. Services show whatever it writes, unless a test
    chooses another answer mode.
    """
    del sys.argv[1:]
    os.environ.setdefault("KSERVE_RAG_MODEL", "smollm2-135m")
    os.environ.setdefault("TRANSFORMER_ANSWERS", "write")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Splits the tests between processes (`make test`) so that each server is started by one of them."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduler(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            folder = nodeid.split("/")[1]
            return next(("+".join(names) for names in _SHARED_SERVERS if folder in names), folder)

    return Scheduler(config, log)


@dataclass(frozen=True)
class RunningGraph:
    """URLs, settings and state of the shared graph."""

    transformer: str
    vectorstore: str
    embedder: str
    predictor: str
    transformer_grpc: str
    """host:port, like the other gRPC addresses."""
    embedder_grpc: str
    predictor_grpc: str
    settings: Settings
    state: GraphState
    index_version: str
    collector: Collector
    """Has the spans of every request to the graph."""
    corpus: Path = CORPUS


@pytest.fixture(scope="session")
def graph_settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A new home and free ports. Models and the Triton environment are shared with the user's home."""
    from kserve_rag.settings import Settings

    shared = Settings()
    ports: dict[str, Any] = {name: 0 for name in Settings.model_fields if name.endswith("port")}
    return Settings(home=tmp_path_factory.mktemp("kserve-rag"), models_dir=shared.models, envs_dir=shared.envs, **ports)


@pytest.fixture
def ctx() -> CallContext:
    """For calls that no deadline should end."""
    from chassis.context import CallContext

    return CallContext.start(60)


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Where the graph sends its spans."""
    from tests.fakes.otlp_collector import Collector

    with Collector() as collector:
        yield collector


@pytest.fixture(scope="session")
def graph(graph_settings: Settings, collector: Collector) -> Iterator[RunningGraph]:
    """The graph over tests/corpus, traced and with logs for machines. Started by the first test that asks for it."""
    from kserve_rag.local.indexing import index, wait_until_served
    from kserve_rag.local.launcher import launch

    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "TRANSFORMER_LOG_FORMAT": "json",
        "VECTORSTORE_LOG_FORMAT": "json",
    }
    with contextlib.ExitStack() as stack:
        # Only this graph inherits them.
        with pytest.MonkeyPatch.context() as environment:
            for name, value in variables.items():
                environment.setenv(name, value)
            running = stack.enter_context(launch(graph_settings))
        running.wait_ready("embedder")
        summary = index(running.state, [CORPUS])
        if summary.skipped or summary.version is None:
            pytest.fail(f"The corpus was not read whole: {summary.skipped}")
        running.wait_ready()
        wait_until_served(running.state, summary.version)
        services = running.state.services
        yield RunningGraph(
            transformer=services["transformer"].url,
            vectorstore=services["vectorstore"].url,
            embedder=services["embedder"].url,
            predictor=services["predictor"].url,
            transformer_grpc=services["transformer"].grpc_url or "",
            embedder_grpc=services["embedder"].grpc_url or "",
            predictor_grpc=services["predictor"].grpc_url or "",
            settings=graph_settings,
            state=running.state,
            index_version=summary.version,
            collector=collector,
        )


@pytest.fixture(scope="session")
def embedder_url(graph: RunningGraph) -> str:
    """The shared graph's embedder."""
    return graph.embedder


@pytest.fixture(scope="session")
def predictor_url(graph: RunningGraph) -> str:
    """The shared graph's predictor."""
    return graph.predictor


@pytest.fixture(scope="session")
def llm_folder() -> Path:
    """The model folder of SmolLM2."""
    from kserve_rag.models.store import ModelStore
    from kserve_rag.settings import Settings

    return ModelStore(Settings().models).materialise("smollm2-135m", "llm").path


@pytest.fixture(scope="session")
def embedder_folder() -> Path:
    """The model folder of minilm."""
    from kserve_rag.models.store import ModelStore
    from kserve_rag.settings import Settings

    return ModelStore(Settings().models).materialise("minilm", "embedder").path


@pytest.fixture(scope="session")
def triton_environment() -> TritonEnvironment:
    """Triton's own Python environment, built once per machine."""
    from kserve_rag.local.triton import ensure_triton_environment
    from kserve_rag.settings import Settings

    return ensure_triton_environment(Settings().envs)


@pytest.fixture(scope="session")
def predictor_server(
    triton_environment: TritonEnvironment, llm_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Triton]:
    """The CPU model with SmolLM2, with a queue and a window that tests can fill."""
    from kserve_rag.local.triton import package_folder
    from tests.processes import triton

    repository = package_folder("predictor") / "model_repository"
    sizes = {"PREDICTOR_MAX_RUNNING": "10", "PREDICTOR_MAX_WAITING": "4", "PREDICTOR_CONTEXT_TOKENS": "2048"}
    run_dir = tmp_path_factory.mktemp("predictor")
    with triton(
        triton_environment, repository, "tensorrt_llm", run_dir, PREDICTOR_MODEL_DIR=str(llm_folder), **sizes
    ) as server:
        yield server


@pytest.fixture(scope="session")
def layouts_url(triton_environment: TritonEnvironment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Models with the exact tensors of the other Triton layouts. They answer with their inputs, or from a script."""
    from tests.processes import triton

    repository = Path(__file__).parent / "predictor" / "layouts"
    with triton(triton_environment, repository, "*", tmp_path_factory.mktemp("layouts")) as server:
        yield server.url


@pytest.fixture(scope="session")
def llama_cpp(llm_folder: Path) -> Iterator[LlamaCpp]:
    """llama.cpp's server with SmolLM2."""
    from tests.fakes.llama_cpp import LlamaCpp

    server = LlamaCpp(llm_folder / "model.gguf")
    yield server
    server.close()


@pytest.fixture(scope="session")
def prompts(llm_folder: Path) -> PromptFormat:
    """SmolLM2's prompt format."""
    from predictor.client import PromptFormat

    return PromptFormat.load(llm_folder)
