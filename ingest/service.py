"""Documents for indexes, taken in and deleted while everything runs: tasks that are queued, run and told of."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import logging
import os
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import IO, Any

from chassis import signals, tracing
from chassis.errors import BusyError, NotReadyError, ServiceError
from ingest import pipeline
from ingest.errors import (
    IngestError,
    NothingUsableError,
    NotUploadedError,
    SkippedFileError,
    StillFoundError,
    TaskEndedError,
    UnknownIndexError,
    UnknownSourceError,
    UnknownTaskError,
    UnreadableUploadError,
)
from ingest.events import Advanced, Event, Noticed, Planned, Published, Skipped, Summary, Waiting
from ingest.executor import LocalExecutor
from ingest.loaders import LOADERS, SourceFile
from ingest.settings import IngestServerSettings
from ingest.sources import followed, is_upload
from ingest.tasks import Record, TaskStore, revision_after
from ingest.telemetry import BYTES, DOCUMENTS, TASKS, WAITING
from ingest.uploads import UploadFolder, UploadQuota
from ingest.wire import (
    FINAL,
    Absence,
    Progress,
    SkippedSource,
    SourceListing,
    SourceListings,
    Stage,
    State,
    Task,
    TaskError,
    TaskKind,
    TaskResult,
    UploadLimits,
)
from vectorstore.errors import DamagedIndexError, UnsupportedFormatError
from vectorstore.versions import Holding, IndexRoot, IndexVersion, holdings, remains

logger = logging.getLogger("ingest")

MAX_PAGE = 1_000
"""Files of an index that are listed at a time, and tasks."""

_MOST_UNFINISHED = 1_000
_BROKEN = "The tasks of this service cannot be read or written: its log says why."
_PIECE_BYTES = 1024 * 1024
"""Of an upload that are gathered before they are written."""
_LOOK_AGAIN_S = 0.2
_TOLD_EVERY_S = 0.25
_KEPT_EVERY_S = 2.0


class IngestService:
    """Takes uploads, deletions and re-indexings; runs them one at a time for each index; tells how far they are."""

    def __init__(self, settings: IngestServerSettings) -> None:
        """Touches nothing until `check`."""
        limits = UploadQuota(
            max_file_bytes=settings.max_upload_file_bytes,
            max_files=settings.max_upload_files,
            max_uploads=settings.max_uploads,
            max_uploads_bytes=settings.max_uploads_bytes,
        )
        self._settings = settings
        self._store: TaskStore | None = None
        self._live: dict[str, _Live] = {}
        self._broken = False
        self._opened = asyncio.Event()
        self._stopping = asyncio.Event()
        self._indexes = {
            name: _Index(IndexRoot(settings.index_root, name), UploadFolder(settings.index_root / name, limits))
            for name in settings.indexes()
        }

    # Life.

    def check(self) -> None:
        """Returns if the folder of tasks is there and can be written.

        Raises:
            IngestError: it is not.
        """
        _lock_file(self._settings.state()).close()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Takes up what was left undone, and works until the block ends; what is undone then is taken up next time.

        While another service works with the same folder it waits for that one's end, and so do requests: one takes over
        from the other without a request lost.

        Raises:
            IngestError: the folder of tasks cannot be written.
        """
        with _lock_file(self._settings.state()) as lock:
            work = asyncio.create_task(self._live_on(lock))
            try:
                yield
            finally:
                self.stop()
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)

    async def opened(self) -> None:
        """Returns when the service can do what it is asked.

        Raises:
            NotReadyError: another service works with the same folder, and goes on doing so.
        """
        if not self._opened.is_set():
            try:
                await asyncio.wait_for(self._opened.wait(), self._settings.timeout_s)
            except asyncio.TimeoutError:
                raise NotReadyError(
                    "Another ingest service works with the same folder: this one waits for its end."
                ) from None

    def stop(self) -> None:
        """Ends the streams of events, which would not end by themselves."""
        self._stopping.set()

    def not_ready_reason(self) -> str | None:
        """Why nothing could be indexed now."""
        if self._broken:
            return _BROKEN
        if not self._settings.tokenizer.is_file():
            return f"There is no tokenizer at {self._settings.tokenizer} (INGEST_TOKENIZER)."
        return None

    async def _live_on(self, lock: IO[str]) -> None:
        """Works until it is cancelled."""
        try:
            await self._live_with_tasks(lock)
        except Exception:
            logger.exception("the tasks in %s cannot be read or written", self._settings.state())
            self._broken = True
            self._opened.set()

    async def _live_with_tasks(self, lock: IO[str]) -> None:
        waits = False
        while not _locked(lock):
            if not waits:
                logger.warning(
                    "another ingest service works with %s: this one waits for its end", self._settings.state()
                )
            waits = True
            await asyncio.sleep(_LOOK_AGAIN_S)
        with contextlib.closing(TaskStore(self._settings.state() / "tasks.sqlite")) as store:
            self._store = store
            for record in await asyncio.to_thread(self._recovered, store):
                await self._enter(record)
            self._opened.set()
            works = [asyncio.create_task(self._work(index)) for index in self._indexes.values()]
            try:
                done, _ = await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
                for work in done:
                    work.result()
            finally:
                # To the end of all of them: what they do needs the tasks, and the lock.
                for work in works:
                    work.cancel()
                await asyncio.gather(*works, return_exceptions=True)

    def _recovered(self, store: TaskStore) -> list[Record]:
        """Tasks that a service before this one has left, to be done from their beginning."""
        records = [record for record in store.unfinished() if record.task.index in self._indexes]
        for index in self._indexes.values():
            index.uploads.clean([record.task.id for record in records])
        store.forget()
        return records

    async def _enter(self, record: Record) -> _Live:
        live = _Live(record)
        await self._change(live, state="queued", started_at=None, progress=Progress())
        self._live[record.task.id] = live
        WAITING.labels(record.task.kind).inc()
        index = self._indexes[record.task.index]
        index.queue.append(live)
        index.woken.set()
        return live

    # What is asked.

    def limits(self) -> UploadLimits:
        """What one request may bring."""
        return UploadLimits(
            max_file_bytes=self._settings.max_upload_file_bytes,
            max_files=self._settings.max_upload_files,
            max_request_bytes=self._settings.max_body_bytes,
            types=list(LOADERS.suffixes),
        )

    async def documents(self, name: str, limit: int, after: str | None) -> SourceListings:
        """A page of the files that an index holds, by name.

        Raises:
            UnknownIndexError: there is no such index here.
        """
        index = self._index(name)
        return await asyncio.to_thread(_listings, index, limit, after)

    async def upload(self, name: str, content_type: str, body: AsyncIterator[bytes]) -> Task:
        """Takes files in and queues the run that indexes them.

        Args:
            name: of the index.
            content_type: of the body: a form.
            body: as it arrives.

        Raises:
            UnknownIndexError: there is no such index here.
            BusyError: too many tasks have not ended.
            UnreadableUploadError, UnsupportedFileError, TooManyFilesError, FileTooLargeError, IndexFullError,
            NoSpaceError: as they say. Nothing of the request is kept.
        """
        index = self._index_with_room(name)
        with index.uploads.incoming(content_type) as receiver:
            async with contextlib.aclosing(self._pieces(body)) as pieces:
                async for piece in pieces:
                    # To its end, so that nothing is written where all has been removed.
                    await pipeline.shield_to_completion(asyncio.to_thread(receiver.write, piece))
            receiver.finish()
            size_bytes = await asyncio.to_thread(lambda: sum(path.stat().st_size for path in receiver.folder.iterdir()))

            async def accept() -> Task:
                task_id = uuid.uuid4().hex
                async with index.accepting:
                    waiting = [live.task.id for live in self._live.values() if live.task.index == name]
                    sources = await asyncio.to_thread(index.uploads.stage, receiver, task_id, waiting)
                    try:
                        return await self._add("upload", name, sources, task_id=task_id)
                    except ServiceError:
                        await asyncio.to_thread(index.uploads.discard, task_id)
                        raise

            # The client may leave now: its files are either staged for a task or they are not.
            task = await pipeline.shield_to_completion(accept())
        BYTES.inc(size_bytes)
        return task

    async def delete(self, name: str, source: str, *, purge: bool | None) -> Task:
        """Queues the run that makes a version without an uploaded file.

        Args:
            name: of the index.
            source: of the file in the index.
            purge: whether earlier versions go too that still hold it; None: as the settings say.

        Raises:
            UnknownIndexError: there is no such index here.
            UnknownSourceError: the index has no such source.
            NotUploadedError: it comes from a folder.
        """
        index = self._index_with_room(name)
        if not await asyncio.to_thread(lambda: source in index.uploads.files() or source in index.held()):
            raise UnknownSourceError(
                f"Index {name} has no {source[:200]!r}. GET /v1/indexes/{name}/documents lists what it has; an upload "
                "that is still queued is cancelled by its task.",
                field="source",
            )
        if not is_upload(source):
            raise NotUploadedError(
                f"{source[:200]!r} was not uploaded: it comes from a folder that the index follows. Delete it there, "
                "and have the index made anew.",
                field="source",
            )
        return await self._add("delete", name, [source], purge=self._settings.purge_deleted if purge is None else purge)

    async def reindex(self, name: str) -> Task:
        """Queues the run that reads everything anew.

        Raises:
            UnknownIndexError: there is no such index here.
        """
        self._index_with_room(name)
        return await self._add("reindex", name, [])

    async def task(self, task_id: str) -> Task:
        """The task as it is now.

        Raises:
            UnknownTaskError: there is none of this id.
        """
        live = self._live.get(task_id)
        if live is not None:
            return live.task
        record = await asyncio.to_thread(self._kept.get, task_id)
        if record is None:
            raise UnknownTaskError(f"There is no task {task_id[:80]!r}, or it ended long ago.", field="task_id")
        return record.task

    async def tasks(self, name: str | None, limit: int) -> list[Task]:
        """The newest tasks first; of all indexes where none is named.

        Raises:
            UnknownIndexError: there is no such index here.
        """
        if name is not None:
            self._index(name)
        records = await asyncio.to_thread(self._kept.latest, name, limit)
        return [self._live[r.task.id].task if r.task.id in self._live else r.task for r in records]

    async def follow(self, task_id: str, last: str | None) -> AsyncIterator[tuple[str, Task]]:
        """The task as it is, and again whenever it has changed, until it has ended; each time with an id.

        Args:
            task_id: a task that there is.
            last: id of the last one that the listener has had: it is not told again.
        """
        live = self._live.get(task_id)
        while live is not None and not self._stopping.is_set():
            changed, at = live.changed, str(live.record.revision)
            if at != last:
                last = at
                yield at, live.task
            if live.task.state in FINAL:
                return
            await _either(changed, self._stopping)
        if live is None and (record := await asyncio.to_thread(self._kept.get, task_id)) is not None:
            yield str(record.revision), record.task

    async def cancel(self, task_id: str) -> Task:
        """Ends a task; its files are not kept, and the index is left as it is.

        Returns:
            The task, cancelled; or as it has ended, where its work was done before it could be stopped.

        Raises:
            UnknownTaskError: there is none of this id.
            TaskEndedError: it has ended already.
        """
        live = self._live.get(task_id)
        if live is None:
            ended = await self.task(task_id)
            raise TaskEndedError(f"Task {task_id} has {ended.state} already.", field="task_id")
        index = self._indexes[live.task.index]
        if not live.published:
            live.cancelled = True
            if live in index.queue:
                index.queue.remove(live)
                # To its end, also where the client leaves: nobody else knows of the task now.
                await pipeline.shield_to_completion(self._end_queued(index, live))
            elif index.run is not None and live.task.state == "running":
                index.run.cancel()
        while live.task.state not in FINAL:
            await _either(live.changed, self._stopping)
            if self._stopping.is_set():
                break
        return live.task

    # Within.

    @property
    def _kept(self) -> TaskStore:
        if self._store is None or self._broken:
            raise NotReadyError(_BROKEN)
        return self._store

    def _index(self, name: str) -> _Index:
        index = self._indexes.get(name)
        if index is None:
            known = ", ".join(self._indexes)
            raise UnknownIndexError(
                f"Documents are not taken for an index {name[:80]!r} here: there is {known}.", field="name"
            )
        return index

    def _index_with_room(self, name: str) -> _Index:
        """An index that takes another task."""
        index = self._index(name)
        if len(self._live) >= _MOST_UNFINISHED:
            raise BusyError(f"{len(self._live):,} tasks have not ended: wait until some have.", retry_after_s=10)
        return index

    async def _pieces(self, body: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """The body in larger pieces. Waits for each no longer than the settings allow."""
        gathered = bytearray()
        while True:
            try:
                arrived = await asyncio.wait_for(anext(body, None), self._settings.timeout_s)
            except asyncio.TimeoutError:
                raise UnreadableUploadError(
                    f"Nothing more of the upload came within {self._settings.timeout_s:g} s: send it again."
                ) from None
            if arrived is None:
                break
            gathered += arrived
            if len(gathered) >= _PIECE_BYTES:
                yield bytes(gathered)
                gathered.clear()
        if gathered:
            yield bytes(gathered)

    async def _add(
        self, kind: TaskKind, name: str, sources: list[str], *, task_id: str | None = None, purge: bool = False
    ) -> Task:
        task = Task(
            id=task_id or uuid.uuid4().hex,
            kind=kind,
            index=name,
            state="queued",
            created_at=datetime.now(timezone.utc),
            sources=sources,
        )
        # To its end, also where the client leaves: what is on disk is done.
        return (await pipeline.shield_to_completion(self._enter(Record(task, purge)))).task

    async def _change(self, live: _Live, *, keep: bool = True, **changes: Any) -> None:
        """Changes a task and tells whoever listens, once it is on disk: nobody is told what a crash may undo."""
        task = live.task.model_copy(update=changes)
        changed = dataclasses.replace(live.record, task=task, revision=revision_after(live.record.revision))
        if keep:
            await asyncio.to_thread(self._kept.put, changed)
        live.record = changed
        live.tell()

    async def _end(self, live: _Live, state: State, *, keep: bool = True, **changes: Any) -> None:
        progress = live.task.progress.model_copy(update={"stage": "done", "eta_s": None, "reason": None})
        now = datetime.now(timezone.utc)
        await self._change(live, keep=keep, state=state, ended_at=now, progress=progress, **changes)
        del self._live[live.task.id]
        WAITING.labels(live.task.kind).dec()
        TASKS.labels(live.task.kind, state).inc()
        logger.info("task %s: %s of index %s %s", live.task.id, live.task.kind, live.task.index, state)

    async def _end_cancelled(self, index: _Index, live: _Live) -> None:
        await self._end(live, "cancelled")
        # Not before: a task that a crash leaves undone needs its files.
        await asyncio.to_thread(index.uploads.discard, live.task.id)

    async def _end_queued(self, index: _Index, live: _Live) -> None:
        try:
            await self._end_cancelled(index, live)
        except ServiceError:
            # It is still there on disk, and so it is queued.
            live.cancelled = False
            index.queue.append(live)
            index.queue.sort(key=lambda queued: queued.task.created_at)
            index.woken.set()
            raise

    # The work on one index: one run at a time.

    async def _work(self, index: _Index) -> None:
        while True:
            await index.woken.wait()
            index.woken.clear()
            while index.queue:
                batch = _next_batch(index.queue)
                try:
                    await self._batch(index, batch)
                except Exception as error:
                    # The disk of the tasks is full, say. They are done again when the service is started anew.
                    logger.exception("tasks of index %s cannot be kept", index.root.name)
                    for live in batch:
                        if live.task.id in self._live:
                            await self._end(live, "failed", keep=False, error=_error(error))

    async def _batch(self, index: _Index, batch: list[_Live]) -> None:
        """One run for some tasks of the same kind. Tasks that it does not end are queued again, in their place."""
        before = await asyncio.to_thread(index.current)
        for live in batch:
            live.record.before = live.record.before or before
            started = live.task.started_at or datetime.now(timezone.utc)
            await self._change(live, state="running", started_at=started, progress=Progress(stage="reading"))
        run = _Run(self._settings.model_copy(update={"index_name": index.root.name}), index, batch)
        index.run = asyncio.create_task(run.run())
        if any(live.cancelled for live in batch):
            index.run.cancel()
        keeper = asyncio.create_task(self._keep_progress(batch))
        try:
            await asyncio.wait([index.run])
        finally:
            index.run.cancel()
            keeper.cancel()
            await asyncio.gather(index.run, keeper, return_exceptions=True)
            done, index.run = index.run, None
        await self._conclude(index, batch, run, done)

    async def _keep_progress(self, batch: Sequence[_Live]) -> None:
        """Writes how far the tasks are now and then."""
        while True:
            await asyncio.sleep(_KEPT_EVERY_S)
            for live in batch:
                await asyncio.to_thread(self._kept.put, live.record)

    async def _conclude(self, index: _Index, batch: list[_Live], run: _Run, done: asyncio.Task[None]) -> None:
        if run.results:
            for live in batch:
                result = run.results[live.task.id]
                if live.task.kind == "upload" and len(result.skipped) == len(live.task.sources):
                    await self._end(live, "failed", result=result, error=_error(_unusable(result)))
                else:
                    await self._end(live, "succeeded", result=result)
                    if live.task.kind == "upload":
                        DOCUMENTS.inc(result.documents)
                await asyncio.to_thread(index.uploads.discard, live.task.id)
        elif done.cancelled():
            # What was published before it could be stopped is found done by the next run.
            again = [live for live in batch if live.published or not live.cancelled]
            for live in batch:
                if live not in again:
                    await self._end_cancelled(index, live)
            for live in again:
                live.cancelled = live.cancelled and not live.published
                await self._change(live, state="queued", progress=Progress())
            index.queue[:0] = again
        else:
            error = done.exception()
            if not isinstance(error, (IngestError, ServiceError)):
                logger.error("a run of index %s failed", index.root.name, exc_info=error)
            for live in batch:
                if live.task.kind == "upload":
                    # What cannot be used is of no use later; what could not be indexed is.
                    unusable = live.task.sources if isinstance(error, NothingUsableError) else run.refused[live.task.id]
                    wanted = [source for source in live.task.sources if source not in unusable]
                    await asyncio.to_thread(index.uploads.keep, live.task.id, wanted)
                await self._end(live, "failed", result=run.partial.get(live.task.id), error=_error(error))
                await asyncio.to_thread(index.uploads.discard, live.task.id)


def _lock_file(folder: Path) -> IO[str]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / "lock").open("w")
    except OSError as error:
        raise IngestError(f"{folder} cannot be written: {error.strerror} (INGEST_STATE_DIR).") from error


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@dataclass(slots=True)
class _Index:
    """One index, and what is to be done with it."""

    root: IndexRoot
    uploads: UploadFolder
    queue: list[_Live] = field(default_factory=list)
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    accepting: asyncio.Lock = field(default_factory=asyncio.Lock)
    run: asyncio.Task[None] | None = None
    cached: tuple[str, dict[str, Holding]] | None = None

    def current(self) -> str | None:
        """The current version; None where there is none, or none that can be told, which a run makes anew."""
        try:
            return self.root.current()
        except DamagedIndexError:
            return None

    def held(self) -> dict[str, Holding]:
        """Source → what the current version holds of it; empty where nothing was published."""
        return self.held_by()[1]

    def held_by(self) -> tuple[str | None, dict[str, Holding]]:
        """The current version as well."""
        current = self.root.current()
        if current is None:
            return None, {}
        if self.cached is None or self.cached[0] != current:
            with self.root.open(current) as version:
                self.cached = current, {holding.source: holding for holding in holdings(version)}
        return self.cached


