"""Manages the versions of an index: the pointer to the current one, publishing, opening and pruning."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

import orjson

from vectorstore.errors import (
    DamagedIndexError,
    InvalidContentError,
    NoIndexError,
    StoreFailedError,
    UnknownVersionError,
    UnsupportedFormatError,
)
from vectorstore.signals.lexical import LexicalSettings
from vectorstore.signals.multivectors import Bits
from vectorstore.stores import DEFAULT_STORE, VersionRef, store_type
from vectorstore.versions.building import LOCK_FILE, VersionBuilder, sync
from vectorstore.versions.existing import EXISTING_FILE, ExistingCollection, read_existing
from vectorstore.versions.manifest import EmbedderInfo, Manifest, read_manifest
from vectorstore.versions.reading import MANIFEST_DIGEST, IndexVersion

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_VERSION = re.compile(r"\d{8}T\d{6}-[0-9a-f]{6}")
_TIME = "%Y%m%dT%H%M%S"
_BUILDING = ".building-"
_REMOVED = ".removed-"


class IndexRoot:
    """All versions of one index. The constructor does no I/O."""

    def __init__(self, path: Path, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise InvalidContentError(
                f"{name[:80]!r} is not a valid name of an index: use 1 to 63 letters, digits, '.', '_' and '-'.",
                field="name",
            )
        self.name = name
        self.folder = path / name

    @classmethod
    def all(cls, path: Path) -> list[IndexRoot]:
        """The indexes in a folder that have a current version or serve an existing collection, sorted by name."""
        if not path.is_dir():
            return []
        names = sorted(
            folder.name
            for folder in path.iterdir()
            if any((folder / name).is_file() for name in ("current", EXISTING_FILE))
        )
        return [cls(path, name) for name in names if _NAME.fullmatch(name)]

    def existing(self) -> ExistingCollection | None:
        """The collection of another program that the index serves; None if the index is built from documents.

        Raises DamagedIndexError if the file that names it is invalid.
        """
        return read_existing(self.folder)

    def is_read_only(self) -> bool:
        """Whether the index serves a collection of another program."""
        return (self.folder / EXISTING_FILE).exists()

    def current(self) -> str | None:
        """The version to serve; None if no version was published.

        Raises:
            DamagedIndexError: the pointer cannot be read, or does not contain the name of a version.
        """
        try:
            text = (self.folder / "current").read_text(encoding="ascii", errors="replace").strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DamagedIndexError(f"The pointer of index {self.name!r} cannot be read: {error.strerror}.") from error
        if not _VERSION.fullmatch(text):
            raise DamagedIndexError(
                f"The pointer of index {self.name!r} holds {text[:40]!r}, not a version: point it at one of "
                f"{', '.join(self.versions()[-3:]) or 'none (publish one first)'}."
            )
        return text

    def versions(self) -> list[str]:
        """Published versions, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(
            entry.name
            for entry in self.folder.iterdir()
            if _VERSION.fullmatch(entry.name) and (entry / "manifest.json").is_file()
        )

    def open(self, version: str | None = None) -> IndexVersion:
        """A version, or the current one.

        Raises:
            NoIndexError: no version was published.
            UnknownVersionError: there is no such version.
            DamagedIndexError: the pointer is wrong, or a file of the version is missing or truncated.
            UnsupportedFormatError: another release wrote it.
        """
        if version is not None:
            if not _VERSION.fullmatch(version) or not (self.folder / version).is_dir():
                raise UnknownVersionError(f"Index {self.name!r} has no version {version[:40]!r}.", field="version")
            return self._opened(version)
        version = self.current()
        if version is None:
            raise NoIndexError(f"There is no index {self.name!r} yet: build one with `kserve-rag ingest`.")
        if not (self.folder / version).is_dir():
            raise DamagedIndexError(
                f"Index {self.name!r} points at version {version}, which does not exist: point it at one of "
                f"{', '.join(self.versions()[-3:]) or 'none (publish one first)'}."
            )
        return self._opened(version)

    def set_current(self, version: str) -> None:
        """Atomically points `current` at a version. Use it to roll back.

        Raises:
            UnknownVersionError: there is no such version.
            DamagedIndexError, UnsupportedFormatError: the version cannot be served.
        """
        with self.open(version), self._locked():
            self._point(version)

    def prune(self, keep: int) -> list[str]:
        """Removes all versions except the newest `keep` and the current one. Open readers continue.

        Returns:
            The removed versions, oldest first.
        """
        if keep < 1:
            raise InvalidContentError(f"keep is {keep}: keep at least 1 version.", field="keep")
        with self._locked():
            current = self.current()
            removed = [version for version in self.versions()[:-keep] if version != current]
            for version in removed:
                self._remove_version(version)
        return removed

    def delete(self) -> None:
        """Removes the index: its pointer, its versions with their stores, and everything else in its folder.

        Raises StoreFailedError if a store cannot be reached; call it again then.
        """
        if not self.folder.is_dir():
            return
        with self._locked():
            (self.folder / "current").unlink(missing_ok=True)
            for version in self.versions():
                self._remove_version(version)
            self._remove_leftovers()
            if left := [entry.name for entry in self.folder.iterdir() if entry.name.startswith(_REMOVED)]:
                raise StoreFailedError(f"The stores of {len(left)} versions of index {self.name!r} cannot be removed.")
            shutil.rmtree(self.folder)

    def _remove_version(self, version: str) -> None:
        folder = self.folder / version
        build_id = secrets.token_hex(8)
        # The store of a version that this release cannot read is unknown.
        with contextlib.suppress(DamagedIndexError, UnsupportedFormatError):
            manifest = read_manifest(folder)
            build_id = manifest.build_id
            (folder / LOCK_FILE).write_text(manifest.store, encoding="utf-8")
        # Rename it first, so that no reader finds a partial version.
        self._remove(folder.rename(self.folder / f"{_REMOVED}{build_id}"))
        self.calibration_file(version).unlink(missing_ok=True)

    def calibration_file(self, version: str) -> Path:
        """Path of the calibration of refusals for a version, outside the version's folder, which is immutable."""
        return self.folder / f"{version}.calibration.json"

    def calibration(self, version: str) -> dict[str, Any] | None:
        """Content of the calibration file; None if it does not exist or is not a JSON object."""
        try:
            held = orjson.loads(self.calibration_file(version).read_bytes())
        except (OSError, orjson.JSONDecodeError):
            return None
        return held if isinstance(held, dict) else None

    def begin(
        self,
        *,
        embedder_fingerprint: str,
        dimension: int,
        settings: Mapping[str, Any],
        store: str = DEFAULT_STORE,
        lexical: LexicalSettings | None = None,
        sparse: bool = False,
        multi_vector_bits: Bits | None = None,
    ) -> VersionBuilder:
        """Creates a builder of the next version. Removes the files of builders that were killed.

        Args:
            embedder_fingerprint: fingerprint of the embedder that computes the vectors.
            dimension: dimension of the vectors.
            settings: stored in the manifest.
            store: kind of store to fill, a name in the registry `kserve_rag.stores`.
            lexical: settings of BM25.
            sparse: whether the version has learned sparse vectors.
            multi_vector_bits: bits per number of multi-vectors; None: the version has none.

        Raises:
            StoreFailedError: the store is not installed, or cannot be created.
        """
        ref, lock = self._hidden(store)
        return VersionBuilder(
            ref,
            lock,
            EmbedderInfo(fingerprint=embedder_fingerprint, dimension=dimension),
            dict(settings),
            lexical or LexicalSettings(),
            store,
            self._publish,
            sparse=sparse,
            multi_vector_bits=multi_vector_bits,
        )

    @contextlib.contextmanager
    def receive(self, store: str) -> Iterator[tuple[VersionRef, Callable[[Manifest, str], str]]]:
        """An empty folder for the files of a version from elsewhere, and the function that publishes it.

        The function takes the manifest and a digest of the content, and returns the version's name. If the block
        raises an exception before, the folder and its store are removed.

        Args:
            store: kind of store that the block fills.
        """
        ref, lock = self._hidden(store)
        with lock:
            try:
                yield ref, partial(self._publish, ref.folder)
            except BaseException:
                if ref.folder.exists():
                    self._remove(ref.folder)
                raise

    def _hidden(self, store: str) -> tuple[VersionRef, IO[str]]:
        """A new hidden folder, and its lock. Removes the folders of builders that were killed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            self._remove_leftovers()
            build_id = secrets.token_hex(8)
            ref = VersionRef(self.name, build_id, self.folder / f"{_BUILDING}{build_id}")
            ref.folder.mkdir()
            # Held until the builder ends, or released by the kernel if the process is killed.
            lock = (ref.folder / LOCK_FILE).open("w", encoding="utf-8")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock.write(store)
            lock.flush()
        return ref, lock

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _remove_leftovers(self) -> None:
        for entry in self.folder.iterdir():
            dead = entry.name.startswith(_BUILDING) and not _is_alive(entry)
            if dead or entry.name.startswith(_REMOVED):
                self._remove(entry)
            elif entry.name.startswith(".current-"):
                entry.unlink()

    def _remove(self, hidden: Path) -> None:
        """Removes a hidden folder and its version's store. If the store fails, the folder stays until the next call."""
        ref = VersionRef(self.name, hidden.name.rpartition("-")[2], hidden)
        try:
            # If it is missing or empty, the builder was killed before it had a store.
            with contextlib.suppress(FileNotFoundError):
                if name := (hidden / LOCK_FILE).read_text(encoding="utf-8"):
                    store_type(name).drop(ref)
        except StoreFailedError as error:
            logger.warning("cannot remove %s of index %s yet: %s", hidden.name, self.name, error.message)
            return
        shutil.rmtree(hidden)

    def _point(self, version: str) -> None:
        temporary = self.folder / f".current-{secrets.token_hex(8)}"
        with temporary.open("w", encoding="ascii") as file:
            file.write(version + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.folder / "current")
        sync(self.folder)

    def _opened(self, version: str) -> IndexVersion:
        try:
            return IndexVersion(self.folder / version)
        except (OSError, ValueError) as error:
            # It was pruned, is not readable for this user, or the volume failed.
            raise DamagedIndexError(
                f"Version {version} cannot be read: copy it again completely, or publish again."
            ) from error

    def _publish(self, folder: Path, manifest: Manifest, digest: str) -> str:
        with self._locked():
            # Names sort by creation, even if the clock was set back: they are at least a second apart.
            time = datetime.now(timezone.utc).replace(microsecond=0)
            for latest in self.versions()[-1:]:
                after = datetime.strptime(latest.split("-")[0], _TIME).replace(tzinfo=timezone.utc)
                time = max(time, after + timedelta(seconds=1))
            manifest.version = f"{time.strftime(_TIME)}-{digest[:6]}"
            content = orjson.dumps(manifest.model_dump(mode="json"))
            for name, data in ((MANIFEST_DIGEST, sha256(content).hexdigest().encode()), ("manifest.json", content)):
                (folder / name).write_bytes(data)
                sync(folder / name)
            (folder / LOCK_FILE).unlink()
            sync(folder)
            folder.rename(self.folder / manifest.version)
            sync(self.folder)
            self._point(manifest.version)
        return manifest.version


def _is_alive(folder: Path) -> bool:
    try:
        with (folder / LOCK_FILE).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
