"""The whole graph as processes on this machine's loopback: started, watched, stopped.

The same programs that run in a cluster, each with its own settings, joined by URLs. Nothing is restarted silently: a
service that ends is reported with the last lines of its log.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

import httpx
import psutil

from kserve_rag.errors import LaunchError, PortTakenError
from kserve_rag.local import supervisor
from kserve_rag.local.graph import (
    ANSWERING,
    SERVICES,
    GraphState,
    Replica,
    ServiceName,
    ServiceState,
    default_services,
    how,
    last_lines,
    log_file,
    renew,
    started,
    write_state,
)
from kserve_rag.local.locking import locked, try_lock
from kserve_rag.local.replicas import scale
from kserve_rag.local.triton import (
    TritonEnvironment,
    TritonPorts,
    ensure_triton_environment,
    package_folder,
    shared_memory_argument,
    trace_arguments,
    triton_command,
)
from kserve_rag.models.catalogue import Catalogue, ModelKind
from kserve_rag.models.store import LocalModel, ModelStore
from kserve_rag.progress import Progress, Silent
from kserve_rag.settings import HOST, Settings

_POLL_S = 0.1
_OPENAI_PREFIXES = ("/openai/v1", "/v1/chat")
"""Routes of the transformer whose errors have OpenAI's shape: transformer.openai.PREFIXES."""
_NOT_INHERITED = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OTEL_SERVICE_NAME")
"""Secrets of the hub; and a name, which each service has of its own."""


class Graph:
    """A graph that this process has started. As a context manager: stops it at the end, unless detached."""

    def __init__(
        self,
        state: GraphState,
        *,
        settings: Settings,
        channel: _Supervisor,
        progress: Progress,
    ) -> None:
        self.state = state
        self._settings = settings
        self._supervisor = channel
        self.progress = progress
        """Told what is waited for."""

    def __enter__(self) -> Graph:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._supervisor.detached:
            self.stop()

    def url(self, name: ServiceName) -> str:
        """Base URL of a service."""
        return self.state.services[name].url

    def wait_ready(self, *names: ServiceName) -> None:
        """Returns once these services are ready.

        Where none is named, all of them. Those that no question passes through are started then: until the others are
        ready they would only take the processor from them. A page's server that has no page counts as ready.

        Raises:
            LaunchError: one ended, or took longer than `start_timeout_s`. Its last log lines are in the message.
        """
        if not names:
            self.wait_ready(*ANSWERING)
            self._start_others()
        missing = list(names or SERVICES)
        deadline = time.monotonic() + self._settings.start_timeout_s
        reasons: dict[ServiceName, str | None] = {}
        with httpx.Client(timeout=5, trust_env=False) as client:
            while missing:
                self._supervisor.check()
                for name in list(missing):
                    ready, reasons[name] = started(client, name, self.state.services[name])
                    if ready:
                        missing.remove(name)
                        self.progress.note(name, "")
                    else:
                        self.progress.note(name, reasons[name] or "starting")
                if missing and time.monotonic() > deadline:
                    raise LaunchError(
                        f"The {missing[0]} was not ready within {self._settings.start_timeout_s:.0f} s "
                        f"({reasons[missing[0]]}). Its last lines:\n{last_lines(self._settings.run, missing[0])}"
                    )
                if missing:
                    self._supervisor.pause(_POLL_S)

    def _start_others(self) -> None:
        with _changing(self._settings, self.state):
            self._start_other("ingest", "ingest.server", ingest_service_variables)
            self._start_other("frontend", "frontend", frontend_variables)

    def _start_other(
        self, name: ServiceName, module: str, variables: Callable[[Settings, GraphState], dict[str, str]]
    ) -> None:
        if not self.state.services[name].replicas:
            command = [sys.executable, "-m", module]
            self._supervisor.start(self.state, name, command, variables(self._settings, self.state), drains=True)

    def scale(self, counts: Mapping[ServiceName, int]) -> None:
        """As `kserve_rag.local.replicas.scale`."""
        scale(self._settings, self.state, counts, self.progress)

    def watch(self) -> None:
        """Blocks for as long as every service runs.

        Raises:
            LaunchError: one ended. Its last log lines are in the message.
        """
        while True:
            self._supervisor.check()
            self._supervisor.pause(3600)

    def detach(self) -> None:
        """Lets the graph outlive this process."""
        self._supervisor.detach()

    def stop(self) -> None:
        """Stops every process and returns when none is left."""
        self._supervisor.stop()


