"""A real Triton server on loopback for the tests of this room."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class TritonServer:
    url: str
    metrics_url: str
    log: Path

    def metric(self, name: str) -> float:
        """The value of a metric without labels; 0 if it has never been set."""
        with urllib.request.urlopen(self.metrics_url, timeout=5) as response:  # noqa: S310
            lines = response.read().decode().splitlines()
        values = [line.split()[-1] for line in lines if line.split("{")[0].split(" ")[0] == name]
        return float(values[0]) if values else 0.0


@contextlib.contextmanager
def triton(environment: Path, repository: Path, run_dir: Path, **environ: str) -> Iterator[TritonServer]:
    """Starts Triton on free ports, waits until every model is ready, stops it in the end.

    `environment` is the virtual environment that holds nvidia-pytriton; it is not written to: its models run in an
    environment of their own in `run_dir`, which sees its packages and this project.
    """
    packages = next((environment / "lib").glob("python3.*/site-packages"))
    server = packages / "pytriton" / "tritonserver"
    version = packages.parent.name.removeprefix("python")
    overlay = _overlay(environment, packages, run_dir / "venv")
    backend = run_dir / "backends" / "python"
    shutil.copytree(server / "backends" / "python", backend)
    shutil.copy2(server / "python_backend_stubs" / version / "triton_python_backend_stub", backend)
    ports = _free_ports(3)
    libraries = [packages / "nvidia_pytriton.libs", Path(_python_libdir(environment))]
    log = run_dir / "triton.log"
    command = [
        server / "bin" / "tritonserver",
        f"--model-repository={repository}",
        f"--backend-directory={run_dir / 'backends'}",
        "--http-address=127.0.0.1",
        f"--http-port={ports[0]}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={ports[1]}",
        "--metrics-address=127.0.0.1",
        f"--metrics-port={ports[2]}",
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                **environ,
                "PATH": f"{overlay / 'bin'}:{os.environ['PATH']}",
                "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
            },
        )
        try:
            url = f"http://127.0.0.1:{ports[0]}"
            _wait_until_ready(url, process, log)
            yield TritonServer(url, f"http://127.0.0.1:{ports[2]}/metrics", log)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _overlay(environment: Path, packages: Path, overlay: Path) -> Path:
    own = overlay / "lib" / packages.parent.name / "site-packages"
    own.mkdir(parents=True)
    (own / "project.pth").write_text(f"{packages}\n{ROOT}\n")
    (overlay / "bin").mkdir()
    for name in ("python3", "python"):
        (overlay / "bin" / name).symlink_to((environment / "bin" / "python3").resolve())
    shutil.copy2(environment / "pyvenv.cfg", overlay)
    return overlay


def _python_libdir(environment: Path) -> str:
    query = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
    return subprocess.run(
        [environment / "bin" / "python3", "-c", query], check=True, capture_output=True, text=True
    ).stdout.strip()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path, timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"{url}/v2/health/ready", timeout=2) as response,  # noqa: S310
        ):
            if response.status == 200:
                return
        time.sleep(0.05)
    print(log.read_text(errors="replace")[-8000:], file=sys.stderr)
    raise RuntimeError("Triton did not become ready")
