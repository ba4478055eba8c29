"""A graph on this machine, for other programs: state, status, logs, restart, stop."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import IO, Literal, get_args

import httpx
from pydantic import BaseModel, ValidationError

from chassis.errors import ServiceError
from kserve_rag.errors import LaunchError, NotRunningError
from kserve_rag.local.control import ProcessStatus, SupervisorClient
from kserve_rag.local.locking import try_lock
from kserve_rag.progress import Progress
from kserve_rag.settings import HOST, Settings

ServiceName = Literal["transformer", "vectorstore", "embedder", "predictor", "ingest", "frontend"]
SERVICES: tuple[ServiceName, ...] = get_args(ServiceName)
ANSWERING: tuple[ServiceName, ...] = ("transformer", "vectorstore", "embedder", "predictor")
"""The services that a question needs. The others start when these are ready."""

MODEL_NAME = "rag"
"""The transformer's model name."""

_POLL_S = 0.1
_LAST_LINES = 15


class ServiceState(BaseModel):
    """One service of a running graph."""

    url: str
    grpc_url: str | None = None
    metrics_url: str | None = None
    """URL of Prometheus metrics."""
    model: str = ""
    """Name of the model in the v2 protocol; empty for other services."""

    @property
    def ready_url(self) -> str:
        """Responds with 200 if the service is ready."""
        return f"{self.url}/v2/models/{self.model}/ready" if self.model else f"{self.url}/ready"


class GraphState(BaseModel):
    """A running graph, as in `<home>/run/graph.json`."""

    supervisor_pid: int = 0
    started_at: datetime
    llm: str
    llm_notice: str = ""
    """Why the fallback LLM is used; empty if it is not."""
    models_file: Path | None = None
    """File with further LLMs."""
    embedder: str
    embedder_notice: str = ""
    """Why another than the default embedder was chosen automatically; else empty."""
    tokenizer: Path | None = None
    """The embedder's tokenizer.json; None until its model is fetched."""
    window_tokens: int | None = None
    """Input limit of the embedder in tokens; None if unknown."""
    index_root: Path
    index_name: str
    services: dict[ServiceName, ServiceState]


class ServiceStatus(BaseModel):
    """Whether a service is ready, and the reason if not."""

    url: str
    ready: bool
    reason: str | None
    pid: int = 0
    """0 if no process is running."""
    restarts: int = 0
    """Number of restarts after a process ended."""


class IndexStatus(BaseModel):
    """The serving index version."""

    name: str
    version: str
    documents: int
    chunks: int
    languages: dict[str, float] = {}
    """Language of the documents (ISO 639-1) → share of the chunks, largest first."""
    weights: dict[str, float] = {}
    """Share of each signal in a passage's score; empty if the vectorstore is not running."""
    stale: int = 0
    """Files that can no longer be read, whose documents are kept."""
    skipped: int = 0
    """Other files that the last runs could not use."""


class GraphStatus(BaseModel):
    """The output of `kserve-rag status --json`."""

    services: dict[ServiceName, ServiceStatus]
    index: IndexStatus | None


def running(settings: Settings) -> GraphState | None:
    """The graph that runs in this home, or None.

    Raises:
        LaunchError: a graph is starting or stopping, or another version of this program started it.
    """
    if not _is_locked(settings):
        return None
    for _ in range(20):
        with contextlib.suppress(FileNotFoundError):
            try:
                return GraphState.model_validate_json((settings.run / "graph.json").read_text(encoding="utf-8"))
            except ValidationError as error:
                raise LaunchError(
                    f"Another version of this program started the graph in {settings.home}. "
                    "Restart it: `kserve-rag down`, then `kserve-rag up`."
                ) from error
        time.sleep(_POLL_S)
    raise LaunchError(f"Another process is starting or stopping the graph in {settings.home}. Try again shortly.")


def _is_locked(settings: Settings) -> bool:
    lock = try_lock(settings.run / "graph.lock")
    if lock is not None:
        os.close(lock)
    return lock is None


def need_running(settings: Settings) -> GraphState:
    """The graph that runs in this home. Raises NotRunningError if there is none."""
    state = running(settings)
    if state is None:
        raise NotRunningError("The graph is not running. Start it with `kserve-rag up`.")
    return state


def stop(settings: Settings) -> bool:
    """Stops the graph in this home and waits until all processes have ended. Returns False if none was running."""
    if not _is_locked(settings):
        return False
    with contextlib.suppress(LaunchError), SupervisorClient(settings.run) as client:
        client.stop()
    deadline = time.monotonic() + settings.stop_timeout_s + 10
    while time.monotonic() < deadline:
        if not _is_locked(settings):
            return True
        time.sleep(_POLL_S)
    raise LaunchError(f"The graph in {settings.home} does not stop. See {log_file(settings.run, 'supervisor')}.")


