"""A run of ingestion: lists the sources, plans, and builds a new index version if anything changed."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from threadpoolctl import threadpool_limits

from ingest.build import BuildContext, PlannedFile, build, index_writes
from ingest.chunking import ALGORITHM
from ingest.concurrency import locked, open_lock, shield_to_completion
from ingest.embedding import Batcher, EmbedderCapabilities
from ingest.errors import (
    NothingUsableError,
    ParserError,
    ReadOnlyIndexError,
    RemovalNotConfirmedError,
    SkippedFileError,
    UnknownFoldersError,
)
from ingest.events import OnProgress, Planned, Reporter, Summary, Waiting
from ingest.executor import Executor, LocalExecutor
from ingest.loaders import LOADERS
from ingest.plan import Plan, plan
from ingest.previous import PreviousVersion
from ingest.settings import IngestSettings
from ingest.skipped import record_skipped
from ingest.sources import ListedFile, Listing, Source, follow, is_upload, list_files, open_source
from ingest.sources.uploads import UploadSource
from vectorstore.versions import EXISTING_FILE, IndexRoot

LOADER_VERSION = 3
"""Increment it when loaders read files differently, so that all files are parsed again."""

Scope = Literal["all", "uploads", "reindex"]
"""Which files a run reads.

`all`: changed sources and uploads. `uploads`: changed uploads; documents of the sources stay as they are, unless
another embedder or other settings require reading them again. `reindex`: all sources and uploads, changed or not.
"""


async def run(
    settings: IngestSettings,
    sources: Sequence[Path | str],
    on_progress: OnProgress | None = None,
    *,
    executor: Executor | None = None,
    uploads: Source | None = None,
    scope: Scope = "all",
    allow_removal: bool = False,
    on_finished: Callable[[Summary], Awaitable[None]] | None = None,
) -> Summary:
    """Brings an index up to date with its sources and its uploads.

    Unchanged files are not parsed again, and unchanged chunks are not embedded again. If nothing changed, nothing is
    published. Unusable files are skipped and reported; their documents from earlier runs stay. Waits while another run
    of the same index is active in any process.

    Args:
        settings: settings of this run.
        sources: locations (`ingest.sources.open_source`). With the scope `all`, the index follows them from now on;
            with another one, pass the followed sources, or none if they are unknown.
        on_progress: receives the events, in the caller's event loop.
        executor: parses and embeds. Default: this process and a child. The result does not depend on it.
        uploads: the uploaded files. Default: those in the index's folder.
        scope: which files are read.
        allow_removal: whether the run may remove more than half of the documents because their files are gone.
        on_finished: awaited before another run of the index can start; completes even if this run is cancelled.

    Raises:
        ReadOnlyIndexError: the index serves a collection that another program stores.
        SourceNotFoundError: a source does not exist.
        NothingUsableError: no file of the sources gave a document. The index is unchanged.
        RemovalNotConfirmedError: the run would remove more than half of the documents. The index is unchanged.
        UnknownFoldersError: all files must be read again, but the sources are unknown. The index is unchanged.
        EmbeddingFailedError: the embedder failed after all retries. The index is unchanged.
        IndexNotWrittenError: the disk is full or the folder is read-only. The index is unchanged.
        ParserError: the tokenizer cannot be loaded, or the parser process cannot be started.
    """
    started = time.monotonic()
    reporter = Reporter(on_progress)
    executor = executor or LocalExecutor(settings, lambda reason: reporter.tell(Waiting(reason)))
    root = IndexRoot(settings.index_root, settings.index_name)
    if root.is_read_only():
        raise ReadOnlyIndexError(
            f"Index {root.name} serves a collection that another program stores, and is read-only: ingest into another "
            f"index, or remove {root.folder / EXISTING_FILE}."
        )
    with index_writes(settings.index_root):
        lock = open_lock(root.folder / ".run")
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(
            locked(lock, lambda: reporter.tell(Waiting("Another run of this index is active.")))
        )
        opened = [open_source(location, root.folder / ".sources") for location in sources]
        for source in opened:
            stack.callback(source.close)
        reads_sources = scope == "all" or (scope == "reindex" and len(opened) > 0)
        listing = await asyncio.to_thread(_list_sources, opened) if reads_sources else None
        batcher = Batcher(executor.embedder(), settings.batch_size)
        try:
            update = _Update(settings, executor, batcher, reporter, scope, allow_removal, opened, root)
            await update.run(listing, uploads or UploadSource(str(root.folder)))
        finally:
            await batcher.aclose()
        reporter.summary.seconds = time.monotonic() - started
        if scope == "all":
            with index_writes(settings.index_root):
                follow(root.folder, opened)
        if on_finished is not None:
            await shield_to_completion(on_finished(reporter.summary))
    return reporter.summary


def _list_sources(sources: Sequence[Source]) -> Listing:
    listing = list_files(sources)
    if not listing.files:
        # An unmounted volume must not empty the index, even if the index has uploads.
        places = ", ".join(each.location for each in sources)
        raise NothingUsableError(f"No files to read in {places}", listing.skipped | listing.gone)
    return listing


@dataclass(frozen=True, slots=True)
class _Update:
    """A run that holds the index's lock."""

    settings: IngestSettings
    executor: Executor
    batcher: Batcher
    reporter: Reporter
    scope: Scope
    allow_removal: bool
    sources: Sequence[Source]
    root: IndexRoot

    async def run(self, listing: Listing | None, uploads: Source) -> None:
        parameters = await asyncio.to_thread(_file_parameters, self.settings)
        await self.batcher.connect()
        parameters["search"] = _search_parameters(self.settings, self.batcher.capabilities)
        # Two OpenBLAS threads spin while they wait for each other: compressing the multi-vectors of a chunk takes 6 ms
        # of CPU, with one thread 0.7 ms.
        with threadpool_limits(1, user_api="blas"):
            async with PreviousVersion.opened(self.root, self.batcher.capabilities, self.reporter) as previous:
                kept: frozenset[str] = frozenset()
                if listing is None and self._needs_sources(previous, parameters):
                    listing = await asyncio.to_thread(_list_sources, self.sources)
                elif listing is None:
                    listing, kept = Listing(), previous.from_sources if previous is not None else kept
                uploads_only = len(listing.files) == 0
                await self._update(listing, kept, uploads, previous, parameters)
                with index_writes(self.settings.index_root):
                    record_skipped(self.root.folder, self.reporter.summary, uploads_only=uploads_only)

    def _needs_sources(self, previous: PreviousVersion | None, parameters: dict[str, Any]) -> bool:
        """Whether a run for uploads must read the sources too, because their documents cannot be copied."""
        if previous is not None and (previous.matches(parameters, self.settings.store) or not previous.from_sources):
            return False
        if previous is not None and not self.sources:
            raise UnknownFoldersError(
                f"Index {self.settings.index_name} must be rebuilt for another embedder or other settings, but the "
                "folders it follows are unknown: run `kserve-rag ingest PATH…`, or set INGEST_SOURCES."
            )
        return len(self.sources) > 0

    async def _update(
        self,
        listing: Listing,
        kept: frozenset[str],
        uploads: Source,
        previous: PreviousVersion | None,
        parameters: dict[str, Any],
    ) -> None:
        reporter, summary = self.reporter, self.reporter.summary
        files = {file.name: file for file in listing.files}
        listed = await asyncio.to_thread(lambda: list(uploads.list()))
        files |= {entry.name: ListedFile(uploads, entry) for entry in listed}
        summary.files = len(files)
        tokens: dict[str, str] = {}
        skipped = dict(listing.skipped)
        for name, each in files.items():
            with _unreadable(name, skipped):
                tokens[name] = await asyncio.to_thread(each.token)
        stale = previous is None or not previous.matches(parameters, self.settings.store)
        current = previous.tokens if previous is not None else {}
        # Files in a folder that can no longer be listed.
        for name in sorted(current.keys() - tokens.keys() - listing.gone.keys()):
            folders = (str(folder) for folder in PurePosixPath(name).parents)
            skipped.update((name, listing.skipped[folder]) for folder in folders if folder in listing.skipped)
        planned = plan(tokens, skipped, current, kept=kept, parse_all=stale or self.scope == "reindex")
        if previous is not None and not self.allow_removal:
            await self._check_removal(planned, previous, listing.files, frozenset(tokens.values()))
        parsed: list[PlannedFile] = []
        lost: dict[str, str] = {}
        for name in (name for name in tokens if name in planned.parsed):
            with _unreadable(name, lost):
                file = await asyncio.to_thread(files[name].fetch)
                parsed.append(PlannedFile(file, tokens[name], file.path.stat().st_size))
        for name, reason in (*planned.skipped.items(), *lost.items()):
            reporter.skip(name, reason, stale=name in current)
        for name, reason in listing.gone.items():
            reporter.skip(name, reason)
        summary.deleted = len(planned.removed)
        size_bytes = sum(each.size_bytes for each in parsed)
        reporter.tell(Planned(len(parsed), len(planned.unchanged), len(planned.removed), size_bytes))

        def check(read: frozenset[str]) -> None:
            """Raises if the sources no longer give any document, even if there are uploads."""
            usable = read.union(planned.unchanged).difference(summary.stale)
            if listing.files and usable.isdisjoint(file.name for file in listing.files):
                raise NothingUsableError("No file gave a document", summary.skipped)

        if planned.parsed or planned.removed:
            # Only deleting the last upload may leave an empty version.
            may_be_empty = bool(planned.removed) and not planned.changed and self.scope == "uploads"
            context = BuildContext(self.settings, parameters, self.executor, self.batcher, previous, reporter)
            summary.version = await build(planned, parsed, context, may_be_empty=may_be_empty, check=check)
            if summary.version is None and planned.dropped.difference(summary.stale):
                raise NothingUsableError("The sources no longer have any indexed document", summary.skipped)
            if summary.version is not None and self.settings.keep_versions:
                await asyncio.to_thread(self.root.prune, self.settings.keep_versions)
        else:
            check(frozenset())
        # If a run for uploads finds nothing usable, each of its tasks reports it.
        self._summarise(previous, may_find_nothing=self.scope == "uploads" and not listing.files)

    async def _check_removal(
        self, planned: Plan, previous: PreviousVersion, listed: Sequence[ListedFile], tokens: frozenset[str]
    ) -> None:
        """Raises RemovalNotConfirmedError if more than half of the documents are gone and were not renamed."""
        gone = {name for name in planned.removed if previous.tokens[name] not in tokens}
        if self.scope == "uploads":
            gone = {name for name in gone if not is_upload(name)}
        removed, documents = previous.documents_of(gone), previous.manifest.counts.documents
        if removed * 2 <= documents:
            return
        if skipped := await asyncio.to_thread(not_read, listed):
            raise NothingUsableError("No file gave a document", skipped)
        raise RemovalNotConfirmedError(removed, documents, gone)

    def _summarise(self, previous: PreviousVersion | None, *, may_find_nothing: bool) -> None:
        summary = self.reporter.summary
        summary.embedded, summary.truncated = self.batcher.embedded, self.batcher.truncated
        summary.reused = summary.chunks - summary.embedded
        if summary.truncated:
            self.reporter.notice(
                "embedder",
                f"{summary.truncated} chunks were longer than the embedder's window: lower INGEST_WINDOW_TOKENS to the "
                "window, or raise INGEST_RESERVED_TOKENS to the tokens of its prefix",
            )
        if summary.version is not None:
            return
        if previous is None and not may_find_nothing:
            raise NothingUsableError("No file gave a document", summary.skipped)
        summary.unchanged = True
        if previous is not None:
            manifest = previous.manifest
            summary.version = manifest.version
            summary.documents, summary.chunks = manifest.counts.documents, manifest.counts.chunks


