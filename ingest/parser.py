"""Client of the parser process: sends files and receives chunked documents."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import sys
import tempfile
from collections.abc import AsyncGenerator, Coroutine
from pathlib import Path
from typing import IO, Any, TypeVar

import orjson

from ingest.chunking import ChunkedDocument
from ingest.errors import ParserError, SkippedFileError
from ingest.loaders import SourceFile
from ingest.settings import IngestSettings
from ingest.worker import LENGTH, frame

_START_TIMEOUT_S = 60.0
_BUFFER_BYTES = 128 * 1024

_Result = TypeVar("_Result")


class Parser:
    """A child process that parses one file at a time. If a file kills it, the next file starts a new one.

    Use it as an asynchronous context manager. It reads ahead no more than the pipe and a buffer hold.
    """

    def __init__(self, settings: IngestSettings) -> None:
        self._timeout_s = settings.parse_timeout_s
        self._arguments = orjson.dumps(
            {
                "tokenizer": str(settings.tokenizer.absolute()),
                "chunks": dataclasses.asdict(settings.chunks()),
                "limits": dataclasses.asdict(settings.limits()),
                "memory_bytes": settings.parser_memory_bytes,
            }
        ).decode()
        self._process: asyncio.subprocess.Process | None = None
        self._stderr: IO[bytes] | None = None

    async def __aenter__(self) -> Parser:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def parse(self, file: SourceFile) -> AsyncGenerator[ChunkedDocument | str, None]:
        """The documents of the file, and notices as strings.

        Raises SkippedFileError if the file or the rest of it cannot be used, and ParserError if the process cannot be
        started.
        """
        if self._process is None:
            await self._start()
        await self._request(file.to_json())
        done = False
        try:
            while True:
                answer = await self._receive(self._timeout_s)
                if "end" in answer:
                    done = True
                    break
                if "notice" in answer:
                    yield str(answer["notice"])
                else:
                    yield ChunkedDocument.from_json(answer["document"])
        finally:
            if not done:
                await self._stop()
        if answer["end"] is not None:
            raise SkippedFileError(answer["end"])

    async def _start(self) -> None:
        # A file needs no reader, unlike a pipe.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by _stop
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "ingest.worker",
            self._arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=self._stderr,
            limit=_BUFFER_BYTES,
            env=_environment(),
            cwd="/",
            # Ctrl-C interrupts the run, not the child.
            start_new_session=True,
        )
        try:
            answer = await self._receive(_START_TIMEOUT_S)
        except SkippedFileError as error:
            raise ParserError(f"The parser process cannot be started: {error}") from error
        if "error" in answer:
            await self._stop()
            raise ParserError(answer["error"])

    async def _request(self, message: Any) -> None:
        process = self._process
        if process is None or process.stdin is None:
            raise ParserError("The parser process is gone.")
        process.stdin.write(frame(message))
        with contextlib.suppress(ConnectionError):
            # If the process has exited, `_receive` reports it.
            await process.stdin.drain()

    async def _receive(self, timeout_s: float) -> dict[str, Any]:
        process = self._process
        if process is None or process.stdout is None:
            raise ParserError("The parser process is gone.")
        try:
            return await _within(timeout_s, _read(process.stdout))
        except asyncio.TimeoutError:
            await self._stop()
            raise SkippedFileError(f"parsing took longer than {timeout_s:g} s (INGEST_PARSE_TIMEOUT_S)") from None
        except (asyncio.IncompleteReadError, ConnectionError):
            code = await process.wait()
            last = self._last_error_line()
            await self._stop()
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
            raise SkippedFileError(f"the parser {how} while reading it" + (f": {last}" if last else "")) from None

    def _last_error_line(self) -> str:
        if self._stderr is None:
            return ""
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(size - 2000, 0))
        lines = self._stderr.read().decode("utf-8", "replace").strip().split("\n")
        # Rust adds notes about backtraces to its messages.
        return next((line for line in reversed(lines) if not line.startswith("note: ")), "")[:200]

    async def _stop(self) -> None:
        process, self._process = self._process, None
        # Clean up without `await` first, in case this call is cancelled.
        if self._stderr is not None:
            self._stderr.close()
            self._stderr = None
        if process is not None:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            if process.stdin is not None:
                process.stdin.close()
            if process.stdout is not None:
                # Drain the pipe: asyncio does not notice the exit of a process whose output is paused.
                with contextlib.suppress(ConnectionError):
                    while await process.stdout.read(_BUFFER_BYTES):
                        pass
            await process.wait()


def _environment() -> dict[str, str]:
    """Environment of the child: the same import path, and one thread, because the embedder needs the other cores."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
        "OPENBLAS_NUM_THREADS": "1",
        "RAYON_NUM_THREADS": "1",
        "RUST_BACKTRACE": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }


async def _read(stream: asyncio.StreamReader) -> dict[str, Any]:
    (length,) = LENGTH.unpack(await stream.readexactly(LENGTH.size))
    answer: dict[str, Any] = orjson.loads(await stream.readexactly(length))
    return answer


async def _within(timeout_s: float, work: Coroutine[Any, Any, _Result]) -> _Result:
    """The result of `work`. If it takes longer, cancels it and raises `asyncio.TimeoutError`.

    `asyncio.wait_for` before Python 3.12 loses a cancellation that arrives together with the result
    (https://github.com/python/cpython/issues/86296), and the run would never end.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=timeout_s)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
        elif not task.cancelled():
            task.exception()  # mark it as retrieved, in case this is cancelled
    if task.cancelled():
        raise asyncio.TimeoutError
    return task.result()
