"""Ingestion as a service: queues uploads, deletions and re-indexing as tasks for its workers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Collection, Mapping
from datetime import datetime, timezone
from types import MappingProxyType
from typing import IO

from chassis.errors import NotFoundError, NotReadyError, ServiceError
from chassis.principal import Principal
from ingest.access import Caller, share
from ingest.concurrency import locked, open_lock, run_together, shield_to_completion
from ingest.errors import IngestError, NotUploadedError
from ingest.index_worker import IndexWorker
from ingest.loaders import LOADERS
from ingest.served_index import ServedIndex
from ingest.settings import IngestServerSettings
from ingest.sources import UPLOADS, is_upload
from ingest.task_queue import TaskQueue, no_task
from ingest.task_store import Record, TaskStore
from ingest.telemetry import BYTES
from ingest.watch import watch
from ingest.wire import SkippedSources, SourceListings, Task, TaskKind, UploadLimits
from vectorstore.versions import AccessRules, Acl, names_of

logger = logging.getLogger("ingest")

MAX_PAGE = 1_000
"""Maximum number of files or tasks on a page."""

_BROKEN = "The tasks of this service cannot be read or written. Its log has the reason."


class IngestService:
    """The logic behind the HTTP routes.

    Methods that take the name of an index raise NotFoundError if the service does not serve it. Methods that queue a
    task raise BusyError if too many tasks are unfinished.
    """

    def __init__(self, settings: IngestServerSettings) -> None:
        """Does no I/O."""
        self._settings = settings
        self._queue: TaskQueue | None = None
        self._broken = False
        self._opened = asyncio.Event()
        self._stopping = asyncio.Event()
        self._indexes = {name: ServedIndex(settings, name) for name in settings.indexes()}

    # Lifecycle

    def check(self) -> None:
        """Raises IngestError if the state folder cannot be written."""
        self._open_lock().close()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Runs tasks until the block ends. Unfinished tasks stay on disk for the next service.

        While another service uses the same state folder, this one and its requests wait, so that it can replace the
        other without losing a request. Raises IngestError if the state folder cannot be written.
        """
        work = asyncio.create_task(self._work(self._open_lock()))
        try:
            yield
        finally:
            self.stop()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def opened(self) -> None:
        """Waits until the service handles requests. Raises NotReadyError if another service does not end in time."""
        if not self._opened.is_set():
            try:
                await asyncio.wait_for(self._opened.wait(), self._settings.timeout_s)
            except asyncio.TimeoutError:
                raise NotReadyError(
                    "Another ingest service uses the same state folder; this one waits for it to end."
                ) from None

    def stop(self) -> None:
        """Ends the event streams of clients."""
        self._stopping.set()

    def not_ready_reason(self) -> str | None:
        """Why nothing can be indexed now; None if it can."""
        if self._broken:
            return _BROKEN
        if not self._settings.tokenizer.is_file():
            return f"There is no tokenizer at {self._settings.tokenizer} (INGEST_TOKENIZER)."
        return None

    async def _work(self, lock: IO[str]) -> None:
        state = self._settings.state()

        def warn() -> None:
            logger.warning("another ingest service uses %s: waiting until it ends", state)

        try:
            async with locked(lock, warn):
                with contextlib.closing(TaskStore(state / "tasks.sqlite")) as store:
                    await self._run_workers(store)
        except Exception:
            logger.exception("the tasks in %s cannot be read or written", state)
            self._broken = True
            self._opened.set()

    async def _run_workers(self, store: TaskStore) -> None:
        queue = TaskQueue(store, lambda task: self._indexes[task.index].uploads.discard(task.id), self._stopping)
        for record in await asyncio.to_thread(self._recover, store):
            await queue.add(record)
        self._queue = queue
        self._opened.set()
        works = [IndexWorker(self._settings, index, queue).run() for index in self._indexes.values()]
        if self._settings.watch_s:
            works += [watch(self._settings, index) for index in self._indexes.values()]
        # Returns when all have stopped, because they need the task store and the lock until then.
        await run_together(*works)

    def _recover(self, store: TaskStore) -> list[Record]:
        """Unfinished tasks of an earlier service, which start again."""
        records = [record for record in store.unfinished() if record.task.index in self._indexes]
        for index in self._indexes.values():
            index.uploads.clean([record.task.id for record in records])
        store.forget()
        return records

    def _open_lock(self) -> IO[str]:
        state = self._settings.state()
        try:
            return open_lock(state / "lock")
        except OSError as error:
            raise IngestError(f"{state} cannot be written: {error.strerror} (INGEST_STATE_DIR).") from error

    # Requests

    def limits(self) -> UploadLimits:
        """Limits of one upload request."""
        return UploadLimits(
            max_file_bytes=self._settings.max_upload_file_bytes,
            max_files=self._settings.max_upload_files,
            max_request_bytes=self._settings.max_body_bytes,
            types=list(LOADERS.suffixes),
        )

    def caller(self, principal: Principal | None) -> Caller | None:
        """The caller's rights; None if callers are not identified, so that each may do everything."""
        if not self._settings.identifies_callers:
            return None
        names = names_of(principal)
        return Caller(principal, any(manager in names for manager in self._settings.managers))

    async def rules(
        self, name: str, caller: Caller | None, changes: Mapping[str, Acl | None] = MappingProxyType({})
    ) -> AccessRules:
        """Who may read the documents of an index, after changes: path → its rule, or None to remove it.

        Raises:
            InvalidAccessError: a path or an entry is malformed.
            ForbiddenError: the caller is not a manager.
        """
        file = self._index(name).access
        if caller is not None:
            caller.check_manages()

        def change() -> AccessRules:
            if changes:
                with file.changing() as rules:
                    for path, rule in changes.items():
                        rules.pop(path, None)
                        rules |= {} if rule is None else {path: rule}
            return file.read()

        return await asyncio.to_thread(change)

    async def documents(self, name: str, caller: Caller | None, limit: int, after: str | None) -> SourceListings:
        """A page of an index's files that the caller may read, sorted by name."""
        return await asyncio.to_thread(self._index(name).listing, caller, limit, after)

    async def skipped(self, name: str, caller: Caller | None, limit: int, after: str | None) -> SkippedSources:
        """A page of the files that an index cannot use and that the caller may read, sorted by name."""
        return await asyncio.to_thread(self._index(name).skipped, caller, limit, after)

    async def upload(
        self,
        name: str,
        content_type: str,
        body: AsyncIterator[bytes],
        caller: Caller | None,
        readers: Collection[str] = (),
    ) -> Task:
        """Receives a form with files and queues the task that indexes them.

        `readers`: who may read the files, if callers are identified; by default only the caller.

        Raises a ServiceError if the upload is rejected. None of its files are kept then.
        """
        index = self._index_for_task(name)
        folder = UPLOADS if caller is None else caller.folder
        with index.uploads.incoming(content_type) as receiver:
            size_bytes = await receiver.receive(body)

            async def accept() -> Task:
                task_id = uuid.uuid4().hex
                async with index.accepting:
                    waiting = self.queue.unfinished(name)
                    sources = await asyncio.to_thread(index.uploads.stage, receiver, task_id, waiting, folder)
                    try:
                        if caller is not None:
                            await asyncio.to_thread(share, index.access, caller, sources, readers)
                        return await self._add("upload", name, sources, task_id=task_id)
                    except ServiceError:
                        await asyncio.to_thread(index.uploads.discard, task_id)
                        raise

            # Even if the client disconnects now, its files either belong to a task or are removed.
            task = await shield_to_completion(accept())
        BYTES.inc(size_bytes)
        return task

    async def delete(self, name: str, source: str, caller: Caller | None, *, purge: bool | None) -> Task:
        """Queues the task that publishes a version without an uploaded file.

        `purge`: also remove earlier versions, which still contain the file. Default: `INGEST_PURGE_DELETED`.

        Raises:
            NotFoundError: the index has no such file.
            NotUploadedError: the file was not uploaded.
            ForbiddenError: another caller uploaded it.
        """
        index = self._index_for_task(name)
        if not await asyncio.to_thread(index.has, source, caller):
            raise NotFoundError(
                f"Index {name} has no {source[:200]!r}. GET /v1/indexes/{name}/documents lists its files. To stop an "
                "upload that is still queued, cancel its task.",
                field="source",
            )
        if not is_upload(source):
            raise NotUploadedError(
                f"{source[:200]!r} was not uploaded: it comes from a folder that the index follows. Delete it there, "
                "then re-index.",
                field="source",
            )
        if caller is not None:
            caller.check_owns([source])
        return await self._add("delete", name, [source], purge=self._settings.purge_deleted if purge is None else purge)

    async def reindex(self, name: str, caller: Caller | None, *, allow_removal: bool) -> Task:
        """Queues the task that reads all files again. `allow_removal`: see `pipeline.run`.

        Raises ForbiddenError if the caller is not a manager.
        """
        self._index_for_task(name)
        if caller is not None:
            caller.check_manages()
        return await self._add("reindex", name, [], allow_removal=allow_removal)

    async def tasks(self, name: str | None, caller: Caller | None, limit: int) -> list[Task]:
        """The newest tasks that the caller may read, of an index or of all (None), newest first."""
        if name is not None:
            self._index(name)
        if caller is None or caller.is_manager:
            return await self.queue.latest(name, limit)
        return [self._shown(task) for task in await self.queue.latest(name, MAX_PAGE) if self._sees(caller, task)][
            :limit
        ]

    async def task(self, task_id: str, caller: Caller | None) -> Task:
        """The current state of a task. Raises NotFoundError if there is none, or if the caller may not read it."""
        task = await self.queue.get(task_id)
        if caller is None or caller.is_manager:
            return task
        if not self._sees(caller, task):
            raise no_task(task_id)
        return self._shown(task)

    async def follow(self, task_id: str, caller: Caller | None, last: str | None) -> AsyncIterator[tuple[str, Task]]:
        """As `TaskQueue.follow`, as the caller sees the task. Call `task` first."""
        async for event_id, task in self.queue.follow(task_id, last):
            yield event_id, task if caller is None or caller.is_manager else self._shown(task)

    async def cancel(self, task_id: str, caller: Caller | None) -> Task:
        """As `TaskQueue.cancel`. Raises NotFoundError or ForbiddenError if it is not the caller's."""
        task = await self.task(task_id, caller)
        if caller is not None:
            caller.check_owns(task.sources)
        cancelled = await self.queue.cancel(task_id)
        return cancelled if caller is None or caller.is_manager else self._shown(cancelled)

    def _sees(self, caller: Caller, task: Task) -> bool:
        index = self._indexes.get(task.index)
        return index is not None and caller.sees_task(index.access.read(), task)

    def _shown(self, task: Task) -> Task:
        """The task without numbers about other files."""
        return task.model_copy(update={"progress": task.progress.model_copy(update={"chunks_done": 0})})

    @property
    def queue(self) -> TaskQueue:
        """The tasks. Raises NotReadyError if they cannot be read or written."""
        if self._queue is None or self._broken:
            raise NotReadyError(_BROKEN)
        return self._queue

    def _index(self, name: str) -> ServedIndex:
        index = self._indexes.get(name)
        if index is None:
            known = ", ".join(self._indexes)
            raise NotFoundError(f"This service does not serve an index {name[:80]!r}. It serves {known}.", field="name")
        return index

    def _index_for_task(self, name: str) -> ServedIndex:
        index = self._index(name)
        self.queue.check_capacity()
        return index

    async def _add(
        self,
        kind: TaskKind,
        name: str,
        sources: list[str],
        *,
        task_id: str | None = None,
        purge: bool = False,
        allow_removal: bool = False,
    ) -> Task:
        task = Task(
            id=task_id or uuid.uuid4().hex,
            kind=kind,
            index=name,
            state="queued",
            created_at=datetime.now(timezone.utc),
            sources=sources,
            allow_removal=allow_removal,
        )
        return await self.queue.add(Record(task, purge))
