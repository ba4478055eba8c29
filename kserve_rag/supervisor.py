"""The parent of a graph's processes. Starts what it is told, and sees to it that nothing outlives it.

Run as a program, with the standard library alone. It reads commands and writes events as lines of JSON:

| command | event |
|---|---|
| `{"do": "start", "name", "argv", "env", "log"}` | `{"started": name, "pid"}` or `{"failed": name, "why"}` |
| – | `{"ended": name, "code"}` when a process ends that was not told to |
| `{"do": "detach"}` | – (from now on it lives without whoever started it) |
| `{"do": "stop"}`, SIGTERM, SIGINT, or the end of its input before `detach` | all are stopped, then it ends |

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
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PR_SET_CHILD_SUBREAPER = 36
"""Source: prctl(2), linux/prctl.h."""

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps POSIX shared memory


_REMIND_S = 2.0


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
        self._pipe.write(f"+{group}\n")

    def remove(self, group: int) -> None:
        """It has ended, with all its members."""
        self._pipe.write(f"-{group}\n")

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


class Supervisor:
    """Starts, watches and stops processes."""

    def __init__(self, *, run_dir: Path, stop_timeout_s: float, watchdog: Watchdog) -> None:
        self._run_dir = run_dir
        self._stop_timeout_s = stop_timeout_s
        self._watchdog = watchdog
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._running: dict[int, str] = {}
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
        selector.register(wake_read, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        buffer = b""
        while not self._asked_to_stop:
            for key, _ in selector.select():
                if key.fd == wake_read:
                    os.read(wake_read, 4096)
                    self._reap()
                    continue
                received = os.read(0, 65_536)
                *lines, buffer = (buffer + received).split(b"\n")
                for line in lines:
                    self._obey(json.loads(line))
                if not received:
                    selector.unregister(0)
                    self._asked_to_stop |= not self._detached
        self._stop()

    def _obey(self, command: dict[str, Any]) -> None:
        if command["do"] == "start":
            self._start(command["name"], command["argv"], command["env"], Path(command["log"]))
        elif command["do"] == "detach":
            self._detached = True
        elif command["do"] == "stop":
            self._asked_to_stop = True

    def _start(self, name: str, argv: list[str], env: dict[str, str], log: Path) -> None:
        exit_file(self._run_dir, name).unlink(missing_ok=True)
        try:
            with log.open("wb") as output:
                process = subprocess.Popen(  # noqa: S603
                    argv,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=self._run_dir,
                    start_new_session=True,
                )
        except OSError as error:
            self._tell({"failed": name, "why": str(error)})
            return
        self._watchdog.add(process.pid)
        self._processes[name] = process
        self._running[process.pid] = name
        self._tell({"started": name, "pid": process.pid})

    def _reap(self) -> None:
        """Takes note of every child that has ended, orphans of children included."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                name = self._running.pop(pid, None)
                if name is None:
                    continue
                code = os.waitstatus_to_exitcode(status)
                if not self._asked_to_stop:
                    kill_group(pid, signal.SIGKILL)
                    exit_file(self._run_dir, name).write_text(json.dumps({"code": code, "at": time.time()}))
                    self._tell({"ended": name, "code": code})

    def _stop(self) -> None:
        """Asks every process to end, the last started first, and kills what does not in time."""
        groups = [process.pid for process in reversed(self._processes.values())]
        for group in groups:
            if group in self._running:
                kill_group(group, signal.SIGTERM)
        began = told = time.monotonic()
        while self._running and time.monotonic() < began + self._stop_timeout_s:
            self._reap()
            time.sleep(0.05)
            if time.monotonic() > told + _REMIND_S:
                # One that was just starting may not have listened yet.
                told = time.monotonic()
                for group in self._running:
                    kill_group(group, signal.SIGTERM)
        for group in groups:
            kill_group(group, signal.SIGKILL)
        while self._running:
            self._reap()
            time.sleep(0.02)
        for group in groups:
            self._watchdog.remove(group)

    def _tell(self, event: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.write(json.dumps(event) + "\n")
            sys.stdout.flush()


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
