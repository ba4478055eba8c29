"""Seconds from a fresh clone to the end of the first answer: `git clone`, `make up`, in an empty home.

Package caches are warm; models, environments and indexes are built from scratch.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.document import ROOT, Options
from evaluation.markdown import table
from tests.processes import free_ports

TITLE = "First answer"


def measure(_: Options) -> list[str]:
    """The table."""
    names = ("KSERVE_RAG_PORT", "KSERVE_RAG_GRPC_PORT", "KSERVE_RAG_PAGE_PORT")
    ports = {name: str(port) for name, port in zip(names, free_ports(3), strict=True)}
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "VIRTUAL_ENV"))
    }
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        environment = {**inherited, **ports, "KSERVE_RAG_HOME": f"{folder}/home"}
        try:
            began = time.perf_counter()
            subprocess.run(["make", "up"], cwd=clone, env=environment, check=True)
            seconds = time.perf_counter() - began
        finally:
            subprocess.run(["make", "down"], cwd=clone, env=environment, capture_output=True, check=False)
    return [table([{"": "fresh clone, `make up`, to the end of the first answer", "seconds": f"{seconds:.0f}"}])]
