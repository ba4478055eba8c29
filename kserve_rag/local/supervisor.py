"""Supervises a graph's processes: holds their listening sockets, restarts them when they end, and stops them all.

Runs as a program, `python -I supervisor.py`, and imports nothing from this project. Programs of the same user send it
commands on a Unix socket (`kserve_rag.local.control`): one JSON object per line, with one response per command.

| command | response |
|---|---|
| `{"do": "start", "name", "argv", "env", "fd_variable", "check"}` | `{}` |
| `{"do": "restart", "name", "start_timeout_s", "drain_timeout_s"}` | `{}` once the new process is ready |
| `{"do": "status"}` | `{"services": {name: {"state", "pid", "restarts", "code"}}}` |
| `{"do": "detach"}` | `{}`; the graph keeps running when the process that started it ends |
| `{"do": "stop"}` | `{}`; stops the graph, like SIGTERM and SIGINT |

The response to a command that fails is `{"error": text}`. Until `detach`, the end of standard input stops the graph.

A service whose listening socket was passed with `--listener` gets its descriptor in the variable `fd_variable`, so that
callers wait in the backlog while a process is replaced. It reports readiness as in sd_notify(3) and drains on SIGUSR1.
A service with a `check` (a request that its model must answer) is restarted when the model stops answering or a child
process ends.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import http.client
import json
import os
import signal
import socket
import struct
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

BACKLOG = 1024
"""Length of a listener's accept queue."""
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps POSIX shared memory

FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.5, 10.0
MAX_ENDS = 5
"""A service whose process ends this many times in a row has failed and is no longer restarted."""
STABLE_S = 60.0
"""A process that runs this long resets the count."""
CHECK_INTERVAL_S = 2.0
CHECK_TIMEOUT_S = 30.0
MAX_CHECK_TIMEOUTS = 3
"""Number of consecutive checks without a response after which the model counts as hung."""
CHECK_LOAD = 0.02
"""Maximum share of a model's time spent on checks: the interval grows with their duration."""
DEAD_MODEL = (b"Stub process", b"engine has stopped")
"""Errors of a Python model whose process or engine has ended. `/v2/models/<model>/ready` still returns 200."""

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
"""Source: prctl(2), linux/prctl.h."""


class CommandError(Exception):
    """A command cannot be carried out. The message is for the caller."""


