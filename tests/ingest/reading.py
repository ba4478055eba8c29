"""Reads a text file with the loader of its name."""

from __future__ import annotations

from pathlib import Path

from ingest.loaders import Limits, Notice, ParsedDocument, SourceFile, load


def read(folder: Path, name: str, content: str) -> tuple[list[ParsedDocument], list[str]]:
    """The documents of a file with this content, and the texts of its notices."""
    path = folder / name
    path.write_text(content, "utf-8")
    items = list(load(SourceFile(path, name), Limits()))
    return (
        [item for item in items if isinstance(item, ParsedDocument)],
        [item.text for item in items if isinstance(item, Notice)],
    )
