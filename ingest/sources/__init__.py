"""Sources of files, one module per kind, found by entry points; and the sources that an index follows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import orjson

from chassis.registry import Registry, RegistryError
from ingest.errors import SourceNotFoundError
from ingest.loaders import SourceFile
from ingest.loaders.file import sha256_of

UPLOADS = "uploads"
"""Folder of the uploaded files, next to an index's versions, and the first part of their names in the index."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a source."""

    name: str
    """Name in the index: a relative path with `/`."""
    key: str
    """Input of `fetch`, such as an absolute path or a URL. Of several entries with one key, only the first is read."""
    problem: str | None = None
    """Why it cannot be read; None if it can."""


class Source(Protocol):
    """A source of files. Its methods block."""

    @property
    def location(self) -> str:
        """Location with which `open_source` opens the same source again, from any working directory."""

    @property
    def prefix(self) -> str:
        """Prefix for names that another source already has."""

    def list(self) -> Iterator[Entry]:
        """All files, sorted by name. Raises SourceNotFoundError if the origin cannot be listed."""

    def token(self, entry: Entry) -> str:
        """A change token, which changes exactly when the content does: preferably a SHA-256, else an ETag or revision.

        Raises OSError if the entry cannot be read, as `fetch` does.
        """

    def fetch(self, entry: Entry) -> Path:
        """The path of the file, which must exist as long as this object."""


class LocalFiles:
    """Base class of sources whose keys are local paths."""

    def token(self, entry: Entry) -> str:
        """SHA-256 of the bytes."""
        return sha256_of(Path(entry.key))

    def fetch(self, entry: Entry) -> Path:
        """The file itself."""
        return Path(entry.key)


class SourceType(Protocol):
    """Entry point of a kind of source."""

    def __call__(self, location: str) -> Source:
        """Opens a source. Does no I/O."""


@dataclass(frozen=True, slots=True)
class ListedFile:
    """An entry, with a name that is unique in the index, and its source."""

    source: Source
    entry: Entry

    @property
    def name(self) -> str:
        """Its name in the index."""
        return self.entry.name

    def token(self) -> str:
        """As `Source.token`."""
        return self.source.token(self.entry)

    def fetch(self) -> SourceFile:
        """The file, to be parsed."""
        return SourceFile(self.source.fetch(self.entry), self.name)


def open_source(location: str | Path) -> Source:
    """The source at `NAME:LOCATION`, where NAME is a registered source; any other location is a file or folder.

    Raises SourceNotFoundError if the source's libraries are not installed.
    """
    registry: Registry[SourceType] = Registry("kserve_rag.sources", "source")
    name, _, rest = str(location).partition(":")
    if name not in registry.names():
        name, rest = "folder", str(location)
    try:
        return registry.get(name)(rest)
    except RegistryError as error:
        raise SourceNotFoundError(str(error)) from error


def list_files(sources: Iterable[Source]) -> tuple[list[ListedFile], dict[str, str]]:
    """The files of all sources in order, and the reason by name for each entry that cannot be read.

    If two files have the same name, the later one gets its source's prefix. Names that begin with `uploads/` are
    reserved for uploads. Raises SourceNotFoundError if a source cannot be listed.
    """
    files: list[ListedFile] = []
    skipped: dict[str, str] = {}
    taken: set[str] = set()
    keys: set[str] = set()
    for source in sources:
        for entry in source.list():
            if entry.key in keys:
                continue
            name = _free_name(entry.name, source.prefix, taken)
            taken.add(name)
            if entry.problem is None:
                keys.add(entry.key)
                files.append(ListedFile(source, dataclasses.replace(entry, name=name)))
            else:
                skipped[name] = entry.problem
    return files, skipped


def is_upload(name: str) -> bool:
    """Whether the file of this name in an index was uploaded."""
    return name.startswith(f"{UPLOADS}/")


def followed(index: Path) -> list[str]:
    """Locations of the sources that the index in this folder follows; empty if there are none."""
    try:
        locations: list[str] = orjson.loads((index / "sources.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return locations


def follow(index: Path, sources: Sequence[Source]) -> None:
    """Stores the sources that the index in this folder follows from now on. Needs the index's lock."""
    temporary = index / ".sources.json"
    locations = [source.location for source in sources]
    temporary.write_bytes(orjson.dumps(locations, option=orjson.OPT_INDENT_2) + b"\n")
    temporary.replace(index / "sources.json")


def _free_name(name: str, prefix: str, taken: set[str]) -> str:
    free, number = name, 1
    if (free in taken or is_upload(free)) and prefix:
        free = f"{prefix}/{name}"
    while free in taken or is_upload(free):
        number += 1
        free = f"{prefix}~{number}/{name}"
    return free
