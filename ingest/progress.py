"""Progress of a run: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from ingest.events import Advanced, Event, Noticed, OnProgress, Planned, Published, Skipped, Summary, Waiting

logger = logging.getLogger("ingest")

_LINE_EVERY_S = 10.0
_LISTED = 20
_NAMED = 3


@contextlib.contextmanager
def shown(console: Console) -> Iterator[OnProgress]:
    """A callback for `pipeline.run` that shows its progress on `console` until the block ends."""
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
    """Prints the result of a run."""
    for line in (*skipped_lines(summary), *_notice_lines(summary), headline(summary)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def skipped_lines(summary: Summary) -> Iterator[str]:
    """Stale files, then counts of unsupported file types, then other skipped files by reason."""
    from ingest.loaders import LOADERS, suffix_of

    for source in summary.stale[:_LISTED]:
        yield f"  stale {source}: {summary.skipped[source]}; its documents from before are kept"
    if len(summary.stale) > _LISTED:
        yield f"  … and {len(summary.stale) - _LISTED:,} further stale files"
    unread: Counter[str] = Counter()
    by_reason: dict[str, list[str]] = {}
    stale = frozenset(summary.stale)
    for source, reason in summary.skipped.items():
        suffix = suffix_of(source)
        if source in stale:
            continue
        if suffix and suffix not in LOADERS.suffixes:
            unread[suffix] += 1
        else:
            by_reason.setdefault(reason, []).append(source)
    if unread:
        types = ", ".join(f"{count:,} {suffix}" for suffix, count in unread.most_common(_LISTED))
        more = " …" if len(unread) > _LISTED else ""
        yield f"  skipped {_many(unread.total(), 'file')} of types that are not read: {types}{more}"
    for reason, sources in list(by_reason.items())[:_LISTED]:
        more = f" and {len(sources) - _NAMED:,} more" if len(sources) > _NAMED else ""
        yield f"  skipped {', '.join(sources[:_NAMED])}{more}: {reason}"
    if len(by_reason) > _LISTED:
        yield f"  … skipped for {len(by_reason) - _LISTED:,} further reasons"


def _notice_lines(summary: Summary) -> Iterator[str]:
    yield from (f"  note: {notice}" for notice in summary.notices[:_LISTED])
    if len(summary.notices) > _LISTED:
        yield f"  … and {len(summary.notices) - _LISTED:,} further notes"


def headline(summary: Summary) -> str:
    """The result of a run in one sentence."""
    index = f"{_many(summary.documents, 'document')}, {_many(summary.chunks, 'chunk')}"
    skipped = f", {_many(len(summary.skipped), 'file')} skipped" if summary.skipped else ""
    if summary.stale:
        skipped += f", {len(summary.stale):,} of them stale"
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
            case Waiting():
                self._progress.update(self._task, counts=event.reason)
            case Skipped() | Noticed() | Published():
                pass  # `report` prints them after the bar


class _Lines:
    def __init__(self) -> None:
        self._begun = self._last = time.monotonic()
        self._total = 0

    def __call__(self, event: Event) -> None:
        match event:
            case Planned():
                self._begun = self._last = time.monotonic()
                self._total = event.size_bytes
                logger.info(
                    "%s to read (%.1f MB), %d unchanged, %d gone",
                    _many(event.changed, "file"),
                    event.size_bytes / 1e6,
                    event.unchanged,
                    event.deleted,
                )
            case Advanced():
                self._advance(event)
            case Skipped():
                logger.debug("skipped %s: %s", event.source, event.reason)
            case Noticed():
                logger.debug("%s: %s", event.source, event.text)
            case Waiting():
                logger.info("waiting: %s", event.reason)
            case Published():
                logger.info("published version %s", event.version)

    def _advance(self, event: Advanced) -> None:
        now = time.monotonic()
        if now - self._last < _LINE_EVERY_S:
            return
        self._last = now
        share = min(event.size_bytes / max(self._total, 1), 1.0)
        seconds = now - self._begun
        left = f"{seconds * (1 - share) / share:.0f} s left" if share > 0 else "time left unknown"
        logger.info(
            "%.0f %%: %d documents, %d chunks, %.1f chunks/s, %s",
            share * 100,
            event.documents,
            event.chunks,
            event.embedded / seconds,
            left,
        )
