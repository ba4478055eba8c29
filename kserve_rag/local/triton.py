"""Installs and starts Triton on one machine: a `tritonserver` from a wheel, in a separate Python environment.

The environment is separate because Triton's Python stub crashes on string tensors under numpy 2, which the other
services need. It is built once per lock file and Python version, and never changes. Each run has a thin environment on
top of it, with links to this distribution's packages.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import math
import os
import platform
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kserve_rag.errors import SetupError
from kserve_rag.local.locking import locked
from kserve_rag.progress import Progress
from kserve_rag.settings import HOST

PYTHONS = ("3.12", "3.11", "3.10")
"""Supported Python versions, limited by the wheels of numpy 1."""

_PACKAGES = ("embedder", "predictor")
"""Packages that Triton's models import."""

NEVER = 1_000_000_000
"""Triton's trace `rate`: one of this many requests without a trace header is sampled."""

_GLIBC = (2, 35)
"""Minimum version, from the wheel's tag manylinux_2_35."""

_CLOSED_APIS = "model-repository,shared-memory,trace,logging"
"""APIs of Triton that load code, map memory and write files."""

_TASK = "Triton environment"
_NOTE_INTERVAL_S = 0.2


@dataclass(frozen=True, slots=True)
class TritonEnvironment:
    """A Python environment with tritonserver."""

    path: Path
    python: Path
    """The interpreter that it was created from."""
    version: str
    """Version of that Python, such as "3.11"."""
    libdir: Path
    """Folder of that Python's shared library."""

    @property
    def site_packages(self) -> Path:
        """Folder of its packages."""
        return self.path / "lib" / f"python{self.version}" / "site-packages"

    @property
    def server(self) -> Path:
        """The folder `tritonserver` of the wheel."""
        return self.site_packages / "pytriton" / "tritonserver"

    @property
    def backends(self) -> Path:
        """Triton's backend directory."""
        return self.path / "backends"


@dataclass(frozen=True, slots=True)
class TritonPorts:
    """Ports of one Triton server."""

    http: int
    grpc: int | None = None
    metrics: int | None = None


def ensure_triton_environment(
    envs: Path, *, python: Path | None = None, offline: bool = False, progress: Progress | None = None
) -> TritonEnvironment:
    """The Triton environment, built if it does not exist yet.

    Args:
        envs: folder of environments.
        python: interpreter to use, 3.10 to 3.12. By default the running one, or one on the PATH.
        offline: whether building it is forbidden.
        progress: receives the steps.

    Raises:
        SetupError: this machine cannot run Triton, or the packages could not be installed. The message says what to do.
    """
    progress = progress or Progress()
    check_platform()
    chosen, version, libdir = find_python(python)
    lock = lock_file()
    identity = [lock.read_text(encoding="utf-8"), version, platform.machine(), str(chosen)]
    name = f"triton-{hashlib.sha256(chr(0).join(identity).encode()).hexdigest()[:16]}"
    environment = TritonEnvironment(envs / name, chosen, version, libdir)
    if environment.path.is_dir():
        return environment
    with locked(envs / f"{name}.lock", lambda: progress.note(_TASK, "another process builds it")):
        if environment.path.is_dir():
            return environment
        if offline:
            raise SetupError("The Triton environment is not built yet, and KSERVE_RAG_OFFLINE is set. Unset it once.")
        try:
            _build(environment, lock, progress)
        finally:
            progress.note(_TASK, "")
    return environment


