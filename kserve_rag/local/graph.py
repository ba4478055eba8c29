"""A graph on this machine, seen from outside the process that started it: whether it runs, how it is, stopping it."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import IO, Literal, get_args

import httpx
from pydantic import BaseModel, ValidationError

from chassis.errors import ServiceError
from kserve_rag.errors import LaunchError, NotRunningError
from kserve_rag.local import doors, supervisor
from kserve_rag.local.locking import try_lock
from kserve_rag.settings import HOST, Settings

ServiceName = Literal["transformer", "vectorstore", "embedder", "predictor", "ingest", "frontend"]
SERVICES: tuple[ServiceName, ...] = get_args(ServiceName)
ANSWERING: tuple[ServiceName, ...] = ("transformer", "vectorstore", "embedder", "predictor")
"""Those that a question passes through. The others start when these are ready."""

MODEL_NAME = "rag"
"""The transformer's model name."""

_POLL_S = 0.1
_LAST_LINES = 15


class Replica(BaseModel):
    """One process of a service."""

    name: str
    """Of its log: the service's own for the first, with its number for those that follow."""
    number: int
    """How many of the service were started before it, and one. Names the address from which it is probed."""
    pid: int
    metrics_url: str | None = None
    """Where it has Prometheus metrics of its own."""


class ServiceState(BaseModel):
    """One service of a running graph."""

    url: str
    grpc_url: str | None = None
    metrics_url: str | None = None
    """Of Prometheus metrics."""
    model: str = ""
    """Its model's name on the v2 protocol; empty where it speaks none."""
    replicas: list[Replica] = []
    """Its processes; none: not started yet."""
    started: int = 0
    """How many there ever were."""

    @property
    def pid(self) -> int:
        """Of its first process; 0: not started yet."""
        return self.replicas[0].pid if self.replicas else 0

    @property
    def ready_url(self) -> str:
        """Answers 200 when the service can do its work."""
        return f"{self.url}/v2/models/{self.model}/ready" if self.model else f"{self.url}/ready"


class Parent(BaseModel):
    """The process that all of a graph's descend from: what every version of its state says."""

    supervisor_pid: int
    supervisor_started: float
    """Of that process, in seconds since the epoch: tells it from another that got its pid."""


class GraphState(Parent):
    """A running graph, as `<home>/run/graph.json` has it."""

    started_at: datetime
    llm: str
    embedder: str
    tokenizer: Path | None = None
    """tokenizer.json of the embedder; None until its model is there."""
    window_tokens: int | None = None
    """Tokens that the embedder reads of a text; None where its folder does not say."""
    index_root: Path
    index_name: str
    services: dict[ServiceName, ServiceState]


class ReplicaStatus(BaseModel):
    """Whether one process of a service can do its work, and if not, why."""

    name: str
    pid: int
    ready: bool
    reason: str | None


class ServiceStatus(BaseModel):
    """Whether one service can do its work, with all of its processes, and if not, why."""

    url: str
    ready: bool
    reason: str | None
    replicas: list[ReplicaStatus] = []


class IndexStatus(BaseModel):
    """The index version that is served."""

    name: str
    version: str
    documents: int
    chunks: int


class GraphStatus(BaseModel):
    """What `kserve-rag status --json` prints."""

    services: dict[ServiceName, ServiceStatus]
    index: IndexStatus | None


def running(settings: Settings) -> GraphState | None:
    """The graph that runs in this home; None where none does.

    Raises:
        LaunchError: one is just being started or stopped, or it is another version's.
    """
    written = _written_state(settings)
    if written is None:
        return None
    try:
        return GraphState.model_validate_json(written)
    except ValidationError as error:
        raise LaunchError(
            f"The graph in {settings.home} was started by another version of this program. "
            "Start it anew: `kserve-rag down`, then `kserve-rag up`."
        ) from error


def _written_state(settings: Settings) -> str | None:
    """What is written of the graph that runs; None where none does."""
    lock = try_lock(settings.run / "graph.lock")
    if lock is not None:
        os.close(lock)
        return None
    for _ in range(20):
        with contextlib.suppress(FileNotFoundError):
            return (settings.run / "graph.json").read_text(encoding="utf-8")
        time.sleep(_POLL_S)
    raise LaunchError(f"Another process is just starting or stopping the graph in {settings.home}. Try again shortly.")


