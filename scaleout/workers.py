"""Parses and embeds on the workers of a Ray cluster.

Files are the rows of a Ray dataset. Actors parse them and return the documents in the order of the files. As in any
run, the driver drops repeated and known texts; it sends the rest to actors that call the embedder. So every text is
embedded once, and the version is the same as without Ray. Documents, tokenizer and index must be in a folder that all
nodes share at the same path.

Source: https://docs.ray.io/en/latest/data/transforming-data.html (stateful transforms, order of rows)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from types import TracebackType
from typing import Any

import orjson
import pyarrow as pa
import ray
import ray.data
from ray.exceptions import RayError

from embedder.wire import Embeddings
from ingest.chunking import ChunkedDocument
from ingest.embedding import EmbeddedBatch, EmbedderCapabilities, HttpEmbedder
from ingest.errors import EmbeddingFailedError, ParserError, SkippedFileError
from ingest.loaders import SourceFile
from ingest.parser import Parser
from ingest.settings import IngestSettings
from scaleout.errors import ClusterError
from scaleout.settings import ScaleoutSettings

_BLOCK_BYTES = 8 * 1024**2
"""Documents are sent to the driver when they reach this size, or when a task is done."""
_TASKS_PER_WORKER = 4
"""Minimum, if there are enough files, so that no worker idles while another still has many."""
_RESTARTS = 3
"""Maximum restarts of an embedding actor. Parsing actors restart without limit: bad files kill only their children."""


@contextlib.contextmanager
def ray_executor(settings: IngestSettings, scaleout: ScaleoutSettings) -> Iterator[RayExecutor]:
    """Connects to the cluster at `RAY_ADDRESS`, or on this machine, or starts one for this run.

    Raises:
        ClusterError: there is no cluster at that address.
    """
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, RayError, OSError, RuntimeError, ValueError) as error:
        where = os.environ.get("RAY_ADDRESS", "this machine")
        raise ClusterError(f"There is no Ray cluster at {where} (RAY_ADDRESS): {_first_line(error)}") from error
    # No ray.shutdown(): if a Ray object is still in use, as in an interrupted run, it exits the process without a
    # message. Ray disconnects when the process ends.
    yield RayExecutor(settings, scaleout)


class RayExecutor:
    """Parses in a Ray dataset and embeds in actors. Ray must be initialised."""

    def __init__(self, settings: IngestSettings, scaleout: ScaleoutSettings) -> None:
        self._settings = settings
        self._scaleout = scaleout

    def parsing(self, files: Sequence[SourceFile]) -> _Parsing:
        """Documents of the files, parsed ahead as far as Ray's object store has space."""
        return _Parsing(files, self._settings, self._scaleout)

    def embedder(self) -> _RayEmbedder:
        """An embedder that is called from all workers."""
        return _RayEmbedder(self._settings, self._scaleout)


# Parsing


