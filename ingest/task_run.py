"""One pipeline run for a batch of tasks of the same kind, with their progress and results."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from chassis import tracing
from ingest import pipeline
from ingest.errors import NothingUsableError, SkippedFileError, StillFoundError
from ingest.events import Advanced, Event, Noticed, Planned, Published, Skipped, Summary, Waiting
from ingest.executor import LocalExecutor
from ingest.loaders import SourceFile
from ingest.parser import Parser
from ingest.served_index import ServedIndex
from ingest.settings import IngestServerSettings
from ingest.sources import followed
from ingest.sources.uploads import UploadSource
from ingest.task_queue import LiveTask
from ingest.telemetry import INGESTION
from ingest.wire import Absence, Progress, SkippedSource, SourceNotice, Stage, TaskResult
from vectorstore.versions import Holding, IndexVersion, remains

_REPORT_EVERY_S = 0.25


class TaskRun:
    """A run of the pipeline for a batch of tasks."""

    def __init__(self, settings: IngestServerSettings, index: ServedIndex, batch: Sequence[LiveTask]) -> None:
        self._settings = settings
        self._index = index
        self._batch = batch
        self._kind = batch[0].task.kind
        self._progress = _ProgressMeter(batch)
        self.refused: dict[str, dict[str, str]] = {live.task.id: {} for live in batch}
        """Task id → name of each unusable file that would replace an upload → reason."""
        self.results: dict[str, TaskResult] = {}
        """Task id → result, after a successful run."""
        self.partial: dict[str, TaskResult] = {}
        """Task id → result, after a run that found nothing usable."""

    async def run(self) -> None:
        """Runs the pipeline in a new trace. Raises IngestError if the run fails."""
        with tracing.begin(INGESTION, {}) as span:
            tracing.program_headers.set(span.headers)
            await self._run()

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
                list(settings.sources) or await asyncio.to_thread(followed, index.folder),
                self._progress,
                executor=LocalExecutor(settings, lambda reason: self._progress(Waiting(reason))),
                uploads=UploadSource(str(index.folder), files=uploads),
                scope="reindex" if self._kind == "reindex" else "uploads",
                allow_removal=any(live.task.allow_removal for live in self._batch),
                on_finished=self._finish,
            )
        except NothingUsableError:
            current, skipped = await asyncio.to_thread(index.current), self._progress.skipped
            self.partial = {live.task.id: self._result(live, current, {}, skipped) for live in self._batch}
            raise

    async def _usable(self, task_id: str, uploads: Mapping[str, Path]) -> dict[str, Path]:
        """The files of a task to index. A file that replaces an upload must pass a trial parse first."""
        usable: dict[str, Path] = {}
        for source, path in (await asyncio.to_thread(self._index.uploads.staged, task_id)).items():
            reason = await _unusable_reason(self._settings, SourceFile(path, source)) if source in uploads else None
            if reason is None:
                usable[source] = path
            else:
                self.refused[task_id][source] = f"{reason}; the previous file is kept"
        return usable

    async def _finish(self, summary: Summary) -> None:
        """Completes before another run of the index can start."""
        self._progress.set("checking" if self._kind == "delete" else "publishing")
        self.results = await asyncio.to_thread(self._settle, summary)

    def _settle(self, summary: Summary) -> dict[str, TaskResult]:
        version, held = self._index.contents()
        results = {
            live.task.id: self._result(live, version, held, summary.skipped, summary.stale) for live in self._batch
        }
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
        self,
        live: LiveTask,
        version: str | None,
        held: dict[str, Holding],
        skipped: dict[str, str],
        stale: Collection[str] = (),
    ) -> TaskResult:
        skipped = skipped | self.refused[live.task.id]
        if self._kind != "reindex":
            own = live.task.sources
            skipped = {source: skipped[source] for source in own if source in skipped}
            held = {source: held[source] for source in own if source in held and source not in skipped}
        noticed = self._progress.notices
        if self._kind != "reindex":
            noticed = [each for each in noticed if each.source in live.task.sources]
        return TaskResult(
            version=version,
            documents=sum(holding.documents for holding in held.values()),
            chunks=sum(holding.chunks for holding in held.values()),
            skipped=[
                SkippedSource(source=source, reason=reason, stale=source in stale) for source, reason in skipped.items()
            ],
            notices=noticed,
        )

    def _absence(self, live: LiveTask, current: str | None) -> Absence | None:
        """Searches the current version for remains of the deleted files."""
        if current is None:
            return None
        root, sources = self._index.root, live.task.sources
        with contextlib.ExitStack() as stack:
            before: IndexVersion | None = None
            if live.record.before in root.versions() and live.record.before != current:
                before = stack.enter_context(root.open(live.record.before))
            found = remains(stack.enter_context(root.open(current)), sources, before)
        if found.found():
            raise StillFoundError(f"Version {current} still has parts of {', '.join(sources)}: {found}.")
        if live.record.purge:
            root.prune(1)
        kept_in = [name for name in root.versions() if name != current and self._index.has_any(name, sources)]
        return Absence(version=current, kept_in=kept_in, **dataclasses.asdict(found))


class _ProgressMeter:
    """Converts events of a run to the progress of its tasks, a few times per second."""

    def __init__(self, batch: Sequence[LiveTask]) -> None:
        self._batch = batch
        self._progress = Progress(stage="reading")
        self._started = self._reported = time.monotonic()
        self.skipped: dict[str, str] = {}
        """Name of a file → reason."""
        self.notices: list[SourceNotice] = []

    def __call__(self, event: Event) -> None:
        match event:
            case Planned():
                self._started = time.monotonic()
                self.set("indexing", files_total=event.changed, bytes_total=event.size_bytes)
            case Advanced():
                self._advance(event)
            case Waiting():
                self.set("waiting", reason=event.reason)
            case Published():
                for live in self._batch:
                    live.published = True
                self.set("publishing")
            case Skipped():
                self.skipped[event.source] = event.reason
            case Noticed():
                self.notices.append(SourceNotice(source=event.source, text=event.text))

    def _advance(self, event: Advanced) -> None:
        now = time.monotonic()
        if now - self._reported < _REPORT_EVERY_S and event.files < self._progress.files_total:
            return
        seconds, total = max(now - self._started, 1e-3), self._progress.bytes_total
        share = min(event.size_bytes / total, 1.0) if total else 1.0
        self.set(
            "indexing" if event.files < self._progress.files_total else "publishing",
            files_done=event.files,
            chunks_done=event.chunks,
            bytes_done=min(event.size_bytes, total),
            chunks_per_s=round(event.embedded / seconds, 2),
            eta_s=round(seconds * (1 - share) / share, 1) if share else None,
        )

    def set(self, stage: Stage, *, reason: str | None = None, **changes: Any) -> None:
        """Updates the stage and the counts."""
        self._reported = time.monotonic()
        self._progress = self._progress.model_copy(update={"stage": stage, "reason": reason, **changes})
        for live in self._batch:
            live.show(live.with_changes(progress=self._progress))


async def _unusable_reason(settings: IngestServerSettings, file: SourceFile) -> str | None:
    """Why a file gives no document; None if it gives one."""
    async with Parser(settings) as parser:
        try:
            async with contextlib.aclosing(parser.parse(file)) as items:
                async for item in items:
                    if not isinstance(item, str):
                        return None
        except SkippedFileError as error:
            return str(error)
    return "holds no text"
