"""`kserve-rag collections`, `versions`, `rollback`, `export` and `import`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from kserve_rag.cli.shared import CollectionOption, collection_settings, console, read_settings
from kserve_rag.errors import UsageError
from kserve_rag.local.graph import running

app = typer.Typer(no_args_is_help=False, rich_markup_mode="rich")

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the collection.")]


@app.callback(invoke_without_command=True)
def list_collections(context: typer.Context, as_json: JsonOption = False) -> None:
    """List, describe or delete the collections.

    A collection is an index with its own documents. Questions search `default`, or those that --collection names.

    [bold]Examples[/]

      kserve-rag collections
      kserve-rag collections describe press
      kserve-rag collections delete press
    """
    if context.invoked_subcommand is not None:
        return
    from kserve_rag.local.collections import summaries

    found = {name: asdict(summary) for name, summary in summaries(read_settings()).items()}
    if as_json:
        _print_json([{"name": name, **summary} for name, summary in found.items()])
        return
    for name, summary in found.items():
        console.print(f"{escape(name)} [dim]{_counts(summary)}, version {summary['version']}[/]")


@app.command()
def describe(name: NameArgument, as_json: JsonOption = False) -> None:
    """Show the sources, languages, store and counts of a collection."""
    from kserve_rag.local import collections

    found = collections.describe(collection_settings(name))
    if as_json:
        _print_json(found)
        return
    for field, value in found.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list | dict) else value
        console.print(f"[dim]{field}[/] {escape(str(shown))}")


@app.command()
def delete(
    name: NameArgument, yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")] = False
) -> None:
    """Delete a collection: its versions, its uploads and its list of sources. The documents' files stay."""
    from kserve_rag.local import collections

    settings = collection_settings(name)
    state = running(settings)
    if name == (state.index_name if state is not None else read_settings().index_name):
        raise UsageError(f"{name} is searched by default and stays. Replace its documents with `kserve-rag ingest`.")
    counts = collections.describe(settings)
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"This would delete {counts['documents']} documents. Confirm it with --yes.")
        typer.confirm(f"Delete {name} with {counts['documents']} documents and all its versions?", abort=True)
    collections.delete(settings)
    console.print(f"[green]✓[/] deleted {escape(name)}")


def versions(collection: CollectionOption = None, as_json: JsonOption = False) -> None:
    """List the versions of a collection, oldest first."""
    from kserve_rag.local import collections

    found = collections.versions(collection_settings(collection))
    if as_json:
        _print_json([asdict(summary) for summary in found])
        return
    for summary in found:
        mark = " [green]current[/]" if summary.current else ""
        console.print(f"{summary.version} [dim]{_counts(asdict(summary))}, {summary.created_at or '?'}[/]{mark}")


def rollback(
    version: Annotated[
        str | None, typer.Argument(metavar="VERSION", help="Name of a version. [default: the one before the current]")
    ] = None,
    collection: CollectionOption = None,
) -> None:
    """Serve an earlier version of a collection. The next `ingest` starts from it.

    [bold]Examples[/]

      kserve-rag versions
      kserve-rag rollback
      kserve-rag rollback --collection press 20260101T120000-3f9a1c
    """
    from kserve_rag.local import collections
    from kserve_rag.local.indexing import wait_until_served

    settings = collection_settings(collection)
    chosen = collections.roll_back(settings, version)
    if (state := running(settings)) is not None:
        wait_until_served(state, chosen, settings.index_name)
    console.print(f"[green]✓[/] version {chosen} of {escape(settings.index_name)} is current")


def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write, for example press.tar.")],
    version: Annotated[
        str | None, typer.Option("--version", metavar="VERSION", help="Name of a version. [default: the current one]")
    ] = None,
    collection: CollectionOption = None,
) -> None:
    """Write a collection to one file, for another machine or cluster.

    The file has what is searched: texts, vectors, metadata, the calibration of refusals and the access rules. It does
    not have the original files, and uploads are in it as texts.

    [bold]Examples[/]

      kserve-rag export handbook.tar
      kserve-rag export --collection press press.tar
    """
    from kserve_rag.cli.progress import ProgressDisplay
    from kserve_rag.local import collections

    settings = collection_settings(collection)
    if file.exists():
        raise UsageError(f"{file} exists: choose another name.")
    with ProgressDisplay(console) as display:
        exported = collections.export(settings, version, file, display)
    size_mb = file.stat().st_size / 1e6
    console.print(f"[green]✓[/] version {exported} of {escape(settings.index_name)} is in {escape(str(file))}", end=" ")
    console.print(f"[dim]({size_mb:.1f} MB)[/]")


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File that `kserve-rag export` wrote.")],
    collection: Annotated[
        str | None,
        typer.Option("--collection", "-c", metavar="NAME", help="Name of a collection. [default: the exported one]"),
    ] = None,
) -> None:
    """Serve a collection from a file of `kserve-rag export`.

    Everything is compared with its digests first. The version becomes the current one of the collection; `rollback`
    goes back. Import only files of people whom you trust: their texts become answers.

    [bold]Examples[/]

      kserve-rag import handbook.tar
      kserve-rag import press.tar --collection press-2026
    """
    from kserve_rag.cli.progress import ProgressDisplay
    from kserve_rag.local import collections
    from kserve_rag.local.indexing import wait_until_served

    settings = collection_settings(collection)
    with ProgressDisplay(console) as display:
        name, version, left_out = collections.import_from(settings, file, collection, display)
    if left_out:
        console.print(
            f"[yellow]note[/] {escape(name)} has access rules, and keeps them: those of the file were left out"
        )
    if (state := running(settings)) is not None:
        wait_until_served(state, version, name)
    console.print(f"[green]✓[/] version {version} of {escape(name)} is current")


def _counts(summary: dict[str, Any]) -> str:
    if summary["problem"] is not None:
        return escape(str(summary["problem"]))
    return f"{summary['documents']} documents, {summary['chunks']} chunks"


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