class _Live:
    """A task that has not ended."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.changed = asyncio.Event()
        """Set at the next change."""
        self.cancelled = False
        self.published = False
        """Whether its work is in a version: it cannot be cancelled any more."""

    @property
    def task(self) -> Task:
        return self.record.task

    def tell(self) -> None:
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    def advance(self, progress: Progress) -> None:
        self.record.task = self.task.model_copy(update={"progress": progress})
        self.record.revision = revision_after(self.record.revision)
        self.tell()


class _Run:
    """One run of the pipeline for some tasks of the same kind."""

    def __init__(self, settings: IngestServerSettings, index: _Index, batch: list[_Live]) -> None:
        self._settings = settings
        self._index = index
        self._batch = batch
        self._kind = batch[0].task.kind
        self.refused: dict[str, dict[str, str]] = {live.task.id: {} for live in batch}
        """Task id → replacements of its own that cannot be used → why."""
        self._progress = _Meter(batch)
        self.results: dict[str, TaskResult] = {}
        """Task id → what it did: there once the run has ended well."""
        self.partial: dict[str, TaskResult] = {}
        """The same, of a run that found nothing to use."""

    async def run(self) -> None:
        span = tracing.begin(signals.INGESTION, {})
        if span is not None:
            tracing.program_headers.set(span.headers)
        try:
            await self._run()
        except BaseException as error:
            if span is not None:
                span.end(error)
            raise
        if span is not None:
            span.end()

    async def _run(self) -> None:
        settings, index = self._settings, self._index
        uploads = await asyncio.to_thread(index.uploads.files)
        if self._kind == "upload":
            for live in self._batch:
                uploads |= await self._usable(live.task.id, uploads)
        elif self._kind == "delete":
            for live in self._batch:
                for source in live.task.sources:
                    uploads.pop(source, None)
        try:
            await pipeline.run(
                settings,
                list(settings.sources) or await asyncio.to_thread(followed, index.root.folder),
                self._progress,
                executor=LocalExecutor(settings, self._progress.wait),
                uploads=dict(sorted(uploads.items())),
                scope="anew" if self._kind == "reindex" else "uploads",
                then=self._conclude,
            )
        except NothingUsableError:
            current, skipped = await asyncio.to_thread(index.current), self._progress.skipped
            self.partial = {live.task.id: self._result(live, current, {}, skipped) for live in self._batch}
            raise

    async def _usable(self, task_id: str, uploads: Mapping[str, Path]) -> dict[str, Path]:
        """Of a task's files those that may take their place. One that replaces another is tried first."""
        taken: dict[str, Path] = {}
        for source, path in (await asyncio.to_thread(self._index.uploads.staged, task_id)).items():
            reason = await _unreadable(self._settings, SourceFile(path, source)) if source in uploads else None
            if reason is None:
                taken[source] = path
            else:
                self.refused[task_id][source] = f"{reason}; the file of before is kept"
        return taken

    async def _conclude(self, summary: Summary) -> None:
        """What belongs to the run, before another may begin."""
        self._progress.stage("checking" if self._kind == "delete" else "publishing")
        self.results = await asyncio.to_thread(self._settle, summary)

    def _settle(self, summary: Summary) -> dict[str, TaskResult]:
        version, held = self._index.held_by()
        results = {live.task.id: self._result(live, version, held, summary.skipped) for live in self._batch}
        for live in self._batch:
            if self._kind == "upload":
                skipped = {each.source for each in results[live.task.id].skipped}
                self._index.uploads.keep(live.task.id, [s for s in live.task.sources if s not in skipped])
            elif self._kind == "delete":
                results[live.task.id].absence = self._absence(live, version)
                for source in live.task.sources:
                    self._index.uploads.remove(source)
        return results

    def _result(
        self, live: _Live, version: str | None, held: dict[str, Holding], skipped: dict[str, str]
    ) -> TaskResult:
        skipped = skipped | self.refused[live.task.id]
        if self._kind != "reindex":
            own = live.task.sources
            skipped = {source: skipped[source] for source in own if source in skipped}
            held = {source: held[source] for source in own if source in held and source not in skipped}
        return TaskResult(
            version=version,
            documents=sum(holding.documents for holding in held.values()),
            chunks=sum(holding.chunks for holding in held.values()),
            skipped=[SkippedSource(source=source, reason=reason) for source, reason in skipped.items()],
        )

    def _absence(self, live: _Live, current: str | None) -> Absence | None:
        """Looks through the current version for what was deleted."""
        if current is None:
            return None
        root, sources = self._index.root, live.task.sources
        with contextlib.ExitStack() as stack:
            before: IndexVersion | None = None
            if live.record.before in root.versions() and live.record.before != current:
                before = stack.enter_context(root.open(live.record.before))
            found = remains(stack.enter_context(root.open(current)), sources, before)
        if found.found():
            raise StillFoundError(f"Version {current} still holds something of {', '.join(sources)}: {found}.")
        if live.record.purge:
            root.prune(1)
        kept_in = [name for name in root.versions() if name != current and _holds(root, name, sources)]
        return Absence(
            version=current,
            manifest=found.manifest,
            documents=found.documents,
            chunks=found.chunks,
            metadata=found.metadata,
            dense=found.dense,
            store=found.store,
            lexical=found.lexical,
            sparse=found.sparse,
            multi_vector=found.multi_vector,
            kept_in=kept_in,
        )


