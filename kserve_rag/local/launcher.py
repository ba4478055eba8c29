"""Starts the whole graph on this machine: the programs of a cluster, on loopback, under one supervisor."""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil

from kserve_rag.errors import FetchError, LaunchError
from kserve_rag.local import control, supervisor
from kserve_rag.local.control import SupervisorClient
from kserve_rag.local.graph import (
    ANSWERING,
    SERVICES,
    GraphState,
    ServiceName,
    check_services,
    default_services,
    wait_ready,
    write_state,
)
from kserve_rag.local.languages import choose_embedder
from kserve_rag.local.locking import try_lock
from kserve_rag.local.services import (
    frontend_variables,
    ingest_service_variables,
    inherited_environment,
    listen,
    port_of,
    reserving_ports,
    transformer_variables,
    vectorstore_variables,
)
from kserve_rag.local.triton import (
    TritonEnvironment,
    TritonPorts,
    ensure_triton_environment,
    package_folder,
    shared_memory_argument,
    trace_arguments,
    triton_command,
)
from kserve_rag.models.catalogue import LlmModel
from kserve_rag.models.store import LocalModel, ModelStore
from kserve_rag.progress import Progress
from kserve_rag.settings import HOST, Settings

_POLL_S = 0.1
_WATCH_INTERVAL_S = 1.0

_CHECKS: dict[ServiceName, tuple[str, dict[str, Any]]] = {
    "embedder": (
        "infer",
        {
            "inputs": [{"name": "text_input", "shape": [1, 1], "datatype": "BYTES", "data": ["a"]}],
            "outputs": [{"name": "token_count"}],
        },
    ),
    "predictor": ("generate", {"text_input": "a", "sampling_param_max_tokens": 1}),
}
"""Route and body of the smallest request that makes a Triton model run."""


class Graph:
    """A graph that this process has started. As a context manager: stops it at the end, unless detached."""

    def __init__(
        self,
        state: GraphState,
        settings: Settings,
        process: subprocess.Popen[bytes],
        client: SupervisorClient,
        progress: Progress,
    ) -> None:
        self.state = state
        self.progress = progress
        """Gets the progress of `wait_ready`."""
        self._settings = settings
        self._process = process
        self._client = client
        self._detached = False

    def __enter__(self) -> Graph:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._detached:
            self.stop()

    def url(self, name: ServiceName) -> str:
        """Base URL of a service."""
        return self.state.services[name].url

    def wait_ready(self, *names: ServiceName) -> None:
        """Returns once these services are ready; all of them if none is named.

        Ingest and the page start last, so that they take no processor time from the services that answer. The page's
        server counts as ready even if the page is not built.

        Raises:
            LaunchError: a service ended or took longer than `start_timeout_s`. The message has its last log lines.
        """
        if not names:
            self.wait_ready(*ANSWERING)
            started = self._client.status()
            if "ingest" not in started:
                _start(self._client, "ingest", "ingest.server", ingest_service_variables(self._settings, self.state))
            if "frontend" not in started:
                _start(self._client, "frontend", "frontend", frontend_variables(self._settings, self.state))
        wait_ready(self._settings, self._client, self.state, names or SERVICES, self.progress)

    def watch(self) -> None:
        """Blocks until the graph is stopped or a service has failed. Raises LaunchError with the reason."""
        while True:
            check_services(self._settings, self._client.status(), ("failed",))
            time.sleep(_WATCH_INTERVAL_S)

    def detach(self) -> None:
        """Lets the graph outlive this process."""
        self._client.detach()
        self._detached = True
        self._close()

    def stop(self) -> None:
        """Stops every process and returns when none is left."""
        # Another program may have stopped it.
        with contextlib.suppress(LaunchError):
            self._client.stop()
        self._close()
        self._process.wait()

    def _close(self) -> None:
        self._client.close()
        if self._process.stdin is not None:
            self._process.stdin.close()


