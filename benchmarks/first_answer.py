"""Seconds from a fresh clone to the end of the first answer: `git clone`, `make up`, in an empty home.

Package caches are warm; models, environments and indexes are built from scratch.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.processes import free_port

ROOT = Path(__file__).parent.parent


def measure() -> list[str]:
    """The table, as lines of Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        clone, home = Path(folder) / "clone", Path(folder) / "home"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("MAKE", "MFLAGS", "VIRTUAL_ENV"))
            },
            "KSERVE_RAG_HOME": str(home),
            "KSERVE_RAG_PORT": str(free_port()),
            "KSERVE_RAG_GRPC_PORT": str(free_port()),
            "KSERVE_RAG_PAGE_PORT": str(free_port()),
        }
        try:
            began = time.perf_counter()
            done = subprocess.run(
                ["make", "up"], cwd=clone, env=environment, capture_output=True, text=True, check=False
            )
            seconds = time.perf_counter() - began
            if done.returncode:
                raise SystemExit(f"make up failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
            print(done.stdout)
        finally:
            subprocess.run(["make", "down"], cwd=clone, env=environment, capture_output=True, check=False)
    return ["| | seconds |", "|---|---|", f"| fresh clone, `make up`, to the end of the first answer | {seconds:.0f} |"]


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("\n".join(measure()))
