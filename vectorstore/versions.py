"""Immutable index versions on disk: built out of sight, published atomically, opened by name, pruned on request.

    <root>/<name>/current                 one line: the version that is served
    <root>/<name>/<version>/manifest.json what the version is and what it was made from
                            documents.sqlite  documents, and the keys of chunks
                            chunks.jsonl      per chunk the fixed part of `vectorstore.wire.Passage`, in row order
                            chunks.i64        where each of those lines starts, and the end
                            chunk_order.i32   per row its place in the order of chunk ids
                            exact/            vectors and metadata of the rows
                            chroma/           the same vectors in Chroma
                            lexical/          BM25

A chunk's row is its place in the order of adding, from 0.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import orjson
from pydantic import BaseModel, Field, ValidationError

from vectorstore.content import Chunk, Document, check_chunk, check_document, content_key
from vectorstore.errors import (
    BuilderClosedError,
    DamagedIndexError,
    InvalidContentError,
    NoIndexError,
    UnknownDocumentError,
    UnknownVersionError,
    UnsupportedFormatError,
)
from vectorstore.lexical import LexicalIndex, LexicalSettings, LexicalWriter
from vectorstore.stores import Vectors, normalised
from vectorstore.stores.chroma import ChromaStore
from vectorstore.stores.exact import ExactStore

__all__ = [
    "Chunk",
    "ContentVectors",
    "Document",
    "IndexRoot",
    "IndexVersion",
    "Manifest",
    "VersionBuilder",
    "content_key",
]

FORMAT = 1
"""Of the files of a version. A reader refuses what is greater than its own."""

DOCUMENT_FIELDS = ("document_id", "source")
"""Fields that every document can be filtered by, unless its own metadata has a field of that name."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_VERSION = re.compile(r"\d{8}T\d{6}-[0-9a-f]{6}")
_TIME = "%Y%m%dT%H%M%S"
_BUILDING = ".building-"
_REMOVED = ".removed-"
_MAX_CHUNKS = 2**31 - 1


class EmbedderInfo(BaseModel):
    """What made the vectors of an index."""

    fingerprint: str
    dimension: int = Field(ge=1)


class SourceInfo(BaseModel):
    """What one source became."""

    sha256: str
    document_ids: list[str]


class Counts(BaseModel):
    """Size of an index."""

    documents: int = Field(ge=0)
    chunks: int = Field(ge=0)