def launch(settings: Settings, documents: Sequence[Path] = (), *, progress: Progress | None = None) -> Graph:
    """Fetches the models and starts the services that answer questions. Returns when their processes run.

    Args:
        settings: of the graph.
        documents: paths that will be indexed. Their languages decide on the embedder if the settings name none.
        progress: told what is waited for.

    Raises:
        LaunchError: a graph already runs in this home, a port is taken, or a service ended at once.
        UsageError: there is no such model.
        FetchError: a model could not be fetched.
        SetupError: this machine cannot run Triton.
    """
    progress = progress or Progress()
    with contextlib.ExitStack() as stack:
        # The supervisor has copies of the descriptors.
        lock = _lock(settings)
        stack.callback(os.close, lock)
        for left_over in (settings.run / "graph.json", *settings.run.glob("*.log")):
            left_over.unlink(missing_ok=True)
        state, listeners = _plan(settings, stack, documents)
        commands = stack.enter_context(control.listen(settings.run))
        process = _start_supervisor(settings, lock, commands, listeners)
    state.supervisor_pid = process.pid
    client = SupervisorClient(settings.run)
    graph = Graph(state, settings, process, client, progress)
    try:
        write_state(settings, state)
        _start_services(settings, state, client, progress)
    except BaseException:
        graph.stop()
        raise
    return graph


def choose_llm(settings: Settings, available_bytes: int) -> tuple[str, str]:
    """Name or path of the LLM, and the reason if it is the fallback.

    Args:
        settings: an explicit `model` wins; offline, only models of the cache count.
        available_bytes: memory that new processes can use.
    """
    if settings.model:
        return settings.model, ""
    store = model_store(settings)
    default, fallback = store.catalogue.defaults["llm"], store.catalogue.fallback_llm
    model = store.catalogue.models[default]
    needed = model.memory_bytes if isinstance(model, LlmModel) else None
    if needed is not None and available_bytes < needed:
        reason = f"it needs {needed / 1e9:.1f} GB of memory and {available_bytes / 1e9:.1f} GB are free"
    elif settings.offline and not store.cached(default) and store.cached(fallback):
        reason = "KSERVE_RAG_OFFLINE is set and it is not on this machine"
    else:
        return default, ""
    return fallback, _fallback_notice(default, fallback, reason)


def _fallback_notice(default: str, fallback: str, reason: str) -> str:
    return (
        f"The LLM is {fallback}, a tiny demo model, instead of {default}: {reason}. Expect poor answers; "
        "`kserve-rag up --model NAME` chooses another one."
    )


def model_store(settings: Settings, progress: Progress | None = None) -> ModelStore:
    """The store that these settings describe."""
    return ModelStore(
        settings.models,
        hub_url=settings.hub_url,
        hub_token=settings.hub_token.get_secret_value() if settings.hub_token else None,
        offline=settings.offline,
        progress=progress,
    )


def _lock(settings: Settings) -> int:
    """The lock of this home, held until its descriptor is closed here and in the supervisor."""
    for _ in range(5):
        lock = try_lock(settings.run / "graph.lock")
        if lock is not None:
            return lock
        # `status` takes the lock for a moment.
        time.sleep(_POLL_S)
    raise LaunchError(f"A graph already runs in {settings.home}. `kserve-rag status` shows it; `down` stops it.")


