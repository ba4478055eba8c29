"""Executors: the place where a run parses and embeds. Planning and writing always happen in the run's process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from ingest.chunking import ChunkedDocument
from ingest.embedding import Embedder, HttpEmbedder
from ingest.loaders import SourceFile
from ingest.parser import Parser
from ingest.settings import IngestSettings


class FileParser(Protocol):
    """Converts files to chunked documents."""

    def parse(self, file: SourceFile) -> AsyncGenerator[ChunkedDocument | str, None]:
        """As `ingest.parser.Parser.parse`."""


class Executor(Protocol):
    """Parses and embeds for a run."""

    def parsing(self, files: Sequence[SourceFile]) -> AbstractAsyncContextManager[FileParser]:
        """A parser, to be called for exactly these files in this order."""

    def embedder(self) -> Embedder:
        """An embedder, not connected yet."""


class LocalExecutor:
    """Parses in one child process and calls the embedder from this one."""

    def __init__(self, settings: IngestSettings, on_wait: Callable[[str], None] | None = None) -> None:
        """Starts nothing yet. `on_wait` is called before each retry of the embedder, with the reason."""
        self._settings = settings
        self._on_wait = on_wait

    def parsing(self, files: Sequence[SourceFile]) -> Parser:
        """The child process."""
        return Parser(self._settings)

    def embedder(self) -> HttpEmbedder:
        """Calls over HTTP."""
        return HttpEmbedder(self._settings, on_wait=self._on_wait)