def triton_command(
    environment: TritonEnvironment,
    repository: Path,
    ports: TritonPorts,
    run_dir: Path,
    *,
    model: str,
    exit_timeout_s: float = 8,
) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment variables that start a Triton server.

    Args:
        environment: the environment from `ensure_triton_environment`.
        repository: folder of models.
        ports: loopback ports. A protocol without a port is off.
        run_dir: folder of the thin environment, which is replaced.
        model: name of the model to load.
        exit_timeout_s: time for the requests in flight after SIGTERM.
    """
    prefix = _thin_environment(environment, run_dir)
    server = environment.server
    # Closed for everybody: a header cannot hold the line break, so it does not help to read the key in the arguments.
    closed = f"{_CLOSED_APIS}:key={secrets.token_hex(16)}\n"
    arguments = [
        str(server / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={environment.backends}",
        "--model-control-mode=explicit",
        f"--load-model={model}",
        # The default is in /opt/tritonserver.
        f"--cache-directory={server / 'caches'}",
        "--disable-auto-complete-config",
        f"--http-address={HOST}",
        f"--http-port={ports.http}",
        f"--http-restricted-api={closed}",
        f"--grpc-restricted-protocol={closed}",
        f"--exit-timeout-secs={math.ceil(exit_timeout_s)}",
    ]
    if ports.grpc is not None:
        arguments += ["--allow-grpc=true", f"--grpc-address={HOST}", f"--grpc-port={ports.grpc}"]
    else:
        arguments += ["--allow-grpc=false"]
    if ports.metrics is not None:
        arguments += ["--allow-metrics=true", f"--metrics-address={HOST}", f"--metrics-port={ports.metrics}"]
    else:
        arguments += ["--allow-metrics=false"]
    libraries = [environment.site_packages / "nvidia_pytriton.libs", environment.libdir]
    variables = {
        "PATH": os.pathsep.join([str(prefix / "bin"), os.environ.get("PATH", os.defpath)]),
        "VIRTUAL_ENV": str(prefix),
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return arguments, variables


def shared_memory_argument(prefix: str, name: str) -> str:
    """The argument that names a server's shared memory regions."""
    return f"--backend-config=python,shm-region-prefix-name={prefix}{name}-"


def trace_arguments(service: str, environ: Mapping[str, str]) -> list[str]:
    """Arguments for exporting Triton's spans, from OpenTelemetry's variables.

    Empty if the variables are not set, or if they choose gRPC, which Triton does not support.

    Source: https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/trace.html
    """
    url = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "")
    if not url and environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        url = environ["OTEL_EXPORTER_OTLP_ENDPOINT"].rstrip("/") + "/v1/traces"
    disabled = environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none"
    protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if disabled or not url or protocol == "grpc":
        return []
    settings = [
        "mode=opentelemetry",
        "level=TIMESTAMPS",
        # Requests with a trace header are traced whatever the rate; others never.
        f"rate={NEVER}",
        f"opentelemetry,url={url}",
        f"opentelemetry,resource=service.name=kserve-rag-{service}",
    ]
    if "OTEL_BSP_SCHEDULE_DELAY" in environ:
        settings.append(f"opentelemetry,bsp_schedule_delay={environ['OTEL_BSP_SCHEDULE_DELAY']}")
    return [f"--trace-config={setting}" for setting in settings]


def check_platform() -> None:
    """Raises SetupError if the wheel of tritonserver does not run on this machine."""
    machine, (libc, release) = platform.machine(), platform.libc_ver()
    remedy = "Use Linux with glibc 2.35 or later on x86_64 or aarch64 (Debian 12, Ubuntu 22.04), or such a container."
    if sys.platform != "linux" or machine not in ("x86_64", "aarch64"):
        raise SetupError(f"tritonserver has no wheel for {sys.platform} on {machine}. {remedy}")
    found = tuple(int(part) for part in release.split(".")[:2] if part.isdigit()) if libc == "glibc" else ()
    if found < _GLIBC:
        raise SetupError(
            f"tritonserver needs glibc 2.35 or later; this is {libc or 'another libc'} {release}. {remedy}"
        )


def lock_file() -> Path:
    """The environment's pinned packages, from the checkout or from the installed distribution."""
    package = Path(__file__).parents[1]
    for path in (package.parent / "locks" / "triton.txt", package / "environments" / "triton.txt"):
        if path.is_file():
            return path
    raise SetupError("This installation lacks environments/triton.txt. Reinstall kserve-rag.")


def find_python(python: Path | None) -> tuple[Path, str, Path]:
    """An interpreter, its version, and the folder of its shared library."""
    if python is not None:
        found = _inspect(python)
        if found is None or found[1] not in PYTHONS:
            raise SetupError(
                f"KSERVE_RAG_TRITON_PYTHON is {python}, which is not a Python {PYTHONS[-1]} to {PYTHONS[0]}."
            )
        return found
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in [sys.executable, *(shutil.which(f"python{known}") for known in PYTHONS)]:
        found = _inspect(Path(candidate)) if candidate else None
        if found is not None and found[1] in PYTHONS:
            return found
    raise SetupError(
        f"Triton's Python models need Python {PYTHONS[-1]} to {PYTHONS[0]} (numpy 1 has no wheels for {version}). "
        "Install one, or set KSERVE_RAG_TRITON_PYTHON to its path."
    )


