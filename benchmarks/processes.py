"""Starts what a benchmark measures: the graph, programs, and functions in new processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from kserve_rag.local.graph import GraphState, need_running
from kserve_rag.local.graph import running as running_graph
from kserve_rag.models.store import ModelStore
from kserve_rag.settings import Settings
from tests.processes import free_ports, program

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def free_port() -> int:
    """A free port on loopback."""
    return free_ports(1)[0]


@contextlib.contextmanager
def running(arguments: list[str], ready_url: str, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Python program; the block starts when `ready_url` answers 200."""
    with tempfile.TemporaryDirectory() as folder:
        command, log = [sys.executable, *arguments], Path(folder) / "log"
        with program(command, ready_url, {**os.environ, **variables}, log=log) as process:
            yield process


def in_a_process(
    function: Callable[_Arguments, _Result], *arguments: _Arguments.args, **named: _Arguments.kwargs
) -> _Result:
    """The result of a function of a module, called in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments, **named).result()


def graph() -> GraphState:
    """The running graph. Starts one if none is running, and leaves it running."""
    settings = Settings()
    if running_graph(settings) is None:
        subprocess.run([sys.executable, "-m", "kserve_rag", "up", "--detach"], check=True)
    return need_running(settings)


def llm_folder(name: str = "smollm2-135m") -> Path:
    """The folder of an LLM, with its tokenizer and chat template."""
    return ModelStore(Settings().models).materialise(name, "llm").path