class _Meter:
    """Events of a run → the progress of its tasks, a few times a second."""

    def __init__(self, batch: Sequence[_Live]) -> None:
        self._batch = batch
        self._progress = Progress(stage="reading")
        self._begun = self._told = time.monotonic()
        self.skipped: dict[str, str] = {}

    def __call__(self, event: Event) -> None:
        match event:
            case Planned():
                self._begun = time.monotonic()
                self._set("indexing", files_total=event.changed, bytes_total=event.size_bytes)
            case Advanced():
                self._advance(event)
            case Waiting():
                self.wait(event.reason)
            case Published():
                for live in self._batch:
                    live.published = True
                self.stage("publishing")
            case Skipped():
                self.skipped[event.source] = event.reason
            case Noticed():
                pass  # the file was used

    def wait(self, reason: str) -> None:
        """The run waits."""
        self._set("waiting", reason=reason)

    def stage(self, stage: Stage) -> None:
        """The run does something else now."""
        self._set(stage)

    def _advance(self, event: Advanced) -> None:
        now = time.monotonic()
        if now - self._told < _TOLD_EVERY_S and event.files < self._progress.files_total:
            return
        seconds, total = max(now - self._begun, 1e-3), self._progress.bytes_total
        share = min(event.size_bytes / total, 1.0) if total else 1.0
        self._set(
            "indexing" if event.files < self._progress.files_total else "publishing",
            files_done=event.files,
            chunks_done=event.chunks,
            bytes_done=min(event.size_bytes, total),
            chunks_per_s=round(event.embedded / seconds, 2),
            eta_s=round(seconds * (1 - share) / share, 1) if share else None,
        )

    def _set(self, stage: Stage, *, reason: str | None = None, **changes: Any) -> None:
        self._told = time.monotonic()
        self._progress = self._progress.model_copy(update={"stage": stage, "reason": reason, **changes})
        for live in self._batch:
            live.advance(self._progress)


