"""Builds an index version from a plan: parses, chunks, embeds, writes and publishes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chassis.errors import ServiceError
from embedder.tokens import TokenCounter
from ingest.chunking import ChunkedDocument, EmbeddingTexts, Span
from ingest.concurrency import finish_in_thread, run_together, shield_to_completion
from ingest.embedding import Batcher
from ingest.errors import IndexNotWrittenError, ParserError, SkippedFileError
from ingest.events import Advanced, Published, Reporter
from ingest.executor import Executor, FileParser
from ingest.loaders import SourceFile
from ingest.plan import Plan
from ingest.previous import PreviousVersion
from ingest.settings import IngestSettings
from vectorstore.errors import InvalidContentError
from vectorstore.versions import (
    AccessFile,
    Chunk,
    ChunkVectors,
    Decision,
    Document,
    IndexRoot,
    LexicalSettings,
    VersionBuilder,
    content_key,
)

_SHORT_TEXT_CHARS = 200
"""Shorter documents are duplicates only if their titles are equal too: `N/A` refers to its title."""


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file to parse."""

    file: SourceFile
    token: str
    """Change token, which is stored with its documents."""
    size_bytes: int


@dataclass(frozen=True, slots=True)
class BuildContext:
    """Inputs of a build in addition to the plan."""

    settings: IngestSettings
    parameters: dict[str, Any]
    """Settings on which the version depends; stored in its manifest."""
    executor: Executor
    batcher: Batcher
    previous: PreviousVersion | None
    reporter: Reporter


async def build(
    plan: Plan,
    files: Sequence[PlannedFile],
    context: BuildContext,
    *,
    may_be_empty: bool,
    check: Callable[[frozenset[str]], None],
) -> str | None:
    """Publishes a version with the documents of `files`, in order, and of the plan's unchanged files.

    The documents of a file that can no longer be read are copied from the previous version. `check` is called before
    publishing, with the names of the files that gave documents. If it raises, nothing is published.

    Returns the version's name; None if nothing changed, or if there is no document and the version may not be empty.

    Raises:
        EmbeddingFailedError: the embedder failed after all retries.
        IndexNotWrittenError: the disk is full or the folder is read-only.
        ParserError: the parser process cannot be started.
    """
    with contextlib.ExitStack() as stack:
        queue = _Queue(context.settings.max_chunks_in_flight)
        writer = _Writer(context, queue, stack)
        producer = _Producer(context, queue)
        await run_together(producer.run(plan, files), writer.run())
        check(frozenset(producer.read))
        return await writer.publish(may_be_empty=may_be_empty)


@contextlib.contextmanager
def index_writes(index_root: Path) -> Iterator[None]:
    """Raises IndexNotWrittenError if a write to the index fails."""
    try:
        yield
    except InvalidContentError:
        raise
    except (OSError, sqlite3.Error, ServiceError) as error:
        reason = error.message if isinstance(error, ServiceError) else str(error)
        raise IndexNotWrittenError(f"The index in {index_root} cannot be written: {reason}") from error


@dataclass(slots=True)
class _QueueItem:
    """A document to write, or the end of a file."""

    document: Document | None = None
    """None at the end of a file."""
    chunks: Sequence[Chunk] = ()
    vectors: Sequence[ChunkVectors | asyncio.Future[ChunkVectors]] = ()
    file_bytes: int = 0
    """Size of the file that ends."""


class _Queue(asyncio.Queue["_QueueItem | None"]):
    """Queue from the producer to the writer; None after the last item. Provides the back-pressure of a build.

    At `limit` chunks it closes until half of them are written, so that batches fill up again.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit
        self._chunks = 0
        self._open = asyncio.Event()
        self._open.set()

    @property
    def closed(self) -> bool:
        return not self._open.is_set()

    async def reserve(self, work: _QueueItem) -> None:
        """Waits while the queue is closed, then counts the document's chunks, at least one."""
        await self._open.wait()
        self._chunks += max(len(work.chunks), 1)
        if self._chunks >= self._limit:
            self._open.clear()

    def release(self, work: _QueueItem) -> None:
        """Removes a written document from the count."""
        self._chunks -= max(len(work.chunks), 1)
        if self._chunks <= self._limit // 2:
            self._open.set()


