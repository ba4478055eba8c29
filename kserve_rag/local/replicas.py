"""More than one process for a service, and one in place of another: without a request lost."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kserve_rag.errors import LaunchError
from kserve_rag.local.control import Control
from kserve_rag.local.graph import (
    GraphState,
    Replica,
    ServiceName,
    last_lines,
    log_file,
    probing,
    renew,
    started,
    write_state,
)
from kserve_rag.local.locking import try_lock
from kserve_rag.local.triton import metrics_port, moved
from kserve_rag.progress import Progress, Silent
from kserve_rag.settings import HOST, Settings

_POLL_S = 0.1

_DRAINED_WITHIN_S: dict[ServiceName, float] = {"ingest": 7}
"""Its streams of events last as long as tasks do and are taken up where they broke off, and the process that follows
waits for its end. Silent connections are closed within this time (chassis.edge)."""


@contextmanager
def replicas(settings: Settings, state: GraphState, progress: Progress | None = None) -> Iterator[Replicas]:
    """The processes of a running graph, for as long as nobody else changes them. `state` is brought up to date.

    Raises:
        LaunchError: somebody else does.
    """
    lock = try_lock(settings.run / "replicas.lock")
    if lock is None:
        raise LaunchError("Another `kserve-rag restart` is under way. Wait until it has ended.")
    try:
        with Control(settings.run) as control:
            # Until the lock was had, somebody else may have changed them.
            renew(settings, state)
            yield Replicas(settings, state, control, progress or Silent())
    finally:
        os.close(lock)


def scale(
    settings: Settings, state: GraphState, counts: Mapping[ServiceName, int], progress: Progress | None = None
) -> None:
    """Starts further processes until each service has as many as are wanted of it. All have to be ready.

    Raises:
        LaunchError: one does not become ready, or somebody else changes the processes.
    """
    if not any(count > len(state.services[name].replicas) for name, count in counts.items()):
        return
    with replicas(settings, state, progress) as processes:
        for name, count in counts.items():
            while len(state.services[name].replicas) < count:
                processes.add(name)


class Replicas:
    """The processes of a running graph. What changes is written into its state."""

    def __init__(self, settings: Settings, state: GraphState, control: Control, progress: Progress) -> None:
        self._settings = settings
        self._state = state
        self._control = control
        self._progress = progress

    def restart(self, name: ServiceName) -> None:
        """Puts a new process in the place of each of a service's, one after the other.

        Raises:
            LaunchError: a new one does not become ready. Those that it was to follow run on.
        """
        for replica in list(self._state.services[name].replicas):
            self.add(name, like=replica)
            self._retire(name, replica)

    def add(self, name: ServiceName, *, like: Replica | None = None) -> None:
        """Starts another process of a service, and returns when it is ready and serves.

        Args:
            name: of the service.
            like: the process whose arguments and environment it gets. By default the first.

        Raises:
            LaunchError: it does not become ready, and is stopped.
        """
        service = self._state.services[name]
        if not service.replicas:
            raise LaunchError(f"The {name} is not started yet. `kserve-rag status` tells why.")
        service.started += 1
        # At once: whatever becomes of it, no other is called so.
        self._write()
        replica = Replica(name=f"{name}-{service.started}", number=service.started, pid=0)
        specification = self._control.specification((like or service.replicas[0]).name)
        self._move(specification, replica)
        replica.pid = self._control.start(specification)
        try:
            self._wait_ready(name, replica)
        except BaseException:
            self._control.end(replica.name, drain_s=0, within_s=self._ends_within_s(0))
            raise
        self._control.serve(replica.name)
        service.replicas.append(replica)
        self._write()

    def _move(self, specification: dict[str, Any], replica: Replica) -> None:
        """Gives a copy of a process what may be had only once."""
        before = str(specification["name"])
        specification.update(
            name=replica.name, number=replica.number, log=str(log_file(self._settings.run, replica.name))
        )
        if metrics_port(specification["argv"]) is not None:
            specification["argv"], port = moved(specification["argv"], before, replica.name)
            replica.metrics_url = f"http://{HOST}:{port}/metrics"

    def _wait_ready(self, name: ServiceName, replica: Replica) -> None:
        deadline = time.monotonic() + self._settings.start_timeout_s
        with probing(replica) as client:
            while True:
                self._control.check(replica.name)
                ready, reason = started(client, name, self._state.services[name])
                if ready:
                    self._progress.note(replica.name, "")
                    return
                self._progress.note(replica.name, reason or "starting")
                if time.monotonic() > deadline:
                    raise LaunchError(
                        f"The {replica.name} was not ready within {self._settings.start_timeout_s:.0f} s ({reason}). "
                        f"Its last lines:\n{last_lines(self._settings.run, replica.name)}"
                    )
                time.sleep(_POLL_S)

    def _retire(self, name: ServiceName, replica: Replica) -> None:
        """Ends a process when it has answered what it was asked."""
        service = self._state.services[name]
        drain_s = min(self._settings.drain_timeout_s, _DRAINED_WITHIN_S.get(name, math.inf))
        service.replicas.remove(replica)
        service.metrics_url = service.replicas[0].metrics_url or service.metrics_url
        self._write()
        task = f"{replica.name}: its last answers"
        self._progress.note(task, "waiting for its connections to end")
        self._control.end(replica.name, drain_s=drain_s, within_s=self._ends_within_s(drain_s))
        self._progress.note(task, "")

    def _ends_within_s(self, drain_s: float) -> float:
        return drain_s + self._settings.stop_timeout_s + 10

    def _write(self) -> None:
        write_state(self._settings, self._state)