@dataclass(eq=False)
class Run:
    """One process of a service, the leader of a process group."""

    process: asyncio.subprocess.Process
    started: float = field(default_factory=time.monotonic)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    """The process accepts connections."""

    def send(self, number: signal.Signals) -> None:
        """Signals the process and its descendants, unless the process has ended."""
        if self.process.returncode is None:
            self.send_to_group(number)

    def send_to_group(self, number: signal.Signals) -> None:
        """Signals the group. After the leader has ended, use it only shortly: group ids are reused."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    async def end(self, timeout_s: float) -> None:
        """Sends SIGTERM, and SIGKILL after `timeout_s`. Returns when the process has ended."""
        self.send(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.process.wait(), timeout_s)
        except asyncio.TimeoutError:
            self.send(signal.SIGKILL)
            await self.process.wait()


class Service:
    """Keeps one process of a service running."""

    def __init__(
        self,
        command: dict[str, Any],
        listener: socket.socket | None,
        *,
        run_dir: Path,
        notify_address: str,
        stop_timeout_s: float,
    ) -> None:
        self.name = str(command["name"])
        self._argv: list[str] = command["argv"]
        self._environ: dict[str, str] = {**command["env"], "NOTIFY_SOCKET": notify_address}
        self._fd_variable = str(command["fd_variable"])
        self._check: dict[str, Any] | None = command["check"]
        self._listener = listener
        self._address = None if listener is None else listener.getsockname()
        self._run_dir = run_dir
        self._stop_timeout_s = stop_timeout_s
        self._ends = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._changing = asyncio.Lock()
        self.runs: set[Run] = set()
        self.current: Run | None = None
        self.state = "running"
        """running, waiting (to be restarted), failed or stopping."""
        self.restarts = 0
        """Number of restarts after a process ended."""
        self.code: int | None = None
        """Exit status of the last process that ended, or the negative signal number."""

    def status(self) -> dict[str, Any]:
        """The entry in the response to `status`."""
        pid = self.current.process.pid if self.current else 0
        return {"state": self.state, "pid": pid, "restarts": self.restarts, "code": self.code}

    async def start(self) -> None:
        """Starts the service and keeps it running. Raises OSError if the program or its port cannot be used."""
        async with self._changing:
            await self._start()

    async def _start(self) -> None:
        run = await self._spawn()
        self._keep(self._supervise(run))

    def _keep(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _spawn(self) -> Run:
        environ, passed = self._environ, []
        if self._address is not None:
            if self._listener is None:
                self._listener = socket.create_server(self._address, backlog=BACKLOG)
            passed = [self._listener.fileno()]
            environ = {**environ, self._fd_variable: str(passed[0])}
        with (self._run_dir / f"{self.name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *self._argv,
                env=environ,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._run_dir,
                pass_fds=passed,
                start_new_session=True,
            )
        run = Run(process)
        self.runs.add(run)
        self.current, self.state = run, "running"
        return run

    async def _supervise(self, run: Run) -> None:
        """Waits until a process ends, and starts another unless it was replaced."""
        checking = asyncio.create_task(self._watch_model(run)) if self._check else None
        code = await run.process.wait()
        # Its descendants may still run.
        run.send_to_group(signal.SIGKILL)
        if checking is not None:
            checking.cancel()
        self.runs.discard(run)
        if run is not self.current:
            return
        self.current, self.code, self.state = None, code, "waiting"
        self._ends = 1 if time.monotonic() - run.started > STABLE_S else self._ends + 1
        print(f"{self.name} ended ({code})", file=sys.stderr, flush=True)  # noqa: T201 - supervisor.log
        if self._ends == MAX_ENDS:
            self._fail()
            return
        await asyncio.sleep(min(FIRST_BACKOFF_S * 2 ** (self._ends - 1), LONGEST_BACKOFF_S))
        async with self._changing:
            if self.state == "waiting":
                self.restarts += 1
                try:
                    await self._start()
                except OSError as error:
                    print(f"{self.name}: {error}", file=sys.stderr, flush=True)  # noqa: T201
                    self._fail()

    def _fail(self) -> None:
        """Stops restarting, and closes the listener so that callers are refused instead of waiting in the backlog."""
        self.state = "failed"
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def restart(self, start_timeout_s: float, drain_timeout_s: float) -> None:
        """Replaces the process. With a listening socket: starts the new one, then drains the old one.

        Raises:
            CommandError: the new process ended or was not ready in time. The old one continues.
        """
        async with self._changing:
            old, self._ends = self.current, 0
            if old is None or self._address is None:
                self.current = None
                if old is not None:
                    await old.end(drain_timeout_s + self._stop_timeout_s)
                await self._start()
                return
            new = await self._spawn()
            self.current = old
            ended, ready = asyncio.create_task(new.process.wait()), asyncio.create_task(new.ready.wait())
            await asyncio.wait({ended, ready}, timeout=start_timeout_s, return_when=asyncio.FIRST_COMPLETED)
            ready.cancel()
            if not new.ready.is_set():
                why = f"ended with {new.process.returncode}" if ended.done() else "was not ready in time"
                await new.end(0)
                self.runs.discard(new)
                new.send_to_group(signal.SIGKILL)
                raise CommandError(f"The new process of the {self.name} {why}. The old one continues.")
            self.current, self.state = new, "running"
            self._keep(self._supervise(new))
            with contextlib.suppress(ProcessLookupError):
                old.process.send_signal(signal.SIGUSR1)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(old.process.wait(), drain_timeout_s)
            await old.end(self._stop_timeout_s)

    async def _watch_model(self, run: Run) -> None:
        """Kills the process if its model, once ready, stops answering, or if a child process ends."""
        was_ready, timeouts = False, 0
        with contextlib.ExitStack() as watched:
            while timeouts < MAX_CHECK_TIMEOUTS:
                began = time.monotonic()
                outcome = await asyncio.to_thread(_ask, self._check or {})
                if outcome == "dead":
                    break
                if outcome == "alive" and not was_ready:
                    was_ready = True
                    with contextlib.suppress(psutil.NoSuchProcess):  # `_supervise` notices the end
                        # Not their children: the predictor's model runs in one, and its parent starts it again.
                        for child in psutil.Process(run.process.pid).children():
                            _on_end(child.pid, lambda: self._kill(run, "a child process ended"), watched)
                timeouts = timeouts + 1 if outcome == "silent" and was_ready else 0
                await asyncio.sleep(max(CHECK_INTERVAL_S, (time.monotonic() - began) / CHECK_LOAD if was_ready else 0))
            self._kill(run, "its model does not answer")

    def _kill(self, run: Run, reason: str) -> None:
        print(f"{self.name}: {reason}", file=sys.stderr, flush=True)  # noqa: T201
        run.send(signal.SIGKILL)


def _on_end(pid: int, callback: Callable[[], None], watched: contextlib.ExitStack) -> None:
    """Calls `callback` once when a process ends, until `watched` is closed."""
    loop = asyncio.get_running_loop()
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        callback()
        return

    def ended() -> None:
        loop.remove_reader(descriptor)
        callback()

    watched.callback(os.close, descriptor)
    watched.callback(loop.remove_reader, descriptor)
    loop.add_reader(descriptor, ended)


def _ask(check: dict[str, Any]) -> str:
    """Sends a check. Returns "alive" (the model responded, even with an error), "dead", "silent" or "starting"."""
    request = urllib.request.Request(check["url"], json.dumps(check["body"]).encode(), method="POST")  # noqa: S310
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=CHECK_TIMEOUT_S):
            return "alive"
    except urllib.error.HTTPError as error:
        with contextlib.suppress(OSError):
            body = error.read()
            return "dead" if any(words in body for words in DEAD_MODEL) else "alive"
    except TimeoutError:
        return "silent"
    except (OSError, http.client.HTTPException):
        # Triton is starting, or its process has ended, which `_supervise` notices.
        return "starting"
    return "starting"


class Supervisor:
    """Executes commands until the command `stop` or a signal."""

    def __init__(
        self, run_dir: Path, control: socket.socket, listeners: dict[str, socket.socket], stop_timeout_s: float
    ) -> None:
        self._run_dir = run_dir
        self._control = control
        self._listeners = listeners
        self._stop_timeout_s = stop_timeout_s
        self._services: dict[str, Service] = {}
        self._stopping = asyncio.Event()
        self._detached = False
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    async def run(self) -> None:
        """Executes commands, then stops all services."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._notified.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._notified.setblocking(False)
        self._notified.bind("")  # Linux chooses an abstract address.
        loop.add_reader(self._notified, self._on_notification)
        loop.add_reader(0, self._on_input)
        server = await asyncio.start_unix_server(self._serve, sock=self._control)
        await self._stopping.wait()
        server.close()
        await self._stop()

    def _on_input(self) -> None:
        if not os.read(0, 4096):
            asyncio.get_running_loop().remove_reader(0)
            if not self._detached:
                self._stopping.set()

    def _on_notification(self) -> None:
        text, ancillary, _, _ = self._notified.recvmsg(4096, socket.CMSG_SPACE(struct.calcsize("3i")))
        pid = struct.unpack("3i", ancillary[0][2])[0] if ancillary else 0
        for service in self._services.values():
            for run in service.runs:
                if run.process.pid == pid and b"READY=1" in text.splitlines():
                    run.ready.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError), contextlib.closing(writer):
            while line := await reader.readline():
                try:
                    response = await self._carry_out(json.loads(line))
                except (CommandError, OSError) as error:
                    response = {"error": str(error)}
                except (KeyError, TypeError, ValueError) as error:
                    response = {"error": f"This is not a command: {error!r}"}
                writer.write(json.dumps(response).encode() + b"\n")
                await writer.drain()

    async def _carry_out(self, command: dict[str, Any]) -> dict[str, Any]:
        do = command["do"]
        if do == "start":
            service = Service(
                command,
                self._listeners.get(command["name"]),
                run_dir=self._run_dir,
                notify_address="@" + self._notified.getsockname()[1:].decode(),
                stop_timeout_s=self._stop_timeout_s,
            )
            self._services[service.name] = service
            await service.start()
        elif do == "restart":
            if command["name"] not in self._services:
                raise CommandError(f"The {command['name']} is not started yet.")
            await self._services[command["name"]].restart(command["start_timeout_s"], command["drain_timeout_s"])
        elif do == "status":
            return {"services": {name: service.status() for name, service in self._services.items()}}
        elif do == "detach":
            self._detached = True
        elif do == "stop":
            self._stopping.set()
        else:
            raise CommandError(f"There is no command {do!r}.")
        return {}

    async def _stop(self) -> None:
        """Stops all services at the same time: SIGTERM, and SIGKILL after the stop timeout."""
        runs = [run for service in self._services.values() for run in service.runs]
        for service in self._services.values():
            service.current, service.state = None, "stopping"
        await asyncio.gather(*(run.end(self._stop_timeout_s) for run in runs))