class _Producer:
    """Parses files, copies unchanged documents, and requests the missing vectors."""

    def __init__(self, context: BuildContext, queue: _Queue) -> None:
        self._context = context
        self._queue = queue
        self._seen: dict[tuple[bytes, Decision], str] = {}
        """Duplicate key of a document, and who may read it → name of the first file with both."""
        settings = context.settings
        self._rules = AccessFile(settings.index_root / settings.index_name).read()
        self.read: set[str] = set()
        """Names of the files that gave documents."""

    async def run(self, plan: Plan, files: Sequence[PlannedFile]) -> None:
        previous = self._context.previous
        if previous is not None and plan.unchanged:
            await asyncio.to_thread(self._remember, previous, plan.unchanged)
        found = 0
        async with self._context.executor.parsing([planned.file for planned in files]) as parser:
            for planned in files:
                found += await self._parse(parser, planned)
        stale = plan.dropped.intersection(self._context.reporter.summary.stale)
        kept = plan.unchanged | stale
        if previous is not None and kept and (found or plan.dropped - stale):
            await self._copy(previous, kept)
        self._context.batcher.flush()
        self._queue.put_nowait(None)

    def _remember(self, previous: PreviousVersion, names: frozenset[str]) -> None:
        for document in previous.documents(names):
            self._seen[self._duplicate_key(document)] = document.source

    def _duplicate_key(self, document: Document) -> tuple[bytes, Decision]:
        title = document.title if len(document.text) < _SHORT_TEXT_CHARS else ""
        digest = hashlib.sha256(f"{title}\0{document.text}".encode()).digest()
        return digest, self._rules.decision(document.source)

    async def _parse(self, parser: FileParser, planned: PlannedFile) -> int:
        """Enqueues the documents of a file and returns their number."""
        reporter, name = self._context.reporter, planned.file.source
        documents = repeated = 0
        first = ""
        try:
            async with contextlib.aclosing(parser.parse(planned.file)) as items:
                async for item in items:
                    if isinstance(item, str):
                        reporter.notice(name, item)
                        continue
                    document = Document(item.id, item.text, item.title, item.url, name, planned.token, item.metadata)
                    digest = self._duplicate_key(document)
                    if digest in self._seen:
                        repeated += 1
                        first = first or self._seen[digest]
                        continue
                    self._seen[digest] = name
                    documents += 1
                    await self._enqueue(document, [_chunk(item, span) for span in item.spans])
        except SkippedFileError as error:
            if documents or repeated:
                reporter.notice(name, f"read only in part, {documents + repeated} documents: {error}")
            else:
                previous = self._context.previous
                reporter.skip(name, str(error), stale=previous is not None and name in previous.manifest.sources)
        if documents or repeated:
            self.read.add(name)
        reporter.summary.duplicates += repeated
        if repeated and not documents:
            reporter.skip(name, f"has the same text as {first}")
        elif repeated:
            reporter.notice(name, f"{repeated} of {documents + repeated} documents have the same text as others")
        self._queue.put_nowait(_QueueItem(file_bytes=planned.size_bytes))
        return documents

    async def _copy(self, previous: PreviousVersion, names: frozenset[str]) -> None:
        settings = self._context.settings
        try:
            tokens = await asyncio.to_thread(TokenCounter.load, settings.tokenizer)
        except ValueError as error:
            raise ParserError(str(error)) from error
        copied = previous.documents_with_chunks(names, EmbeddingTexts(settings.chunks(), tokens))
        while (item := await asyncio.to_thread(next, copied, None)) is not None:
            await self._enqueue(*item)

    async def _enqueue(self, document: Document, chunks: list[Chunk]) -> None:
        """Requests missing vectors and enqueues the document. Waits while the queue is closed."""
        batcher, previous = self._context.batcher, self._context.previous
        if self._queue.closed:
            # The writer may be waiting for vectors of a batch that is not full yet.
            batcher.flush()
        work = _QueueItem(document, chunks)
        await self._queue.reserve(work)
        texts = [chunk.embedding_text or chunk.text for chunk in chunks]
        keys = [content_key(batcher.capabilities.fingerprint, text) for text in texts]
        known = await asyncio.to_thread(previous.vectors, keys) if previous is not None else {}
        work.vectors = [known.get(key) or batcher.request(key, text) for key, text in zip(keys, texts, strict=True)]
        self._queue.put_nowait(work)