class Manifest(BaseModel):
    """What a version is. Written last, so a version without one is not a version."""

    format: int = FORMAT
    version: str
    name: str
    created_at: datetime
    embedder: EmbedderInfo
    settings: dict[str, Any]
    """Of the chunker and whatever else the builder wants to remember."""
    sources: dict[str, SourceInfo]
    counts: Counts
    metadata_fields: dict[str, list[str]]
    """Fields that filters may name → kinds of their values (`str`, `int`, `float`, `bool`)."""
    files: dict[str, int]
    """Path → size in bytes of what must be complete. Chroma's files are left out: it rewrites them on opening."""


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
            return IndexVersion(self.folder / version)
        version = self.current()
        if version is None:
            raise NoIndexError(f"There is no index {self.name!r} yet: build one with `kserve-rag ingest`.")
        if not (self.folder / version).is_dir():
            raise DamagedIndexError(
                f"Index {self.name!r} points at version {version}, which is gone: point it at one of "
                f"{', '.join(self.versions()[-3:]) or 'none (publish one first)'}."
            )
        return IndexVersion(self.folder / version)

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
        return removed

    def begin(
        self,
        *,
        embedder_fingerprint: str,
        dimension: int,
        settings: Mapping[str, Any],
        lexical: LexicalSettings | None = None,
    ) -> VersionBuilder:
        """A builder of the next version. Removes what builders that died have left behind."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            self._remove_leftovers()
            folder = self.folder / f"{_BUILDING}{secrets.token_hex(8)}"
            folder.mkdir()
            # Held until the builder ends, however it ends: the kernel drops it with the process.
            alive = (folder / "lock").open("w")
            fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return VersionBuilder(
            self,
            folder,
            alive,
            EmbedderInfo(fingerprint=embedder_fingerprint, dimension=dimension),
            dict(settings),
            lexical or LexicalSettings(),
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
        _sync(self.folder)

    def _publish(self, folder: Path, manifest: Manifest, digest: str) -> str:
        with self._locked():
            # One second apart at least, also when the clock was set back: names sort by creation.
            time = datetime.now(timezone.utc).replace(microsecond=0)
            for latest in self.versions()[-1:]:
                after = datetime.strptime(latest.split("-")[0], _TIME).replace(tzinfo=timezone.utc)
                time = max(time, after + timedelta(seconds=1))
            manifest.version = f"{time.strftime(_TIME)}-{digest[:6]}"
            (folder / "manifest.json").write_bytes(orjson.dumps(manifest.model_dump(mode="json")))
            _sync(folder / "manifest.json")
            (folder / "lock").unlink()
            _sync(folder)
            folder.rename(self.folder / manifest.version)
            _sync(self.folder)
            self._point(manifest.version)
        return manifest.version


class VersionBuilder:
    """Writes a version out of sight. As a context manager it removes its work unless `publish` was reached.

    Memory stays bounded as the corpus grows: all but the vocabulary is streamed to disk. Not thread-safe.
    """

    def __init__(
        self,
        root: IndexRoot,
        folder: Path,
        alive: IO[str],
        embedder: EmbedderInfo,
        settings: dict[str, Any],
        lexical: LexicalSettings,
    ) -> None:
        self._root = root
        self._folder = folder
        self._alive = alive
        self._embedder = embedder
        self._settings = settings
        self._digest = hashlib.sha256(orjson.dumps([embedder.fingerprint, settings], option=orjson.OPT_SORT_KEYS))
        self._fields: dict[str, set[str]] = {}
        self._documents = 0
        self._chunks = 0
        self._open = True
        with contextlib.ExitStack() as undo:
            undo.callback(self.abandon)
            self._database = sqlite3.connect(folder / "documents.sqlite", isolation_level=None, check_same_thread=False)
            self._database.executescript(_SCHEMA)
            self._lines = (folder / "chunks.jsonl").open("wb")
            self._starts = (folder / "chunks.i64").open("wb")
            self._exact = ExactStore(folder / "exact", embedder.dimension, writable=True)
            self._chroma = ChromaStore(folder / "chroma")
            self._lexical = LexicalWriter(folder / "lexical", lexical)
            self._database.execute("BEGIN")
            undo.pop_all()

    def __enter__(self) -> VersionBuilder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abandon()

    def add(self, document: Document, chunks: Sequence[Chunk], vectors: npt.ArrayLike) -> None:
        """Adds a document with its chunks and their vectors, float32[len(chunks), dim], all or nothing.

        Vectors that are not of length 1 are normalised. A document without chunks is remembered and never found.

        Raises:
            InvalidContentError: a span that does not quote its chunk, an id that is taken, text that is not valid
                Unicode, metadata of a wrong type, or vectors of a wrong number or shape or with NaN in them.
        """
        self._check_open()
        rows = normalised(
            np.reshape(vectors, (0, self._embedder.dimension)) if not len(chunks) else vectors, self._embedder.dimension
        )
        if len(rows) != len(chunks):
            raise InvalidContentError(f"{len(chunks)} chunks came with {len(rows)} vectors.", field="vectors")
        if self._chunks + len(chunks) > _MAX_CHUNKS:
            raise InvalidContentError(f"An index holds at most {_MAX_CHUNKS} chunks: split it.", field="chunks")
        check_document(document)
        for chunk in chunks:
            check_chunk(chunk, document)
        self._insert(document, chunks)
        metadata = {"document_id": document.id, "source": document.source, **document.metadata}
        try:
            self._write_lines(document, chunks)
            self._exact.add(rows, [metadata] * len(chunks))
            self._chroma.add(rows, [metadata] * len(chunks))
            self._lexical.add("\n".join((document.title, *chunk.heading_path, chunk.text)) for chunk in chunks)
        except BaseException:
            # A full disk, say: the parts no longer agree on their rows.
            self.abandon()
            raise
        for name, value in metadata.items():
            self._fields.setdefault(name, set()).add(type(value).__name__)
        self._documents += 1
        self._chunks += len(chunks)

    def publish(self) -> str:
        """Completes the version, makes it visible and current, all at once.

        Returns:
            Its name.

        """
        self._check_open()
        self._database.execute("COMMIT")
        order = np.memmap(self._folder / "chunk_order.i32", "<i4", "w+", shape=(max(self._chunks, 1),))
        for place, (row,) in enumerate(self._database.execute("SELECT row FROM chunks ORDER BY id")):
            order[row] = place
        order.flush()
        self._starts.write(self._lines.tell().to_bytes(8, "little", signed=True))
        sources: dict[str, SourceInfo] = {}
        for source, sha256, document_id in self._database.execute(
            "SELECT source, source_sha256, id FROM documents ORDER BY source, row"
        ):
            sources.setdefault(source, SourceInfo(sha256=sha256, document_ids=[])).document_ids.append(document_id)
        self._lexical.finish()
        self._close_files()
        manifest = Manifest(
            version="",
            name=self._root.name,
            created_at=datetime.now(timezone.utc),
            embedder=self._embedder,
            settings=self._settings,
            sources=sources,
            counts=Counts(documents=self._documents, chunks=self._chunks),
            metadata_fields={name: sorted(kinds) for name, kinds in sorted(self._fields.items())},
            files=_sizes(self._folder),
        )
        _sync_all(self._folder)
        version = self._root._publish(self._folder, manifest, self._digest.hexdigest())
        self._alive.close()
        self._open = False
        return version

    def abandon(self) -> None:
        """Removes everything. Does nothing after `publish`."""
        if not self._open:
            return
        self._open = False
        try:
            self._close_files()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._alive.close()

    def _check_open(self) -> None:
        if not self._open:
            raise BuilderClosedError("This builder has published or was abandoned: begin another.")

    def _insert(self, document: Document, chunks: Sequence[Chunk]) -> None:
        fingerprint = self._embedder.fingerprint
        keys = [content_key(fingerprint, c.text if c.embedding_text is None else c.embedding_text) for c in chunks]
        database = self._database
        database.execute("SAVEPOINT document")
        try:
            self._insert_rows(document, chunks, keys)
        except BaseException:
            database.execute("ROLLBACK TO document")
            raise
        finally:
            database.execute("RELEASE document")
        self._digest.update(orjson.dumps([document.id, document.source_sha256, document.title, document.url]))
        for chunk, key in zip(chunks, keys, strict=True):
            self._digest.update(orjson.dumps([chunk.id, key, chunk.start, chunk.end]))

    def _insert_rows(self, document: Document, chunks: Sequence[Chunk], keys: Sequence[str]) -> None:
        database = self._database
        database.execute("INSERT OR IGNORE INTO sources VALUES (?, ?)", (document.source, document.source_sha256))
        (sha256,) = database.execute("SELECT sha256 FROM sources WHERE source = ?", (document.source,)).fetchone()
        if sha256 != document.source_sha256:
            raise InvalidContentError(
                f"Source {document.source!r} came with two different hashes: it changed while it was read.",
                field="source_sha256",
            )
        try:
            database.execute(
                "INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    self._documents,
                    document.id,
                    document.source,
                    document.source_sha256,
                    document.title,
                    document.url,
                    orjson.dumps(document.metadata).decode(),
                    document.text,
                ),
            )
        except sqlite3.IntegrityError as error:
            raise InvalidContentError(f"Document {document.id!r} was added before.", field="document.id") from error
        try:
            database.executemany(
                "INSERT INTO chunks VALUES (?, ?, ?)",
                [
                    (self._chunks + i, chunk.id, bytes.fromhex(key))
                    for i, (chunk, key) in enumerate(zip(chunks, keys, strict=True))
                ],
            )
        except sqlite3.IntegrityError as error:
            raise InvalidContentError(
                f"A chunk id of document {document.id!r} was used before: ids are unique in an index.", field="chunk.id"
            ) from error

    def _write_lines(self, document: Document, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            self._starts.write(self._lines.tell().to_bytes(8, "little", signed=True))
            self._lines.write(
                orjson.dumps(
                    {
                        "text": chunk.text,
                        "chunk_id": chunk.id,
                        "document_id": document.id,
                        "title": document.title,
                        "url": document.url,
                        "heading_path": chunk.heading_path,
                        "span": {"start": chunk.start, "end": chunk.end},
                        "metadata": document.metadata,
                    },
                    option=orjson.OPT_APPEND_NEWLINE,
                )
            )

    def _close_files(self) -> None:
        for name in ("_lines", "_starts", "_exact", "_chroma", "_lexical", "_database"):
            part = getattr(self, name, None)
            if part is not None:
                part.close()


class ContentVectors(Mapping[str, Vectors]):
    """Content key → float32[dim] of a version. Reads from disk; thread-safe."""

    def __init__(self, database: _Database, vectors: Vectors) -> None:
        self._database = database
        self._vectors = vectors

    def __getitem__(self, key: str) -> Vectors:
        try:
            wanted = bytes.fromhex(key)
        except ValueError:
            raise KeyError(key) from None
        row = self._database.one("SELECT row FROM chunks WHERE content_key = ?", (wanted,))
        if row is None:
            raise KeyError(key)
        return np.array(self._vectors[row[0]])

    def __iter__(self) -> Iterator[str]:
        for (key,) in self._database.all("SELECT DISTINCT content_key FROM chunks"):
            yield key.hex()

    def __len__(self) -> int:
        row = self._database.one("SELECT COUNT(DISTINCT content_key) FROM chunks", ())
        return int(row[0]) if row else 0


class IndexVersion:
    """A published version, open for reading. Thread-safe. Close it, or use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name
        """Of the version, such as `20261120T035012-3f9a1c`."""
        self.manifest = _read_manifest(folder)
        for name, size_bytes in self.manifest.files.items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != size_bytes:
                raise DamagedIndexError(
                    f"Version {self.name} is incomplete: {name} is missing or cut off. Copy or publish it again."
                )
        self._database = _Database(folder / "documents.sqlite")
        self._exact: ExactStore | None = None

    def __enter__(self) -> IndexVersion:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Frees the files. Nothing may be read afterwards."""
        self._database.close()
        if self._exact is not None:
            self._exact.close()

    @property
    def exact(self) -> ExactStore:
        """Vectors and metadata of the rows."""
        if self._exact is None:
            self._exact = ExactStore(self.folder / "exact", self.manifest.embedder.dimension)
            if self._exact.count() != self.manifest.counts.chunks:
                raise DamagedIndexError(f"Version {self.name} has another number of vectors than of chunks.")
        return self._exact

    def chroma(self) -> ChromaStore:
        """The same vectors in Chroma. The caller closes it."""
        store = ChromaStore(self.folder / "chroma")
        if store.count() != self.manifest.counts.chunks:
            store.close()
            raise DamagedIndexError(f"Version {self.name} has another number of vectors in Chroma than of chunks.")
        return store

    def lexical(self) -> LexicalIndex:
        """BM25 over the rows."""
        return LexicalIndex(self.folder / "lexical")

    def lines(self) -> ChunkLines:
        """Chunks by row, as the JSON that passages are made of."""
        return ChunkLines(self.folder, self.manifest.counts.chunks)

    def documents(self) -> Iterator[Document]:
        """All documents in the order of adding; one in memory at a time."""
        for row in self._database.all(f"SELECT {_DOCUMENT} FROM documents ORDER BY row"):  # noqa: S608 - a constant
            yield _document(row)

    def document(self, document_id: str) -> Document:
        """The stored document.

        Raises:
            UnknownDocumentError: there is none of this id.
        """
        row = self._database.one(f"SELECT {_DOCUMENT} FROM documents WHERE id = ?", (document_id,))  # noqa: S608
        if row is None:
            raise UnknownDocumentError(
                f"Version {self.name} has no document {document_id[:80]!r}.", field="document_id"
            )
        return _document(row)

    def chunks(self) -> Iterator[Chunk]:
        """All chunks in the order of adding; one in memory at a time."""
        with (self.folder / "chunks.jsonl").open("rb") as lines:
            for line in lines:
                values = orjson.loads(line)
                yield Chunk(
                    id=values["chunk_id"],
                    document_id=values["document_id"],
                    text=values["text"],
                    start=values["span"]["start"],
                    end=values["span"]["end"],
                    heading_path=tuple(values["heading_path"]),
                )

    def vectors_by_content(self) -> ContentVectors:
        """Vectors of this version by `content_key`, for those who would embed the same text again."""
        return ContentVectors(self._database, self.exact.vectors)


class ChunkLines:
    """The JSON of each row's chunk, memory-mapped, and the order of chunk ids."""

    def __init__(self, folder: Path, count: int) -> None:
        self._starts = np.fromfile(folder / "chunks.i64", "<i8")
        self.order: npt.NDArray[np.int32] = np.fromfile(folder / "chunk_order.i32", "<i4")[:count]
        """int32[rows]: place of the row's chunk in the order of chunk ids."""
        if len(self._starts) != count + 1 or len(self.order) != count:
            raise DamagedIndexError(f"Version {folder.name} has another number of chunk lines than of chunks.")
        path = folder / "chunks.jsonl"
        self._bytes = np.memmap(path, np.uint8, "r").view(np.ndarray) if count else np.empty(0, np.uint8)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, row: int) -> bytes:
        """A JSON object without its newline."""
        return self._bytes[self._starts[row] : self._starts[row + 1] - 1].tobytes()


