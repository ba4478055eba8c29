"""Runs the tasks of one index, one pipeline run at a time."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from datetime import datetime, timezone

from chassis.errors import ServiceError
from ingest.errors import IngestError, NothingUsableError
from ingest.served_index import ServedIndex
from ingest.settings import IngestServerSettings
from ingest.task_queue import LiveTask, TaskQueue
from ingest.task_run import TaskRun
from ingest.telemetry import DOCUMENTS
from ingest.wire import Progress, TaskError, TaskResult

logger = logging.getLogger("ingest")

_SAVE_EVERY_S = 2.0
_ABSOLUTE_FOLDERS = re.compile(r"(?<![\w/:.])/(?:[^/\n'\",;:]+/)+")
"""Folders of an absolute path, which are for the operator only."""


class IndexWorker:
    """Takes tasks of one index from the queue, runs them and records their results."""

    def __init__(self, settings: IngestServerSettings, index: ServedIndex, tasks: TaskQueue) -> None:
        self._settings = settings.model_copy(update={"index_name": index.name})
        self._index = index
        self._tasks = tasks

    async def run(self) -> None:
        """Runs until it is cancelled."""
        while True:
            batch = await self._tasks.next_batch(self._index.name)
            try:
                await self._work(batch)
            except Exception as error:
                # For example, the disk with the tasks is full.
                logger.exception("tasks of index %s cannot be written", self._index.name)
                for live in batch:
                    await self._tasks.abandon(live, error=task_error(error))

    async def _work(self, batch: list[LiveTask]) -> None:
        """One run for a batch of tasks of the same kind."""
        before = await asyncio.to_thread(self._index.current)
        for live in batch:
            live.record.before = live.record.before or before
            started = live.task.started_at or datetime.now(timezone.utc)
            await self._tasks.update(live, state="running", started_at=started, progress=Progress(stage="reading"))
        run = TaskRun(self._settings, self._index, batch)
        running = asyncio.create_task(run.run())
        for live in batch:
            live.interrupt = running.cancel
        if any(live.cancelled for live in batch):
            running.cancel()
        saver = asyncio.create_task(self._save_progress(batch))
        try:
            await asyncio.wait([running])
        finally:
            running.cancel()
            saver.cancel()
            await asyncio.gather(running, saver, return_exceptions=True)
            for live in batch:
                live.interrupt = lambda: None
        if run.results:
            await self._end_succeeded(batch, run.results)
        elif running.cancelled():
            await self._end_cancelled(batch)
        else:
            await self._end_failed(batch, run, running.exception())

    async def _save_progress(self, batch: Sequence[LiveTask]) -> None:
        while True:
            await asyncio.sleep(_SAVE_EVERY_S)
            await self._tasks.save(batch)

    async def _end_succeeded(self, batch: list[LiveTask], results: dict[str, TaskResult]) -> None:
        for live in batch:
            result = results[live.task.id]
            if live.task.kind == "upload" and len(result.skipped) == len(live.task.sources):
                skipped = {each.source: each.reason for each in result.skipped}
                error = task_error(NothingUsableError("No file could be used", skipped))
                await self._tasks.end(live, "failed", result=result, error=error)
                continue
            await self._tasks.end(live, "succeeded", result=result)
            if live.task.kind == "upload":
                DOCUMENTS.inc(result.documents)

    async def _end_cancelled(self, batch: list[LiveTask]) -> None:
        # A published task runs again: the next run finds nothing to do and returns its result.
        again = [live for live in batch if live.published or not live.cancelled]
        for live in batch:
            if live not in again:
                await self._tasks.end(live, "cancelled")
        await self._tasks.requeue(again)

    async def _end_failed(self, batch: list[LiveTask], run: TaskRun, error: BaseException | None) -> None:
        if isinstance(error, IngestError):
            logger.warning("a run of index %s failed: %s", self._index.name, error)
        elif not isinstance(error, ServiceError):
            logger.error("a run of index %s failed", self._index.name, exc_info=error)
        for live in batch:
            if live.task.kind == "upload":
                # Keep the files for the next run, except unusable ones.
                partial = run.partial.get(live.task.id)
                unusable = [each.source for each in partial.skipped] if partial else run.refused[live.task.id]
                wanted = [source for source in live.task.sources if source not in unusable]
                await asyncio.to_thread(self._index.uploads.keep, live.task.id, wanted)
            await self._tasks.end(live, "failed", result=run.partial.get(live.task.id), error=task_error(error))


def task_error(error: BaseException | None) -> TaskError:
    """The error of a task, without absolute paths."""
    if isinstance(error, IngestError):
        return TaskError(code=error.code, message=_ABSOLUTE_FOLDERS.sub("", str(error)))
    if isinstance(error, ServiceError):
        return TaskError(code=error.code, message=error.message)
    return TaskError(code="internal", message="The run failed. The service's log has the reason under the task's id.")
