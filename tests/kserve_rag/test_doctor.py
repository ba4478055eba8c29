"""`kserve-rag doctor` on machines with and without trouble."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from kserve_rag.settings import HOST, Settings
from tests.conftest import RunningGraph
from tests.kserve_rag.command_line import Run, runner_here


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `kserve-rag …` in a home where no graph runs."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return runner_here(Settings(home=tmp_path / "home"), monkeypatch, capsys)


def test_a_good_machine(doctor: Run) -> None:
    with socket.socket() as unused:
        unused.bind((HOST, 0))
        port = unused.getsockname()[1]
    shown = doctor("doctor", KSERVE_RAG_PORT=str(port))
    assert shown.returncode == 0, shown.stdout
    assert "✗" not in shown.stdout
    for said in (
        "kserve 0.",
        "Triton uses Python 3.",
        "of memory are free",
        "of disk are free",
        f"port {port} is free",
    ):
        assert said in shown.stdout


def test_a_taken_port(doctor: Run) -> None:
    with socket.create_server((HOST, 0)) as taken:
        shown = doctor("doctor", KSERVE_RAG_PAGE_PORT=str(taken.getsockname()[1]))
    assert shown.returncode == 1
    assert "choose another port with --page-port" in shown.stdout


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("KSERVE_RAG_TRITON_PYTHON", "/nowhere/python", "KSERVE_RAG_TRITON_PYTHON is /nowhere/python"),
        ("KSERVE_RAG_HOME", f"{__file__}/home", "or set KSERVE_RAG_HOME to another folder"),
    ],
)
def test_a_bad_machine(doctor: Run, variable: str, value: str, said: str) -> None:
    shown = doctor("doctor", **{variable: value})
    assert shown.returncode == 1
    assert said in shown.stdout


def test_a_proxy_that_gets_the_requests_to_this_machine(doctor: Run) -> None:
    proxy = {"https_proxy": "http://me:secret@proxy.example.org:3128", "http_proxy": "http://proxy.example.org:3128"}
    shown = doctor("doctor", **proxy)
    assert shown.returncode == 0
    assert f"set no_proxy={HOST},localhost" in shown.stdout
    assert "secret" not in shown.stdout
    assert "set no_proxy" not in doctor("doctor", **proxy, no_proxy=f"{HOST},localhost").stdout


def test_a_running_graph(graph: RunningGraph, doctor: Run) -> None:
    shown = doctor("doctor", KSERVE_RAG_HOME=str(graph.settings.home))
    assert f"the graph answers at {graph.transformer}" in shown.stdout
