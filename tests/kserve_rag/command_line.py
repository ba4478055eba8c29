"""Runs the command line in a new process or in this one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from kserve_rag.cli.app import main
from kserve_rag.settings import Settings

Run = Callable[..., subprocess.CompletedProcess[str]]


def environment(settings: Settings) -> dict[str, str]:
    """Variables for these folders, and for free ports."""
    ports = {f"KSERVE_RAG_{name.upper()}": "0" for name in Settings.model_fields if name.endswith("port")}
    homes = {"HOME": settings.home, "MODELS_DIR": settings.models, "ENVS_DIR": settings.envs}
    return {
        **os.environ,
        **ports,
        **{f"KSERVE_RAG_{name}": str(path) for name, path in homes.items()},
        "COLUMNS": "120",
    }


def runner(settings: Settings) -> Run:
    """Runs `kserve-rag …` as a user does."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "kserve_rag", *arguments]
        environ = {**environment(settings), **variables}
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)

    return run


def runner_here(settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `kserve-rag …` without the time that a new process takes to import."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            for name, value in {**environment(settings), **variables}.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["kserve-rag", *arguments])
            with pytest.raises(SystemExit) as ended:
                main()
        return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), *capsys.readouterr())

    return run
