"""`kserve-rag ingest` and `kserve-rag documents`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from kserve_rag.cli.shared import CollectionOption, collection_settings, console, source_locations
from kserve_rag.errors import UsageError
from kserve_rag.local.graph import GraphState, index_on_disk, need_running
from kserve_rag.local.languages import embedder_note
from kserve_rag.models.catalogue import Catalogue
from kserve_rag.settings import Settings

if TYPE_CHECKING:
    from kserve_rag.cli.progress import ProgressDisplay


def ingest(
    sources: Annotated[
        list[str] | None, typer.Argument(help="Files, folders and web addresses to index.", metavar="SOURCE…")
    ] = None,
    links: Annotated[
        list[str] | None,
        typer.Option("--links", metavar="LIST", help="Text file with a web address per line, or its own URL."),
    ] = None,
    collection: CollectionOption = None,
    add: Annotated[bool, typer.Option("--add", help="Keep the documents that are indexed already.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Remove more than half of the documents without asking.")
    ] = False,
) -> None:
    """Replace the index with these sources (`--add` keeps the rest).

    Reads Markdown, text, HTML, PDF, Office, e-books, mail, CSV, JSON and ZIP. Only new and changed files are read and
    embedded. Documents of deleted files are removed; documents of files that can no longer be read stay. The old index
    version keeps answering until the new one is complete.

    [bold]Examples[/]

      kserve-rag ingest ./handbook
      kserve-rag ingest --add ./faq.csv
      kserve-rag ingest --collection press ./press-releases
      kserve-rag ingest --add https://example.org/manual.pdf --links ./links.txt
    """
    from kserve_rag.cli.progress import ProgressDisplay

    locations = source_locations(sources or [], links or [])
    if not locations:
        raise UsageError("Name at least one file, folder or web address, or a list with --links.")
    settings = collection_settings(collection)
    state = need_running(settings)
    with ProgressDisplay(console) as display:
        index_documents(settings, state, locations, display, add=add, yes=yes)


def documents(
    collection: CollectionOption = None,
    skipped: Annotated[bool, typer.Option("--skipped", help="List the files that cannot be used, and why.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the files of the index.

    A stale file can no longer be read; its earlier documents stay in the index.

    [bold]Examples[/]

      kserve-rag documents
      kserve-rag documents --skipped
    """
    from kserve_rag.local.indexing import indexed_files, unused_files

    settings = collection_settings(collection)
    unused = unused_files(settings)
    rows = (
        [{"source": name, **asdict(each)} for name, each in unused.items()]
        if skipped
        else [
            {**asdict(each), "stale": unused[each.source].reason if each.source in unused else None}
            for each in indexed_files(settings)
        ]
    )
    if as_json:
        sys.stdout.write(json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
        return
    for row in rows:
        if skipped:
            kept = " [yellow](stale)[/]" if row["stale"] else ""
            console.print(f"{escape(row['source'])}{kept}: {escape(row['reason'])}")
        else:
            stale = f" [yellow]stale: {escape(row['stale'])}[/]" if row["stale"] else ""
            counts = f"{row['documents']} documents, {row['chunks']} chunks"
            console.print(f"{escape(row['source'])} [dim]{counts}[/]{stale}")


def index_documents(
    settings: Settings,
    state: GraphState,
    sources: list[str],
    display: ProgressDisplay,
    *,
    add: bool = False,
    yes: bool = False,
) -> None:
    """Index the sources at these locations and wait until the vectorstore serves the new version.

    Without sources, index the previous ones again, or this project's documentation if there are none.

    Asks before more than half of the documents are removed, unless `yes` is set or they are the project's own.

    Raises:
        UsageError: `add` is set and a path of the previous run is gone, no file can be read, or a removal needs a
            confirmation and standard input is not a terminal.
    """
    from ingest.errors import RemovalNotConfirmedError
    from kserve_rag.local.corpus import bundled, local_paths, remember, remembered
    from kserve_rag.local.indexing import check_readable, index, wait_until_served

    before = remembered(settings)
    if add or not sources:
        missing = [path for path in local_paths(before) if not path.exists()]
        if missing and sources:
            raise UsageError(f"{missing[0]} is indexed but no longer exists. Leave out --add to drop it.")
        if missing:
            # An unmounted drive must not empty the index.
            console.print(f"[yellow]note[/] {escape(str(missing[0]))} does not exist: the index is not updated")
            return
        if added := local_paths(sources):
            check_readable(added)
        sources = [*(source for source in before if source not in sources), *sources]
    documents = sources or bundled(settings)
    try:
        summary = index(
            state, documents, display.ingest, collection=settings.index_name, allow_removal=yes or not before
        )
    except RemovalNotConfirmedError as error:
        if not sys.stdin.isatty():
            raise UsageError(str(error)) from error
        with display.paused():
            console.print(f"[yellow]note[/] {escape(str(error))}")
            typer.confirm("Remove them?", abort=True)
        summary = index(state, documents, display.ingest, collection=settings.index_name, allow_removal=True)
    if sources != before:
        remember(settings, sources)
    display.ingested(summary)
    if summary.version is not None:
        wait_until_served(state, summary.version, settings.index_name)
        found = index_on_disk(settings)
        note = embedder_note(Catalogue.load(), state.embedder, found.languages if found else {})
        if note:
            console.print(f"[yellow]note[/] {escape(note)}")