def need_running(settings: Settings) -> GraphState:
    """The graph that runs in this home.

    Raises:
        NotRunningError: none does.
    """
    state = running(settings)
    if state is None:
        raise NotRunningError("The graph is not running. Start it with `kserve-rag up`.")
    return state


def stop(settings: Settings) -> bool:
    """Stops the graph that runs in this home; False where none does. Returns when no process is left.

    Raises:
        LaunchError: it does not end.
    """
    written = _written_state(settings)
    if written is None:
        return False
    parent = Parent.model_validate_json(written)
    if not _terminated(parent):
        # Imported here: it imports this module.
        from kserve_rag.local.control import Control

        with contextlib.suppress(LaunchError), Control(settings.run) as control:
            control.stop()
    deadline = time.monotonic() + settings.stop_timeout_s + 10
    while time.monotonic() < deadline:
        lock = try_lock(settings.run / "graph.lock")
        if lock is not None:
            os.close(lock)
            return True
        time.sleep(_POLL_S)
    raise LaunchError(f"The graph does not end. Its parent is process {parent.supervisor_pid}: end that one by hand.")


def _terminated(parent: Parent) -> bool:
    """Tells the supervisor to end. False where it cannot be told from another that got its pid.

    That is so once the clock was set: processes tell when they were started by the clock of now.
    """
    # Imported here: of the extra `local`, which is not needed to ask another machine's graph.
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(parent.supervisor_pid)
        if process.create_time() == parent.supervisor_started:
            process.terminate()
            return True
    return False


def status(settings: Settings) -> GraphStatus:
    """How every service and the index are, running or not."""
    state = running(settings)
    if state is None:
        planned = default_services(settings)
        services = {
            name: ServiceStatus(url=service.url, ready=False, reason="not running") for name, service in planned.items()
        }
        return GraphStatus(services=services, index=_index_on_disk(settings))
    with ThreadPoolExecutor(len(SERVICES)) as pool:
        probes = {name: pool.submit(_status, settings, state.services[name]) for name in SERVICES}
        services = {name: probe.result() for name, probe in probes.items()}
    with httpx.Client(timeout=5, trust_env=False) as client:
        index = _served_index(client, state.services["vectorstore"].url)
    return GraphStatus(services=services, index=index or _index_on_disk(settings))


def write_state(settings: Settings, state: GraphState) -> None:
    """Writes the state of a running graph, at once for whoever reads it."""
    path = settings.run / "graph.json"
    temporary = path.with_suffix(".new")
    temporary.write_text(state.model_dump_json(indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def renew(settings: Settings, state: GraphState) -> None:
    """Takes over what others have written of the services. For whoever holds the lock on `replicas.lock`."""
    with contextlib.suppress(FileNotFoundError):
        written = (settings.run / "graph.json").read_text(encoding="utf-8")
        state.services = GraphState.model_validate_json(written).services


def log_file(run_dir: Path, name: str) -> Path:
    """Where a service's output goes."""
    return run_dir / f"{name}.log"


def last_lines(run_dir: Path, name: str, count: int = _LAST_LINES) -> str:
    """The end of a service's log, indented."""
    try:
        with log_file(run_dir, name).open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 64 * 1024))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        lines = []
    return "\n".join(f"  {line}" for line in lines[-count:] if line.strip()) or "  (it said nothing)"


def default_services(settings: Settings) -> dict[ServiceName, ServiceState]:
    """The services of a graph that has not been started, at the ports that the settings name."""

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


def probing(replica: Replica) -> httpx.Client:
    """A client that reaches this process of its service, whether it serves or not."""
    transport = httpx.HTTPTransport(local_address=doors.probe_address(replica.number), verify=False)
    return httpx.Client(timeout=5, trust_env=False, transport=transport)