def guard(shared_memory_prefix: str, descriptors: list[int]) -> None:
    """Forks. The child returns and becomes the supervisor; the parent cleans up when the supervisor ends or is killed.

    The parent is a subreaper: it inherits the descendants of a killed supervisor and kills them. (Parent-death signals
    would not reach Triton's Python stubs, which are grandchildren.) If the parent is killed, the supervisor stops the
    graph. The parent closes `descriptors`.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    parent, child = os.getpid(), os.fork()
    if child == 0:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            sys.exit(1)
        return
    for descriptor in descriptors:
        os.close(descriptor)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os.kill(child, signal.SIGTERM))
    pid, status = os.wait()
    while pid != child:
        pid, status = os.wait()
    _kill_children()
    for region in SHARED_MEMORY.glob(f"{shared_memory_prefix}*"):
        region.unlink(missing_ok=True)
    os._exit(max(os.waitstatus_to_exitcode(status), 0))


def _kill_children() -> None:
    """Kills all descendants: the children of a killed child become ours."""
    with contextlib.suppress(ChildProcessError):
        while True:
            for child in psutil.Process().children():
                child.kill()
            os.wait()


def main() -> None:
    """Runs a supervisor."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-dir", type=Path, required=True, help="Working directory, with the logs.")
    parser.add_argument("--control-fd", type=int, required=True, help="Listening Unix socket for commands.")
    parser.add_argument("--listener", action="append", default=[], metavar="SERVICE=FD", help="May be repeated.")
    parser.add_argument("--lock-fd", type=int, required=True, help="Descriptor to keep open until the end.")
    parser.add_argument("--stop-timeout-s", type=float, required=True)
    parser.add_argument("--shared-memory-prefix", required=True, help="Prefix of the regions to remove at the end.")
    arguments = parser.parse_args()
    descriptors = {name: int(number) for name, _, number in (text.partition("=") for text in arguments.listener)}
    os.umask(0o077)  # indexes, uploads and logs are this user's
    guard(arguments.shared_memory_prefix, [0, arguments.control_fd, *descriptors.values()])

    async def run() -> None:
        control = socket.socket(fileno=arguments.control_fd)
        listeners = {name: socket.socket(fileno=number) for name, number in descriptors.items()}
        await Supervisor(arguments.run_dir, control, listeners, arguments.stop_timeout_s).run()

    asyncio.run(run())


if __name__ == "__main__":
    main()
