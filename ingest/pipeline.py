"""A run: sources → documents → chunks → vectors → a new index version."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import hashlib
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from chassis.errors import ServiceError
from embedder.client import TokenCounter
from ingest.chunking import ALGORITHM, EmbeddingTexts
from ingest.embedding import Embedding
from ingest.errors import IndexNotWrittenError, NothingUsableError, ParserError, SkippedFileError, UnknownFoldersError
from ingest.events import Advanced, Event, Noticed, OnProgress, Planned, Published, Skipped, Summary, Waiting
from ingest.executor import Executor, FileParser, LocalExecutor
from ingest.loaders import SourceFile
from ingest.parser import Cut
from ingest.settings import IngestSettings
from ingest.sources import Listing, follow, is_upload, list_sources, uploaded
from vectorstore.errors import DamagedIndexError, InvalidContentError, UnsupportedFormatError
from vectorstore.versions import (
    Chunk,
    ChunkVectors,
    ContentVectors,
    Document,
    EncodedVectors,
    IndexRoot,
    IndexVersion,
    LexicalSettings,
    VersionBuilder,
    content_key,
)

LOADERS = 1
"""Of what the loaders make of a file. Raised when that changes, so that unchanged files are parsed again."""

_SHORT_TEXT_CHARS = 200
"""A text shorter than this repeats another only if the titles are the same too: `N/A` says something of its title."""

_QUEUED_DOCUMENTS = 256
_LOOK_AGAIN_S = 0.2

Scope = Literal["all", "uploads", "anew"]
"""What a run reads. `all`: the sources and the uploads, as far as they have changed. `uploads`: the uploads alone, as
far as they have changed; what the current version holds of the sources stays as it is, unless another embedder or other
settings need it made anew. `anew`: the sources and the uploads, changed or not."""

_Result = TypeVar("_Result")


async def run(
    settings: IngestSettings,
    sources: Sequence[Path],
    on_progress: OnProgress | None = None,
    *,
    executor: Executor | None = None,
    uploads: Mapping[str, Path] | None = None,
    scope: Scope = "all",
    then: Callable[[Summary], Awaitable[None]] | None = None,
) -> Summary:
    """Makes the index follow the sources, and what was uploaded to it.

    Sources that have not changed are not parsed again, chunks that have not changed are not embedded again; where
    nothing at all has changed nothing is published. A file that cannot be used is reported and left out. Waits while
    another run of the same index is under way, here or in another process.

    Args:
        settings: of this run.
        sources: files and folders, which the index follows from now on; but for the scope `all`, those that it follows
            already, none where they are not known.
        on_progress: told what happens, in the event loop of the caller.
        executor: who parses and embeds; by default this process with a child. The version does not depend on it.
        uploads: source → file; by default what is in the index's folder of uploads.
        scope: what is read.
        then: done before another run of the index may begin, and to its end also when cancelled.

    Raises:
        SourceNotFoundError: a path does not exist.
        NothingUsableError: no file gave a document. The index stays as it is.
        UnknownFoldersError: all has to be made anew, and what of is not known. The index stays as it is.
        EmbeddingFailedError: the embedder failed for good. The index stays as it is.
        IndexNotWrittenError: the disk is full, or the folder may not be written. The index stays as it is.
        ParserError: the tokenizer cannot be loaded, or no process can be started.
    """
    begun = time.monotonic()
    tell = on_progress or _nobody
    executor = executor or LocalExecutor(settings, lambda reason: tell(Waiting(reason)))
    reads = scope == "all" or (scope == "anew" and len(sources) > 0)
    listing = await asyncio.to_thread(_listed, sources) if reads else None
    folder = IndexRoot(settings.index_root, settings.index_name).folder
    async with _alone(settings.index_root, folder, tell):
        embedding = Embedding(executor.encoder(), settings.batch_size)
        try:
            ingestion = _Ingestion(settings, executor, embedding, tell, scope)
            await ingestion.run(sources, listing, uploaded(folder) if uploads is None else uploads)
        finally:
            await embedding.aclose()
        ingestion.summary.seconds = time.monotonic() - begun
        if scope == "all":
            with _written_to(settings.index_root):
                follow(folder, sources)
        if then is not None:
            await shield_to_completion(then(ingestion.summary))
    return ingestion.summary


def _listed(sources: Sequence[Path]) -> Listing:
    listing = list_sources(sources)
    if not listing.files:
        # A volume that is not mounted must not empty the index, whatever else was uploaded to it.
        raise NothingUsableError(f"No files to read in {', '.join(map(str, sources)) or 'nothing'}.")
    return listing


def _nobody(_: Event) -> None:
    """Is told of nothing."""


@contextlib.asynccontextmanager
async def _alone(index_root: Path, folder: Path, tell: OnProgress) -> AsyncIterator[None]:
    """Holds the index: of two runs at once, the one that publishes last would undo the other."""
    with _written_to(index_root):
        lock = _lock_file(folder)
    with lock:
        waits = False
        while not _locked(lock):
            if not waits:
                tell(Waiting("Another run of this index is under way."))
            waits = True
            await asyncio.sleep(_LOOK_AGAIN_S)
        yield


def _lock_file(folder: Path) -> IO[str]:
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / ".run").open("w")


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be done with each source."""

    changed: list[tuple[SourceFile, str]]
    """New and changed files with their hashes."""
    unchanged: frozenset[str]
    """Sources whose documents are copied from the version before."""
    dropped: frozenset[str]
    """Sources of the version before whose documents do not stay as they are: changed or deleted."""