def launch(settings: Settings, *, progress: Progress | None = None) -> Graph:
    """Fetches what is needed and starts every service; returns when all processes are started.

    A service is started as soon as what it needs is there.

    Raises:
        LaunchError: a graph runs already in this home, a port is taken, or a service ended at once.
        UsageError: there is no such model.
        FetchError: a model could not be fetched.
        SetupError: this machine cannot run Triton.
    """
    progress = progress or Silent()
    lock = _lock(settings)
    try:
        for left_over in (settings.run / "graph.json", *settings.run.glob("*.log"), *settings.run.glob("*.exit")):
            left_over.unlink(missing_ok=True)
        state = _planned_state(settings)
        channel = _Supervisor(settings, lock)
    finally:
        os.close(lock)
    state.supervisor_pid, state.supervisor_started = channel.pid, psutil.Process(channel.pid).create_time()
    graph = Graph(state, settings=settings, channel=channel, progress=progress)
    try:
        for name, service in state.services.items():
            channel.open(name, service.url)
        _start_services(settings, state, channel, progress)
    except BaseException:
        graph.stop()
        raise
    return graph


def chosen_models(settings: Settings) -> dict[ModelKind, str]:
    """Names or paths of the models that these settings choose."""
    defaults = Catalogue.load().defaults
    return {"embedder": settings.embedder or defaults["embedder"], "llm": settings.model or defaults["llm"]}


def model_store(settings: Settings, progress: Progress | None = None) -> ModelStore:
    """The store that these settings describe."""
    return ModelStore(
        settings.models,
        hub_url=settings.hub_url,
        hub_token=settings.hub_token.get_secret_value() if settings.hub_token else None,
        offline=settings.offline,
        progress=progress,
    )


# ── starting ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _start_services(settings: Settings, state: GraphState, channel: _Supervisor, progress: Progress) -> None:
    cancellable = _Cancellable(progress)
    store = model_store(settings, cancellable)
    with ThreadPoolExecutor(3, thread_name_prefix="prepare") as pool, _interrupts_deferred() as interrupt:
        try:
            environment: Future[TritonEnvironment] = pool.submit(
                ensure_triton_environment,
                settings.envs,
                python=settings.triton_python,
                offline=settings.offline,
                progress=cancellable,
            )
            embedder = pool.submit(store.materialise, state.embedder, "embedder")
            llm = pool.submit(store.materialise, state.llm, "llm")
            waiting: list[tuple[tuple[Future[Any], ...], Callable[[], None]]] = [
                ((embedder,), lambda: _start_vectorstore(settings, state, channel, embedder.result())),
                ((llm,), lambda: _start_transformer(settings, state, channel, llm.result())),
                ((environment, embedder), lambda: _start_embedder(settings, state, channel, environment, embedder)),
                ((environment, llm), lambda: _start_predictor(settings, state, channel, environment, llm)),
            ]
            pending: set[Future[Any]] = {environment, embedder, llm}
            while waiting:
                for needs, start in list(waiting):
                    if all(need.done() for need in needs):
                        waiting.remove((needs, start))
                        with _changing(settings, state):
                            start()
                if waiting:
                    done, pending = wait(pending, timeout=_POLL_S, return_when=FIRST_COMPLETED)
                    interrupt()
                    for future in done:
                        future.result()
                    channel.check()
        except BaseException:
            cancellable.cancelled = True
            raise