def _next_batch(queue: list[_Live]) -> list[_Live]:
    """Takes the oldest task and those right behind it that one run can do together."""
    batch = [queue.pop(0)]
    while queue and queue[0].task.kind == batch[0].task.kind:
        batch.append(queue.pop(0))
    return batch


def _listings(index: _Index, limit: int, after: str | None) -> SourceListings:
    version, held = index.held_by()
    uploads = index.uploads.files()
    names = sorted(held.keys() | uploads.keys())
    page = [name for name in names if after is None or name > after][: limit + 1]
    listed: list[SourceListing] = []
    for name in page[:limit]:
        holding, upload = held.get(name), uploads.get(name)
        told = _stat(upload) if upload is not None else None
        listed.append(
            SourceListing(
                source=name,
                title=(holding.title if holding is not None else None) or PurePosixPath(name).name,
                documents=holding.documents if holding is not None else 0,
                chunks=holding.chunks if holding is not None else 0,
                size_bytes=told.st_size if told is not None else None,
                sha256=holding.sha256 if holding is not None else None,
                origin="upload" if is_upload(name) else "folder",
                uploaded_at=datetime.fromtimestamp(told.st_mtime, timezone.utc) if told is not None else None,
            )
        )
    return SourceListings(documents=listed, next=page[limit - 1] if len(page) > limit else None, version=version)


