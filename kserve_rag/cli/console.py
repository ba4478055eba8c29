"""What the command line shows: progress, answers, tables. No decisions."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
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
from rich.table import Table

from ingest.events import Advanced, Event, Noticed, Planned, Summary, Waiting
from ingest.progress import skipped_lines
from kserve_rag.client.client import Event as AnswerEvent
from kserve_rag.local.graph import GraphStatus, IndexStatus
from transformer.wire import Citations, EndEvent, Quote, Source, SourcesEvent, TextEvent
from vectorstore.wire import Span

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


def print_answer(console: Console, events: Iterable[AnswerEvent]) -> None:
    """The answer as it arrives, then its sources."""
    index_version: str | None = None
    end: EndEvent | None = None
    for event in events:
        if isinstance(event, SourcesEvent):
            index_version = event.index_version
        elif isinstance(event, TextEvent):
            console.out(event.text_output, end="", highlight=False)
        else:
            end = event
    console.print()
    if end is None:
        return
    if end.citations is not None:
        _print_check(console, end.citations)
    if end.sources:
        console.print()
        console.print(f"Sources [dim](index {index_version})[/]")
        for source in end.sources:
            _print_source(console, source)
            for quote in _quotes(end.citations, source.number):
                console.print(f"      [green]“{escape(_shortened(quote.text))}”[/] [dim]{_where(quote.span)}[/]")
    total, tokens = end.timings.get("total"), end.usage.completion_tokens
    first = end.timings.get("first_token")
    took = [f"{total / 1000:.2f} s"] if total is not None else []
    if first is not None:
        took.append(f"first token after {(end.timings.get('retrieval', 0) + first) / 1000:.2f} s")
    took += [f"{tokens} tokens"] if tokens else []
    took += ["cut off at max_tokens"] if end.finish_reason == "length" else []
    console.print(f"[dim]{' · '.join(took)}[/]")


def _print_check(console: Console, citations: Citations) -> None:
    """What the answer's check has found that its reader should know."""
    if citations.kind == "quote":
        console.print()
        console.print("[yellow]No sentence of this answer is supported by the documents.[/]")
        console.print(escape(citations.text))
        return
    unsupported = [one for one in citations.statements if one.verdict == "unsupported"]
    if unsupported:
        console.print()
        console.print("[yellow]Not supported by the sources:[/]")
        for statement in unsupported:
            text = citations.text[statement.span.start : statement.span.end]
            console.print(f"  [dim]{escape(_shortened(text))}[/]")
    if citations.kind == "mended":
        console.print()
        console.print("[yellow]With the numbers of sources put right:[/]")
        console.print(f"  [dim]{escape(citations.text)}[/]")
    for dropped in citations.dropped:
        reason = "cannot be read" if dropped.reason == "unreadable" else "says something else there"
        console.print(f"[yellow]\\[{dropped.number}] is not quoted: the stored document {reason}.[/]")


def _quotes(citations: Citations | None, number: int) -> list[Quote]:
    """The quotes from a source, in the order of the document, each once."""
    statements = citations.statements if citations is not None else []
    found = {
        (quote.span.start, quote.span.end): quote
        for statement in statements
        for quote in statement.quotes
        if quote.number == number
    }
    return [found[place] for place in sorted(found)]


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS].rstrip()} …"


def _where(span: Span) -> str:
    return f"characters {span.start}–{span.end}"


def _print_source(console: Console, source: Source) -> None:
    heading = " › ".join(dict.fromkeys(filter(None, [source.title, *source.heading_path]))) or source.document_id
    console.print(f"  [bold]\\[{source.number}][/] {escape(heading)}")
    where = source.url or source.source or source.document_id
    console.print(f"      [dim]{escape(where)} · {_where(source.span)} · score {source.score:.4f}[/]")


def print_status(console: Console, status: GraphStatus, *, llm: str | None, embedder: str | None) -> None:
    """A table of services, and the index."""
    models: Mapping[str, str | None] = {"embedder": embedder, "predictor": llm}
    table = Table(box=None, pad_edge=False)
    for column in ("service", "state", "url", "model"):
        table.add_column(column, header_style="dim")
    for name, service in status.services.items():
        ready = f"[green]ready[/] ×{len(service.replicas)}" if len(service.replicas) > 1 else "[green]ready[/]"
        state = ready if service.ready else f"[red]not ready[/] {escape(service.reason or '')}"
        table.add_row(name, state, service.url, escape(models.get(name) or ""))
    console.print(table, soft_wrap=False)
    console.print(_index_line(status.index))


def _index_line(index: IndexStatus | None) -> str:
    if index is None:
        return "no index yet: `kserve-rag ingest PATH` makes one"
    return f"index {index.name}: {index.documents} documents, {index.chunks} chunks, version {index.version}"


def size(size_bytes: int | None) -> str:
    """A size for people."""
    if size_bytes is None:
        return "?"
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.0f} MB"
