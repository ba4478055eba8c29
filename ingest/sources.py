"""Which files a run reads: the files and folders that an index follows, and what was uploaded to it.

An index keeps both beside its versions: `<index_root>/<name>/sources.json` lists the files and folders, as the last run
was given them, and `<index_root>/<name>/uploads/` holds the uploaded files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from ingest.errors import SourceNotFoundError
from ingest.loaders import SourceFile

UPLOADS = "uploads"
"""The folder of uploaded files beside an index's versions, and what their names as sources begin with."""


def is_upload(source: str) -> bool:
    """Whether a source of an index was uploaded."""
    return source.startswith(f"{UPLOADS}/")


def uploaded(index: Path) -> dict[str, Path]:
    """Source → file of what was uploaded to the index in this folder, sorted."""
    folder = index / UPLOADS
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        found = {f"{UPLOADS}/{entry.name}": Path(entry.path) for entry in entries if not entry.name.startswith(".")}
    return dict(sorted(found.items()))


def followed(index: Path) -> list[Path]:
    """The files and folders that the index in this folder was last told to follow; empty where it never was."""
    try:
        held = orjson.loads((index / "sources.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [Path(path) for path in held]


def follow(index: Path, paths: Sequence[Path]) -> None:
    """Keeps what the index in this folder follows from now on. One at a time."""
    temporary = index / ".sources.json"
    temporary.write_bytes(orjson.dumps([str(path.resolve()) for path in paths], option=orjson.OPT_INDENT_2) + b"\n")
    temporary.replace(index / "sources.json")


@dataclass(frozen=True, slots=True)
class Listing:
    """Files to read, and those found that cannot be."""

    files: list[SourceFile] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """Source to reason."""


def list_sources(paths: Sequence[Path]) -> Listing:
    """All files among and below `paths`, sorted by name within each.

    Names beginning with a dot are passed over, except JCR's `.content.xml`. Symbolic links to folders are not followed,
    those to files only where the file lies in the folder that was given (as in mounted ConfigMaps). A source is named
    by its path below the folder; where two folders hold the same name, the later one is prefixed with its folder's.
    Names that begin with `uploads/` are left to uploads.

    Raises:
        SourceNotFoundError: a path does not exist or cannot be listed.
    """
    listing = Listing()
    taken: set[str] = set()
    seen: set[Path] = set()
    for path in paths:
        root = Path(path)
        try:
            resolved = root.resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise SourceNotFoundError(f"{root}: no such file or folder") from error
        if resolved.is_dir():
            found = _walk(resolved, resolved, "")
            prefix = resolved.name
        else:
            found = iter([(resolved, root.name, None if resolved.is_file() else "not a regular file")])
            prefix = resolved.parent.name
        for file, name, reason in found:
            if file in seen:
                continue
            source = _free_name(name, prefix, taken)
            taken.add(source)
            if reason is None:
                seen.add(file)
                listing.files.append(SourceFile(file, source))
            else:
                listing.skipped[source] = reason
    return listing


def _walk(folder: Path, root: Path, below: str) -> Iterator[tuple[Path, str, str | None]]:
    try:
        with os.scandir(folder) as entries:
            children = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        if folder == root:
            raise SourceNotFoundError(f"{root}: cannot be listed: {error.strerror}") from error
        yield folder, below, f"folder cannot be listed: {error.strerror}"
        return
    for child in children:
        if child.name.startswith(".") and child.name != ".content.xml":
            continue
        path = Path(child.path)
        # Names that are not UTF-8 are made so: they are written to the manifest.
        name = f"{below}/{child.name}".lstrip("/").encode("utf-8", "replace").decode()
        if child.is_symlink():
            yield _link(path, root, name)
        elif child.is_dir(follow_symlinks=False):
            yield from _walk(path, root, name)
        elif child.is_file(follow_symlinks=False):
            yield path, name, None
        else:
            yield path, name, "not a regular file"


def _link(path: Path, root: Path, name: str) -> tuple[Path, str, str | None]:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return path, name, "broken symbolic link"
    if target.is_dir():
        return path, name, "symbolic link to a folder: not followed"
    if not target.is_relative_to(root):
        return path, name, "symbolic link that leaves the folder: not followed"
    if not target.is_file():
        return path, name, "not a regular file"
    return target, name, None


def _free_name(name: str, prefix: str, taken: set[str]) -> str:
    source, number = name, 1
    if (source in taken or is_upload(source)) and prefix:
        source = f"{prefix}/{name}"
    while source in taken or is_upload(source):
        number += 1
        source = f"{prefix}~{number}/{name}"
    return source
