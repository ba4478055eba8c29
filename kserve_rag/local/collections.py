"""Collections of this home, their versions, rollback and deletion. A collection is an index by its name."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chassis.errors import ServiceError
from chassis.registry import RegistryError
from ingest.concurrency import open_lock
from ingest.skipped import skipped_files
from ingest.sources import followed
from ingest.sources.uploads import uploaded
from kserve_rag.errors import UsageError
from kserve_rag.local.corpus import forget
from kserve_rag.progress import Progress
from kserve_rag.settings import Settings
from vectorstore.versions import DEFAULT_STORE, STORES, Archive, IndexRoot, export_version
from vectorstore.versions.archive import OnBytes


@dataclass(frozen=True, slots=True)
class VersionSummary:
    """A version of a collection."""

    version: str
    current: bool
    created_at: str | None = None
    """ISO 8601 in UTC; None if the version cannot be read, as the fields below."""
    documents: int | None = None
    chunks: int | None = None
    store: str | None = None
    embedder: str | None = None
    """Fingerprint of the embedder that made its vectors."""
    problem: str | None = None
    """Why it cannot be read; None if it can."""


def summaries(settings: Settings) -> dict[str, VersionSummary]:
    """Name → current version of each collection, sorted by name."""
    found = {}
    for root in IndexRoot.all(settings.indexes):
        with contextlib.suppress(StopIteration):  # deleted in between
            found[root.name] = next(each for each in _versions(root) if each.current)
    return found


def versions(settings: Settings) -> list[VersionSummary]:
    """Versions of a collection, oldest first. Raises UsageError if there is no such collection."""
    return list(_versions(_existing(settings)))


def describe(settings: Settings) -> dict[str, Any]:
    """A collection with its sources. Raises UsageError if there is no such collection."""
    root = _existing(settings)
    found = list(_versions(root))
    skipped = skipped_files(root.folder).values()
    manifest = None
    with contextlib.suppress(ServiceError), root.open() as version:
        manifest = version.manifest
    return {
        "name": root.name,
        "version": next(each for each in found if each.current).version,
        "versions": len(found),
        "documents": manifest.counts.documents if manifest else None,
        "chunks": manifest.counts.chunks if manifest else None,
        "languages": manifest.languages if manifest else None,
        "store": manifest.store if manifest else None,
        "embedder": manifest.embedder.fingerprint if manifest else None,
        "sources": followed(root.folder),
        "uploads": len(uploaded(root.folder)),
        "stale": sum(each.stale for each in skipped),
        "skipped": sum(not each.stale for each in skipped),
    }


def roll_back(settings: Settings, version: str | None) -> str:
    """Makes a version current, by default the one before the current one. Returns its name.

    Raises UsageError if there is no such collection or version, or if it cannot be served.
    """
    root = _existing(settings)
    with _usage_errors():
        if version is None:
            current = root.current() or ""
            older = [name for name in root.versions() if name < current]
            if not older:
                raise UsageError(f"Collection {root.name} has no version before {current}.")
            version = older[-1]
        root.set_current(version)
    return version


def export(settings: Settings, version: str | None, file: Path, progress: Progress) -> str:
    """Writes a version of a collection, or the current one, to a file. Returns its name.

    Raises UsageError if there is no such version, if it is damaged, or if the file cannot be written.
    """
    root = _existing(settings)
    with _usage_errors(), _shown(progress, f"export {root.name}") as on_bytes:
        return export_version(root, version, file, on_bytes).version


def import_from(settings: Settings, file: Path, collection: str | None, progress: Progress) -> tuple[str, str, bool]:
    """Publishes an exported version as the current one of a collection, by default of the one with the same name.

    Returns:
        The collection, the version, and whether its access rules were left out, because the collection has its own.

    Raises:
        UsageError: the file is not a complete export, or cannot be served here.
    """
    with _usage_errors(), Archive(file) as archive:
        name = collection or archive.manifest.name
        root = IndexRoot(settings.indexes, name)
        if root.is_read_only():
            raise UsageError(f"{name} searches a collection of another program as it is. Choose another --collection.")
        embedders = {each.embedder for each in summaries(settings).values() if each.embedder and each.created_at}
        with _shown(progress, f"import {name}") as on_bytes:
            store = STORES.check(os.environ.get("INGEST_STORE", DEFAULT_STORE))
            version, left_out = archive.publish(root, store=store, embedders=embedders, on_bytes=on_bytes)
    return name, version, left_out


def delete(settings: Settings) -> None:
    """Deletes a collection: its versions, uploads and sources.

    Raises UsageError if there is no such collection, it is being written, or its store cannot be reached.
    """
    root = _existing(settings)
    with open_lock(root.folder / ".run") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"Documents of {root.name} are being indexed: delete it when that has ended.") from error
        with _usage_errors():
            root.delete()
    forget(settings)


def _existing(settings: Settings) -> IndexRoot:
    name = settings.index_name
    known = IndexRoot.all(settings.indexes)
    for root in known:
        if root.name == name:
            return root
    names = ", ".join(root.name for root in known)
    step = f"choose one of {names}" if names else "build one with `kserve-rag ingest SOURCE`"
    raise UsageError(f"There is no collection {name!r}: {step}.")


def _versions(root: IndexRoot) -> Iterator[VersionSummary]:
    with _usage_errors():
        existing, current = root.existing(), root.current()
    if existing is not None:
        yield VersionSummary(existing.collection, True, store=existing.store, embedder=existing.embedder)
        return
    # A pointer to a version that is not there must be visible.
    for name in sorted({*root.versions(), *([current] if current else [])}):
        yield _summary(root, name, current=name == current)


def _summary(root: IndexRoot, name: str, *, current: bool) -> VersionSummary:
    try:
        with root.open(name) as version:
            manifest = version.manifest
    except ServiceError as error:
        return VersionSummary(name, current, problem=error.message)
    return VersionSummary(
        name,
        current,
        manifest.created_at.isoformat(timespec="seconds"),
        manifest.counts.documents,
        manifest.counts.chunks,
        manifest.store,
        manifest.embedder.fingerprint,
    )


@contextlib.contextmanager
def _shown(progress: Progress, task: str) -> Iterator[OnBytes]:
    try:
        yield lambda done, total: progress.update(task, done, total)
    finally:
        progress.note(task, "")


@contextlib.contextmanager
def _usage_errors() -> Iterator[None]:
    """Turns errors of the index into errors for the command line."""
    try:
        yield
    except ServiceError as error:
        raise UsageError(error.message) from error
    except RegistryError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        # A full disk is noticed by a write, which names no file.
        raise UsageError(f"{error.filename}: {error.strerror}." if error.filename else f"{error}.") from error