@dataclass(slots=True)
class _Work:
    """A document on its way into the version."""

    document: Document
    chunks: list[Chunk]
    vectors: list[ChunkVectors | asyncio.Future[ChunkVectors]]


@dataclass(frozen=True, slots=True)
class _Done:
    """Everything of a file is on its way: stands in the queue behind its documents."""

    size_bytes: int


class _Ingestion:
    def __init__(
        self, settings: IngestSettings, executor: Executor, embedding: Embedding, tell: OnProgress, scope: Scope
    ) -> None:
        self._settings = settings
        self._workforce = executor
        self._embedding = embedding
        self._tell = tell
        self._scope = scope
        self._root = IndexRoot(settings.index_root, settings.index_name)
        self._previous: IndexVersion | None = None
        self._previous_vectors: ContentVectors | None = None
        self._builder: VersionBuilder | None = None
        self._queue: asyncio.Queue[_Work | _Done | None] = asyncio.Queue(_QUEUED_DOCUMENTS)
        self._in_flight = 0
        self._written = asyncio.Condition()
        self._seen: dict[bytes, str] = {}
        """Hash of a text to the source it was first found in."""
        self._files_done = 0
        self._bytes_done = 0
        self._bytes_of_file = 0
        self.summary = Summary()

    async def run(self, sources: Sequence[Path], listing: Listing | None, uploads: Mapping[str, Path]) -> None:
        described = await asyncio.to_thread(_describe, self._settings)
        await self._embedding.connect()
        described["search"] = {
            "language": self._settings.language,
            "sparse": self._embedding.kind.sparse,
            "multi_vector_bits": self._embedding.kind.multi_vector_bits,
        }
        # Encoding multi-vectors is a product of matrices. Two threads of OpenBLAS, which spin while they wait for each
        # other, took 6 ms per chunk of the processor that the embedder works on too; one takes 0.7.
        with contextlib.ExitStack() as stack, threadpool_limits(1, user_api="blas"):
            self._previous = self._open_previous()
            if self._previous is not None:
                stack.enter_context(self._previous)
            kept: frozenset[str] = frozenset()
            if listing is None and self._must_read(sources, described):
                listing = await asyncio.to_thread(_listed, sources)
            elif listing is None:
                listing, kept = Listing(), self._of_sources()
            files = [*listing.files, *(SourceFile(file, source) for source, file in uploads.items())]
            self.summary.files = len(files)
            for source, reason in listing.skipped.items():
                self._skip(source, reason)
            plan = await self._plan(files, kept, described)
            self.summary.deleted = len(plan.dropped - {file.source for file, _ in plan.changed})
            self._tell(
                Planned(
                    changed=len(plan.changed),
                    unchanged=len(plan.unchanged),
                    deleted=self.summary.deleted,
                    size_bytes=sum(_size(file) for file, _ in plan.changed),
                )
            )
            if plan.changed or plan.dropped:
                await self._build(plan, described)
            # A run about uploads alone may find none of use: its tasks are told so each by itself.
            self._conclude(must_find=self._scope != "uploads" or len(listing.files) > 0)

    def _open_previous(self) -> IndexVersion | None:
        with contextlib.ExitStack() as stack:
            try:
                if self._root.current() is None:
                    return None
                previous = stack.enter_context(self._root.open())
                if previous.manifest.embedder.fingerprint == self._embedding.kind.fingerprint:
                    self._previous_vectors = previous.vectors_by_content()
            except (DamagedIndexError, UnsupportedFormatError) as error:
                self._notice(f"index {self._settings.index_name}", f"{error.message} It is built anew.")
                return None
            stack.pop_all()
            return previous

    def _comparable(self, described: dict[str, Any]) -> bool:
        """Whether the same file would become what the version before has of it."""
        return (
            self._previous is not None
            and self._previous.manifest.embedder.fingerprint == self._embedding.kind.fingerprint
            and self._previous.manifest.settings == described
        )

    def _of_sources(self) -> frozenset[str]:
        """What the version before holds that was not uploaded."""
        held = self._previous.manifest.sources if self._previous is not None else {}
        return frozenset(source for source in held if not is_upload(source))

    def _must_read(self, sources: Sequence[Path], described: dict[str, Any]) -> bool:
        """Whether the sources have to be read though the run is about the uploads: the version before is of no use."""
        if self._comparable(described) or (self._previous is not None and not self._of_sources()):
            return False
        if self._previous is not None and not sources:
            raise UnknownFoldersError(
                f"Index {self._settings.index_name} has to be made anew, for another embedder or with other settings, "
                "but which folders it follows is not known here: run `kserve-rag ingest PATH…`, or set INGEST_SOURCES."
            )
        return len(sources) > 0

    async def _plan(self, files: Sequence[SourceFile], kept: frozenset[str], described: dict[str, Any]) -> _Plan:
        manifest = self._previous.manifest if self._previous is not None else None
        before = {source: info.sha256 for source, info in manifest.sources.items()} if manifest is not None else {}
        comparable = self._scope != "anew" and self._comparable(described)
        changed: list[tuple[SourceFile, str]] = []
        unchanged: set[str] = set(kept)
        for file in files:
            try:
                sha256 = await asyncio.to_thread(file.sha256)
            except OSError as error:
                self._skip(file.source, f"cannot be read: {error.strerror or type(error).__name__}")
                continue
            if comparable and before.get(file.source) == sha256:
                unchanged.add(file.source)
            else:
                changed.append((file, sha256))
        return _Plan(changed, frozenset(unchanged), frozenset(before.keys() - unchanged))

    async def _build(self, plan: _Plan, described: dict[str, Any]) -> None:
        with contextlib.ExitStack() as stack:
            producer = asyncio.create_task(self._produce(plan))
            writer = asyncio.create_task(self._write(described, stack))
            try:
                done, _ = await asyncio.wait((producer, writer), return_when=asyncio.FIRST_EXCEPTION)
                for task in done:
                    task.result()
            finally:
                for task in (producer, writer):
                    task.cancel()
                await asyncio.gather(producer, writer, return_exceptions=True)
            if self._builder is None:
                if not plan.dropped:
                    return
                if self._scope != "uploads" or self.summary.deleted < len(plan.dropped):
                    raise NothingUsableError(self._nothing("What the index holds is gone from the sources"))
                # The last document was deleted; what else was uploaded cannot be used.
                self._builder = await _in_thread(lambda: self._begin(described, stack))
            with _written_to(self._settings.index_root):
                self.summary.version = await shield_to_completion(self._publish(self._builder))
        if self._settings.keep_versions:
            await asyncio.to_thread(self._root.prune, self._settings.keep_versions)

    async def _publish(self, builder: VersionBuilder) -> str:
        version = await asyncio.to_thread(builder.publish)
        self._tell(Published(version))
        return version

    def _conclude(self, *, must_find: bool) -> None:
        """What the summary says of a run that ended well."""
        summary = self.summary
        summary.embedded, summary.truncated = self._embedding.embedded, self._embedding.truncated
        summary.reused = summary.chunks - summary.embedded
        if summary.truncated:
            self._notice(
                "embedder",
                f"{summary.truncated} chunks were longer than the embedder reads: lower INGEST_WINDOW_TOKENS to its "
                "window, or raise INGEST_RESERVED_TOKENS to what its prefix takes",
            )
        if self._builder is None:
            if self._previous is None:
                if must_find:
                    raise NothingUsableError(self._nothing("No file gave a document"))
                summary.unchanged = True
                return
            manifest = self._previous.manifest
            summary.unchanged, summary.version = True, manifest.version
            summary.documents, summary.chunks = manifest.counts.documents, manifest.counts.chunks

    def _nothing(self, what: str) -> str:
        reasons = list(self.summary.skipped.items())[:3]
        listed = "; ".join(f"{source}: {reason}" for source, reason in reasons)
        more = len(self.summary.skipped) - len(reasons)
        return f"{what}; the index is left as it is." + (
            f" Skipped were {listed}{f' and {more} more' if more > 0 else ''}." if listed else ""
        )

    # Producing: documents with their chunks and the vectors they have or wait for.

    async def _produce(self, plan: _Plan) -> None:
        if self._previous is not None:
            await asyncio.to_thread(self._remember_texts, plan.unchanged)
        found = 0
        async with self._workforce.parsing([file for file, _ in plan.changed]) as parser:
            for file, sha256 in plan.changed:
                found += await self._produce_file(parser, file, sha256)
        if found or (plan.dropped and plan.unchanged):
            await self._copy(plan.unchanged)
        await self._embedding.flush()
        await self._queue.put(None)

    async def _produce_file(self, parser: FileParser, file: SourceFile, sha256: str) -> int:
        documents = repeated = 0
        first = ""
        try:
            async with contextlib.aclosing(parser.parse(file)) as items:
                async for item in items:
                    if isinstance(item, str):
                        self._notice(file.source, item)
                        continue
                    document = Document(item.id, item.text, item.title, item.url, file.source, sha256, item.metadata)
                    key = _text_key(document)
                    if key in self._seen:
                        repeated += 1
                        first = first or self._seen[key]
                        continue
                    self._seen[key] = file.source
                    documents += 1
                    await self._enqueue(document, _chunks(item))
        except SkippedFileError as error:
            if documents:
                self._notice(file.source, f"read only in part, {documents} documents: {error}")
            else:
                self._skip(file.source, str(error))
        self.summary.duplicates += repeated
        if repeated and not documents:
            self._skip(file.source, f"says the same as {first}")
        elif repeated:
            self._notice(file.source, f"{repeated} of {documents + repeated} documents say the same as others")
        await self._pass_on(_Done(_size(file)))
        return documents

    async def _copy(self, unchanged: frozenset[str]) -> None:
        """Takes the documents of unchanged sources over from the version before."""
        if self._previous is None or not unchanged:
            return
        tokens = await asyncio.to_thread(_load_tokens, self._settings)
        texts = EmbeddingTexts(self._settings.chunks(), tokens)
        copied = _copied(self._previous, unchanged, texts)
        while (item := await asyncio.to_thread(next, copied, None)) is not None:
            await self._enqueue(*item)

    def _remember_texts(self, unchanged: frozenset[str]) -> None:
        if self._previous is not None and unchanged:
            for document in self._previous.documents():
                if document.source in unchanged:
                    self._seen[_text_key(document)] = document.source

    async def _enqueue(self, document: Document, chunks: list[Chunk]) -> None:
        """Asks for the vectors that are missing and passes the document on; waits while too much is on its way."""
        if self._in_flight >= self._settings.max_chunks_in_flight:
            # What the writer waits for may be in the batch that is not yet full.
            await self._embedding.flush()
            async with self._written:
                await self._written.wait_for(lambda: self._in_flight < self._settings.max_chunks_in_flight)
        self._in_flight += len(chunks)
        texts = [chunk.embedding_text or chunk.text for chunk in chunks]
        keys = [content_key(self._embedding.kind.fingerprint, text) for text in texts]
        known = await asyncio.to_thread(self._known_vectors, keys)
        vectors: list[ChunkVectors | asyncio.Future[ChunkVectors]] = []
        for key, text in zip(keys, texts, strict=True):
            if key in known:
                vectors.append(known[key])
            else:
                vectors.append(await self._embedding.request(key, text))
        await self._pass_on(_Work(document, chunks, vectors))

    async def _pass_on(self, work: _Work | _Done) -> None:
        if self._queue.full():
            # As above: until the writer takes something, nothing more is gathered.
            await self._embedding.flush()
        await self._queue.put(work)

    def _known_vectors(self, keys: Sequence[str]) -> dict[str, ChunkVectors]:
        """What the version before holds of these texts, where it holds all that is wanted."""
        known: dict[str, ChunkVectors] = {}
        if self._previous_vectors is None:
            return known
        for key in keys:
            with contextlib.suppress(KeyError):
                vectors = self._previous_vectors[key]
                stored = vectors.multi_vectors
                bits = stored.bits if isinstance(stored, EncodedVectors) else None
                if (not self._embedding.kind.sparse or vectors.sparse is not None) and (
                    self._embedding.kind.multi_vector_bits in (None, bits)
                ):
                    known[key] = vectors
        return known

    # Writing: in the order of the queue.

    async def _write(self, described: dict[str, Any], stack: contextlib.ExitStack) -> None:
        while (work := await self._queue.get()) is not None:
            if isinstance(work, _Done):
                self._files_done += 1
                self._bytes_done += work.size_bytes
                self._bytes_of_file = 0
            else:
                await self._write_document(work, described, stack)
            self._tell(
                Advanced(
                    files=self._files_done,
                    size_bytes=self._bytes_done + self._bytes_of_file,
                    documents=self.summary.documents,
                    chunks=self.summary.chunks,
                    embedded=self._embedding.embedded,
                )
            )

    async def _write_document(self, work: _Work, described: dict[str, Any], stack: contextlib.ExitStack) -> None:
        vectors = [await part if isinstance(part, asyncio.Future) else part for part in work.vectors]
        try:
            with _written_to(self._settings.index_root):
                await _in_thread(lambda: self._add(work, vectors, described, stack))
        except InvalidContentError as error:
            self._notice(work.document.source, f"a document cannot be stored: {error.message}")
        else:
            self.summary.documents += 1
            self.summary.chunks += len(work.chunks)
        self._bytes_of_file += len(work.document.text)
        async with self._written:
            self._in_flight -= len(work.chunks)
            self._written.notify_all()

    def _add(
        self, work: _Work, vectors: Sequence[ChunkVectors], described: dict[str, Any], stack: contextlib.ExitStack
    ) -> None:
        if self._builder is None:
            self._builder = self._begin(described, stack)
        self._builder.add(
            work.document,
            work.chunks,
            np.stack([part.dense for part in vectors]) if vectors else np.empty((0, self._embedding.kind.dimension)),
            sparse=[part.sparse for part in vectors if part.sparse is not None] if self._embedding.kind.sparse else (),
            multi_vectors=[part.multi_vectors for part in vectors if part.multi_vectors is not None]
            if self._embedding.kind.multi_vector_bits is not None
            else (),
        )

    def _begin(self, described: dict[str, Any], stack: contextlib.ExitStack) -> VersionBuilder:
        return stack.enter_context(
            self._root.begin(
                embedder_fingerprint=self._embedding.kind.fingerprint,
                dimension=self._embedding.kind.dimension,
                settings=described,
                lexical=LexicalSettings(language=self._settings.language),
                sparse=self._embedding.kind.sparse,
                multi_vector_bits=self._embedding.kind.multi_vector_bits,
            )
        )

    def _skip(self, source: str, reason: str) -> None:
        self.summary.skipped[source] = reason
        self._tell(Skipped(source, reason))

    def _notice(self, source: str, text: str) -> None:
        self.summary.notices.append(f"{source}: {text}")
        self._tell(Noticed(source, text))