def _plan(
    settings: Settings, stack: contextlib.ExitStack, documents: Sequence[Path]
) -> tuple[GraphState, dict[ServiceName, socket.socket]]:
    """The state of the new graph, and the listening sockets of our own services."""
    llm, llm_notice = choose_llm(settings, psutil.virtual_memory().available)
    store = model_store(settings)
    embedder, embedder_notice = choose_embedder(settings, store, documents)
    # Before anything is fetched.
    store.check(llm, "llm")
    store.check(embedder, "embedder")
    services = default_services(settings)
    listeners: dict[ServiceName, socket.socket] = {}
    own: tuple[tuple[ServiceName, int, str, str], ...] = (
        ("transformer", settings.port, "the transformer", "--port"),
        ("frontend", settings.page_port, "the web page", "--page-port"),
        ("vectorstore", settings.vectorstore_port, "the vectorstore", ""),
        ("ingest", settings.ingest_port, "ingest", ""),
    )
    for name, port, what, option in own:
        listeners[name] = stack.enter_context(listen(port, what, option))
        services[name].url = f"http://{HOST}:{listeners[name].getsockname()[1]}"
        services[name].metrics_url = f"{services[name].url}/metrics"
    triton: tuple[tuple[ServiceName, int, int], ...] = (
        ("embedder", settings.embedder_port, settings.embedder_grpc_port),
        ("predictor", settings.predictor_port, settings.predictor_grpc_port),
    )
    with reserving_ports() as reserve:
        grpc_port = reserve(settings.grpc_port, "the transformer's gRPC", "--grpc-port")
        services["transformer"].grpc_url = f"{HOST}:{grpc_port}"
        for name, http_port, grpc_port in triton:
            services[name].url = f"http://{HOST}:{reserve(http_port)}"
            services[name].grpc_url = f"{HOST}:{reserve(grpc_port)}"
            services[name].metrics_url = f"http://{HOST}:{reserve()}/metrics"
    state = GraphState(
        started_at=datetime.now(timezone.utc),
        llm=llm,
        llm_notice=llm_notice,
        embedder=embedder,
        embedder_notice=embedder_notice,
        index_root=settings.indexes,
        index_name=settings.index_name,
        services=services,
    )
    return state, listeners


def _start_supervisor(
    settings: Settings, lock: int, commands: socket.socket, listeners: dict[ServiceName, socket.socket]
) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-I", supervisor.__file__, "--run-dir", str(settings.run)]
    argv += ["--lock-fd", str(lock), "--control-fd", str(commands.fileno())]
    argv += [f"--listener={name}={listener.fileno()}" for name, listener in listeners.items()]
    argv += ["--stop-timeout-s", str(settings.stop_timeout_s), "--shared-memory-prefix", _memory_prefix(settings)]
    with (settings.run / "supervisor.log").open("wb") as log:
        return subprocess.Popen(  # noqa: S603
            argv,
            # The supervisor stops the graph when this pipe closes, unless it is detached.
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=[lock, commands.fileno(), *(listener.fileno() for listener in listeners.values())],
            # Not in the terminal's foreground group: Ctrl-C reaches only this process, which then stops the graph.
            start_new_session=True,
        )


def _memory_prefix(settings: Settings) -> str:
    """Prefix of this home's POSIX shared memory, so that the regions of a killed Triton can be removed."""
    return f"kserve-rag-{hashlib.sha256(str(settings.home.resolve()).encode()).hexdigest()[:12]}-"


def _start_services(settings: Settings, state: GraphState, client: SupervisorClient, progress: Progress) -> None:
    """Prepares models and the Triton environment, and starts each service as soon as its needs are met."""
    cancellable = _Cancellable(progress)
    store = model_store(settings, cancellable)
    ready: dict[str, Any] = {}
    # Unlike a future's lock, a SimpleQueue stays usable if the handler of a signal raises.
    outcomes: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def prepare(name: str, work: Callable[[], Any]) -> threading.Thread:
        def run() -> None:
            try:
                outcomes.put((name, work()))
            except BaseException as error:
                outcomes.put((name, error))

        thread = threading.Thread(target=run, name=f"prepare-{name}", daemon=True)
        thread.start()
        return thread

    def build_environment() -> TritonEnvironment:
        python = settings.triton_python
        return ensure_triton_environment(settings.envs, python=python, offline=settings.offline, progress=cancellable)

    def start_vectorstore() -> None:
        state.index_root.mkdir(parents=True, exist_ok=True)
        _start(client, "vectorstore", "vectorstore", vectorstore_variables(settings, state))

    def start_transformer() -> None:
        _start(client, "transformer", "transformer", transformer_variables(settings, state, ready["llm"]))

    def start_embedder() -> None:
        variables = {"EMBEDDER_MODEL_DIR": str(ready["embedder"].path), "EMBEDDER_MODEL_ID": ready["embedder"].id}
        _start_triton(settings, state, client, "embedder", ready["environment"], variables)

    def start_predictor() -> None:
        variables = {"PREDICTOR_MODEL_DIR": str(ready["llm"].path)}
        _start_triton(settings, state, client, "predictor", ready["environment"], variables)

    waiting: list[tuple[set[str], Callable[[], None]]] = [
        ({"embedder"}, start_vectorstore),
        ({"llm"}, start_transformer),
        ({"environment", "embedder"}, start_embedder),
        ({"environment", "llm"}, start_predictor),
    ]
    threads = [
        prepare("environment", build_environment),
        prepare("embedder", lambda: _materialise_embedder(state, store)),
        prepare("llm", lambda: _materialise_llm(settings, state, store)),
    ]
    try:
        while waiting:
            try:
                name, ready[name] = outcomes.get(timeout=_POLL_S)
            except queue.Empty:
                check_services(settings, client.status())
                continue
            if isinstance(ready[name], BaseException):
                raise ready[name]
            for needs, start in [each for each in waiting if each[0] <= ready.keys()]:
                waiting.remove((needs, start))
                start()
                write_state(settings, state)
    finally:
        cancellable.cancelled = True
        for thread in threads:
            thread.join()


