"""Runs a pipeline in a separate process.

A step of OpenVINO GenAI holds Python's global interpreter lock. In the process that accepts requests and sends
responses, nothing else would run during a step, so answers would not stream. A separate process can also be replaced:
if it ends, for example because memory is short, the next one loads the model again.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from predictor.engines.batch import Generation, Output, SamplingParams
from predictor.engines.settings import EngineSettings
from predictor.errors import GenerationError, ModelFilesError, OverloadedError

logger = logging.getLogger(__name__)

_PROGRAM = f"""
import signal
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)  # sent to the group of processes; the parent still needs this one
from {__name__} import run
run({{descriptor}})
"""


@dataclass(slots=True)
class _Changes:
    """Changes since the last step."""

    started: list[tuple[int, Sequence[int], SamplingParams]] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Stepped:
    """The result of a step."""

    outputs: dict[int, Output | GenerationError]
    busy: bool
    cache_usage: float


class ProcessPipeline:
    """A `Pipeline` that runs an `OpenVinoPipeline` in a child process.

    Args:
        settings: limits, and the model's folder.
        end_ids: tokens that end an answer.

    Raises:
        ModelFilesError: the child cannot load the model.
    """

    def __init__(self, settings: EngineSettings, end_ids: frozenset[int]) -> None:
        self._arguments = (settings, end_ids)
        self._numbers = itertools.count()
        self._changes = _Changes()
        self._last = _Stepped({}, busy=False, cache_usage=0.0)
        self._launch()

    def _launch(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603
                [_python(), "-c", _PROGRAM.format(descriptor=theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._connection = Connection(ours.detach())
        try:
            self._connection.send(self._arguments)
            loaded = self._connection.recv()
        except (EOFError, OSError) as error:
            raise ModelFilesError(f"The model's process ended with {self._process.wait()} while it loaded.") from error
        if isinstance(loaded, ModelFilesError):
            raise loaded
        self.capacity_tokens: int = loaded
        """Size of the KV cache in tokens, which limits prompt and answer together."""

    def start(self, ids: Sequence[int], sampling: SamplingParams) -> _Handle:
        """Queues a prompt."""
        number = next(self._numbers)
        self._changes.started.append((number, ids, sampling))
        return _Handle(self, number)

    def step(self) -> None:
        """Runs one forward pass in the child.

        If the child has ended, starts another one. Raises OSError or EOFError if generations were running.
        """
        changes, self._changes = self._changes, _Changes()
        try:
            self._last = self._exchange(changes)
        except (EOFError, OSError):
            if self._last.busy:
                raise
            self.close()
            logger.warning("The model's process ended with %s. Starting it again.", self._process.returncode)
            self._launch()
            self._last = self._exchange(changes)

    def _exchange(self, changes: _Changes) -> _Stepped:
        self._connection.send(changes)
        stepped: _Stepped = self._connection.recv()
        return stepped

    def busy(self) -> bool:
        """Whether a step would have anything to do."""
        return self._last.busy or bool(self._changes.started or self._changes.cancelled)

    def cache_usage(self) -> float:
        """Share of the KV cache used at the last step, 0 to 1."""
        return self._last.cache_usage

    def close(self) -> None:
        """Ends the child."""
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def take(self, number: int) -> Output | None:
        """The output of a generation in the last step. Raises GenerationError if the pipeline dropped it."""
        output = self._last.outputs.pop(number, None)
        if isinstance(output, GenerationError):
            raise output
        return output

    def cancel(self, number: int) -> None:
        """Cancels a generation at the next step."""
        self._changes.cancelled.append(number)


@dataclass(frozen=True, slots=True)
class _Handle:
    """A `Generation` of a `ProcessPipeline`."""

    pipeline: ProcessPipeline
    number: int

    def read(self) -> Output | None:
        return self.pipeline.take(self.number)

    def cancel(self) -> None:
        self.pipeline.cancel(self.number)


def _python() -> str:
    """The interpreter of the environment that Triton's stub uses: the first on the PATH."""
    return shutil.which("python3") or sys.executable


def run(descriptor: int) -> None:
    """The child's program: loads the model and makes steps until the parent closes the connection or ends."""
    with contextlib.suppress(EOFError, OSError):
        _serve(Connection(descriptor))
    os._exit(0)  # OpenVINO's threads need not be waited for


def _serve(connection: Connection) -> None:
    from predictor.engines.openvino import OpenVinoPipeline

    try:
        pipeline = OpenVinoPipeline(*connection.recv())
    except ModelFilesError as error:
        connection.send(error)
        return
    connection.send(pipeline.capacity_tokens)
    running: dict[int, Generation] = {}
    while True:
        connection.send(_step(pipeline, running, connection.recv()))


def _step(pipeline: Any, running: dict[int, Generation], changes: _Changes) -> _Stepped:
    outputs: dict[int, Output | GenerationError] = {}
    for number in changes.cancelled:
        if number in running:
            running.pop(number).cancel()
    for number, ids, sampling in changes.started:
        try:
            running[number] = pipeline.start(ids, sampling)
        except Exception:  # noqa: PERF203
            logger.exception("A prompt of %d tokens could not be started.", len(ids))
            outputs[number] = GenerationError("The engine could not start this prompt.")
    if pipeline.busy():
        pipeline.step()
    for number, generation in list(running.items()):
        try:
            output = generation.read()
        except OverloadedError as error:
            outputs[number] = error
            del running[number]
            continue
        if output is not None:
            outputs[number] = output
            if output.finish_reason is not None:
                del running[number]
    busy = pipeline.busy()
    return _Stepped(outputs, busy, pipeline.cache_usage() if busy else 0.0)
