"""Uploaded files: `<index_root>/<name>/uploads/`, next to the versions of the index. Callers have a folder each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from ingest.sources import UPLOADS, Entry, LocalFiles

_OWNER_FOLDER = re.compile(r"[0-9a-f]{16}")
"""Name of the folder of a caller's uploads."""


def uploaded(index: Path) -> dict[str, Path]:
    """Name → file of each upload to the index in this folder, sorted by name."""
    folder = index / UPLOADS
    if not folder.is_dir():
        return {}
    found: list[Path] = []
    for entry in folder.iterdir():
        if _OWNER_FOLDER.fullmatch(entry.name) and entry.is_dir():
            found += entry.iterdir()
        else:
            found.append(entry)
    named = {path.relative_to(index).as_posix(): path for path in found if not path.name.startswith(".")}
    return dict(sorted(named.items()))


class UploadSource(LocalFiles):
    """The files uploaded to one index."""

    prefix = UPLOADS

    def __init__(self, location: str, cache: Path | None = None, *, files: Mapping[str, Path] | None = None) -> None:
        """Does no I/O. `location`: folder of the index. `files`: name → file, instead of its uploads."""
        self._index = Path(location).absolute()
        self._files = files

    @property
    def location(self) -> str:
        """The folder of the index."""
        return f"{UPLOADS}:{self._index}"

    def list(self) -> Iterator[Entry]:
        """The uploads, sorted by name."""
        files = uploaded(self._index) if self._files is None else dict(sorted(self._files.items()))
        yield from (Entry(name, str(path)) for name, path in files.items())
