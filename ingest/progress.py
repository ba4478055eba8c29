"""A run on the terminal: a bar with rate and time left, or plain lines where nobody watches."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from ingest.events import Advanced, Event, Noticed, OnProgress, Planned, Published, Skipped, Summary

_log = logging.getLogger("ingest")

_LINE_EVERY_S = 10.0
_LISTED = 20


@contextlib.contextmanager
def shown(console: Console) -> Iterator[OnProgress]:
    """A callback for `pipeline.run` that shows the run on `console`, until the block ends."""
    if not console.is_terminal:
        yield _Lines()
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[counts]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as progress:
        yield _Bar(progress, progress.add_task("Reading sources", total=None, counts=""))


def report(summary: Summary, console: Console) -> None:
    """Prints what a run did."""
    for source, reason in list(summary.skipped.items())[:_LISTED]:
        console.print(f"  skipped {source}: {reason}", markup=False, highlight=False)
    if len(summary.skipped) > _LISTED:
        console.print(f"  … and {len(summary.skipped) - _LISTED} more skipped", markup=False, highlight=False)
    for notice in summary.notices[:_LISTED]:
        console.print(f"  note: {notice}", markup=False, highlight=False)
    if len(summary.notices) > _LISTED:
        console.print(f"  … and {len(summary.notices) - _LISTED} more notes", markup=False, highlight=False)
    console.print(headline(summary), markup=False, highlight=False)


def headline(summary: Summary) -> str:
    """A run in one sentence."""
    index = f"{_many(summary.documents, 'document')}, {_many(summary.chunks, 'chunk')}"
    skipped = f", {_many(len(summary.skipped), 'file')} skipped" if summary.skipped else ""
    if summary.unchanged:
        return f"Unchanged: version {summary.version} ({index}{skipped}) in {summary.seconds:.1f} s"
    details = [f"{summary.embedded:,} embedded", f"{summary.reused:,} reused"]
    if summary.duplicates:
        details.append(f"{_many(summary.duplicates, 'duplicate document')} left out")
    if summary.deleted:
        details.append(f"{_many(summary.deleted, 'source')} gone")
    if summary.truncated:
        details.append(f"{summary.truncated:,} TRUNCATED")
    return (
        f"Published version {summary.version}: {index} ({', '.join(details)}{skipped}) in {summary.seconds:.1f} s, "
        f"{summary.chunks_per_s:.1f} chunks/s"
    )


def _many(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


class _Bar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task
        self._begun = time.monotonic()

    def __call__(self, event: Event) -> None:
        match event:
            case Planned():
                self._begun = time.monotonic()
                self._progress.update(self._task, description="Indexing", total=max(event.size_bytes, 1))
            case Advanced():
                rate = event.embedded / max(time.monotonic() - self._begun, 1e-3)
                counts = f"{event.documents:,} documents · {event.chunks:,} chunks · {rate:.0f}/s"
                self._progress.update(self._task, completed=event.size_bytes, counts=counts)
            case Skipped():
                self._progress.console.print(f"  skipped {event.source}: {event.reason}", markup=False, highlight=False)
            case Noticed() | Published():
                pass


class _Lines:
    def __init__(self) -> None:
        self._begun = self._last = time.monotonic()
        self._total = 0

    def __call__(self, event: Event) -> None:
        match event:
            case Planned():
                self._begun = self._last = time.monotonic()
                self._total = event.size_bytes
                _log.info(
                    "%d files to read (%.1f MB), %d unchanged, %d gone",
                    event.changed,
                    event.size_bytes / 1e6,
                    event.unchanged,
                    event.deleted,
                )
            case Advanced():
                self._advance(event)
            case Skipped():
                _log.warning("skipped %s: %s", event.source, event.reason)
            case Noticed():
                _log.warning("%s: %s", event.source, event.text)
            case Published():
                _log.info("published version %s", event.version)

    def _advance(self, event: Advanced) -> None:
        now = time.monotonic()
        if now - self._last < _LINE_EVERY_S:
            return
        self._last = now
        share = min(event.size_bytes / max(self._total, 1), 1.0)
        seconds = now - self._begun
        left = f"{seconds * (1 - share) / share:.0f} s left" if share > 0 else "time left unknown"
        _log.info(
            "%.0f %%: %d documents, %d chunks, %.1f chunks/s, %s",
            share * 100,
            event.documents,
            event.chunks,
            event.embedded / seconds,
            left,
        )