def probe(client: httpx.Client, service: ServiceState) -> tuple[bool, str | None]:
    """Whether a service is ready, and what it says where it is not."""
    try:
        answer = client.get(service.ready_url)
    except httpx.ConnectError:
        return False, "starting"
    except httpx.HTTPError as error:
        return False, f"does not answer ({type(error).__name__})"
    if answer.status_code == 200:
        return True, None
    if answer.headers.get("server") == doors.SERVER:
        return False, "starting"
    with contextlib.suppress(ValueError, AttributeError):
        reason = answer.json().get("error")
        if isinstance(reason, str) and reason:
            return False, reason
    return False, "loading its model"


def started(client: httpx.Client, name: ServiceName, service: ServiceState) -> tuple[bool, str | None]:
    """Whether a service has become what it can be: ready, or a page's server that has no page to show."""
    ready, reason = probe(client, service)
    if not ready and name == "frontend":
        with contextlib.suppress(httpx.HTTPError):
            ready = client.get(f"{service.url}/live").status_code == 200
    return ready, reason


def no_page(state: GraphState) -> str | None:
    """Why the running graph shows no web page; None where it does."""
    with httpx.Client(timeout=5, trust_env=False) as client:
        return probe(client, state.services["frontend"])[1]


def _status(settings: Settings, service: ServiceState) -> ServiceStatus:
    if not service.replicas:
        return ServiceStatus(url=service.url, ready=False, reason="waits for its model")
    replicas = [_replica_status(settings, service, replica) for replica in service.replicas]
    not_ready = [replica for replica in replicas if not replica.ready]
    reason = not_ready[0].reason if not_ready else None
    if not_ready and len(replicas) > 1:
        reason = f"{len(not_ready)} of {len(replicas)}: {not_ready[0].name} {reason}"
    return ServiceStatus(url=service.url, ready=not not_ready, reason=reason, replicas=replicas)


def _replica_status(settings: Settings, service: ServiceState, replica: Replica) -> ReplicaStatus:
    with contextlib.suppress(FileNotFoundError, ValueError):
        ended = json.loads(supervisor.exit_file(settings.run, replica.name).read_text(encoding="utf-8"))
        reason = f"ended {how(ended['code'])}: {last_lines(settings.run, replica.name, 1).strip()}"
        return ReplicaStatus(name=replica.name, pid=replica.pid, ready=False, reason=reason)
    with probing(replica) as client:
        ready, why = probe(client, service)
    return ReplicaStatus(name=replica.name, pid=replica.pid, ready=ready, reason=why)


def _served_index(client: httpx.Client, url: str) -> IndexStatus | None:
    with contextlib.suppress(httpx.HTTPError, ValueError, TypeError, KeyError):
        index = client.get(f"{url}/v1/indexes").json()["index"]
        return IndexStatus.model_validate(index) if index else None
    return None


def _index_on_disk(settings: Settings) -> IndexStatus | None:
    # Imported here: it brings the vector store along, which takes longer than all the rest of this program.
    from vectorstore.versions import IndexRoot

    with contextlib.suppress(ServiceError), IndexRoot(settings.indexes, settings.index_name).open() as version:
        counts = version.manifest.counts
        return IndexStatus(
            name=version.manifest.name,
            version=version.manifest.version,
            documents=counts.documents,
            chunks=counts.chunks,
        )
    return None


def how(code: int) -> str:
    """How a process ended, in words."""
    return f"with status {code}" if code >= 0 else f"by signal {-code}"


def logs(run_dir: Path, services: Sequence[ServiceName]) -> list[str]:
    """Names of the processes of these services that have logs, those included that have ended; oldest first."""
    found: list[tuple[int, int, str]] = []
    for path in run_dir.glob("*.log"):
        service, _, number = path.stem.partition("-")
        for place, name in enumerate(services):
            if service == name:
                found.append((place, int(number or 1), path.stem))
    return [name for _, _, name in sorted(found)]


def follow(run_dir: Path, services: Sequence[ServiceName], *, until: Callable[[], bool]) -> Iterator[tuple[str, str]]:
    """Lines of services' logs as they are written: (process, line), until `until` says so."""
    files: dict[str, IO[str]] = {}
    begun: dict[str, str] = {}
    """Of each process: what is written of its last line."""
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
