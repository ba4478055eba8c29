"""A version in one file, to move it to another machine or cluster: a tar with the manifest first.

It has everything but the files of a store, which is filled again, and, if they exist, the calibration of refusals and
the rules of who may read the documents.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
from collections.abc import Callable, Collection, Iterator
from gzip import BadGzipFile
from hashlib import sha256
from pathlib import Path, PurePosixPath
from types import TracebackType

import orjson
from pydantic import ValidationError

from vectorstore.errors import EmbedderMismatchError, InvalidArchiveError
from vectorstore.stores.exact import FOLDER, VectorTable
from vectorstore.versions.access import ACCESS_FILE, AccessFile, AccessRules
from vectorstore.versions.manifest import FORMAT, Manifest
from vectorstore.versions.reading import MANIFEST_DIGEST, fill_store
from vectorstore.versions.root import IndexRoot

OnBytes = Callable[[int, int], None]
"""Receives how many bytes were processed, and how many there are."""

_MANIFEST = "manifest.json"
_CALIBRATION = "calibration.json"
_MAX_READ_BYTES = 1024**3
"""Maximum size of a file that is read whole. A manifest names every document."""
_BLOCK_BYTES = 1024**2


def export_version(root: IndexRoot, version: str | None, file: Path, on_bytes: OnBytes) -> Manifest:
    """Writes a version, or the current one, to a file, which is replaced if it exists.

    Raises:
        NoIndexError, UnknownVersionError, UnsupportedFormatError: there is no such version.
        DamagedIndexError: a file of the version has changed since it was built.
        OSError: the file cannot be written.
    """
    with root.open(version) as opened:
        opened.verify()
        members = {name: opened.folder / name for name in (_MANIFEST, MANIFEST_DIGEST, *opened.manifest.files)}
        members |= {_CALIBRATION: root.calibration_file(opened.name), ACCESS_FILE: root.folder / ACCESS_FILE}
        # A version of an earlier release has no digest of its manifest.
        sizes = {name: path.stat().st_size for name, path in members.items() if path.is_file()}
        partial = file.with_name(f".{file.name}.part")
        try:
            with tarfile.open(partial, "w") as archive:
                done = 0
                for name, size in sizes.items():
                    archive.add(members[name], name, filter=_without_owner)
                    done += size
                    on_bytes(done, sum(sizes.values()))
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)
        return opened.manifest


class Archive:
    """A file that `export_version` wrote, perhaps compressed. A context manager."""

    def __init__(self, file: Path) -> None:
        """Opens the file and reads its manifest. Raises InvalidArchiveError, OSError."""
        self._name = file.name
        self._tar: tarfile.TarFile
        with self._problems():
            self._tar = tarfile.open(file)  # noqa: SIM115 - closed by __exit__
        try:
            with self._problems():
                member = self._tar.next()
                if member is None or member.name != _MANIFEST:
                    raise InvalidArchiveError(f"{self._name} is no export of kserve-rag: it has no {_MANIFEST}.")
                self._content = self._read(member)
                self.manifest = self._parsed()
        except BaseException:
            self._tar.close()
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tar.close()

    def publish(
        self, root: IndexRoot, *, store: str, embedders: Collection[str], on_bytes: OnBytes
    ) -> tuple[str, bool]:
        """Makes the version the current one of an index, after everything was compared with its digests.

        Args:
            root: the index.
            store: kind of store to fill, a name in the registry `kserve_rag.stores`.
            embedders: fingerprints of the embedders that can serve it; empty: any.
            on_bytes: is called from this thread.

        Returns:
            Its new name, and whether the rules of who may read the documents were left out, because the index has its
            own.

        Raises:
            InvalidArchiveError: the file is incomplete or damaged, or there is not enough space.
            EmbedderMismatchError: another embedder made its vectors.
            StoreFailedError: the store cannot be filled.
        """
        manifest = self.manifest
        if embedders and manifest.embedder.fingerprint not in embedders:
            raise EmbedderMismatchError(
                f"{self._name} was made with the embedder {manifest.embedder.fingerprint}, but the indexes here with "
                f"{', '.join(sorted(embedders))}: vectors of two embedders cannot be compared. Start a graph with the "
                "first, or ingest the documents themselves."
            )
        with root.receive(store) as (ref, publish):
            needed, free = sum(manifest.files.values()), shutil.disk_usage(ref.folder).free
            if needed > free:
                raise InvalidArchiveError(
                    f"{self._name} needs {needed / 1e6:.0f} MB, but only {free / 1e6:.0f} MB are free."
                )
            extras = self._extract(ref.folder, on_bytes)
            with contextlib.closing(VectorTable(ref.folder / FOLDER)) as table:
                fill_store(store, ref, table, manifest.embedder.dimension)
            rules = self._rules(extras.get(ACCESS_FILE))
            left_out = False
            if rules.rules:  # before the documents can be read
                with AccessFile(root.folder).changing() as held:
                    left_out = bool(held) and held != rules.rules
                    if not held:
                        held.update(rules.rules)
            digest = sha256("".join(manifest.sha256.values()).encode()).hexdigest()
            moved = {"name": root.name, "build_id": ref.build_id, "store": store}
            version = publish(manifest.model_copy(update=moved), digest)
        if calibration := extras.get(_CALIBRATION):
            root.calibration_file(version).write_bytes(calibration)
        return version, left_out

    def _extract(self, folder: Path, on_bytes: OnBytes) -> dict[str, bytes]:
        """Writes the version's files. Returns the other files by name."""
        missing, extras = dict(self.manifest.files), dict[str, bytes]()
        done, total = 0, sum(missing.values())
        with self._problems():
            for member in self._tar:
                if member.name in (_MANIFEST, MANIFEST_DIGEST, _CALIBRATION, ACCESS_FILE):
                    extras[member.name] = self._read(member)
                elif member.isreg() and missing.pop(member.name, None) == member.size:
                    self._write(member, folder / member.name)
                    done += member.size
                    on_bytes(done, total)
                else:
                    raise InvalidArchiveError(f"{self._name}: {member.name[:80]!r} is not as the manifest has it.")
        if missing:
            raise InvalidArchiveError(f"{self._name} is incomplete: {next(iter(missing))} is missing. Copy it again.")
        written = extras.get(MANIFEST_DIGEST)
        if written is not None and written.decode("ascii", "replace") != sha256(self._content).hexdigest():
            raise self._changed(_MANIFEST)
        return extras

    def _write(self, member: tarfile.TarInfo, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        digest, source = sha256(), self._tar.extractfile(member)
        with path.open("xb") as file:
            while source is not None and (block := source.read(_BLOCK_BYTES)):
                digest.update(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        # Manifests of earlier releases have digests of fewer files.
        if self.manifest.sha256.get(member.name, digest.hexdigest()) != digest.hexdigest():
            raise self._changed(member.name)

    def _read(self, member: tarfile.TarInfo) -> bytes:
        source = self._tar.extractfile(member) if member.isreg() and member.size <= _MAX_READ_BYTES else None
        if source is None:
            raise InvalidArchiveError(f"{self._name}: {member.name[:80]} is no file, or larger than 1 GiB.")
        return source.read()

    def _parsed(self) -> Manifest:
        try:
            values = orjson.loads(self._content)
            written = values["format"]
        except (orjson.JSONDecodeError, TypeError, KeyError) as error:
            raise InvalidArchiveError(f"{self._name} has no readable {_MANIFEST}: export it again.") from error
        if written != FORMAT:
            raise InvalidArchiveError(
                f"{self._name} has format {written}, but this release reads format {FORMAT}: export it with the same "
                "release, or ingest the documents themselves."
            )
        try:
            manifest = Manifest.model_validate(values)
        except ValidationError as error:
            raise InvalidArchiveError(f"{self._name} has an invalid {_MANIFEST}: export it again.") from error
        for name in manifest.files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\0" in name:
                raise InvalidArchiveError(f"{self._name}: {name[:80]!r} is outside of the version's folder.")
        return manifest

    def _rules(self, content: bytes | None) -> AccessRules:
        try:
            return AccessRules() if content is None else AccessRules.model_validate_json(content)
        except ValidationError as error:
            raise InvalidArchiveError(f"{self._name} has an invalid {ACCESS_FILE}: export it again.") from error

    def _changed(self, name: str) -> InvalidArchiveError:
        return InvalidArchiveError(f"{self._name} has changed since it was exported: the SHA-256 of {name} differs.")

    @contextlib.contextmanager
    def _problems(self) -> Iterator[None]:
        try:
            yield
        except (tarfile.TarError, BadGzipFile, EOFError, ValueError) as error:
            raise InvalidArchiveError(f"{self._name} is no complete tar file: copy it again completely.") from error


def _without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