@contextlib.contextmanager
def _interrupts_deferred() -> Iterator[Callable[[], None]]:
    """Until what is given is called, signals whose handlers raise wait.

    In the midst of a future's lock they would leave it locked, and whoever makes its result would wait for ever.
    """
    seen: list[int] = []
    handlers: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    deferred = [number for number, handler in handlers.items() if callable(handler)]

    def interrupt() -> None:
        while seen:
            number = seen.pop(0)
            handlers[number](number, None)

    for number in deferred:
        signal.signal(number, lambda number, _: seen.append(number))
    try:
        yield interrupt
        interrupt()
    finally:
        for number in deferred:
            signal.signal(number, handlers[number])


def _lock(settings: Settings) -> int:
    """The descriptor that says for as long as it is open, here or in the supervisor, that a graph runs in this home."""
    path = settings.run / "graph.lock"
    for _ in range(5):
        lock = try_lock(path)
        if lock is not None:
            return lock
        # Whoever only looks holds it for a moment.
        time.sleep(_POLL_S)
    raise LaunchError(f"A graph runs already in {settings.home}. `kserve-rag status` shows it; `down` stops it.")


@contextlib.contextmanager
def _changing(settings: Settings, state: GraphState) -> Iterator[None]:
    """What is started is written into the state, and what others have changed in it stays."""
    with locked(settings.run / "replicas.lock"):
        renew(settings, state)
        yield
        write_state(settings, state)


class _Cancelled(Exception):  # noqa: N818 - it is no error
    """What was being prepared is not wanted any more."""