class _Database:
    """Reads `documents.sqlite` of a published version; one connection for single rows, one more per iteration."""

    def __init__(self, path: Path) -> None:
        # Immutable: no lock, no journal, so it works on read-only volumes and on shared ones.
        self._uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        self._lock = threading.Lock()
        self._connection = self._connect()

    def _connect(self) -> sqlite3.Connection:
        try:
            return sqlite3.connect(self._uri, uri=True, check_same_thread=False)
        except sqlite3.Error as error:
            raise DamagedIndexError("The documents of the index cannot be opened: publish again.") from error

    def one(self, sql: str, values: Sequence[object]) -> tuple[Any, ...] | None:
        with self._lock:
            try:
                row: tuple[Any, ...] | None = self._connection.execute(sql, values).fetchone()
            except sqlite3.Error as error:
                raise DamagedIndexError("The documents of the index cannot be read: publish again.") from error
        return row

    def all(self, sql: str) -> Iterator[tuple[Any, ...]]:
        with contextlib.closing(self._connect()) as connection:
            try:
                yield from connection.execute(sql)
            except sqlite3.Error as error:
                raise DamagedIndexError("The documents of the index cannot be read: publish again.") from error

    def close(self) -> None:
        with self._lock:
            self._connection.close()


_DOCUMENT = "id, source, source_sha256, title, url, metadata, text"

