"""`kserve-rag ingest`."""

from __future__ import annotations

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
) -> None:
    """Replace the index with these files and folders (`--add` keeps the rest).

    Reads Markdown, text, HTML, PDF, CSV, JSON and JCR content. Only new and changed files are read and embedded;
    documents whose file is gone are removed. The old index version keeps answering until the new one is complete.

    [bold]Examples[/]

      kserve-rag ingest ./handbook
      kserve-rag ingest --add ./press-releases
    """
    from kserve_rag.cli.progress import ProgressDisplay

    settings = read_settings()
    state = need_running(settings)
    with ProgressDisplay(console) as display:
        index_documents(settings, state, existing_paths(paths), display, add=add)


def index_documents(
    settings: Settings, state: GraphState, paths: list[Path], display: ProgressDisplay, *, add: bool = False
) -> None:
    """Index `paths` and wait until the vectorstore serves the new version.

    Without paths, index those of the last time; the first time, this project's own documentation.

    Raises:
        UsageError: `add` is set and a path of the last time is gone.
    """
    from kserve_rag.local.corpus import bundled, remember, remembered
    from kserve_rag.local.indexing import index, wait_until_served

    before = remembered(settings)
    if add or not paths:
        missing = [path for path in before if not path.exists()]
        if missing and paths:
            raise UsageError(f"{missing[0]} is indexed but no longer exists. Leave out --add to drop it.")
        if missing:
            # An unmounted drive must not empty the index.
            console.print(f"[yellow]note[/] {escape(str(missing[0]))} does not exist: the index is not updated")
            return
        paths = [*(path for path in before if path not in paths), *paths]
    summary = index(state, paths or bundled(settings), display.ingest)
    if paths != before:
        remember(settings, paths)
    display.ingested(summary)
    if summary.version is not None:
        wait_until_served(state, summary.version)
        found = index_on_disk(settings)
        note = embedder_note(Catalogue.load(), state.embedder, found.languages if found else {})
        if note:
            console.print(f"[yellow]note[/] {escape(note)}")
