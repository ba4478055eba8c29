"""Commands to the supervisor of a running graph, from any program of the same user."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from kserve_rag.errors import LaunchError
from kserve_rag.local.graph import how, last_lines
from kserve_rag.local.supervisor import CONTROL

_ANSWERS_WITHIN_S = 30
_NO_ANSWER = "The supervisor does not answer."


class Control:
    """A connection to the supervisor. What it starts, and is not told to serve, ends with it."""

    def __init__(self, run_dir: Path) -> None:
        """Connects.

        Raises:
            LaunchError: no supervisor listens there.
        """
        self._run_dir = run_dir
        self._buffer = b""
        self._ended: dict[str, int] = {}
        self._connection = socket.socket(socket.AF_UNIX)
        folder = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # By its folder's descriptor: the path of a socket may have 107 characters.
            self._connection.connect(f"/proc/self/fd/{folder}/{CONTROL}")
        except OSError as error:
            self._connection.close()
            raise LaunchError("The graph takes no commands: it is just starting or stopping. Try again shortly.") from (
                error
            )
        finally:
            os.close(folder)

    def __enter__(self) -> Control:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def specification(self, name: str) -> dict[str, Any]:
        """With what a process was started, running or not."""
        answer: dict[str, Any] = self._ask({"do": "specification", "name": name}, "specification")["specification"]
        return answer

    def start(self, specification: dict[str, Any]) -> int:
        """Starts a process that gets no connections yet, and gives its pid."""
        return int(self._ask({**specification, "do": "start"}, "started")["pid"])

    def serve(self, name: str) -> None:
        """Gives a process its share of its service's connections."""
        self._ask({"do": "serve", "name": name}, "serves")

    def end(self, name: str, *, drain_s: float, within_s: float) -> None:
        """Ends a process: no new connections, then those that it has get `drain_s` to end. Returns when it is gone."""
        self._tell({"do": "end", "name": name, "drain_s": drain_s})
        deadline = time.monotonic() + within_s
        while name not in self._ended:
            if not self._read(deadline):
                raise LaunchError(_NO_ANSWER)

    def stop(self) -> None:
        """Has the whole graph stopped. Returns at once."""
        self._tell({"do": "stop"})

    def check(self, name: str) -> None:
        """Raises LaunchError if a process that was started here has ended."""
        while self._read(time.monotonic()):
            continue
        if name in self._ended:
            raise LaunchError(
                f"The {name} ended {how(self._ended[name])}. Its last lines:\n{last_lines(self._run_dir, name)}"
            )

    def _ask(self, command: dict[str, Any], answer: str) -> dict[str, Any]:
        self._tell(command)
        deadline = time.monotonic() + _ANSWERS_WITHIN_S
        while True:
            event = self._read(deadline)
            if not event:
                raise LaunchError(_NO_ANSWER)
            if "failed" in event:
                raise LaunchError(f"The {event['failed']} could not be started: {event['why']}.")
            if answer in event:
                return event

    def _tell(self, command: dict[str, Any]) -> None:
        try:
            self._connection.settimeout(_ANSWERS_WITHIN_S)
            self._connection.sendall(json.dumps(command).encode() + b"\n")
        except OSError as error:
            raise LaunchError("The graph was stopped.") from error

    def _read(self, deadline: float) -> dict[str, Any]:
        """The next event; an empty one where there is none, and the deadline was past before."""
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            try:
                self._connection.settimeout(max(left, 0))
                received = self._connection.recv(65_536)
            except BlockingIOError:
                return {}
            except TimeoutError:
                raise LaunchError(_NO_ANSWER) from None
            except OSError:
                received = b""
            if not received:
                raise LaunchError("The graph was stopped.")
            self._buffer += received
        line, _, self._buffer = self._buffer.partition(b"\n")
        event: dict[str, Any] = json.loads(line)
        if "ended" in event:
            self._ended[event["ended"]] = event["code"] if event["code"] is not None else 0
        return event