class _Parsing:
    """Reads the dataset's rows, file by file."""

    def __init__(self, files: Sequence[SourceFile], settings: IngestSettings, scaleout: ScaleoutSettings) -> None:
        self._files = files
        self._settings = settings
        self._scaleout = scaleout
        self._rows: Generator[dict[str, Any], None, None] | None = None
        self._awaited: asyncio.Future[dict[str, Any] | None] | None = None

    async def __aenter__(self) -> _Parsing:
        if self._files:
            self._rows = await asyncio.to_thread(lambda: iter(self._dataset().iter_rows()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops the dataset, after a pending row: a running generator cannot be closed."""
        if self._awaited is not None:
            await asyncio.wait([self._awaited])
            self._awaited.exception()  # mark as retrieved
        if self._rows is not None:
            await asyncio.to_thread(self._rows.close)

    async def parse(self, file: SourceFile) -> AsyncGenerator[ChunkedDocument | str, None]:
        """Like `ingest.parser.Parser.parse`."""
        while True:
            kind, content = orjson.loads(await self._next(file))
            match kind:
                case "document":
                    yield ChunkedDocument.from_json(content)
                case "notice":
                    yield content
                case "skipped":
                    raise SkippedFileError(content)
                case "failed":
                    raise ParserError(content)
                case "end":
                    return

    async def _next(self, file: SourceFile) -> bytes:
        self._awaited = asyncio.ensure_future(asyncio.to_thread(next, self._rows or iter(()), None))
        try:
            row = await asyncio.shield(self._awaited)
        except RayError as error:
            raise ClusterError(f"The parsing workers were lost: {_first_line(error)}") from error
        if row is None:
            raise ClusterError(f"The parsing workers ended before they parsed {file.source}.")
        item: bytes = row["item"]
        return item

    def _dataset(self) -> Any:
        scaleout, rows = self._scaleout, [file.to_json() for file in self._files]
        blocks = max(len(rows) // scaleout.files_per_task, _TASKS_PER_WORKER * scaleout.workers)
        dataset = ray.data.from_items(rows, override_num_blocks=min(blocks, len(rows))).map_batches(
            _ParseFiles,
            fn_constructor_args=[self._settings],
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(scaleout.workers, len(rows))),
            num_cpus=scaleout.parser_cpus,
        )
        context = dataset.context
        context.execution_options.preserve_order = True
        context.target_max_block_size = _BLOCK_BYTES
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        return dataset


class _ParseFiles:
    """The dataset's transform, in an actor with its own parser process."""

    def __init__(self, settings: IngestSettings) -> None:
        self._parser = Parser(settings)
        self._loop = asyncio.new_event_loop()

    def __call__(self, files: pa.Table) -> Iterator[pa.Table]:
        """Yields a row of JSON for each document and notice, and for the end of each file."""
        for file in files.to_pylist():
            items = self._items(SourceFile.from_json(file))
            while (item := self._loop.run_until_complete(anext(items, None))) is not None:
                yield pa.table({"item": pa.array([orjson.dumps(item)], pa.large_binary())})

    async def _items(self, file: SourceFile) -> AsyncGenerator[tuple[str, Any], None]:
        try:
            async with contextlib.aclosing(self._parser.parse(file)) as found:
                async for item in found:
                    yield ("notice" if isinstance(item, str) else "document"), item
        except SkippedFileError as error:
            yield "skipped", str(error)
        except ParserError as error:
            yield "failed", str(error)
        else:
            yield "end", None


# Embedding


class _RayEmbedder:
    """Sends each batch to the least busy actor."""

    def __init__(self, settings: IngestSettings, scaleout: ScaleoutSettings) -> None:
        self._settings = settings
        self._scaleout = scaleout
        self._driver = HttpEmbedder(settings)
        self._capabilities: Any = None
        self._actors: list[Any] = []
        self._busy: list[int] = []

    @property
    def concurrency(self) -> int:
        """Number of concurrent calls of all workers together."""
        return self._scaleout.workers * self._settings.concurrency

    async def connect(self) -> EmbedderCapabilities:
        """Connects from the driver, then starts the actors."""
        capabilities = await self._driver.connect()
        actor = ray.remote(_EmbedActor).options(
            num_cpus=0,
            max_concurrency=self._settings.concurrency,
            max_restarts=_RESTARTS,
            max_task_retries=_RESTARTS,
            scheduling_strategy="SPREAD",
        )
        # Includes the quantiser, which another machine might compute differently. Sent with every call, because a
        # restarted actor has lost its state.
        self._capabilities = ray.put(capabilities)
        self._actors = [actor.remote(self._settings) for _ in range(self._scaleout.workers)]
        self._busy = [0] * len(self._actors)
        return capabilities

    async def embed(self, texts: Sequence[str]) -> EmbeddedBatch:
        """Embeds a batch in one of the actors."""
        chosen = self._busy.index(min(self._busy))
        self._busy[chosen] += 1
        try:
            batch: EmbeddedBatch | str = await self._actors[chosen].embed.remote(self._capabilities, texts)
        except RayError as error:
            raise EmbeddingFailedError(f"An embedding worker was lost: {_first_line(error)}") from error
        finally:
            self._busy[chosen] -= 1
        if isinstance(batch, str):
            raise EmbeddingFailedError(batch)
        return batch

    async def queries(self, texts: Sequence[str]) -> Embeddings:
        """Embeds the few queries of a build from the driver."""
        return await self._driver.queries(texts)

    async def aclose(self) -> None:
        """Stops the actors."""
        await self._driver.aclose()
        actors, self._actors = self._actors, []
        for actor in actors:
            ray.kill(actor)


class _EmbedActor:
    """An actor with its own connections to the embedder."""

    def __init__(self, settings: IngestSettings) -> None:
        self._settings = settings
        self._calls: HttpEmbedder | None = None

    async def embed(self, capabilities: EmbedderCapabilities, texts: Sequence[str]) -> EmbeddedBatch | str:
        """The embeddings of the texts, or the reason for a permanent failure."""
        if self._calls is None:
            self._calls = HttpEmbedder(self._settings, capabilities)
        try:
            return await self._calls.embed(texts)
        except EmbeddingFailedError as error:
            return str(error)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
