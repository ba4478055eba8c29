"""`kserve-rag ingest` and `kserve-rag documents`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from kserve_rag.cli.shared import console, existing_paths, read_settings
from kserve_rag.errors import UsageError
from kserve_rag.local.graph import GraphState, index_on_disk, need_running
from kserve_rag.local.languages import embedder_note
from kserve_rag.models.catalogue import Catalogue
from kserve_rag.settings import Settings

if TYPE_CHECKING:
    from kserve_rag.cli.progress import ProgressDisplay


def ingest(
    paths: Annotated[list[Path], typer.Argument(help="Files and folders to index.", metavar="PATH…")],
    add: Annotated[bool, typer.Option("--add", help="Keep the documents that are indexed already.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Remove more than half of the documents without asking.")
    ] = False,
) -> None:
    """Replace the index with these files and folders (`--add` keeps the rest).

    Reads Markdown, text, HTML, PDF, Office, e-books, mail, CSV, JSON and ZIP. Only new and changed files are read and
    embedded. Documents of deleted files are removed; documents of files that can no longer be read stay. The old index
    version keeps answering until the new one is complete.

    [bold]Examples[/]

      kserve-rag ingest ./handbook
      kserve-rag ingest --add ./press-releases
    """
    from kserve_rag.cli.progress import ProgressDisplay

    settings = read_settings()
    state = need_running(settings)
    with ProgressDisplay(console) as display:
        index_documents(settings, state, existing_paths(paths), display, add=add, yes=yes)


def documents(
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

    settings = read_settings()
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
    paths: list[Path],
    display: ProgressDisplay,
    *,
    add: bool = False,
    yes: bool = False,
) -> None:
    """Index `paths` and wait until the vectorstore serves the new version.

    Without paths, index the previous paths again, or this project's documentation if there are none.

    Asks before more than half of the documents are removed, unless `yes` is set or they are the project's own.

    Raises:
        UsageError: `add` is set and a path of the previous run is gone, no file can be read, or a removal needs a
            confirmation and standard input is not a terminal.
    """
    from ingest.errors import RemovalNotConfirmedError
    from kserve_rag.local.corpus import bundled, remember, remembered
    from kserve_rag.local.indexing import check_readable, index, wait_until_served

    before = remembered(settings)
    if add or not paths:
        missing = [path for path in before if not path.exists()]
        if missing and paths:
            raise UsageError(f"{missing[0]} is indexed but no longer exists. Leave out --add to drop it.")
        if missing:
            # An unmounted drive must not empty the index.
            console.print(f"[yellow]note[/] {escape(str(missing[0]))} does not exist: the index is not updated")
            return
        if paths:
            check_readable(paths)
        paths = [*(path for path in before if path not in paths), *paths]
    documents = paths or bundled(settings)
    try:
        summary = index(state, documents, display.ingest, allow_removal=yes or not before)
    except RemovalNotConfirmedError as error:
        if not sys.stdin.isatty():
            raise UsageError(str(error)) from error
        with display.paused():
            console.print(f"[yellow]note[/] {escape(str(error))}")
            typer.confirm("Remove them?", abort=True)
        summary = index(state, documents, display.ingest, allow_removal=True)
    if paths != before:
        remember(settings, paths)
    display.ingested(summary)
    if summary.version is not None:
        wait_until_served(state, summary.version)
        found = index_on_disk(settings)
        note = embedder_note(Catalogue.load(), state.embedder, found.languages if found else {})
        if note:
            console.print(f"[yellow]note[/] {escape(note)}")
