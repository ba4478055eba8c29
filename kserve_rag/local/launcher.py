"""Starts the whole graph on this machine: the same programs as in a cluster, on loopback, under a supervisor."""

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

from kserve_rag.errors import FetchError, LaunchError, UsageError
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

_EMBEDDER_EXIT_TIMEOUT_S = 2
"""Triton waits this long for the idle connections of the other services. Embedding a text takes milliseconds."""

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
"""Route and body of a minimal request to check that a Triton model runs."""


class Graph:
    """A graph started by this process. As a context manager, it stops the graph unless detached."""

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
        """Receives the progress of `wait_ready`."""
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
        """Waits until these services, by default all, are ready.

        Ingest and the page start last, so that they take no CPU time from the services that answer. The page's
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
        """Lets the graph keep running when this process ends."""
        self._client.detach()
        self._detached = True
        self._close()

    def stop(self) -> None:
        """Stops all processes and waits until they have ended."""
        # Another program may have stopped the graph.
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
        settings: settings of the graph.
        documents: paths to index. Their languages determine the embedder, unless the settings name one.
        progress: receives the progress.

    Raises:
        LaunchError: a graph already runs in this home, a port is in use, or a service ended immediately.
        UsageError: there is no such model.
        FetchError: a model could not be fetched.
        SetupError: this machine cannot run Triton.
    """
    progress = progress or Progress()
    _make_private(settings.home)
    with contextlib.ExitStack() as stack:
        # The supervisor gets copies of the descriptors.
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
        settings: an explicit `model` wins; offline, only cached models are considered.
        available_bytes: memory available to new processes.
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
        reason = "KSERVE_RAG_OFFLINE is set and it is not in the cache"
    else:
        return default, ""
    return fallback, _fallback_notice(default, fallback, reason)


def _fallback_notice(default: str, fallback: str, reason: str) -> str:
    return (
        f"The LLM is {fallback}, a tiny demo model, instead of {default}: {reason}. Expect poor answers; "
        "`kserve-rag up --model NAME` chooses another one."
    )


def model_store(settings: Settings, progress: Progress | None = None) -> ModelStore:
    """The model store, with these settings."""
    return ModelStore(
        settings.models,
        hub_url=settings.hub_url,
        hub_token=settings.hub_token.get_secret_value() if settings.hub_token else None,
        offline=settings.offline,
        progress=progress,
    )


def _make_private(home: Path) -> None:
    """Closes the home to other users of the machine: it holds documents, indexes and logs."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(PermissionError):  # the folder of another user, who decides
        home.chmod(0o700)


def _lock(settings: Settings) -> int:
    """The descriptor of this home's lock, which is held until it is closed here and in the supervisor."""
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
    if settings.models_file is not None:
        _check_models(settings.models_file)
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
        models_file=settings.models_file,
        embedder=embedder,
        embedder_notice=embedder_notice,
        index_root=settings.indexes,
        index_name=settings.index_name,
        services=services,
    )
    return state, listeners


def _check_models(file: Path) -> None:
    # Imported late, because importing it takes a second.
    from chassis.settings import SettingError
    from transformer.models import read_models

    try:
        read_models(file)
    except SettingError as error:
        raise UsageError(str(error)) from error


def _start_supervisor(
    settings: Settings, lock: int, commands: socket.socket, listeners: dict[ServiceName, socket.socket]
) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-I", supervisor.__file__, "--run-dir", str(settings.run)]
    argv += ["--lock-fd", str(lock), "--control-fd", str(commands.fileno())]
    argv += [f"--listener={name}={listener.fileno()}" for name, listener in listeners.items()]
    argv += ["--stop-timeout-s", str(settings.stop_timeout_s), "--shared-memory-prefix", _memory_prefix(settings)]
    with (settings.run / "supervisor.log").open("wb") as log:
        os.fchmod(log.fileno(), 0o600)
        return subprocess.Popen(  # noqa: S603
            argv,
            # The supervisor stops the graph when this pipe closes, unless it is detached.
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=[lock, commands.fileno(), *(listener.fileno() for listener in listeners.values())],
            # Outside the terminal's foreground group, so that Ctrl-C reaches only this process, which stops the graph.
            start_new_session=True,
        )


def _memory_prefix(settings: Settings) -> str:
    """Prefix of this home's POSIX shared memory, for removing the regions of a killed Triton."""
    return f"kserve-rag-{hashlib.sha256(str(settings.home.resolve()).encode()).hexdigest()[:12]}-"