def status(settings: Settings) -> GraphStatus:
    """The status of every service and of the index, whether the graph runs or not."""
    state = running(settings)
    if state is None:
        planned = default_services(settings)
        services = {
            name: ServiceStatus(url=service.url, ready=False, reason="not running") for name, service in planned.items()
        }
        return GraphStatus(services=services, index=_with_skipped(settings, index_on_disk(settings)))
    with SupervisorClient(settings.run) as client:
        processes = client.status()
    with loopback_client() as http, ThreadPoolExecutor(len(SERVICES)) as pool:

        def check(name: ServiceName) -> ServiceStatus:
            return _service_status(http, settings, name, state.services[name], processes.get(name))

        services = dict(zip(SERVICES, pool.map(check, SERVICES), strict=True))
        index = _served_index(http, state.services["vectorstore"].url) if services["vectorstore"].pid else None
    return GraphStatus(services=services, index=_with_skipped(settings, index or index_on_disk(settings)))


def loopback_client() -> httpx.Client:
    """An HTTP client for services on this machine. It uses no proxy."""
    return httpx.Client(timeout=5, trust_env=False)


def restart(settings: Settings, state: GraphState, name: ServiceName, progress: Progress | None = None) -> None:
    """Replaces the process of a service, and returns when the new one is ready.

    The transformer, the vectorstore, ingest and the page lose no request, and keep the old process if the new one does
    not become ready. Triton is stopped first: until the new one is ready, requests that need it get 503 with
    Retry-After.

    Raises:
        LaunchError: the new process did not become ready. The message has its last log lines.
    """
    progress = progress or Progress()
    progress.note(name, "restarting")
    try:
        with SupervisorClient(settings.run) as client:
            client.restart(
                name,
                start_timeout_s=settings.start_timeout_s,
                drain_timeout_s=settings.drain_timeout_s,
                stop_timeout_s=settings.stop_timeout_s,
            )
            wait_ready(settings, client, state, [name], progress, watched=[name])
    finally:
        progress.note(name, "")


def wait_ready(
    settings: Settings,
    client: SupervisorClient,
    state: GraphState,
    names: Sequence[ServiceName],
    progress: Progress,
    *,
    watched: Sequence[ServiceName] = SERVICES,
) -> None:
    """Waits until these services are ready. The page's server counts as ready even if the page is not built.

    Raises:
        LaunchError: one of them took longer than `start_timeout_s`, or one of `watched` ended meanwhile. The message
            has its last log lines.
    """
    missing = list(names)
    restarts = {name: process.restarts for name, process in client.status().items()}
    deadline = time.monotonic() + settings.start_timeout_s
    with loopback_client() as http:
        while missing:
            processes = {name: process for name, process in client.status().items() if name in watched}
            for name, process in processes.items():
                if process.restarts > restarts.get(name, 0):
                    process.state = "waiting"  # it ended between two polls
            check_services(settings, processes)
            for name in list(missing):
                ready, reason = probe(http, state.services[name])
                if ready or (name == "frontend" and _is_live(http, state.services[name])):
                    missing.remove(name)
                    progress.note(name, "")
                elif time.monotonic() > deadline:
                    raise LaunchError(
                        f"The {name} was not ready within {settings.start_timeout_s:.0f} s ({reason}). "
                        f"Its last lines:\n{last_lines(settings.run, name)}"
                    )
                else:
                    progress.note(name, reason or "starting")
            if missing:
                time.sleep(_POLL_S)


def check_services(
    settings: Settings, processes: Mapping[str, ProcessStatus], bad: Sequence[str] = ("waiting", "failed")
) -> None:
    """Raises LaunchError if a service is in one of the states `bad`. The message has its last log lines."""
    for name, process in processes.items():
        if process.state in bad:
            raise LaunchError(
                f"The {name} ended {exit_description(process.code)}. Its last lines:\n{last_lines(settings.run, name)}"
            )


def write_state(settings: Settings, state: GraphState) -> None:
    """Atomically replaces the state file."""
    path = settings.run / "graph.json"
    temporary = path.with_suffix(".new")
    temporary.write_text(state.model_dump_json(indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def log_file(run_dir: Path, name: str) -> Path:
    """The log of a service."""
    return run_dir / f"{name}.log"


def last_lines(run_dir: Path, name: str, count: int = _LAST_LINES) -> str:
    """The last lines of a service's log, indented."""
    try:
        with log_file(run_dir, name).open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 64 * 1024))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        lines = []
    return "\n".join(f"  {line}" for line in lines[-count:] if line.strip()) or "  (its log is empty)"