class _Cancellable:
    """A progress that ends the work which tells it, once `cancelled` is set."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.cancelled = False

    def update(self, task: str, done: int, total: int | None) -> None:
        if self.cancelled:
            raise _Cancelled
        self._progress.update(task, done, total)

    def note(self, task: str, text: str) -> None:
        # The end of a task is told in any case.
        if self.cancelled and text:
            raise _Cancelled
        self._progress.note(task, text)


def vectorstore_variables(settings: Settings, state: GraphState) -> dict[str, str]:
    """Settings of the vectorstore of this graph."""
    return {
        **_edge_variables("VECTORSTORE", settings, state.services["vectorstore"]),
        "VECTORSTORE_ENABLE_GRPC": "false",
        "VECTORSTORE_INDEX_ROOT": str(state.index_root),
        "VECTORSTORE_INDEX_NAME": state.index_name,
        "VECTORSTORE_EMBEDDER_URL": state.services["embedder"].url,
        "VECTORSTORE_EMBEDDER_MODEL": state.services["embedder"].model,
    }


_FOR_SMALL_MODELS = {
    # Of 100 questions SmolLM2 ends 3 answers in a loop without it and none with it; as many are right.
    "TRANSFORMER_FREQUENCY_PENALTY": "0.2",
    # Where the documents support nothing of what so small a model wrote, they are the better answer themselves.
    "TRANSFORMER_CITATIONS": "quote",
}
"""What the transformer is told unless the environment says otherwise."""


def transformer_variables(settings: Settings, state: GraphState, llm: LocalModel) -> dict[str, str]:
    """Settings of the transformer of this graph."""
    service = state.services["transformer"]
    return {
        **_edge_variables("TRANSFORMER", settings, service),
        "TRANSFORMER_GRPC_PORT": _port(service.grpc_url or ""),
        "TRANSFORMER_MODEL_NAME": service.model,
        "TRANSFORMER_VECTORSTORE_URL": state.services["vectorstore"].url,
        "TRANSFORMER_PREDICTOR_URL": state.services["predictor"].url,
        "TRANSFORMER_PREDICTOR_LAYOUT": "llmapi",
        "TRANSFORMER_PROMPT_FORMAT": str(llm.path),
        **{name: os.environ.get(name, chosen) for name, chosen in _FOR_SMALL_MODELS.items()},
    }


def ingest_service_variables(settings: Settings, state: GraphState) -> dict[str, str]:
    """Settings of the ingest service of this graph."""
    # Imported here: it brings ingestion along, which nothing that is started first has to wait for.
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
    """What all programs are told that are served by `chassis.edge`."""
    variables = {
        "HOST": HOST,
        "HTTP_PORT": _port(service.url),
        "REUSE_PORT": "true",
        "GRACE_PERIOD_S": _grace(settings),
    }
    return {f"{prefix}_{name}": value for name, value in variables.items()}


def _start_vectorstore(settings: Settings, state: GraphState, channel: _Supervisor, embedder: LocalModel) -> None:
    _note_embedder(state, embedder)
    state.index_root.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "vectorstore"]
    channel.start(state, "vectorstore", command, vectorstore_variables(settings, state), drains=True)


def _start_transformer(settings: Settings, state: GraphState, channel: _Supervisor, llm: LocalModel) -> None:
    command, variables = [sys.executable, "-m", "transformer"], transformer_variables(settings, state, llm)
    channel.start(state, "transformer", command, variables, drains=True)


def _start_embedder(
    settings: Settings,
    state: GraphState,
    channel: _Supervisor,
    environment: Future[TritonEnvironment],
    model: Future[LocalModel],
) -> None:
    folder = model.result()
    _note_embedder(state, folder)
    variables = {"EMBEDDER_MODEL_DIR": str(folder.path), "EMBEDDER_MODEL_ID": folder.id}
    _start_triton(settings, state, channel, "embedder", environment.result(), folder.triton_model, variables)


def _note_embedder(state: GraphState, model: LocalModel) -> None:
    """What other services have to know of it."""
    state.services["embedder"].model = model.triton_model
    state.tokenizer, state.window_tokens = model.path / "tokenizer.json", model.max_tokens


def _start_predictor(
    settings: Settings,
    state: GraphState,
    channel: _Supervisor,
    environment: Future[TritonEnvironment],
    model: Future[LocalModel],
) -> None:
    folder = model.result()
    state.services["predictor"].model = folder.triton_model
    variables = {"PREDICTOR_MODEL_DIR": str(folder.path)}
    _start_triton(settings, state, channel, "predictor", environment.result(), folder.triton_model, variables)


def _start_triton(
    settings: Settings,
    state: GraphState,
    channel: _Supervisor,
    name: ServiceName,
    environment: TritonEnvironment,
    model: str,
    variables: dict[str, str],
) -> None:
    service = state.services[name]
    metrics_url = (service.metrics_url or "").removesuffix("/metrics")
    ports = TritonPorts(*(int(_port(url)) for url in (service.url, service.grpc_url or "", metrics_url)))
    repository = package_folder(name) / "model_repository"
    argv, triton_variables = triton_command(
        environment, repository, ports, settings.run / name, model=model, reuse_ports=True
    )
    argv += trace_arguments(name, os.environ)
    argv.append(shared_memory_argument(_shared_memory_prefix(settings), name))
    channel.start(state, name, argv, {**triton_variables, **variables}, drains=False)
    service.replicas[0].metrics_url = service.metrics_url


def _planned_state(settings: Settings) -> GraphState:
    models = chosen_models(settings)
    services = default_services(settings)
    taken: set[int] = set()
    transformer = services["transformer"]
    transformer.url = f"http://{HOST}:{_fixed_port(settings.port, 'the transformer', '--port', taken)}"
    grpc_port = _fixed_port(settings.grpc_port, "the transformer's gRPC", "--grpc-port", taken)
    transformer.grpc_url = f"{HOST}:{grpc_port}"
    services["frontend"].url = f"http://{HOST}:{_fixed_port(settings.page_port, 'the web page', '--page-port', taken)}"
    services["vectorstore"].url = f"http://{HOST}:{any_port(settings.vectorstore_port, taken)}"
    services["ingest"].url = f"http://{HOST}:{any_port(settings.ingest_port, taken)}"
    for service in (transformer, services["vectorstore"], services["ingest"], services["frontend"]):
        service.metrics_url = f"{service.url}/metrics"
    for name, http, grpc in (
        ("embedder", settings.embedder_port, settings.embedder_grpc_port),
        ("predictor", settings.predictor_port, settings.predictor_grpc_port),
    ):
        service = services["embedder" if name == "embedder" else "predictor"]
        service.url = f"http://{HOST}:{any_port(http, taken)}"
        service.grpc_url = f"{HOST}:{any_port(grpc, taken)}"
        service.metrics_url = f"http://{HOST}:{any_port(0, taken)}/metrics"
    return GraphState(
        supervisor_pid=0,
        supervisor_started=0,
        started_at=datetime.now(timezone.utc),
        llm=models["llm"],
        embedder=models["embedder"],
        index_root=settings.indexes,
        index_name=settings.index_name,
        services=services,
    )


def _port(url: str) -> str:
    return url.rpartition(":")[2]


def _grace(settings: Settings) -> str:
    """Seconds for requests in flight, so that a service ends by itself before it is killed."""
    return str(max(1, int(settings.stop_timeout_s / 3)))


def _fixed_port(port: int, what: str, option: str, taken: set[int]) -> int:
    if port and not _free(port):
        raise PortTakenError(
            f"Port {port}, where {what} would listen, is taken by {_holder(port)}. "
            f"End that, or choose another port with {option}."
        )
    return any_port(port, taken)


def any_port(port: int, taken: set[int]) -> int:
    """`port` if it is free, else one that the system gives; added to those `taken`."""
    while not port or port in taken or not _free(port):
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = probe.getsockname()[1]
    taken.add(port)
    return port


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen()
        except OSError:
            return False
    return True


def _holder(port: int) -> str:
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
            if listens and connection.pid:
                process = psutil.Process(connection.pid)
                return f"process {connection.pid} ({' '.join(process.cmdline())[:80] or process.name()})"
    return "another user's process"


def _shared_memory_prefix(settings: Settings) -> str:
    """Names this home's shared memory, so that what a killed Triton left there can be removed."""
    return f"kserve-rag-{hashlib.sha256(str(settings.home.resolve()).encode()).hexdigest()[:12]}-"