_SCHEMA = """
PRAGMA journal_mode = MEMORY;
PRAGMA synchronous = OFF;
CREATE TABLE sources (source TEXT PRIMARY KEY, sha256 TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE documents (
    row INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    source TEXT NOT NULL,
    source_sha256 TEXT NOT NULL,
    title TEXT NOT NULL,
    url TEXT,
    metadata TEXT NOT NULL,
    text TEXT NOT NULL
);
CREATE TABLE chunks (row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, content_key BLOB NOT NULL);
CREATE INDEX chunks_by_content ON chunks (content_key);
"""


def _document(row: tuple[Any, ...]) -> Document:
    document_id, source, source_sha256, title, url, metadata, text = row
    return Document(
        id=document_id,
        text=text,
        title=title,
        url=url,
        source=source,
        source_sha256=source_sha256,
        metadata=orjson.loads(metadata),
    )


def _read_manifest(folder: Path) -> Manifest:
    try:
        values = orjson.loads((folder / "manifest.json").read_bytes())
        written = values["format"]
    except (OSError, orjson.JSONDecodeError, TypeError, KeyError) as error:
        raise DamagedIndexError(
            f"Version {folder.name} has no readable manifest.json: copy it again completely, or publish again."
        ) from error
    if not isinstance(written, int) or written > FORMAT:
        raise UnsupportedFormatError(
            f"Version {folder.name} has format {written}; this release reads up to {FORMAT}: upgrade it, or point "
            "`current` at an older version."
        )
    try:
        manifest = Manifest.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise DamagedIndexError(
            f"manifest.json of version {folder.name} is wrong at {where}: publish again."
        ) from error
    if manifest.version != folder.name:
        raise DamagedIndexError(f"Folder {folder.name} holds version {manifest.version}: folders are not renamed.")
    return manifest


def _is_alive(folder: Path) -> bool:
    try:
        with (folder / "lock").open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _sizes(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] not in ("chroma", "lock")
    }


def _sync_all(folder: Path) -> None:
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
