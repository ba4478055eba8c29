"""The LLM server of CONTRIBUTING.md is found by its entry point and keeps the whole contract."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.contracts.exercises import installed

ROOT = Path(__file__).parents[2]


def test_the_example_of_an_llm_server_keeps_the_contract(tmp_path: Path) -> None:
    with installed("Add an LLM server", tmp_path) as folder:
        suite = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/contracts/test_llm_servers.py"]
        result = subprocess.run(
            [*suite, "-k", "llama_server"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
        )
    assert result.returncode == 0, result.stdout
    assert int(re.findall(r"(\d+) passed", result.stdout)[0]) >= 25
    assert not re.search("skipped|xfailed", result.stdout)