def default_services(settings: Settings) -> dict[ServiceName, ServiceState]:
    """The services of a graph that is not running, at the ports in the settings."""

    def at(port: int, model: str = "") -> ServiceState:
        return ServiceState(url=f"http://{HOST}:{port}", model=model)

    return {
        "transformer": at(settings.port, MODEL_NAME),
        "vectorstore": at(settings.vectorstore_port, "vectorstore"),
        "embedder": at(settings.embedder_port, "minilm"),
        "predictor": at(settings.predictor_port, "tensorrt_llm"),
        "ingest": at(settings.ingest_port),
        "frontend": at(settings.page_port),
    }


def probe(client: httpx.Client, service: ServiceState) -> tuple[bool, str | None]:
    """Whether a service is ready, and the reason if not."""
    try:
        answer = client.get(service.ready_url)
    except (httpx.ConnectError, httpx.ReadTimeout):
        # Nothing listens yet, or the connection waits in the backlog.
        return False, "starting"
    except httpx.HTTPError as error:
        return False, f"does not answer ({type(error).__name__})"
    if answer.status_code == 200:
        return True, None
    with contextlib.suppress(ValueError, AttributeError):
        reason = answer.json().get("error")
        if isinstance(reason, str) and reason:
            return False, reason
    return False, "loading its model"


def _is_live(client: httpx.Client, service: ServiceState) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return client.get(f"{service.url}/live").status_code == 200
    return False


def no_page(state: GraphState) -> str | None:
    """Why the running graph has no web page; None if it has one."""
    with loopback_client() as client:
        return probe(client, state.services["frontend"])[1]


def _service_status(
    http: httpx.Client, settings: Settings, name: ServiceName, service: ServiceState, process: ProcessStatus | None
) -> ServiceStatus:
    if process is None:
        return ServiceStatus(url=service.url, ready=False, reason="waiting for its model")
    found = ServiceStatus(url=service.url, ready=False, reason=None, pid=process.pid, restarts=process.restarts)
    if process.state == "running":
        found.ready, found.reason = probe(http, service)
    else:
        plan = "restarting" if process.state == "waiting" else "not restarted any more: see `kserve-rag restart`"
        last_line = last_lines(settings.run, name, 1).strip()
        found.reason = f"ended {exit_description(process.code)}, {plan}: {last_line}"
    return found


def _served_index(client: httpx.Client, url: str) -> IndexStatus | None:
    with contextlib.suppress(httpx.HTTPError, ValueError, TypeError, KeyError):
        index = client.get(f"{url}/v1/indexes").json()["index"]
        return IndexStatus.model_validate(index) if index else None
    return None


def _with_skipped(settings: Settings, index: IndexStatus | None) -> IndexStatus | None:
    if index is not None:
        from ingest.skipped import skipped_files

        found = skipped_files(settings.indexes / settings.index_name).values()
        index.stale = sum(each.stale for each in found)
        index.skipped = len(found) - index.stale
    return index


def index_on_disk(settings: Settings) -> IndexStatus | None:
    """The current index version in this home, or None."""
    # Imported late, because importing it takes longer than everything else here.
    from vectorstore.versions import IndexRoot

    with contextlib.suppress(ServiceError), IndexRoot(settings.indexes, settings.index_name).open() as version:
        manifest, counts = version.manifest, version.manifest.counts
        return IndexStatus(
            name=manifest.name,
            version=manifest.version,
            documents=counts.documents,
            chunks=counts.chunks,
            languages=manifest.languages,
        )
    return None


def exit_description(code: int | None) -> str:
    """How a process ended, for messages."""
    if code is None:
        return "at once"
    return f"with status {code}" if code >= 0 else f"by signal {-code}"


def logs(run_dir: Path, services: Sequence[ServiceName]) -> list[ServiceName]:
    """The services that have logs."""
    return [name for name in services if log_file(run_dir, name).exists()]


def follow(run_dir: Path, services: Sequence[ServiceName], *, until: Callable[[], bool]) -> Iterator[tuple[str, str]]:
    """Yields (service, line) for the services' log lines as they are written, until `until` returns True."""
    files: dict[str, IO[str]] = {}
    begun: dict[str, str] = {}  # service → beginning of an incomplete line
    try:
        while True:
            ended = until()
            quiet = True
            for name in logs(run_dir, services):
                if name not in files:
                    with contextlib.suppress(FileNotFoundError):
                        files[name] = log_file(run_dir, name).open(encoding="utf-8", errors="replace")
                for read in files.get(name, ()):
                    quiet = False
                    line = begun.pop(name, "") + read
                    if line.endswith("\n") or ended:
                        yield name, line.rstrip("\n")
                    else:
                        begun[name] = line
            if ended:
                yield from begun.items()
                return
            if quiet:
                time.sleep(0.2)
    finally:
        for file in files.values():
            file.close()