def _materialise_embedder(state: GraphState, store: ModelStore) -> LocalModel:
    """The embedder. Records in `state` what other services need to know about it."""
    try:
        model = store.materialise(state.embedder, "embedder")
    except FetchError as error:
        if not state.embedder_notice:
            raise
        missing, state.embedder = state.embedder, store.catalogue.defaults["embedder"]
        state.embedder_notice = f"The embedder is {state.embedder}: {missing} suits the documents, but {error}"
        model = store.materialise(state.embedder, "embedder")
    state.services["embedder"].model = model.triton_model
    state.tokenizer, state.window_tokens = model.path / "tokenizer.json", model.max_tokens
    return model


def _materialise_llm(settings: Settings, state: GraphState, store: ModelStore) -> LocalModel:
    """The LLM of the plan, or the fallback if the default one cannot be fetched. Recorded in `state`."""
    try:
        model = store.materialise(state.llm, "llm")
    except FetchError as error:
        fallback = store.catalogue.fallback_llm
        if settings.model or state.llm == fallback:
            raise
        reason = str(error).split("\n", 1)[0].rstrip(".:")
        state.llm, state.llm_notice = fallback, _fallback_notice(state.llm, fallback, reason)
        model = store.materialise(fallback, "llm")
    state.services["predictor"].model = model.triton_model
    return model


def _start(client: SupervisorClient, name: ServiceName, module: str, variables: dict[str, str]) -> None:
    """Starts one of our own services, on the listening socket that the supervisor holds."""
    environ = {**inherited_environment(), **variables}
    client.start(name, [sys.executable, "-m", module], environ, fd_variable=f"{name.upper()}_HTTP_FD")


def _start_triton(
    settings: Settings,
    state: GraphState,
    client: SupervisorClient,
    name: ServiceName,
    environment: TritonEnvironment,
    variables: dict[str, str],
) -> None:
    service = state.services[name]
    metrics_url = (service.metrics_url or "").removesuffix("/metrics")
    ports = TritonPorts(*(int(port_of(url)) for url in (service.url, service.grpc_url or "", metrics_url)))
    repository = package_folder(name) / "model_repository"
    argv, triton_variables = triton_command(environment, repository, ports, settings.run / name, model=service.model)
    argv += trace_arguments(name, os.environ)
    argv.append(shared_memory_argument(_memory_prefix(settings), name))
    route, body = _CHECKS[name]
    check = {"url": f"{service.url}/v2/models/{service.model}/{route}", "body": body}
    client.start(name, argv, {**inherited_environment(), **triton_variables, **variables}, check=check)


class _Cancelled(Exception):  # noqa: N818 - not an error
    """The preparation was cancelled."""


class _Cancellable(Progress):
    """A progress that raises an exception in the reporting work once `cancelled` is set."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.cancelled = False

    def update(self, task: str, done: int, total: int | None) -> None:
        if self.cancelled:
            raise _Cancelled
        self._progress.update(task, done, total)

    def note(self, task: str, text: str) -> None:
        # An empty text ends a task, and is always reported.
        if self.cancelled and text:
            raise _Cancelled
        self._progress.note(task, text)
