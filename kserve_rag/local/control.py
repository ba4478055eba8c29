"""Client of a graph's supervisor, for programs of the same user."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from kserve_rag.errors import LaunchError

_SOCKET = "control.sock"
_TIMEOUT_S = 30.0


class ProcessStatus(BaseModel):
    """Status of a service in its supervisor."""

    state: str
    """running, waiting (to be restarted), failed or stopping."""
    pid: int
    """0 if no process is running."""
    restarts: int
    """Number of restarts after a process ended."""
    code: int | None
    """Exit status of the last process that ended, or the negative signal number."""


class SupervisorClient:
    """A connection to the supervisor."""

    def __init__(self, run_dir: Path) -> None:
        """Connects. Raises LaunchError if there is no supervisor."""
        self._connection = socket.socket(socket.AF_UNIX)
        try:
            with _short_path(run_dir) as path:
                self._connection.connect(path)
        except OSError as error:
            self._connection.close()
            raise LaunchError("The graph is starting or stopping. Try again shortly.") from error
        self._responses = self._connection.makefile("rb")

    def __enter__(self) -> SupervisorClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection. The graph keeps running."""
        self._responses.close()
        self._connection.close()

    def start(
        self,
        name: str,
        argv: list[str],
        environ: dict[str, str],
        *,
        fd_variable: str = "",
        check: dict[str, Any] | None = None,
    ) -> None:
        """Starts a service and keeps it running.

        Args:
            name: name of the service.
            argv: program and arguments.
            environ: all environment variables.
            fd_variable: variable for the descriptor of the listening socket.
            check: `url` and `body` of a POST that the model must answer.
        """
        self._call(do="start", name=name, argv=argv, env=environ, fd_variable=fd_variable, check=check)

    def restart(self, name: str, *, start_timeout_s: float, drain_timeout_s: float, stop_timeout_s: float) -> None:
        """Replaces the process of a service. Returns when the old process has ended.

        Raises:
            LaunchError: the new process did not become ready. The old one continues.
        """
        timeout_s = start_timeout_s + drain_timeout_s + stop_timeout_s + _TIMEOUT_S
        timeouts = {"start_timeout_s": start_timeout_s, "drain_timeout_s": drain_timeout_s}
        self._call(timeout_s, do="restart", name=name, **timeouts)

    def status(self) -> dict[str, ProcessStatus]:
        """Status of every started service."""
        services = self._call(do="status")["services"]
        return {name: ProcessStatus.model_validate(service) for name, service in services.items()}

    def detach(self) -> None:
        """Lets the graph outlive the process that started it."""
        self._call(do="detach")

    def stop(self) -> None:
        """Starts stopping the graph."""
        self._call(do="stop")

    def _call(self, timeout_s: float = _TIMEOUT_S, **command: Any) -> dict[str, Any]:
        try:
            self._connection.settimeout(timeout_s)
            self._connection.sendall(json.dumps(command).encode() + b"\n")
            line = self._responses.readline()
        except TimeoutError:
            raise LaunchError("The supervisor does not answer.") from None
        except OSError:
            line = b""
        if not line:
            raise LaunchError("The graph was stopped.")
        response: dict[str, Any] = json.loads(line)
        if "error" in response:
            raise LaunchError(response["error"])
        return response


def listen(run_dir: Path) -> socket.socket:
    """Opens the socket for commands to a supervisor, accessible only to this user."""
    (run_dir / _SOCKET).unlink(missing_ok=True)
    control = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        with _short_path(run_dir) as path:
            control.bind(path)
        control.listen()
    finally:
        os.umask(mask)
    return control


@contextlib.contextmanager
def _short_path(run_dir: Path) -> Iterator[str]:
    """A short path of the socket, because the path of a Unix socket has at most 107 characters."""
    folder = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{_SOCKET}"
    finally:
        os.close(folder)