def _file_parameters(settings: IngestSettings) -> dict[str, Any]:
    """Parameters that determine the chunks of a file: if they are equal, unchanged files have the same chunks."""
    try:
        tokenizer_sha256 = hashlib.sha256(settings.tokenizer.read_bytes()).hexdigest()
    except OSError as error:
        raise ParserError(f"The tokenizer {settings.tokenizer} cannot be read: {error.strerror}.") from error
    return {
        "loaders": LOADER_VERSION,
        "chunker": {"algorithm": ALGORITHM, **dataclasses.asdict(settings.chunks())},
        "limits": dataclasses.asdict(settings.limits()),
        "tokenizer_sha256": tokenizer_sha256,
    }


def _search_parameters(settings: IngestSettings, capabilities: EmbedderCapabilities) -> dict[str, Any]:
    return {
        "language": settings.language,
        "sparse": capabilities.sparse,
        "multi_vector_bits": capabilities.multi_vector_bits,
    }


def not_read(files: Sequence[ListedFile]) -> dict[str, str]:
    """Name → reason, if no loader reads any of the files; else empty. Checks names and first bytes."""
    reasons: dict[str, str] = {}
    for file in files:
        with _unreadable(file.name, reasons):
            try:
                found = file.fetch()
                LOADERS.choose(found.source + found.suffix, found.head())
            except SkippedFileError as error:
                reasons[file.name] = str(error)
            else:
                return {}
    return reasons


@contextlib.contextmanager
def _unreadable(name: str, reasons: dict[str, str]) -> Iterator[None]:
    """Records the reason if a file cannot be read."""
    try:
        yield
    except OSError as error:
        reasons[name] = f"cannot be read: {error.strerror or type(error).__name__}"
