"""Immutable index versions on disk: built out of sight, published atomically, opened by name, pruned on request.

    <root>/<name>/current                 one line: the version that is served
    <root>/<name>/<version>.calibration.json
                                          the threshold of refusals, where one was calibrated with the version
    <root>/<name>/<version>/manifest.json what the version is and what it was made from
                            documents.sqlite  documents, and the keys of chunks
                            chunks.jsonl      per chunk the fixed part of `vectorstore.wire.Passage`, in row order
                            chunks.i64        where each of those lines starts, and the end
                            chunk_order.i32   per row its place in the order of chunk ids
                            exact/            vectors and metadata of the rows
                            chroma/           the same vectors in Chroma
                            lexical/          BM25
                            sparse/           learned sparse vectors, where the embedder makes them
                            multi_vectors/    a vector per token, compressed, where the embedder makes them

A chunk's row is its place in the order of adding, from 0.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import orjson

from vectorstore.absence import DeletionReport, remains
from vectorstore.building import VersionBuilder, sync
from vectorstore.content import Chunk, ChunkVectors, Document, content_key
from vectorstore.errors import DamagedIndexError, InvalidContentError, NoIndexError, UnknownVersionError
from vectorstore.inventory import Holding, holdings
from vectorstore.lexical import LANGUAGES, LexicalSettings
from vectorstore.manifest import EmbedderInfo, Manifest
from vectorstore.multivectors import Bits, EncodedVectors, Quantiser
from vectorstore.reading import ContentVectors, IndexVersion

__all__ = [
    "LANGUAGES",
    "Bits",
    "Chunk",
    "ChunkVectors",
    "ContentVectors",
    "DeletionReport",
    "Document",
    "EncodedVectors",
    "Holding",
    "IndexRoot",
    "IndexVersion",
    "LexicalSettings",
    "Manifest",
    "Quantiser",
    "VersionBuilder",
    "content_key",
    "holdings",
    "remains",
]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_VERSION = re.compile(r"\d{8}T\d{6}-[0-9a-f]{6}")
_TIME = "%Y%m%dT%H%M%S"
_BUILDING = ".building-"
_REMOVED = ".removed-"


class IndexRoot:
    """All versions of one index. Nothing is read or made until a method is called."""

    def __init__(self, path: Path, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise InvalidContentError(
                f"The index name {name[:80]!r} cannot name a folder: use 1 to 63 letters, digits, '.', '_' and '-'.",
                field="name",
            )
        self.name = name
        self.folder = path / name

    def current(self) -> str | None:
        """The version that is served; None where nothing was published.

        Raises:
            DamagedIndexError: the pointer holds something that is no version's name.
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
            NoIndexError: nothing was published.
            UnknownVersionError: there is no such version.
            DamagedIndexError: the pointer leads nowhere, or a file of the version is missing or cut off.
            UnsupportedFormatError: a newer release wrote it.
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
                f"Index {self.name!r} points at version {version}, which is gone: point it at one of "
                f"{', '.join(self.versions()[-3:]) or 'none (publish one first)'}."
            )
        return self._opened(version)

    def set_current(self, version: str) -> None:
        """Points `current` at a version, atomically: to publish, and to roll back.

        Raises:
            UnknownVersionError: there is no such version.
            DamagedIndexError, UnsupportedFormatError: it could not be served.
        """
        with self.open(version), self._locked():
            self._point(version)

    def prune(self, keep: int) -> list[str]:
        """Removes all but the newest `keep` versions and the current one. Readers that have one open keep it.

        Returns:
            The versions removed, oldest first.

        """
        if keep < 1:
            raise InvalidContentError(f"keep is {keep}: at least 1 version must stay.", field="keep")
        with self._locked():
            current = self.current()
            removed = [version for version in self.versions()[:-keep] if version != current]
            for version in removed:
                # A rename first: no reader ever finds half a version.
                hidden = self.folder / f"{_REMOVED}{version}-{secrets.token_hex(4)}"
                (self.folder / version).rename(hidden)
                shutil.rmtree(hidden)
                self.calibration_file(version).unlink(missing_ok=True)
        return removed

    def calibration_file(self, version: str) -> Path:
        """Where the calibration of refusals is kept that was made with a version: beside it, as it cannot change."""
        return self.folder / f"{version}.calibration.json"

    def calibration(self, version: str) -> dict[str, Any] | None:
        """What that file holds; None where there is none, or no JSON object in it."""
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
        lexical: LexicalSettings | None = None,
        sparse: bool = False,
        multi_vector_bits: Bits | None = None,
    ) -> VersionBuilder:
        """A builder of the next version. Removes what builders that died have left behind.

        Args:
            embedder_fingerprint: of what makes the vectors.
            dimension: of the vectors.
            settings: remembered in the manifest.
            lexical: of BM25; English by default.
            sparse: the version has learned sparse vectors.
            multi_vector_bits: the version has multi-vectors, kept in so many bits per number; None: it has none.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            self._remove_leftovers()
            folder = self.folder / f"{_BUILDING}{secrets.token_hex(8)}"
            folder.mkdir()
            # Held until the builder ends, however it ends: the kernel drops it with the process.
            alive = (folder / "lock").open("w")
            fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return VersionBuilder(
            self.name,
            folder,
            alive,
            EmbedderInfo(fingerprint=embedder_fingerprint, dimension=dimension),
            dict(settings),
            lexical or LexicalSettings(),
            self._publish,
            sparse=sparse,
            multi_vector_bits=multi_vector_bits,
        )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _remove_leftovers(self) -> None:
        for entry in self.folder.iterdir():
            dead = entry.name.startswith(_BUILDING) and not _is_alive(entry)
            if dead or entry.name.startswith(_REMOVED):
                shutil.rmtree(entry)
            elif entry.name.startswith(".current-"):
                entry.unlink()

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
            # Pruned meanwhile, not readable for this user, or a volume that fails.
            raise DamagedIndexError(
                f"Version {version} cannot be read: copy it again completely, or publish again."
            ) from error

    def _publish(self, folder: Path, manifest: Manifest, digest: str) -> str:
        with self._locked():
            # One second apart at least, also when the clock was set back: names sort by creation.
            time = datetime.now(timezone.utc).replace(microsecond=0)
            for latest in self.versions()[-1:]:
                after = datetime.strptime(latest.split("-")[0], _TIME).replace(tzinfo=timezone.utc)
                time = max(time, after + timedelta(seconds=1))
            manifest.version = f"{time.strftime(_TIME)}-{digest[:6]}"
            (folder / "manifest.json").write_bytes(orjson.dumps(manifest.model_dump(mode="json")))
            sync(folder / "manifest.json")
            (folder / "lock").unlink()
            sync(folder)
            folder.rename(self.folder / manifest.version)
            sync(self.folder)
            self._point(manifest.version)
        return manifest.version


def _is_alive(folder: Path) -> bool:
    try:
        with (folder / "lock").open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