def _stat(file: Path) -> os.stat_result | None:
    """Of an upload; None where a deletion has just removed it."""
    try:
        return file.stat()
    except FileNotFoundError:
        return None


def _holds(root: IndexRoot, version: str, sources: Sequence[str]) -> bool:
    try:
        with root.open(version) as opened:
            return any(source in opened.manifest.sources for source in sources)
    except (DamagedIndexError, UnsupportedFormatError):
        return True  # as far as anybody can tell


async def _unreadable(settings: IngestServerSettings, file: SourceFile) -> str | None:
    """Why a file gives no document; None where it gives one."""
    async with LocalExecutor(settings).parsing([file]) as parser:
        try:
            async with contextlib.aclosing(parser.parse(file)) as items:
                async for item in items:
                    if not isinstance(item, str):
                        return None
        except SkippedFileError as error:
            return str(error)
    return "holds no text"


def _unusable(result: TaskResult) -> NothingUsableError:
    reasons = "; ".join(f"{skipped.source}: {skipped.reason}" for skipped in result.skipped[:3])
    more = f" and {len(result.skipped) - 3} more" if len(result.skipped) > 3 else ""
    return NothingUsableError(f"No file could be used; the index is left as it is. {reasons}{more}.")


def _error(error: BaseException | None) -> TaskError:
    if isinstance(error, IngestError):
        return TaskError(code=error.code, message=str(error))
    if isinstance(error, ServiceError):
        return TaskError(code=error.code, message=error.message)
    return TaskError(code="internal", message="The run failed. The service's log has the reason under the task's id.")


async def _either(*events: asyncio.Event) -> None:
    """Waits until one of them is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
