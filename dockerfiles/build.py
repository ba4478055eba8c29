"""Builds the images with the first container engine that responds: `make images`.

Images are named `<prefix>kserve-rag-<service>:<version of the project>`, as in the manifests.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
SERVICES = tuple(sorted(path.name.removesuffix(".Dockerfile") for path in FOLDER.glob("*.Dockerfile")))
ENGINES = ("docker", "podman", "nerdctl", "buildah")
"""In the order in which they are tried. All take the same arguments."""
DEFAULT_PREFIX = "docker.io/library/"
"""Registry that Kubernetes and docker assume for a name without one. podman and buildah assume `localhost/`, where no
pod finds the image."""


def version() -> str:
    """The project's version, from pyproject.toml."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def working_engine(named: str | None = None) -> tuple[str | None, list[str]]:
    """The path of the first engine that responds to `info`, and why the engines before it do not.

    A command line alone is not enough: docker's can be installed without a server.
    """
    reasons = []
    for engine in [named] if named else ENGINES:
        path = shutil.which(engine)
        if path is None:
            reasons.append(f"{engine}: not on the PATH")
            continue
        try:
            done = subprocess.run([path, "info"], capture_output=True, text=True, check=False, timeout=60)  # noqa: S603
        except (OSError, subprocess.TimeoutExpired) as error:
            reasons.append(f"{engine}: `{engine} info` failed: {error}")
            continue
        if done.returncode == 0:
            return path, reasons
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        reasons.append(f"{engine}: `{engine} info` says: {lines[-1]}")
    return None, reasons


def command(engine: str, service: str, *, prefix: str, tag: str, revision: str) -> list[str]:
    """The command that builds an image, run in the root of the repository.

    Labels are options because podman and buildah take a LABEL with an ARG from their cache, with the old value.
    """
    return [
        engine,
        "build",
        f"--file=dockerfiles/{service}.Dockerfile",
        f"--tag={prefix or DEFAULT_PREFIX}kserve-rag-{service}:{tag}",
        f"--label=org.opencontainers.image.version={tag}",
        f"--label=org.opencontainers.image.revision={revision}",
        ".",
    ]


def revision() -> str:
    """The commit, with `-dirty` if files differ from it; "unknown" outside a checkout."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    describe = [git, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    done = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip() or "unknown"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 if there is no engine, else the engine's."""
    parser = argparse.ArgumentParser(prog="python -m dockerfiles.build", description=__doc__)
    parser.add_argument("services", nargs="*", metavar="SERVICE", help=f"{', '.join(SERVICES)} (default: all)")
    parser.add_argument("--engine", choices=ENGINES, help="default: the first that responds")
    parser.add_argument("--prefix", default="", help="registry and folder, such as ghcr.io/me/ (default: none)")
    parser.add_argument("--tag", default=version(), help="default: the version of the project")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.services) - set(SERVICES))
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}: choose from {', '.join(SERVICES)}")
    engine, reasons = working_engine(options.engine)
    if engine is None:
        sys.stderr.write("No container engine responds, so no image was built:\n")
        sys.stderr.writelines(f"  {reason}\n" for reason in reasons)
        sys.stderr.write("Install or start one of them. `make image-sizes` and `make test` need none.\n")
        return 1
    for service in options.services or SERVICES:
        line = command(engine, service, prefix=options.prefix, tag=options.tag, revision=revision())
        sys.stderr.write(" ".join(line) + "\n")
        status = subprocess.run(line, cwd=ROOT, check=False).returncode  # noqa: S603
        if status != 0:
            sys.stderr.write(f"{service}: the build failed with status {status}.\n")
            return status
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