def _start_services(settings: Settings, state: GraphState, client: SupervisorClient, progress: Progress) -> None:
    """Prepares models and the Triton environment, and starts each service as soon as its needs are met."""
    cancellable = _Cancellable(progress)
    store = model_store(settings, cancellable)

    def build_environment() -> TritonEnvironment:
        python = settings.triton_python
        return ensure_triton_environment(settings.envs, python=python, offline=settings.offline, progress=cancellable)

    def start_vectorstore() -> None:
        state.index_root.mkdir(parents=True, exist_ok=True)
        _start(client, "vectorstore", "vectorstore", vectorstore_variables(settings, state))

    def start_transformer() -> None:
        _start(client, "transformer", "transformer", transformer_variables(settings, state, prepared["llm"]))

    def start_embedder() -> None:
        model = prepared["embedder"]
        variables = {"EMBEDDER_MODEL_DIR": str(model.path), "EMBEDDER_MODEL_ID": model.id}
        _start_triton(settings, state, client, "embedder", prepared["environment"], variables)

    def start_predictor() -> None:
        path = prepared["llm"].path
        cache = settings.models / "openvino" / path.name
        variables = {"PREDICTOR_MODEL_DIR": str(path), "PREDICTOR_CACHE_DIR": str(cache)}
        _start_triton(settings, state, client, "predictor", prepared["environment"], variables)

    waiting: list[tuple[set[str], Callable[[], None]]] = [
        ({"embedder"}, start_vectorstore),
        ({"llm"}, start_transformer),
        ({"environment", "embedder"}, start_embedder),
        ({"environment", "llm"}, start_predictor),
    ]
    prepared: dict[str, Any] = {}
    preparation = _Preparation(
        environment=build_environment,
        embedder=lambda: _materialise_embedder(state, store),
        llm=lambda: _materialise_llm(settings, state, store),
    )
    try:
        while waiting:
            check_services(settings, client.status())
            prepared |= preparation.next(_POLL_S)
            for needs, start in [each for each in waiting if each[0] <= prepared.keys()]:
                waiting.remove((needs, start))
                start()
                write_state(settings, state)
    finally:
        cancellable.cancelled = True
        preparation.join()


class _Preparation:
    """Runs named functions, each in a thread."""

    def __init__(self, **functions: Callable[[], Any]) -> None:
        # Unlike a future's lock, a SimpleQueue stays usable if a signal handler raises.
        self._outcomes: queue.SimpleQueue[tuple[str, Any, BaseException | None]] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._run, args=item, daemon=True) for item in functions.items()]
        for thread in self._threads:
            thread.start()

    def _run(self, name: str, function: Callable[[], Any]) -> None:
        try:
            self._outcomes.put((name, function(), None))
        except BaseException as error:
            self._outcomes.put((name, None, error))

    def next(self, timeout_s: float) -> dict[str, Any]:
        """Name → result of the next function that returns; empty after the timeout. Raises a function's error."""
        try:
            name, result, error = self._outcomes.get(timeout=timeout_s)
        except queue.Empty:
            return {}
        if error is not None:
            raise error
        return {name: result}

    def join(self) -> None:
        """Waits until all functions have ended."""
        for thread in self._threads:
            thread.join()


def _materialise_embedder(state: GraphState, store: ModelStore) -> LocalModel:
    """Fetches the embedder, and records in `state` what other services need to know about it."""
    try:
        model = store.materialise(state.embedder, "embedder")
    except FetchError as error:
        if not state.embedder_notice:
            raise
        missing, state.embedder = state.embedder, store.catalogue.defaults["embedder"]
        state.embedder_notice = (
            f"The embedder is {state.embedder}. {missing} supports the documents' languages, but {error}"
        )
        model = store.materialise(state.embedder, "embedder")
    state.services["embedder"].model = model.triton_model
    state.tokenizer, state.window_tokens = model.path / "tokenizer.json", model.max_tokens
    return model


def _materialise_llm(settings: Settings, state: GraphState, store: ModelStore) -> LocalModel:
    """Fetches the planned LLM, or the fallback if the default cannot be fetched. Recorded in `state`."""
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
    """Starts one of our own services, with the listening socket that the supervisor holds."""
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
    argv, triton_variables = triton_command(
        environment,
        repository,
        ports,
        settings.run / name,
        model=service.model,
        exit_timeout_s=settings.drain_timeout_s if name == "predictor" else _EMBEDDER_EXIT_TIMEOUT_S,
    )
    argv += trace_arguments(name, os.environ)
    argv.append(shared_memory_argument(_memory_prefix(settings), name))
    route, body = _CHECKS[name]
    check = {"url": f"{service.url}/v2/models/{service.model}/{route}", "body": body}
    client.start(name, argv, {**inherited_environment(), **triton_variables, **variables}, check=check)


class _Cancelled(Exception):  # noqa: N818 - not an error
    """The preparation was cancelled."""


class _Cancellable(Progress):
    """A progress that raises an exception in the work that reports to it, once `cancelled` is set."""

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
