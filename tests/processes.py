"""Programs that tests run: on free ports, awaited until they answer, ended by their process id."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from kserve_rag.local.triton import TritonEnvironment, TritonPorts, triton_command

STARTS_WITHIN_S = 150.0
ENDS_WITHIN_S = 60.0


@dataclass(frozen=True)
class Triton:
    """A Triton server on loopback."""

    url: str
    metrics_url: str
    process: psutil.Process

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(self.metrics_url, timeout=5) as response:  # noqa: S310
            lines = response.read().decode().splitlines()
        return float(next(line.split()[-1] for line in lines if line.startswith(name + " ")))


def free_ports(count: int) -> list[int]:
    """Distinct free ports on loopback."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def until(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        time.sleep(0.02)


@contextlib.contextmanager
def program(
    command: Sequence[str | Path], url: str, environ: Mapping[str, str], *, log: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A running program. Waits until a GET of `url` returns 200; stops the program afterwards.

    Args:
        command: the program and its arguments.
        url: its liveness or readiness endpoint.
        environ: its whole environment.
        log: file for its output, which is reported if it does not start. By default the output goes to the test's.
    """
    with contextlib.ExitStack() as stack:
        output = None if log is None else stack.enter_context(log.open("wb"))
        process = subprocess.Popen(command, env=environ, stdout=output, stderr=output and subprocess.STDOUT)
        stack.callback(_end, process)
        try:
            with httpx.Client(trust_env=False, timeout=5, verify=False) as client:  # noqa: S501 - TLS is not what it tests
                until(lambda: process.poll() is not None or _answers(client, url), STARTS_WITHIN_S)
            assert process.poll() is None, f"ended with status {process.returncode}"
        except AssertionError as error:
            said = "" if log is None else log.read_text(errors="replace")[-4000:]
            raise AssertionError(f"{command[0]} does not answer at {url}: {error}\n{said}") from error
        yield process


@contextlib.contextmanager
def triton(
    environment: TritonEnvironment, repository: Path, model: str, run_dir: Path, **variables: str
) -> Iterator[Triton]:
    """Triton with a model of a repository, or with all of them ("*"), from when they are ready."""
    http, metrics = free_ports(2)
    url = f"http://127.0.0.1:{http}"
    ports = TritonPorts(http=http, metrics=metrics)
    command, environ = triton_command(environment, repository, ports, run_dir, model=model)
    environ = {**os.environ, **environ, **variables}
    with program(command, f"{url}/v2/health/ready", environ, log=run_dir / "triton.log") as process:
        yield Triton(url, f"http://127.0.0.1:{metrics}/metrics", psutil.Process(process.pid))


def _answers(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url).status_code == 200
    except httpx.TransportError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