class _Writer:
    """Writes documents to the new version, in the order of the queue."""

    def __init__(self, context: BuildContext, queue: _Queue, stack: contextlib.ExitStack) -> None:
        self._context = context
        self._queue = queue
        self._stack = stack
        self._index_root = context.settings.index_root
        self._builder: VersionBuilder | None = None
        """Created with the first document."""

    async def run(self) -> None:
        files = file_bytes = text_chars = 0
        reporter, batcher = self._context.reporter, self._context.batcher
        while (work := await self._queue.get()) is not None:
            if work.document is None:
                files += 1
                file_bytes += work.file_bytes
                text_chars = 0
            else:
                await self._write(work, work.document)
                text_chars += len(work.document.text)
                self._queue.release(work)
            reporter.tell(
                Advanced(
                    files=files,
                    size_bytes=file_bytes + text_chars,
                    documents=reporter.summary.documents,
                    chunks=reporter.summary.chunks,
                    embedded=batcher.embedded,
                )
            )

    async def publish(self, *, may_be_empty: bool) -> str | None:
        """Publishes the version; returns as `build`."""
        if self._builder is None and may_be_empty:
            self._builder = await finish_in_thread(self._begin)
        builder = self._builder
        if builder is None:
            return None

        probes = await asyncio.to_thread(builder.probes)
        answer = await self._context.batcher.queries(probes) if probes else None

        async def publish() -> str:
            version = await asyncio.to_thread(builder.publish, answer)
            self._context.reporter.tell(Published(version))
            return version

        with index_writes(self._index_root):
            return await shield_to_completion(publish())

    async def _write(self, work: _QueueItem, document: Document) -> None:
        vectors = [await part if isinstance(part, asyncio.Future) else part for part in work.vectors]
        summary = self._context.reporter.summary
        try:
            with index_writes(self._index_root):
                # The builder must not be closed while a thread adds to it.
                await finish_in_thread(lambda: self._add(document, work.chunks, vectors))
        except InvalidContentError as error:
            self._context.reporter.notice(document.source, f"a document cannot be stored: {error.message}")
        else:
            summary.documents += 1
            summary.chunks += len(work.chunks)

    def _add(self, document: Document, chunks: Sequence[Chunk], vectors: Sequence[ChunkVectors]) -> None:
        if self._builder is None:
            self._builder = self._begin()
        capabilities = self._context.batcher.capabilities
        wants_sparse, wants_multi = capabilities.sparse, capabilities.multi_vector_bits is not None
        self._builder.add(
            document,
            chunks,
            np.stack([part.dense for part in vectors]) if vectors else np.empty((0, capabilities.dimension)),
            sparse=[part.sparse for part in vectors if part.sparse is not None and wants_sparse],
            multi_vectors=[part.multi_vectors for part in vectors if part.multi_vectors is not None and wants_multi],
        )

    def _begin(self) -> VersionBuilder:
        settings, capabilities = self._context.settings, self._context.batcher.capabilities
        return self._stack.enter_context(
            IndexRoot(settings.index_root, settings.index_name).begin(
                embedder_fingerprint=capabilities.fingerprint,
                dimension=capabilities.dimension,
                settings=self._context.parameters,
                store=settings.store,
                lexical=LexicalSettings(language=settings.language),
                sparse=capabilities.sparse,
                multi_vector_bits=capabilities.multi_vector_bits,
            )
        )


def _chunk(document: ChunkedDocument, span: Span) -> Chunk:
    text = document.text[span.start : span.end]
    return Chunk(
        id=hashlib.sha256(f"{document.id}\0{span.start}\0{text}".encode()).hexdigest()[:32],
        document_id=document.id,
        text=text,
        start=span.start,
        end=span.end,
        heading_path=tuple(span.heading_path),
        embedding_text=span.prefix + text,
    )
