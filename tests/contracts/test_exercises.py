"""The examples of CONTRIBUTING.md are found by their entry points and keep the whole contract."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contracts.exercises import installed

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("heading", "suite", "name"),
    [("Add a store", "test_stores.py", "numpy"), ("Add an LLM server", "test_llm_servers.py", "llama_server")],
)
def test_the_example_keeps_the_contract(tmp_path: Path, heading: str, suite: str, name: str) -> None:
    with installed(heading, tmp_path) as folder:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/contracts/{suite}"]
        result = subprocess.run(
            [*command, "-k", name],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
        )
    assert result.returncode == 0, result.stdout
    assert int(re.findall(r"(\d+) passed", result.stdout)[0]) >= 25
    assert not re.search("skipped|xfailed", result.stdout)
