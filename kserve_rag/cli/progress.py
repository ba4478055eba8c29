"""Progress on the terminal."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars

from ingest.events import Advanced, Event, Noticed, Planned, Summary, Waiting
from ingest.progress import skipped_lines
from kserve_rag.progress import Progress

_MIN_REPORTED_S = 0.5
"""Shorter tasks are not reported when they end."""


def _bars(console: Console, *columns: ProgressColumn, **options: Any) -> Bars:
    return Bars(SpinnerColumn(), TextColumn("{task.description}"), *columns, console=console, **options)


class ProgressDisplay(Progress):
    """A live display of running tasks on a terminal; elsewhere, one line for each finished task.

    `ingest` is an `ingest.events.OnProgress`.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._started: dict[str, float] = {}
        self._tasks: dict[str, tuple[Bars, TaskID]] = {}
        self._changed_files = 0
        self._notes = _bars(console)
        self._bytes = _bars(console, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        self._files = _bars(
            console, BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn()
        )
        self._live = Live(Group(self._bytes, self._files, self._notes), console=console, transient=True)

    def __enter__(self) -> ProgressDisplay:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Hide the display until the block ends, for example to ask a question."""
        self._live.stop()
        yield
        self.__enter__()

    def update(self, task: str, done: int, total: int | None) -> None:
        """Show a bar of bytes."""
        with self._lock:
            self._started.setdefault(task, time.monotonic())
            self._show(self._bytes, task, escape(task), completed=done, total=total)

    def note(self, task: str, text: str) -> None:
        """Show a line with a spinner. An empty text ends the task."""
        with self._lock:
            if text:
                self._started.setdefault(task, time.monotonic())
                self._show(self._notes, task, f"{escape(task)} [dim]{escape(text)}[/]")
                return
            started = self._started.pop(task, None)
            self._remove(task)
            if started is not None and time.monotonic() - started >= _MIN_REPORTED_S:
                self._console.print(f"[green]✓[/] {escape(task)} [dim]{time.monotonic() - started:.1f} s[/]")

    def ingest(self, event: Event) -> None:
        """Show an event of an ingestion."""
        if isinstance(event, Planned):
            self._started["index"] = time.monotonic()
            self._changed_files = event.changed
        elif isinstance(event, Advanced):
            elapsed_s = max(time.monotonic() - self._started["index"], 0.001)
            rate = f"{event.chunks} chunks, {event.embedded / elapsed_s:.0f}/s"
            self._show(self._files, "index", "documents", completed=event.files, total=self._changed_files, rate=rate)
        elif isinstance(event, Noticed):
            self._console.print(f"[yellow]note[/] {escape(event.source)}: {escape(event.text)}")
        elif isinstance(event, Waiting):
            self._console.print(f"[yellow]waiting[/] {escape(event.reason)}")

    def ingested(self, summary: Summary) -> None:
        """Print the result of an ingestion."""
        self._started.pop("index", None)
        self._remove("index")
        for line in skipped_lines(summary):
            self._console.print(f"[yellow]{escape(line.strip())}[/]")
        if summary.skipped:
            self._console.print("[dim]kserve-rag documents --skipped lists every skipped file.[/]")
        counts = f"{summary.documents} documents, {summary.chunks} chunks"
        rate = f"in {summary.seconds:.1f} s ({summary.chunks_per_s:.0f}/s)"
        changes = f"; embedded {summary.embedded} {rate}, reused {summary.reused}"
        parts = [f"unchanged: {counts}" if summary.unchanged else counts + changes]
        parts += [f"{summary.deleted} deleted"] if summary.deleted else []
        parts += [f"{len(summary.skipped)} skipped"] if summary.skipped else []
        parts += [f"{len(summary.stale)} stale"] if summary.stale else []
        self._console.print(f"[green]✓[/] index {', '.join(parts)} [dim]{summary.version}[/]")

    def _show(self, bars: Bars, task: str, description: str, **fields: Any) -> None:
        if task in self._tasks and self._tasks[task][0] is not bars:
            self._remove(task)
        if task not in self._tasks:
            self._tasks[task] = (bars, bars.add_task(description, **{"total": None, **fields}))
        self._tasks[task][0].update(self._tasks[task][1], description=description, **fields)

    def _remove(self, task: str) -> None:
        if task in self._tasks:
            bars, task_id = self._tasks.pop(task)
            bars.remove_task(task_id)


class EvaluationProgress:
    """Progress bars of an evaluation, only on a terminal."""

    def __init__(self, console: Console, title: str) -> None:
        self._title = title
        self._changed_kb = 0
        self._tasks: dict[str, TaskID] = {}
        self._bars = _bars(
            console,
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> EvaluationProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def update(self, task: str, done: int, total: int) -> None:
        """Show the bar of a step."""
        if task not in self._tasks:
            self._tasks[task] = self._bars.add_task(f"{escape(self._title)}: {escape(task)}", total=total)
        self._bars.update(self._tasks[task], completed=done, total=total)

    def ingest(self, event: Event) -> None:
        """Show an event of an ingestion, in kilobytes."""
        if isinstance(event, Planned):
            self._changed_kb = event.size_bytes // 1000
        elif isinstance(event, Advanced) and self._changed_kb:
            self.update("indexing (kB)", event.size_bytes // 1000, self._changed_kb)
