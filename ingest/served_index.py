"""An index of the service: its files, its uploads, its current version."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from collections.abc import Collection, Iterable
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath

from ingest.access import Caller
from ingest.settings import IngestServerSettings
from ingest.skipped import skipped_files
from ingest.sources import is_upload
from ingest.uploads import UploadFolder
from ingest.wire import SkippedSource, SkippedSources, SourceListing, SourceListings
from vectorstore.errors import DamagedIndexError, UnsupportedFormatError
from vectorstore.versions import AccessFile, Holding, IndexRoot, holdings


class ServedIndex:
    """One index. All methods block."""

    def __init__(self, settings: IngestServerSettings, name: str) -> None:
        """Does no I/O."""
        self.name = name
        self.root = IndexRoot(settings.index_root, name)
        self.folder = settings.index_root / name
        self.uploads = UploadFolder(self.folder, settings)
        self.access = AccessFile(self.folder)
        self.accepting = asyncio.Lock()
        """Held from the quota check of an upload until its task is queued."""
        self._cached: tuple[str, dict[str, Holding]] | None = None

    def current(self) -> str | None:
        """The current version; None if there is none, or if it is damaged and the next run rebuilds it."""
        try:
            return self.root.current()
        except DamagedIndexError:
            return None

    def contents(self) -> tuple[str | None, dict[str, Holding]]:
        """The current version, and its holdings by name of the file; None and {} if there is no version."""
        current = self.root.current()
        if current is None:
            return None, {}
        if self._cached is None or self._cached[0] != current:
            with self.root.open(current) as version:
                self._cached = current, {holding.source: holding for holding in holdings(version)}
        return self._cached

    def has(self, source: str, caller: Caller | None) -> bool:
        """Whether the file was uploaded or is in the current version, and the caller may read it."""
        if caller is not None and not caller.sees(self.access.read(), source):
            return False
        return source in self.uploads.files() or source in self.contents()[1]

    def has_any(self, version: str, sources: Collection[str]) -> bool:
        """Whether a version has documents of any of these files. True if the version cannot be read."""
        try:
            with self.root.open(version) as opened:
                return any(source in opened.manifest.sources for source in sources)
        except (DamagedIndexError, UnsupportedFormatError):
            return True

    def listing(self, caller: Caller | None, limit: int, after: str | None) -> SourceListings:
        """A page of the files that are in the current version or were uploaded, sorted by name, for a caller."""
        version, held = self.contents()
        uploads = self.uploads.files()
        names = self._seen(caller, sorted(held.keys() | uploads.keys()))
        page = [name for name in names if after is None or name > after][: limit + 1]
        stale = {name: each.reason for name, each in skipped_files(self.folder).items() if each.stale}
        return SourceListings(
            documents=[_listing(name, held.get(name), uploads.get(name), stale.get(name)) for name in page[:limit]],
            next=page[limit - 1] if len(page) > limit else None,
            version=version,
        )

    def skipped(self, caller: Caller | None, limit: int, after: str | None) -> SkippedSources:
        """A page of the files that the last runs could not use, sorted by name, for a caller."""
        found = skipped_files(self.folder)
        page = [(name, found[name]) for name in self._seen(caller, found) if after is None or name > after][: limit + 1]
        return SkippedSources(
            skipped=[SkippedSource(source=name, **dataclasses.asdict(each)) for name, each in page[:limit]],
            next=page[limit - 1][0] if len(page) > limit else None,
        )

    def _seen(self, caller: Caller | None, names: Iterable[str]) -> list[str]:
        """The files that the caller may read."""
        if caller is None:
            return list(names)
        rules = self.access.read()
        return [name for name in names if caller.sees(rules, name)]


def _listing(name: str, holding: Holding | None, upload: Path | None, stale: str | None) -> SourceListing:
    stat: os.stat_result | None = None
    if upload is not None:
        with contextlib.suppress(FileNotFoundError):  # deleted in between
            stat = upload.stat()
    return SourceListing(
        source=name,
        title=(holding.title if holding is not None else None) or PurePosixPath(name).name,
        documents=holding.documents if holding is not None else 0,
        chunks=holding.chunks if holding is not None else 0,
        size_bytes=stat.st_size if stat is not None else None,
        sha256=holding.sha256 if holding is not None else None,
        origin="upload" if is_upload(name) else "folder",
        uploaded_at=datetime.fromtimestamp(stat.st_mtime, timezone.utc) if stat is not None else None,
        stale=stale if holding is not None else None,
    )
