"""Every command of the README runs, against a graph that listens where the README says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import RunningGraph

ROOT = Path(__file__).parents[2]
BLOCKS = [
    (match["language"], match["code"])
    for page in ("README.md", "docs/troubleshooting.md")
    for match in re.finditer(r"```(?P<language>bash|python)\n(?P<code>.*?)```", (ROOT / page).read_text(), re.DOTALL)
]


def test_the_readme_begins_with_the_start_and_the_tests() -> None:
    (_, start), (_, tests) = BLOCKS[:2]
    assert start.startswith("make up\n")
    assert tests == "make test\n"


@pytest.mark.parametrize(("language", "code"), [b for b in BLOCKS if b[1] != "make test\n"], ids=lambda text: text[:50])
def test_the_readme_runs(language: str, code: str, graph: RunningGraph) -> None:
    """Only the addresses and the documents are the test graph's, which runs already."""
    code = code.replace("http://127.0.0.1:8080", graph.transformer).replace("http://127.0.0.1:8082", graph.vectorstore)
    code = code.replace(".venv/bin/", f"{Path(sys.executable).parent}/")
    code = code.replace("make up\n", "").replace("~/handbook", "docs README.md")
    code = code.replace("ingest docs README.md", f"ingest {graph.corpus}")  # the other tests ask about these
    command = ["bash", "-euo", "pipefail", "-c", code] if language == "bash" else [sys.executable, "-c", code]
    environment = {**os.environ, "KSERVE_RAG_HOME": str(graph.settings.home)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()
    assert '{"error"' not in done.stdout
    assert "Traceback" not in done.stderr
