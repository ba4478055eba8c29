"""Packs the chart of the web page as `helm package` does, and always into the same bytes: `make chart`."""

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
"""Where `make chart` puts the program (x86_64)."""


class PackageError(Exception):
    """Helm refused the chart."""


def helm() -> str | None:
    """The program that `make chart` has put here, else one on the PATH."""
    return str(HELM) if HELM.is_file() else shutil.which("helm")


def environment(scratch: Path) -> dict[str, str]:
    """Helm's environment: no cluster, no plugins and no settings of the user.

    Args:
        scratch: a folder for what Helm writes.

    """
    return {"PATH": os.environ["PATH"], "HOME": str(scratch), "KUBECONFIG": os.devnull}


def package(program: str, chart: Path, destination: Path) -> Path:
    """An archive `<name>-<version>.tgz` of the chart in the destination, which is made.

    Helm chooses the files and checks them. It writes the time of packing into every entry: they are packed again, in
    its order, with the time that SOURCE_DATE_EPOCH says (0 by default).

    Raises:
        PackageError: Helm refused; with what it said.
        ValueError: SOURCE_DATE_EPOCH is no number.

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
    """The archive's files, packed so that nothing but their names and contents counts."""
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
    """Packs the chart and prints where it is, and its digest."""
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
