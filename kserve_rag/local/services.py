"""Environment variables, listening sockets and ports of the services of a local graph."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from kserve_rag.errors import PortTakenError
from kserve_rag.local.graph import GraphState, ServiceState
from kserve_rag.models.store import LocalModel
from kserve_rag.settings import HOST, Settings

_NOT_INHERITED = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OTEL_SERVICE_NAME")
"""Tokens of the Hugging Face hub, and the telemetry name, which each service sets itself."""


def inherited_environment() -> dict[str, str]:
    """This process's variables, without `_NOT_INHERITED`, and defaults for one machine."""
    cpus = str(len(os.sched_getaffinity(0)))
    return {
        **{name: value for name, value in os.environ.items() if name not in _NOT_INHERITED},
        # The packages of this installation or checkout, for services that run in another folder.
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", cpus),
        "TOKENIZERS_PARALLELISM": "false",
        "ANONYMIZED_TELEMETRY": "false",
    }


def vectorstore_variables(settings: Settings, state: GraphState) -> dict[str, str]:
    """Settings of the vectorstore of this graph."""
    return {
        **_edge_variables("VECTORSTORE", settings, state.services["vectorstore"]),
        "VECTORSTORE_ENABLE_GRPC": "false",
        "VECTORSTORE_INDEX_ROOT": str(state.index_root),
        "VECTORSTORE_INDEX_NAME": state.index_name,
        "VECTORSTORE_COLLECTIONS": os.environ.get("VECTORSTORE_COLLECTIONS", "*"),
        "VECTORSTORE_EMBEDDER_URL": state.services["embedder"].url,
        "VECTORSTORE_EMBEDDER_MODEL": state.services["embedder"].model,
    }


def transformer_variables(settings: Settings, state: GraphState, llm: LocalModel) -> dict[str, str]:
    """Settings of the transformer of this graph."""
    service = state.services["transformer"]
    generation = llm.generation.model_dump(exclude_none=True)
    chosen = {f"TRANSFORMER_{name.upper()}": str(value) for name, value in generation.items()}
    return {
        **_edge_variables("TRANSFORMER", settings, service),
        "TRANSFORMER_GRPC_PORT": port_of(service.grpc_url or ""),
        "TRANSFORMER_MODEL_NAME": service.model,
        "TRANSFORMER_VECTORSTORE_URL": state.services["vectorstore"].url,
        "TRANSFORMER_EMBEDDER_URL": state.services["embedder"].url,
        "TRANSFORMER_EMBEDDER_MODEL": state.services["embedder"].model,
        "TRANSFORMER_PREDICTOR_URL": state.services["predictor"].url,
        "TRANSFORMER_PREDICTOR_LAYOUT": "llmapi",
        "TRANSFORMER_PROMPT_FORMAT": str(llm.path),
        **({"TRANSFORMER_MODELS_FILE": str(settings.models_file)} if settings.models_file is not None else {}),
        # The environment overrides the model's defaults.
        **{name: os.environ.get(name, value) for name, value in chosen.items()},
    }


def ingest_service_variables(settings: Settings, state: GraphState) -> dict[str, str]:
    """Settings of the ingest service of this graph."""
    # Imported late, because importing it takes a second.
    from kserve_rag.local.indexing import ingest_variables

    return {**ingest_variables(state), **_edge_variables("INGEST", settings, state.services["ingest"])}


def frontend_variables(settings: Settings, state: GraphState) -> dict[str, str]:
    """Settings of the web page's server of this graph."""
    return {
        **_edge_variables("FRONTEND", settings, state.services["frontend"]),
        "FRONTEND_TRANSFORMER_URL": state.services["transformer"].url,
        "FRONTEND_INGEST_URL": state.services["ingest"].url,
    }


def _edge_variables(prefix: str, settings: Settings, service: ServiceState) -> dict[str, str]:
    """Settings that every service behind `chassis.edge` has."""
    variables = {
        "HOST": HOST,
        "HTTP_PORT": port_of(service.url),
        "GRACE_PERIOD_S": str(max(1, int(settings.stop_timeout_s / 3))),
    }
    return {f"{prefix}_{name}": value for name, value in variables.items()}


def listen(port: int, what: str, option: str = "") -> socket.socket:
    """A listening socket on loopback.

    Args:
        port: port number; 0: any free port.
        what: name of the service, for the message.
        option: command-line option that sets the port. Empty: use any free port if this one is in use.

    Raises:
        PortTakenError: the port is in use. The message names the process that listens on it.
    """
    try:
        return socket.create_server((HOST, port), backlog=1024)
    except OSError:
        if not option:
            return listen(0, what)
    raise PortTakenError(
        f"Port {port} for {what} is in use by {_holder(port)}. Stop it, or choose another port with {option}."
    )


@contextlib.contextmanager
def reserving_ports() -> Iterator[Callable[..., int]]:
    """Yields a function with the parameters of `listen` that returns a port. The ports are free after the block."""
    with contextlib.ExitStack() as reserved:

        def reserve(port: int = 0, what: str = "", option: str = "") -> int:
            return int(reserved.enter_context(listen(port, what, option)).getsockname()[1])

        yield reserve


def _holder(port: int) -> str:
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
            if listens and connection.pid:
                process = psutil.Process(connection.pid)
                return f"process {connection.pid} ({' '.join(process.cmdline())[:80] or process.name()})"
    return "another user's process"


def port_of(url: str) -> str:
    """The port at the end of a URL or of host:port."""
    return url.rpartition(":")[2]
