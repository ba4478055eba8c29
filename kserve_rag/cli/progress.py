"""What the command line shows: progress, answers, tables. No decisions."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from ingest.events import Advanced, Event, Noticed, Planned, Summary, Waiting
from ingest.progress import skipped_lines

_SHOWN_FROM_S = 0.5
"""What takes less time than this is not worth a line."""
_SHOWN_CHARS = 160
"""Longest quote that is shown whole."""


class ProgressDisplay:
    """A live board of what is being waited for; on anything but a terminal, a line for each thing that is done.

    A `kserve_rag.progress.Progress`, told from any thread, and for `ingest` an `OnProgress`.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._begun: dict[str, float] = {}
        self._tasks: dict[str, tuple[Progress, TaskID]] = {}
        self._to_read = 0
        self._notes = Progress(SpinnerColumn(), TextColumn("{task.description}"), console=console)
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._files = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._live = Live(Group(self._bars, self._files, self._notes), console=console, transient=True)

    def __enter__(self) -> ProgressDisplay:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def update(self, task: str, done: int, total: int | None) -> None:
        """A bar."""
        with self._lock:
            self._begun.setdefault(task, time.monotonic())
            self._show(self._bars, task, escape(task), completed=done, total=total)

    def note(self, task: str, text: str) -> None:
        """A line with a spinner; the end of a task where the text is empty."""
        with self._lock:
            if text:
                self._begun.setdefault(task, time.monotonic())
                self._show(self._notes, task, f"{escape(task)} [dim]{escape(text)}[/]")
                return
            begun = self._begun.pop(task, None)
            self._drop(task)
            if begun is not None and time.monotonic() - begun >= _SHOWN_FROM_S:
                took = f"[dim]{time.monotonic() - begun:.1f} s[/]"
                self._console.print(f"[green]✓[/] {escape(task)} {took}")

    def ingest(self, event: Event) -> None:
        """What an ingestion tells."""
        if isinstance(event, Planned):
            self._begun["index"] = time.monotonic()
            self._to_read = event.changed
        elif isinstance(event, Advanced):
            elapsed = max(time.monotonic() - self._begun["index"], 0.001)
            rate = f"{event.chunks} chunks, {event.embedded / elapsed:.0f}/s"
            self._show(self._files, "index", "documents", completed=event.files, total=self._to_read, rate=rate)
        elif isinstance(event, Noticed):
            self._console.print(f"[yellow]note[/] {escape(event.source)}: {escape(event.text)}")
        elif isinstance(event, Waiting):
            self._console.print(f"[yellow]waiting[/] {escape(event.reason)}")

    def ingested(self, summary: Summary) -> None:
        """The end of an ingestion."""
        self._begun.pop("index", None)
        self._drop("index")
        if summary.unchanged:
            told = f"unchanged: {summary.documents} documents, {summary.chunks} chunks"
        else:
            told = (
                f"{summary.documents} documents, {summary.chunks} chunks; embedded {summary.embedded} in "
                f"{summary.seconds:.1f} s ({summary.chunks_per_s:.0f}/s), reused {summary.reused}"
            )
        for line in skipped_lines(summary):
            self._console.print(f"[yellow]{escape(line.strip())}[/]")
        more = "".join(
            f", {number} {what}"
            for number, what in ((summary.deleted, "deleted"), (len(summary.skipped), "skipped"))
            if number
        )
        self._console.print(f"[green]✓[/] index {told}{more} [dim]{summary.version}[/]")

    def _show(self, progress: Progress, task: str, description: str, **fields: Any) -> None:
        if task in self._tasks and self._tasks[task][0] is not progress:
            self._drop(task)
        if task not in self._tasks:
            self._tasks[task] = (progress, progress.add_task(description, **{"total": None, **fields}))
        self._tasks[task][0].update(self._tasks[task][1], description=description, **fields)

    def _drop(self, task: str) -> None:
        if task in self._tasks:
            progress, task_id = self._tasks.pop(task)
            progress.remove_task(task_id)


class Counts:
    """Bars of work that is counted, one after the other; nothing on anything but a terminal."""

    def __init__(self, console: Console, title: str) -> None:
        self._title = title
        self._embedding_of = 0
        self._tasks: dict[str, TaskID] = {}
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Counts:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def update(self, task: str, done: int, total: int) -> None:
        """A bar."""
        if task not in self._tasks:
            self._tasks[task] = self._bars.add_task(f"{escape(self._title)}: {escape(task)}", total=total)
        self._bars.update(self._tasks[task], completed=done, total=total)

    def ingest(self, event: Event) -> None:
        """What an ingestion tells: its bar counts kilobytes."""
        if isinstance(event, Planned):
            self._embedding_of = event.size_bytes
        elif isinstance(event, Advanced) and self._embedding_of:
            self.update("indexing (kB)", event.size_bytes // 1000, self._embedding_of // 1000)
