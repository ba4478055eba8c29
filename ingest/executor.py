"""Who does the work of a run: whoever lists, plans and writes, parsing and embedding may be done elsewhere."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from ingest.embedding import EmbedderCalls, Encoder
from ingest.loaders import SourceFile
from ingest.parser import Cut, Parser
from ingest.settings import IngestSettings


class FileParser(Protocol):
    """Files to documents."""

    def parse(self, file: SourceFile) -> AsyncGenerator[Cut | str, None]:
        """As `ingest.parser.Parser.parse`."""


class Executor(Protocol):
    """Who parses and who embeds."""

    def parsing(self, files: Sequence[SourceFile]) -> AbstractAsyncContextManager[FileParser]:
        """A parser that is then given each of these files, in their order."""

    def encoder(self) -> Encoder:
        """Whoever makes vectors of texts."""


class LocalExecutor:
    """This process and one child that parses."""

    def __init__(self, settings: IngestSettings, on_wait: Callable[[str], None] | None = None) -> None:
        """Starts nothing yet. `on_wait` is told why the embedder is asked again, and when."""
        self._settings = settings
        self._on_wait = on_wait

    def parsing(self, files: Sequence[SourceFile]) -> Parser:
        """One process, whatever the files."""
        return Parser(self._settings)

    def encoder(self) -> EmbedderCalls:
        """Calls from this process."""
        return EmbedderCalls(self._settings, on_wait=self._on_wait)
