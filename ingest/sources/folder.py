"""A file, or all files below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pathspec import GitIgnoreSpec
from pathspec.patterns.gitignore import GitIgnorePatternError

from ingest.errors import SourceNotFoundError
from ingest.sources import Entry, LocalFiles

_MAX_DEPTH = 200
"""Maximum depth of folders, because `_walk` is recursive."""

IGNORE_FILE = ".ragignore"
"""A file in a source's folder that names what is not indexed, one gitignore pattern per line."""


class FolderSource(LocalFiles):
    """A file, or all files below a folder, named by their path below it.

    Ignores names that begin with a dot, except JCR's `.content.xml`, and what `IGNORE_FILE` names. Does not follow
    symbolic links to folders, and follows a link to a file only if the file is in the same folder (as in mounted
    ConfigMaps).
    """

    def __init__(self, location: str, cache: Path | None = None) -> None:
        """Does no I/O. `location`: the path. Keeps nothing in the cache."""
        self._path = Path(location)

    @property
    def location(self) -> str:
        """The absolute path."""
        return str(self._path.resolve())

    @property
    def prefix(self) -> str:
        """Name of the folder."""
        resolved = self._path.resolve()
        return resolved.name if resolved.is_dir() else resolved.parent.name

    def list(self) -> Iterator[Entry]:
        """The files, sorted by name in each folder."""
        try:
            root = self._path.resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise SourceNotFoundError(f"{self._path}: no such file or folder") from error
        if root.is_dir():
            yield from _walk(root, root, "", _ignored(root))
        else:
            yield Entry(self._path.name, str(root), None if root.is_file() else "not a regular file")


def _ignored(root: Path) -> GitIgnoreSpec:
    try:
        lines = (root / IGNORE_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    except OSError as error:
        raise SourceNotFoundError(f"{root / IGNORE_FILE}: cannot be read: {error.strerror}") from error
    try:
        return GitIgnoreSpec.from_lines(lines)
    except GitIgnorePatternError as error:
        raise SourceNotFoundError(f"{root / IGNORE_FILE}: {error}") from error


def _walk(folder: Path, root: Path, below: str, ignored: GitIgnoreSpec) -> Iterator[Entry]:
    if below.count("/") >= _MAX_DEPTH:
        yield Entry(below, str(folder), f"folder more than {_MAX_DEPTH} levels deep: not read")
        return
    try:
        with os.scandir(folder) as entries:
            children = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        if folder == root:
            raise SourceNotFoundError(f"{root}: cannot be listed: {error.strerror}") from error
        yield Entry(below, str(folder), f"folder cannot be listed: {error.strerror}")
        return
    for child in children:
        if child.name.startswith(".") and child.name != ".content.xml":
            continue
        path = Path(child.path)
        # The manifest is UTF-8: replace other bytes of a name.
        name = f"{below}/{child.name}".lstrip("/").encode("utf-8", "replace").decode()
        if ignored.match_file(f"{name}/" if child.is_dir(follow_symlinks=False) else name):
            continue
        if child.is_symlink():
            yield _link(path, root, name)
        elif child.is_dir(follow_symlinks=False):
            yield from _walk(path, root, name, ignored)
        else:
            yield Entry(name, str(path), None if child.is_file(follow_symlinks=False) else "not a regular file")


def _link(path: Path, root: Path, name: str) -> Entry:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return Entry(name, str(path), "broken symbolic link")
    if target.is_dir():
        return Entry(name, str(path), "symbolic link to a folder: not followed")
    if not target.is_relative_to(root):
        return Entry(name, str(path), "symbolic link that leaves the folder: not followed")
    return Entry(name, str(target), None if target.is_file() else "not a regular file")
