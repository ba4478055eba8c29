"""Print answers and the status of the graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kserve_rag.client import Event
from kserve_rag.local.graph import GraphStatus, IndexStatus
from transformer.wire import Citations, EndEvent, Quote, Source, SourcesEvent, TextEvent
from vectorstore.wire import Span

_MAX_QUOTE_CHARS = 160
"""Longer quotes are truncated."""
_MIN_LANGUAGE_SHARE = 0.05


def print_answer(console: Console, events: Iterable[Event]) -> None:
    """Print an answer as it is streamed, then its sources."""
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
    took += ["truncated at max_tokens"] if end.finish_reason == "length" else []
    console.print(f"[dim]{' · '.join(took)}[/]")


def _print_check(console: Console, citations: Citations) -> None:
    """Print the findings of the citation check."""
    if citations.kind == "quote":
        console.print()
        console.print("[dim]Quoted from the documents[/]")
    if citations.withheld:
        console.print(f"[dim]Left out, not backed by any source: {len(citations.withheld)} sentence(s)[/]")
    unsupported = [one for one in citations.statements if one.verdict == "unsupported"]
    if unsupported:
        console.print()
        console.print("[yellow]Not backed by any source:[/]")
        for statement in unsupported:
            text = citations.text[statement.span.start : statement.span.end]
            console.print(f"  [dim]{escape(_shortened(text))}[/]")
    if citations.kind == "mended":
        console.print()
        console.print("[yellow]With corrected source numbers:[/]")
        console.print(f"  [dim]{escape(citations.text)}[/]")


def _quotes(citations: Citations | None, number: int) -> list[Quote]:
    """The distinct quotes from a source, in document order."""
    statements = citations.statements if citations is not None else []
    found = {
        (quote.span.start, quote.span.end): quote
        for statement in statements
        for quote in statement.quotes
        if quote.number == number
    }
    return [found[span] for span in sorted(found)]


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MAX_QUOTE_CHARS else f"{text[:_MAX_QUOTE_CHARS].rstrip()} …"


def _where(span: Span) -> str:
    return f"characters {span.start}–{span.end}"


def _print_source(console: Console, source: Source) -> None:
    heading = " › ".join(dict.fromkeys(filter(None, [source.title, *source.heading_path]))) or source.document_id
    console.print(f"  [bold]\\[{source.number}][/] {escape(heading)}")
    where = source.url or source.source or source.document_id
    console.print(f"      [dim]{escape(where)} · {_where(source.span)} · score {source.score:.4f}[/]")


def print_status(console: Console, status: GraphStatus, *, llm: str | None, embedder: str | None) -> None:
    """Print the services as a table, and the index."""
    models = {"embedder": embedder, "predictor": llm}
    table = Table(box=None, pad_edge=False)
    for column in ("service", "state", "url", "model"):
        table.add_column(column, header_style="dim")
    for name, service in status.services.items():
        restarts = f" [dim](restarted {service.restarts}×)[/]" if service.restarts else ""
        state = f"[green]ready[/]{restarts}" if service.ready else f"[red]not ready[/] {escape(service.reason or '')}"
        table.add_row(name, state, service.url, escape(models.get(name) or ""))
    console.print(table, soft_wrap=False)
    console.print(_index_line(status.index))


def _index_line(index: IndexStatus | None) -> str:
    if index is None:
        return "no index yet: build one with `kserve-rag ingest PATH`"
    line = f"index {index.name}: {index.documents} documents, {index.chunks} chunks, version {index.version}"
    if index.languages:
        # The language of a page with few words is often guessed wrong.
        known = {language: share for language, share in index.languages.items() if share >= _MIN_LANGUAGE_SHARE}
        line += f"\nlanguages: {shares(known or index.languages)}"
    if index.weights:
        line += f"\nsignals: {shares(index.weights)}"
    if index.stale:
        line += f"\nstale files: {index.stale} (`kserve-rag documents` shows why they can no longer be read)"
    return line + (f"\nskipped files: {index.skipped} (`kserve-rag documents --skipped`)" if index.skipped else "")


def shares(found: Mapping[str, float]) -> str:
    """`de 80 %, en 20 %`; at most four."""
    return ", ".join(f"{name} {share:.0%}" for name, share in list(found.items())[:4])