@contextlib.contextmanager
def _written_to(index_root: Path) -> Iterator[None]:
    try:
        yield
    except InvalidContentError:
        raise
    except (OSError, sqlite3.Error, ServiceError) as error:
        reason = error.message if isinstance(error, ServiceError) else str(error)
        raise IndexNotWrittenError(f"The index in {index_root} cannot be written: {reason}") from error


async def _in_thread(work: Callable[[], _Result]) -> _Result:
    """Runs `work` in a thread, and to its end also when cancelled: the builder must not be removed under it."""
    return await shield_to_completion(asyncio.to_thread(work))


async def shield_to_completion(work: Awaitable[_Result]) -> _Result:
    """The result of `work`, which ends also when this is cancelled, once or several times."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):  # again: the first one is told of below
                await asyncio.wait([task])
        raise


def _describe(settings: IngestSettings) -> dict[str, Any]:
    """What decides which chunks a file becomes: equal for two runs, unchanged files become the same chunks."""
    try:
        tokenizer_sha256 = hashlib.sha256(settings.tokenizer.read_bytes()).hexdigest()
    except OSError as error:
        raise ParserError(f"The tokenizer {settings.tokenizer} cannot be read: {error.strerror}.") from error
    return {
        "loaders": LOADERS,
        "chunker": {"algorithm": ALGORITHM, **dataclasses.asdict(settings.chunks())},
        "limits": dataclasses.asdict(settings.limits()),
        "tokenizer_sha256": tokenizer_sha256,
    }


def _load_tokens(settings: IngestSettings) -> TokenCounter:
    try:
        return TokenCounter.load(settings.tokenizer)
    except ValueError as error:
        raise ParserError(str(error)) from error


def _chunks(cut: Cut) -> list[Chunk]:
    return [
        Chunk(
            id=_chunk_id(cut.id, start, cut.text[start:end]),
            document_id=cut.id,
            text=cut.text[start:end],
            start=start,
            end=end,
            heading_path=tuple(heading_path),
            embedding_text=prefix + cut.text[start:end],
        )
        for start, end, heading_path, prefix in cut.spans
    ]


def _chunk_id(document_id: str, start: int, text: str) -> str:
    return hashlib.sha256(f"{document_id}\0{start}\0{text}".encode()).hexdigest()[:32]


def _copied(
    previous: IndexVersion, sources: frozenset[str], texts: EmbeddingTexts
) -> Iterator[tuple[Document, list[Chunk]]]:
    """Documents of these sources with their chunks, as they were when they were parsed."""
    chunks = previous.chunks()
    ahead = next(chunks, None)
    for document in previous.documents():
        own: list[Chunk] = []
        while ahead is not None and ahead.document_id == document.id:
            own.append(ahead)
            ahead = next(chunks, None)
        if document.source in sources:
            yield document, [_with_embedding_text(chunk, document, texts) for chunk in own]


def _with_embedding_text(chunk: Chunk, document: Document, texts: EmbeddingTexts) -> Chunk:
    prefix = texts.prefix(document.title, chunk.heading_path, chunk.text) or ""
    return dataclasses.replace(chunk, embedding_text=prefix + chunk.text)


def _text_key(document: Document) -> bytes:
    title = document.title if len(document.text) < _SHORT_TEXT_CHARS else ""
    return hashlib.sha256(f"{title}\0{document.text}".encode()).digest()


def _size(file: SourceFile) -> int:
    try:
        return file.path.stat().st_size
    except OSError:
        return 0
