"""Prints the size of each image: `make image-sizes`, or `python -m tests.images.sizes [SERVICE…]`.

The table of docs/images.md. It stages each Dockerfile in a fresh folder and counts the files of `/opt`, bytecode
included, in MB of 10⁶ bytes; the base image (Debian and Python) is not counted. The GPU image has gigabytes: it is only
resolved, and installed if you name it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.images.recipes import LIGHT, ON_GPUS, WITH_TRITON, Recipe
from tests.images.staging import Staged, StagingError, resolve, stage

LIMITS_MB = {**dict.fromkeys(LIGHT, 400.0), "vectorstore": 440.0, "ingest": 440.0, "frontend": 120.0}
"""Limits of the services without a model."""

_MB = 1e6


@dataclass(frozen=True)
class Sizes:
    """The size of one image."""

    total_mb: float
    """All of /opt."""
    bytecode_mb: float
    """Compiled Python, included in the total."""
    packages: dict[str, float]
    """Distribution → MB, largest first, without the environment itself and our own packages."""


def measure(staged: Staged) -> Sizes:
    """The size of a staged image. Links do not count."""
    owners: dict[Path, str] = {}
    for distribution in importlib.metadata.distributions(path=[str(staged.site_packages)]):
        for file in distribution.files or []:
            owners[Path(str(distribution.locate_file(file))).resolve()] = distribution.metadata["Name"]
    server = staged.root / "opt" / "tritonserver"
    total = bytecode = 0
    packages: Counter[str] = Counter()
    for path in (staged.root / "opt").rglob("*"):
        if path.is_symlink() or not path.is_file():
            continue
        size = path.stat().st_size
        total += size
        if path.suffix == ".pyc":
            bytecode += size
        source = Path(importlib.util.source_from_cache(str(path))) if path.suffix == ".pyc" else path
        owner = "nvidia-pytriton" if path.is_relative_to(server) else owners.get(source.resolve())
        if owner is not None:
            packages[owner] += size
    return Sizes(total / _MB, bytecode / _MB, {name: size / _MB for name, size in packages.most_common()})


def row(service: str, sizes: Sizes) -> str:
    """One row of the table."""
    largest = ", ".join(f"{name} {size:.0f}" for name, size in list(sizes.packages.items())[:5])
    count = len(sizes.packages)
    return f"| {service} | {sizes.total_mb:.0f} | {sizes.bytecode_mb:.0f} | {count} | {largest} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 1 if a service exceeds its limit or a line of a Dockerfile failed."""
    services = (*LIGHT, *WITH_TRITON, ON_GPUS)
    parser = argparse.ArgumentParser(prog="python -m tests.images.sizes", description=__doc__)
    parser.add_argument("services", nargs="*", metavar="SERVICE", help=", ".join(services))
    named = parser.parse_args(arguments).services
    unknown = sorted(set(named) - set(services))
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}: choose from {', '.join(services)}")
    sys.stdout.write("| image | MB | bytecode | packages | the five largest, MB |\n|---|---|---|---|---|\n")
    status = 0
    for service in named or (*LIGHT, *WITH_TRITON):
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="kserve-rag-image-") as folder:
            try:
                sizes = measure(stage(Recipe.read(service), Path(folder)))
            except StagingError as error:
                sys.stderr.write(f"{service}: {error}\n")
                return 1
        sys.stdout.write(row(service, sizes) + "\n")
        sys.stdout.flush()
        sys.stderr.write(f"{service}: installed, imported and measured in {time.perf_counter() - began:.0f} s\n")
        if sizes.total_mb > LIMITS_MB.get(service, math.inf):
            sys.stderr.write(f"{service}: {sizes.total_mb:.0f} MB, the limit is {LIMITS_MB[service]:.0f}\n")
            status = 1
    if named:
        return status
    with tempfile.TemporaryDirectory(prefix="kserve-rag-image-") as folder:
        try:
            count = resolve(Recipe.read(ON_GPUS), Path(folder))
        except StagingError as error:
            sys.stderr.write(f"{ON_GPUS}: {error}\n")
            return 1
    sys.stderr.write(f"{ON_GPUS}: {count} packages are available; not installed, because they are gigabytes\n")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
