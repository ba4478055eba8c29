"""The parent of a graph's processes. Starts what it is told, and sees to it that nothing outlives it.

Run as a program, with the standard library alone. Who started it commands it on its standard input, and any program of
the same user on a socket in the run's folder (`kserve_rag.local.control`). Commands and events are lines of JSON:

| command | event |
|---|---|
| `{"do": "open", "service", "port", "refusals"}` | `{"opened": service}`: the port has a door (`local.doors`) |
| `{"do": "start", "name", "service", "number", "ports", "drains", "argv", "env", "log"}` | `{"started": name, "pid"}` |
| `{"do": "specification", "name"}` | `{"specification": {…}}`: with what it was started |
| `{"do": "serve", "name"}` | `{"serves": name}`: it gets its share of the service's connections |
| `{"do": "end", "name", "drain_s"}` | `{"ended": name, "code"}`: when its connections have ended, and then it has |
| – | `{"ended": name, "code"}` when a process ends that was not told to |
| `{"do": "detach"}` | – (from now on it lives without whoever started it) |
| `{"do": "stop"}`, SIGTERM, SIGINT, or the end of its input before `detach` | all are stopped, then it ends |

What cannot be done is answered with `{"failed": name or service, "why"}`. What is started on standard input serves from
when it listens. What is started on the socket belongs to that connection until it is told to serve: it ends with it,
and its end is told to nobody else.

A watchdog that it forks kills what is left should it be killed itself. (A death signal to each process would not do:
Triton's Python stubs are grandchildren and live on when tritonserver is killed.)
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # As a program it does without what the package brings along: the client and its libraries.
    for _name, _folder in (("kserve_rag", Path(__file__).parents[1]), ("kserve_rag.local", Path(__file__).parent)):
        sys.modules[_name] = types.ModuleType(_name)
        sys.modules[_name].__path__ = [str(_folder)]

from kserve_rag.local.doors import Door, UnsupportedError

PR_SET_CHILD_SUBREAPER = 36
"""Source: prctl(2), linux/prctl.h."""

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps POSIX shared memory

CONTROL = "control.sock"
"""Name of the socket in the run's folder."""

_REMIND_S = 2.0
_LOOK_S = 0.05
_PEER_TIMEOUT_S = 5.0


