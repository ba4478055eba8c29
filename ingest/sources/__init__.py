"""Sources of files, one module per kind, found by entry points; and the sources that an index follows."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import orjson

from chassis.registry import Registry, RegistryError
from chassis.settings import SettingError
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
    gone: bool = False
    """Whether it has a problem because it no longer exists, so that its documents leave the index."""
    url: str | None = None
    """Where people can read it."""
    suffix: str = ""
    """Suffix of the format that the origin declares; empty: the name's own."""


class Source(Protocol):
    """A source of files. Its methods block, except `close`."""

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
        """The path of the file, which must exist until `close`."""

    def close(self) -> None:
        """Releases what the source holds. Called from another thread, it makes a running method raise soon."""


class LocalFiles:
    """Base class of sources whose keys are local paths."""

    def token(self, entry: Entry) -> str:
        """SHA-256 of the bytes."""
        return sha256_of(Path(entry.key))

    def fetch(self, entry: Entry) -> Path:
        """The file itself."""
        return Path(entry.key)

    def close(self) -> None:
        """Nothing to release."""


class SourceType(Protocol):
    """Entry point of a kind of source."""

    def __call__(self, location: str, cache: Path) -> Source:
        """Opens a source. Does no I/O.

        `cache`: folder of its own, in which it may keep what it fetched for the next run. It may not exist yet.
        """


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
        path = self.source.fetch(self.entry)
        return SourceFile(path, self.name, url=self.entry.url, suffix=self.entry.suffix)


def kind_of(location: str | Path) -> tuple[str, str]:
    """The kind of source at a location, and the location for its constructor.

    `NAME:LOCATION` has the kind NAME if that is registered; `NAME://…` is passed on with its scheme. A web address is a
    list of links with itself as its only link (`<https://…>`). Any other location is a file or folder.
    """
    text = str(location)
    scheme, _, rest = text.partition(":")
    if scheme.lower() in ("http", "https"):
        return "links", f"<{text}>"
    name = scheme.partition("+")[0]
    if name not in _registry().names():
        return "folder", text
    return name, text if rest.startswith("//") else rest


def open_source(location: str | Path, cache: Path | None = None) -> Source:
    """The source at a location (`kind_of`).

    `cache`: folder in which each source has one for the next run. None: nothing is kept after this process.

    Raises SourceNotFoundError if the source's libraries are not installed, or its settings are invalid.
    """
    kind, rest = kind_of(location)
    own = hashlib.sha256(f"{kind}:{rest}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
    try:
        return _registry().get(kind)(rest, (cache or _temporary()) / own)
    except (RegistryError, SettingError) as error:
        raise SourceNotFoundError(str(error)) from error


def _registry() -> Registry[SourceType]:
    return Registry("kserve_rag.sources", "source")


@functools.cache
def _temporary() -> Path:
    folder = tempfile.mkdtemp(prefix="kserve-rag-sources-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of all sources."""

    files: list[ListedFile] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """Name → reason for each entry that cannot be read."""
    gone: dict[str, str] = field(default_factory=dict)
    """Name → reason for each entry that no longer exists."""


def list_files(sources: Iterable[Source]) -> Listing:
    """The files of all sources, in order.

    If two files have the same name, the later one gets its source's prefix. Names that begin with `uploads/` are
    reserved for uploads. Raises SourceNotFoundError if a source cannot be listed.
    """
    listing = Listing()
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
                listing.files.append(ListedFile(source, dataclasses.replace(entry, name=name)))
            elif entry.gone:
                listing.gone[name] = entry.problem
            else:
                listing.skipped[name] = entry.problem
    return listing


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