def _inspect(python: Path) -> tuple[Path, str, Path] | None:
    program = (
        "import json,sys,sysconfig as s;print(json.dumps([getattr(sys,'_base_executable',None) or sys.executable,"
        "'%d.%d'%sys.version_info[:2],s.get_config_var('LIBDIR')]))"
    )
    try:
        ended = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True, timeout=30)  # noqa: S603
        executable, version, libdir = json.loads(ended.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return Path(executable).resolve(), str(version), Path(libdir)


def _build(environment: TritonEnvironment, lock: Path, progress: Progress) -> None:
    environment.path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".building-{environment.path.name}-"
    for left_over in environment.path.parent.glob(f"{prefix}*"):
        shutil.rmtree(left_over, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(dir=environment.path.parent, prefix=prefix))
    built = TritonEnvironment(temporary, environment.python, environment.version, environment.libdir)
    try:
        uv = _uv()
        if uv is not None:
            make = [uv, "venv", "--quiet", "--clear", "--no-project", "--python", str(built.python), str(temporary)]
            install = [uv, "pip", "install", "--quiet", "--no-config", "--python", str(temporary / "bin" / "python")]
        else:
            make = [str(built.python), "-m", "venv", "--clear", str(temporary)]
            install = [str(temporary / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
            install += ["--no-input", "install"]
        run_program(make, progress)
        run_program(
            [*install, "--no-deps", "--require-hashes", "--only-binary=:all:", "--requirement", str(lock)], progress
        )
        _link_backend(built)
        temporary.chmod(0o755)
        temporary.rename(environment.path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _link_backend(environment: TritonEnvironment) -> None:
    """Links the Python backend and the stub for this Python where Triton looks for them."""
    stub = environment.server / "python_backend_stubs" / environment.version / "triton_python_backend_stub"
    if not stub.is_file():
        raise SetupError(f"nvidia-pytriton has no stub for Python {environment.version}.")
    backend = environment.backends / "python"
    backend.mkdir(parents=True)
    for file in [*(environment.server / "backends" / "python").iterdir(), stub]:
        if file.is_file() and not (backend / file.name).exists():
            (backend / file.name).symlink_to(os.path.relpath(file, backend))


def _thin_environment(environment: TritonEnvironment, run_dir: Path) -> Path:
    """A virtual environment with the packages of `environment` and links to `_PACKAGES`.

    Triton's stub uses the environment whose `bin` is first on the PATH; it ignores PYTHONPATH.
    """
    prefix = run_dir / "python"
    shutil.rmtree(prefix, ignore_errors=True)
    site = prefix / "lib" / f"python{environment.version}" / "site-packages"
    site.mkdir(parents=True)
    (prefix / "bin").mkdir()
    (prefix / "bin" / "python").symlink_to(environment.python)
    (prefix / "bin" / "python3").symlink_to("python")
    (prefix / "pyvenv.cfg").write_text(
        f"home = {environment.python.parent}\ninclude-system-site-packages = false\nversion = {environment.version}\n"
    )
    (site / "environment.pth").write_text(f"{environment.site_packages}\n")
    for package in _PACKAGES:
        (site / package).symlink_to(package_folder(package))
    return prefix


def package_folder(package: str) -> Path:
    """The folder of an installed package."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SetupError(f"The package {package} is not installed. Reinstall kserve-rag[local].")
    return Path(next(iter(spec.submodule_search_locations))).resolve()


def _uv() -> str | None:
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.is_file() else shutil.which("uv")


def run_program(command: list[str], progress: Progress) -> None:
    """Runs a program. Kills it if `progress` raises. If the program fails, raises SetupError with its last lines."""
    stdout = stderr = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:  # noqa: S603
        try:
            while program.returncode is None:
                progress.note(_TASK, "installing tritonserver and OpenVINO")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    stdout, stderr = program.communicate(timeout=_NOTE_INTERVAL_S)
        except BaseException:
            program.kill()
            raise
    if program.returncode != 0:
        lines = (stderr or stdout).strip().splitlines()
        failed = f"The Triton environment could not be built: {' '.join(command[:3])} … failed"
        raise SetupError("\n  ".join([failed, *lines[-8:]]))
