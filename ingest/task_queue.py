"""The tasks of the service: queueing, order, cancellation and progress. Unfinished tasks survive a restart."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime, timezone
from typing import Any

from chassis.errors import BusyError, NotFoundError, ServiceError
from ingest.access import folder_of
from ingest.concurrency import first_of, shield_to_completion
from ingest.errors import TaskEndedError
from ingest.task_store import Record, TaskStore, revision_after
from ingest.telemetry import TASKS, WAITING
from ingest.wire import FINAL, Progress, State, Task, TaskKind

logger = logging.getLogger("ingest")

_MAX_UNFINISHED = 1_000


class LiveTask:
    """A task that has not ended."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.changed = asyncio.Event()
        """Set at the next change, then replaced by a new event."""
        self.cancelled = False
        """Whether a client has asked to cancel it."""
        self.published = False
        """Whether its result is published, so that it can no longer be cancelled."""
        self.interrupt: Callable[[], object] = lambda: None
        """Stops its run."""

    @property
    def task(self) -> Task:
        """The task, as clients see it."""
        return self.record.task

    def with_changes(self, **changes: Any) -> Record:
        """A copy of the record with changed fields of the task."""
        task = self.task.model_copy(update=changes)
        return dataclasses.replace(self.record, task=task, revision=revision_after(self.record.revision))

    def show(self, record: Record) -> None:
        """Replaces the record and wakes the task's followers."""
        self.record = record
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()


