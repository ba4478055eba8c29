"""Packages the web page's Helm chart reproducibly: `make chart`."""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

CHART = Path(__file__).parent / "chart"

HELM = Path(__file__).parents[1] / "build" / "helm" / "bin" / "helm"
"""Installed by `make chart` on x86_64."""


class PackageError(Exception):
    """Helm rejected the chart."""


def helm() -> str | None:
    """Path of the Helm program that `make chart` installed, else of the one on the PATH."""
    return str(HELM) if HELM.is_file() else shutil.which("helm")


def environment(scratch: Path) -> dict[str, str]:
    """Helm's environment: no cluster, no plugins, no user settings. Helm may write to the folder `scratch`."""
    return {"PATH": os.environ["PATH"], "HOME": str(scratch), "KUBECONFIG": os.devnull}


def package(program: str, chart: Path, destination: Path) -> Path:
    """Writes the chart's archive `<name>-<version>.tgz` to the folder `destination`, and returns its path.

    Helm chooses and checks the files, but stores the current time in every entry. So they are packed again with the
    time in SOURCE_DATE_EPOCH (default: 0). Raises PackageError with Helm's message if it rejects the chart.

    Source: https://reproducible-builds.org/specs/source-date-epoch/
    """
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        done = subprocess.run(  # noqa: S603 - our own arguments
            [program, "package", str(chart), "--destination", str(scratch / "packed")],
            env=environment(scratch),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise PackageError(done.stderr.strip())
        (packed,) = (scratch / "packed").glob("*.tgz")
        content = _same_bytes(packed, seconds)
    destination.mkdir(parents=True, exist_ok=True)
    archive = destination / packed.name
    archive.write_bytes(content)
    return archive


def _same_bytes(archive: Path, seconds: int) -> bytes:
    """Packs the archive's files again, so that its bytes depend only on their names and contents."""
    packed = io.BytesIO()
    with (
        tarfile.open(archive) as before,
        gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=seconds) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.USTAR_FORMAT) as after,
    ):
        for member in before:
            entry = tarfile.TarInfo(member.name)
            entry.size, entry.mtime, entry.mode = member.size, seconds, 0o644
            after.addfile(entry, before.extractfile(member))
    return packed.getvalue()


def main() -> None:
    """Packages the chart and prints its path and digest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("destination", nargs="?", type=Path, default=Path("dist"), help="folder of the archive")
    options = parser.parse_args()
    program = helm()
    if program is None:
        sys.exit("There is no helm: `make chart` fetches it on x86_64; elsewhere put it on the PATH.")
    try:
        archive = package(program, CHART, options.destination)
    except PackageError as error:
        sys.exit(str(error))
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    print(f"{archive}\nsha256:{digest}")  # noqa: T201 - a command line


if __name__ == "__main__":
    main()