class Watchdog:
    """Kills registered process groups when the supervisor is gone without having said that they ended."""

    def __init__(self, shared_memory_prefix: str, inherited: int | None) -> None:
        self._told, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(write)
            with contextlib.suppress(OSError):
                for descriptor in (0, 1, *([inherited] if inherited is not None else [])):
                    os.close(descriptor)
            self._watch(shared_memory_prefix)
            os._exit(0)
        os.close(self._told)
        self._pipe = os.fdopen(write, "w", buffering=1)
        self.pid = pid

    def add(self, group: int) -> None:
        """Watches a process group."""
        self._tell(f"+{group}\n")

    def remove(self, group: int) -> None:
        """It has ended, with all its members."""
        self._tell(f"-{group}\n")

    def _tell(self, line: str) -> None:
        # Where somebody has killed it, the supervisor has to see to the processes all the more.
        with contextlib.suppress(BrokenPipeError):
            self._pipe.write(line)

    def _watch(self, shared_memory_prefix: str) -> None:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        groups: set[int] = set()
        with os.fdopen(self._told) as told:
            for line in told:
                (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
        for group in groups:
            kill_group(group, signal.SIGKILL)
        for region in SHARED_MEMORY.glob(f"{shared_memory_prefix}*"):
            region.unlink(missing_ok=True)


class _Peer:
    """Somebody who commands: who started this, or a program on the control socket."""

    def __init__(self, read: int, write: int, connection: socket.socket | None = None) -> None:
        self.read = read
        self._write = write
        self._connection = connection
        self._buffer = b""

    def lines(self) -> list[bytes] | None:
        """What has arrived; None at its end."""
        try:
            received = os.read(self.read, 65_536)
        except ConnectionError:
            received = b""
        *lines, self._buffer = (self._buffer + received).split(b"\n")
        return lines if received else None

    def tell(self, event: dict[str, Any]) -> None:
        """One that has left is told nothing."""
        line = json.dumps(event).encode() + b"\n"
        with contextlib.suppress(OSError):
            if self._connection is not None:
                self._connection.sendall(line)
            else:
                os.write(self._write, line)

    def close(self) -> None:
        """Of one that has left."""
        if self._connection is not None:
            self._connection.close()


@dataclass
class _Process:
    specification: dict[str, Any]
    popen: subprocess.Popen[bytes]
    owner: _Peer
    """Is told of its end."""
    ending: _Ending | None = None

    @property
    def name(self) -> str:
        return str(self.specification["name"])

    @property
    def service(self) -> str:
        return str(self.specification["service"])


@dataclass
class _Ending:
    """A process that was told to end, by somebody who is told when it has."""

    peer: _Peer
    signalled: bool
    """Whether it was sent SIGTERM. Until then its connections are waited for."""
    deadline: float


class Supervisor:
    """Starts, watches and stops processes."""

    def __init__(self, *, run_dir: Path, stop_timeout_s: float, watchdog: Watchdog) -> None:
        self._run_dir = run_dir
        self._stop_timeout_s = stop_timeout_s
        self._watchdog = watchdog
        self._starter = _Peer(0, 1)
        self._processes: dict[str, _Process] = {}
        self._names: dict[int, str] = {}
        """Of running processes, by their pid."""
        self._doors: dict[str, Door] = {}
        self._unheard: set[str] = set()
        """Services of which a replica does not listen yet."""
        self._detached = False
        self._asked_to_stop = False

    def run(self) -> None:
        """Serves commands until all is stopped."""
        selector = selectors.DefaultSelector()
        wake_read, wake_write = os.pipe()
        for descriptor in (wake_read, wake_write):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: setattr(self, "_asked_to_stop", True))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with _control_socket(self._run_dir) as control:
            selector.register(wake_read, selectors.EVENT_READ)
            selector.register(control, selectors.EVENT_READ)
            selector.register(0, selectors.EVENT_READ, self._starter)
            while not self._asked_to_stop:
                for key, _ in selector.select(self._until_next_look()):
                    if key.fd == wake_read:
                        os.read(wake_read, 4096)
                        self._reap()
                    elif key.fileobj is control:
                        connection, _address = control.accept()
                        connection.settimeout(_PEER_TIMEOUT_S)
                        peer = _Peer(connection.fileno(), connection.fileno(), connection)
                        selector.register(connection, selectors.EVENT_READ, peer)
                    else:
                        self._hear(key.data, selector)
                self._look()
        self._stop()

    def _hear(self, peer: _Peer, selector: selectors.BaseSelector) -> None:
        lines = peer.lines()
        for line in lines or ():
            self._try(line, peer)
        if lines is None:
            selector.unregister(peer.read)
            if peer is self._starter:
                self._asked_to_stop |= not self._detached
                return
            peer.close()
            for process in list(self._processes.values()):
                if process.owner is peer and process.ending is None:
                    self._end(process, peer, drain_s=0)

    def _try(self, line: bytes, peer: _Peer) -> None:
        command: dict[str, Any] = {}
        try:
            command = json.loads(line)
            self._obey(command, peer)
        except OSError as error:
            peer.tell({"failed": command.get("name") or command["service"], "why": str(error)})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            peer.tell({"failed": "command", "why": f"it is none: {error!r}"})

    def _obey(self, command: dict[str, Any], peer: _Peer) -> None:
        does = command["do"]
        if does == "open":
            self._open(command["service"], command["port"], command["refusals"], peer)
        elif does == "start":
            self._start(command, peer)
        elif does == "specification":
            peer.tell({"specification": self._process(command["name"]).specification})
        elif does == "serve":
            process = self._process(command["name"])
            if process.service in self._doors:
                self._doors[process.service].serve(process.name)
            process.owner = self._starter
            peer.tell({"serves": process.name})
        elif does == "end":
            self._end(self._process(command["name"]), peer, drain_s=command["drain_s"])
        elif does == "detach":
            self._detached = True
        elif does == "stop":
            self._asked_to_stop = True

    def _process(self, name: str) -> _Process:
        if name not in self._processes:
            raise ProcessLookupError(f"there is no process {name}")
        return self._processes[name]

    def _open(self, service: str, port: int, refusals: dict[str, str], peer: _Peer) -> None:
        # Without a door its one replica listens alone, and cannot be replaced while it runs.
        with contextlib.suppress(UnsupportedError):
            self._doors[service] = Door(port, refusals)
        peer.tell({"opened": service})

    def _start(self, specification: dict[str, Any], peer: _Peer) -> None:
        name, service = specification["name"], specification["service"]
        door = self._doors.get(service)
        if door is None and any(self._processes[one].service == service for one in self._names.values()):
            raise OSError("this kernel does not let several processes share a port as is needed here (Linux 4.6)")
        exit_file(self._run_dir, name).unlink(missing_ok=True)
        with Path(specification["log"]).open("wb") as output:
            process = subprocess.Popen(  # noqa: S603
                specification["argv"],
                env=specification["env"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._run_dir,
                start_new_session=True,
            )
        self._watchdog.add(process.pid)
        self._processes[name] = _Process(specification, process, peer)
        self._names[process.pid] = name
        if door is not None:
            door.expect(name, specification["number"], process.pid)
            self._unheard.add(service)
            if peer is self._starter:
                door.serve(name)
        peer.tell({"started": name, "pid": process.pid})

    def _end(self, process: _Process, peer: _Peer, *, drain_s: float) -> None:
        """Takes a process out of its service, and tells it to end: at once, or when its connections have ended."""
        if self._names.get(process.popen.pid) != process.name:
            self._forget(process)
            peer.tell({"ended": process.name, "code": None})
            return
        door = self._doors.get(process.service)
        drained = door is not None and door.listens(process.name) and drain_s > 0
        if door is not None:
            door.retire(process.name)
        if drained and process.specification["drains"]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.popen.pid, signal.SIGUSR1)
        process.ending = _Ending(peer, False, time.monotonic() + (drain_s if drained else 0))

    def _until_next_look(self) -> float | None:
        """Seconds until there may be something that nobody tells."""
        waits = self._unheard or any(process.ending for process in self._processes.values())
        return _LOOK_S if waits else None

    def _look(self) -> None:
        """Goes on with what takes its time: replicas that begin to listen, connections that end, processes that do."""
        self._unheard = {service for service in self._unheard if not self._doors[service].look()}
        now = time.monotonic()
        for process in self._processes.values():
            ending = process.ending
            if ending is None:
                continue
            if not ending.signalled:
                door = self._doors.get(process.service)
                ports = process.specification["ports"]
                if now < ending.deadline and door is not None and door.connections(process.name, ports):
                    continue
                ending.signalled, ending.deadline = True, now + self._stop_timeout_s
                kill_group(process.popen.pid, signal.SIGTERM)
            elif now > ending.deadline:
                kill_group(process.popen.pid, signal.SIGKILL)

    def _reap(self) -> None:
        """Takes note of every child that has ended, orphans of children included."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                name = self._names.pop(pid, None)
                if name is None:
                    continue
                # What is left of its group is killed now: later the number may be another's.
                kill_group(pid, signal.SIGKILL)
                self._watchdog.remove(pid)
                if self._asked_to_stop:
                    continue
                code = os.waitstatus_to_exitcode(status)
                process = self._processes[name]
                if process.ending is not None:
                    self._forget(process)
                    process.ending.peer.tell({"ended": name, "code": code})
                    continue
                if process.service in self._doors:
                    self._doors[process.service].forget(name)
                # A full disk may be what it ended of.
                with contextlib.suppress(OSError):
                    exit_file(self._run_dir, name).write_text(json.dumps({"code": code, "at": time.time()}))
                process.owner.tell({"ended": name, "code": code})

    def _forget(self, process: _Process) -> None:
        """Of a process that has ended as it was told: as if it had never been."""
        exit_file(self._run_dir, process.name).unlink(missing_ok=True)
        if process.service in self._doors:
            self._doors[process.service].forget(process.name)
        del self._processes[process.name]

    def _stop(self) -> None:
        """Asks every process to end, the last started first, and kills what does not in time."""
        for group in reversed(self._names):
            kill_group(group, signal.SIGTERM)
        began = told = time.monotonic()
        while self._names and time.monotonic() < began + self._stop_timeout_s:
            self._reap()
            time.sleep(0.05)
            if time.monotonic() > told + _REMIND_S:
                # One that was just starting may not have listened yet.
                told = time.monotonic()
                for group in self._names:
                    kill_group(group, signal.SIGTERM)
        for group in self._names:
            kill_group(group, signal.SIGKILL)
        while self._names:
            self._reap()
            time.sleep(0.02)


@contextlib.contextmanager
def _control_socket(run_dir: Path) -> Iterator[socket.socket]:
    """Where programs of this user, and no other, may command."""
    path = run_dir / CONTROL
    path.unlink(missing_ok=True)
    folder = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY)
    mask = os.umask(0o177)
    try:
        with socket.socket(socket.AF_UNIX) as control:
            # A socket's path may have 107 characters; this one is short wherever the folder is.
            control.bind(f"/proc/self/fd/{folder}/{CONTROL}")
            os.umask(mask)
            control.listen()
            yield control
    finally:
        os.umask(mask)
        os.close(folder)
        path.unlink(missing_ok=True)


def kill_group(group: int, number: signal.Signals) -> None:
    """Signals a process group; one that is gone is no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def exit_file(run_dir: Path, name: str) -> Path:
    """Where it is written how a process ended that was not told to: `{"code", "at"}`."""
    return run_dir / f"{name}.exit"


def main() -> None:
    """Runs a supervisor on standard input and output."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--stop-timeout-s", type=float, required=True)
    parser.add_argument("--shared-memory-prefix", required=True)
    parser.add_argument("--lock", type=int, help="Descriptor that is held open for as long as this runs.")
    parser.add_argument("--state", type=Path, required=True, help="File that is removed at the end.")
    arguments = parser.parse_args()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    watchdog = Watchdog(arguments.shared_memory_prefix, arguments.lock)
    supervisor = Supervisor(run_dir=arguments.run_dir, stop_timeout_s=arguments.stop_timeout_s, watchdog=watchdog)
    supervisor.run()
    arguments.state.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