class TaskQueue:
    """Unfinished tasks, in memory and on disk. Ended tasks are only on disk."""

    def __init__(self, store: TaskStore, discard: Callable[[Task], None], stopping: asyncio.Event) -> None:
        """Creates an empty queue.

        `discard`: removes the files of an ended task; may block. `stopping`: once it is set, no call waits for a task.
        """
        self._store = store
        self._discard = discard
        self._stopping = stopping
        self._live: dict[str, LiveTask] = {}
        self._queued: dict[str, list[LiveTask]] = defaultdict(list)
        self._task_added: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

    # For the service

    def unfinished(self, index: str) -> list[str]:
        """Ids of the tasks of an index that have not ended, oldest first."""
        return [live.task.id for live in self._live.values() if live.task.index == index]

    def check_capacity(self) -> None:
        """Raises BusyError if the queue is full."""
        if len(self._live) >= _MAX_UNFINISHED:
            raise BusyError(f"{len(self._live):,} tasks are unfinished: wait until some have ended.", retry_after_s=10)

    async def add(self, record: Record) -> Task:
        """Queues a task, new or of an earlier service. It is on disk when this returns.

        Raises NoSpaceError if the disk is full.
        """

        async def add_task() -> Task:
            live = LiveTask(record)
            await self.update(live, state="queued", started_at=None, progress=Progress())
            self._live[record.task.id] = live
            WAITING.labels(record.task.kind).inc()
            self._queued[record.task.index].append(live)
            self._task_added[record.task.index].set()
            return live.task

        # A client that disconnects must not leave a task on disk that is not queued.
        return await shield_to_completion(add_task())

    async def get(self, task_id: str) -> Task:
        """The current state of a task. Raises NotFoundError if there is none."""
        live = self._live.get(task_id)
        if live is not None:
            return live.task
        record = await asyncio.to_thread(self._store.get, task_id)
        if record is None:
            raise no_task(task_id)
        return record.task

    async def latest(self, index: str | None, limit: int) -> list[Task]:
        """The newest tasks of an index, or of all indexes (None), newest first."""
        records = await asyncio.to_thread(self._store.latest, index, limit)
        return [self._live[r.task.id].task if r.task.id in self._live else r.task for r in records]

    async def follow(self, task_id: str, last: str | None) -> AsyncIterator[tuple[str, Task]]:
        """Yields an event id and the task, now and after every change until it ends.

        Skips the event with the id `last`, which the client has.
        """
        live = self._live.get(task_id)
        while live is not None and not self._stopping.is_set():
            changed, event_id = live.changed, str(live.record.revision)
            if event_id != last:
                last = event_id
                yield event_id, live.task
            if live.task.state in FINAL:
                return
            await first_of(changed, self._stopping)
        if live is None and (record := await asyncio.to_thread(self._store.get, task_id)) is not None:
            yield str(record.revision), record.task

    async def cancel(self, task_id: str) -> Task:
        """Cancels a task and returns it once it has ended. If its result is already published, the task succeeds.

        Raises NotFoundError if there is none, and TaskEndedError if it has already ended.
        """
        live = self._live.get(task_id)
        if live is None:
            ended = await self.get(task_id)
            raise TaskEndedError(f"Task {task_id} has {ended.state} already.", field="task_id")
        if not live.published:
            live.cancelled = True
            queued = self._queued[live.task.index]
            if live in queued:
                queued.remove(live)
                # Shielded: nothing else ends a task that is no longer queued, if the client disconnects now.
                await shield_to_completion(self._end_queued(live))
            else:
                live.interrupt()
        while live.task.state not in FINAL and not self._stopping.is_set():
            await first_of(live.changed, self._stopping)
        return live.task

    # For the workers

    async def next_batch(self, index: str) -> list[LiveTask]:
        """Waits for the oldest task of an index. Returns it with the directly following tasks of the same kind.

        Tasks of several callers have a run each, because an error may name any file of its run.
        """
        queued = self._queued[index]
        while not queued:
            self._task_added[index].clear()
            await self._task_added[index].wait()
        batch = [queued.pop(0)]
        while queued and _batch_of(queued[0].task) == _batch_of(batch[0].task):
            batch.append(queued.pop(0))
        return batch

    async def requeue(self, batch: Sequence[LiveTask]) -> None:
        """Puts tasks back at the head of the queue."""
        for live in batch:
            live.cancelled = live.cancelled and not live.published
            await self.update(live, state="queued", progress=Progress())
        if batch:
            self._queued[batch[0].task.index][:0] = batch

    async def update(self, live: LiveTask, *, keep: bool = True, **changes: Any) -> None:
        """Changes a task. Clients see the change only once it is on disk, so that a crash cannot undo it."""
        changed = live.with_changes(**changes)
        if keep:
            await asyncio.to_thread(self._store.put, changed)
        live.show(changed)

    async def save(self, batch: Sequence[LiveTask]) -> None:
        """Writes the progress of these tasks to disk."""
        for live in batch:
            await asyncio.to_thread(self._store.put, live.record)

    async def abandon(self, live: LiveTask, **changes: Any) -> None:
        """Fails a task in memory only, if its state cannot be written. It runs again when the service restarts."""
        if live.task.id in self._live:
            await self.end(live, "failed", keep=False, **changes)

    async def end(self, live: LiveTask, state: State, *, keep: bool = True, **changes: Any) -> None:
        """Ends a task and discards its files. `keep`: whether to write its end to disk; if not, its files stay."""
        progress = live.task.progress.model_copy(update={"stage": "done", "eta_s": None, "reason": None})
        now = datetime.now(timezone.utc)
        await self.update(live, keep=keep, state=state, ended_at=now, progress=progress, **changes)
        del self._live[live.task.id]
        WAITING.labels(live.task.kind).dec()
        TASKS.labels(live.task.kind, state).inc()
        logger.info("task %s: %s of index %s %s", live.task.id, live.task.kind, live.task.index, state)
        if keep:
            # Only now: if the service crashes before the state is on disk, the task runs again and needs its files.
            await asyncio.to_thread(self._discard, live.task)

    async def _end_queued(self, live: LiveTask) -> None:
        try:
            await self.end(live, "cancelled")
        except ServiceError:
            # It is still queued on disk, so queue it again in memory.
            live.cancelled = False
            queued = self._queued[live.task.index]
            queued.append(live)
            queued.sort(key=lambda each: each.task.created_at)
            self._task_added[live.task.index].set()
            raise


def no_task(task_id: str) -> NotFoundError:
    """The error for a task that does not exist."""
    return NotFoundError(f"There is no task {task_id[:80]!r}, or it ended long ago.", field="task_id")


def _batch_of(task: Task) -> tuple[TaskKind, frozenset[str]]:
    return task.kind, frozenset(map(folder_of, task.sources))