# ── the supervisor's other end ────────────────────────────────────────────────────────────────────────────────────────


class _Supervisor:
    """Commands to the process that is the parent of all services, and its events."""

    def __init__(self, settings: Settings, lock: int) -> None:
        self._settings = settings
        self._answers: dict[str, queue.Queue[dict[str, Any]]] = {}
        self._ended: list[dict[str, Any]] = []
        self._news = threading.Event()
        self.detached = False
        command = [sys.executable, "-I", supervisor.__file__, "--run-dir", str(settings.run), "--lock", str(lock)]
        command += ["--stop-timeout-s", str(settings.stop_timeout_s), "--state", str(settings.run / "graph.json")]
        command += ["--shared-memory-prefix", _shared_memory_prefix(settings)]
        with (settings.run / "supervisor.log").open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                pass_fds=[lock],
                # Not in the terminal's foreground group: a Ctrl-C reaches this process alone, which then says "stop".
                start_new_session=True,
            )
        self._commands, self._events = _pipes(self._process)
        self._reader = threading.Thread(target=self._read, name="supervisor", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def open(self, name: ServiceName, url: str) -> None:
        """Takes a service's port, so that it is answered from now on."""
        self._ask(name, {"do": "open", "service": name, "port": int(_port(url)), "refusals": _refusals(name)})

    def start(
        self, state: GraphState, name: ServiceName, argv: Sequence[str], variables: dict[str, str], *, drains: bool
    ) -> None:
        """Starts the first process of a service.

        Args:
            state: of the graph; it is noted there.
            name: of the service.
            argv: program and arguments.
            variables: of its environment, beside those that it inherits.
            drains: whether it knows SIGUSR1 (`chassis.edge.drain_on_signal`).
        """
        service = state.services[name]
        # Triton's gRPC drains by itself; the program's own is told to, and waited for as HTTP is.
        urls = [service.url, *([service.grpc_url] if service.grpc_url and drains else [])]
        specification = {
            "name": name,
            "service": name,
            "number": 1,
            "ports": [int(_port(url)) for url in urls],
            "drains": drains,
            "argv": list(argv),
            "env": {**inherited_environment(), **variables},
            "log": str(log_file(self._settings.run, name)),
        }
        pid = int(self._ask(name, {"do": "start", **specification})["pid"])
        service.replicas, service.started = [Replica(name=name, number=1, pid=pid)], 1

    def _ask(self, name: ServiceName, command: dict[str, Any]) -> dict[str, Any]:
        answer = self._answers[name] = queue.Queue()
        self._tell(command)
        try:
            event = answer.get(timeout=30)
        except queue.Empty:
            raise LaunchError(f"The {name} could not be started: the supervisor does not answer.") from None
        if "failed" in event:
            raise LaunchError(f"The {name} could not be started: {event['why']}")
        return event

    def check(self) -> None:
        """Raises LaunchError if a service has ended."""
        self._news.clear()
        if self._ended:
            event = self._ended[0]
            name = event["ended"]
            raise LaunchError(
                f"The {name} ended {how(event['code'])}. Its last lines:\n{last_lines(self._settings.run, name)}"
            )
        if self._process.poll() is not None:
            raise LaunchError("The graph was stopped.")

    def pause(self, timeout_s: float) -> None:
        """Returns after a while, or as soon as something has ended."""
        self._news.wait(timeout_s)

    def detach(self) -> None:
        self._tell({"do": "detach"})
        self.detached = True
        self._commands.close()

    def stop(self) -> None:
        # Whoever was told by another is gone, or going.
        with contextlib.suppress(LaunchError, OSError, ValueError):
            self._tell({"do": "stop"})
        self._process.wait()
        self._reader.join()
        for pipe in (self._commands, self._events):
            with contextlib.suppress(OSError):
                pipe.close()

    def _tell(self, command: dict[str, Any]) -> None:
        try:
            self._commands.write(json.dumps(command) + "\n")
            self._commands.flush()
        except BrokenPipeError:
            raise LaunchError("The graph was stopped.") from None

    def _read(self) -> None:
        for line in self._events:
            event = json.loads(line)
            if "ended" in event:
                self._ended.append(event)
            else:
                self._answers[event.get("started") or event.get("opened") or event["failed"]].put(event)
            self._news.set()
        self._news.set()


def _pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    if process.stdin is None or process.stdout is None:
        raise AssertionError("the supervisor was started without pipes")
    return process.stdin, process.stdout


def _refusals(name: ServiceName) -> dict[str, str]:
    """What is answered while no process of a service listens: path prefix → JSON body."""
    text = f"The {name} is starting, or has ended: `kserve-rag status` tells. Try again shortly."
    openai = {"error": {"message": text, "type": "server_error", "param": None, "code": "not_ready"}}
    shapes = dict.fromkeys(_OPENAI_PREFIXES, openai) if name == "transformer" else {}
    return {prefix: json.dumps(body) for prefix, body in {"": {"error": text, "code": "not_ready"}, **shapes}.items()}


def inherited_environment() -> dict[str, str]:
    """This process's variables, less what is not for services, and what every service wants on one machine."""
    cpus = str(len(os.sched_getaffinity(0)))
    return {
        **{name: value for name, value in os.environ.items() if name not in _NOT_INHERITED},
        # The rooms of this very installation or checkout, whatever the folder that a service runs in.
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", cpus),
        "TOKENIZERS_PARALLELISM": "false",
        "ANONYMIZED_TELEMETRY": "false",
    }
