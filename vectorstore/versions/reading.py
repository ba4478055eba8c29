"""Reads a published index version."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import orjson

from vectorstore.errors import DamagedIndexError, UnknownDocumentError
from vectorstore.signals.dense import Vectors
from vectorstore.signals.lexical import LexicalIndex
from vectorstore.signals.multivectors import MultiVectorIndex
from vectorstore.signals.sparse import SparseIndex
from vectorstore.stores import Store, VersionRef, store_type
from vectorstore.stores.exact import FOLDER, VectorTable
from vectorstore.versions.content import Chunk, ChunkVectors, Document
from vectorstore.versions.manifest import read_manifest

MANIFEST_DIGEST = "manifest.sha256"
"""File with the SHA-256 of the manifest, in hexadecimal."""

_REFILL_ROWS = 1_000

_PartT = TypeVar("_PartT", SparseIndex, MultiVectorIndex)


class ContentVectors(Mapping[str, ChunkVectors]):
    """Content key → embeddings of the text: all that the version has. Reads from disk. Thread-safe."""

    def __init__(
        self, database: _Database, vectors: Vectors, sparse: SparseIndex | None, multi_vectors: MultiVectorIndex | None
    ) -> None:
        self._database = database
        self._vectors = vectors
        self._sparse = sparse
        self._multi_vectors = multi_vectors

    def __getitem__(self, key: str) -> ChunkVectors:
        try:
            wanted = bytes.fromhex(key)
        except ValueError:
            raise KeyError(key) from None
        found = self._database.one("SELECT row FROM chunks WHERE content_key = ?", (wanted,))
        if found is None:
            raise KeyError(key)
        row = found[0]
        return ChunkVectors(
            np.array(self._vectors[row]),
            None if self._sparse is None else self._sparse[row],
            None if self._multi_vectors is None else self._multi_vectors[row],
        )

    def __iter__(self) -> Iterator[str]:
        for (key,) in self._database.all("SELECT DISTINCT content_key FROM chunks"):
            yield key.hex()

    def __len__(self) -> int:
        row = self._database.one("SELECT COUNT(DISTINCT content_key) FROM chunks", ())
        return int(row[0]) if row else 0


class IndexVersion:
    """A published version, open for reading. Thread-safe. Close it or use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name
        """Name of the version, for example `20261120T035012-3f9a1c`."""
        self.manifest = read_manifest(folder)
        for name, size_bytes in self.manifest.files.items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != size_bytes:
                raise DamagedIndexError(
                    f"Version {self.name} is incomplete: {name} is missing or cut off. Copy or publish it again."
                )
        self.ref = VersionRef(self.manifest.name, self.manifest.build_id, folder)
        """Identifies the version to stores."""
        self.exact = VectorTable(folder / FOLDER)
        """Vectors and metadata of the rows."""
        chunks = self.manifest.counts.chunks
        if self.exact.vectors.shape != (chunks, self.manifest.embedder.dimension if chunks else 0):
            self.exact.close()
            raise DamagedIndexError(f"Version {self.name} does not have one vector per chunk: publish again.")
        try:
            self._database = _Database(folder / "documents.sqlite")
        except DamagedIndexError:
            self.exact.close()
            raise

    def __enter__(self) -> IndexVersion:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Releases the files. Read nothing afterwards."""
        self._database.close()
        self.exact.close()

    def verify(self, names: Collection[str] | None = None) -> None:
        """Compares files with their digests: these, or all files and the manifest itself. Reads them completely.

        Versions of earlier releases have digests of fewer files; only those are compared.

        Raises:
            DamagedIndexError: a file has changed since the version was built.
        """
        digests = self.manifest.sha256
        if names is not None:
            digests = {name: digests[name] for name in names if name in digests}
        elif (self.folder / MANIFEST_DIGEST).exists():
            digests = {**digests, "manifest.json": (self.folder / MANIFEST_DIGEST).read_text("ascii", "replace")}
        for name, expected in digests.items():
            if sha256_of(self.folder / name) != expected:
                raise DamagedIndexError(
                    f"Version {self.name} has changed since it was built: the SHA-256 of {name} differs. Copy the "
                    "version again, or publish again."
                )

    def state_of_files(self) -> object:
        """Equal for two calls if no file was written between them."""
        return [(self.folder / name).stat().st_ctime_ns for name in ("manifest.json", *self.manifest.files)]

    def open_store(self, name: str | None = None) -> Store:
        """The version's store; the caller closes it.

        Args:
            name: kind of store to open instead, which must have been filled with this version.

        Raises:
            StoreFailedError: the store cannot be opened.
            DamagedIndexError: the store does not hold one vector per chunk.
        """
        name = name or self.manifest.store
        store = store_type(name).open(self.ref)
        rows = store.count()
        if rows != self.manifest.counts.chunks:
            store.close()
            raise DamagedIndexError(
                f"The store {name} has {rows} vectors of version {self.name}, which has {self.manifest.counts.chunks} "
                "chunks: publish again."
            )
        return store

    def refill_store(self) -> None:
        """Drops the version's store and fills it again from the exact vectors. It must not be open."""
        store_type(self.manifest.store).drop(self.ref)
        fill_store(self.manifest.store, self.ref, self.exact, self.manifest.embedder.dimension)

    def lexical(self) -> LexicalIndex:
        """BM25 over the rows."""
        return LexicalIndex(self.folder / "lexical")

    def sparse(self) -> SparseIndex | None:
        """Learned sparse vectors of the rows; None if the version has none."""
        return self._of_all(SparseIndex(self.folder / "sparse")) if "sparse" in self.manifest.parts else None

    def multi_vectors(self) -> MultiVectorIndex | None:
        """Multi-vectors of the rows; None if the version has none."""
        if "multi_vector" not in self.manifest.parts:
            return None
        return self._of_all(MultiVectorIndex(self.folder / "multi_vectors"))

    def lines(self) -> ChunkLines:
        """The chunks by row, as JSON with the fields of passages."""
        return ChunkLines(self.folder, self.manifest.counts.chunks)

    def documents(self) -> Iterator[Document]:
        """All documents in the order in which they were added. Loads one at a time."""
        for row in self._database.all(f"SELECT {_DOCUMENT} FROM documents ORDER BY row"):  # noqa: S608 - a constant
            yield _document(row)

    def document(self, document_id: str, admits: Callable[[str], bool] = lambda _: True) -> Document:
        """The stored document. `admits`: whether the caller may read the documents of a file.

        Raises:
            UnknownDocumentError: the version has no document with this id, or the caller may not read it.
        """
        row = self._database.one(f"SELECT {_DOCUMENT} FROM documents WHERE id = ?", (document_id,))  # noqa: S608
        if row is None or not admits(row[1]):
            raise UnknownDocumentError(
                f"Version {self.name} has no document {document_id[:80]!r}.", field="document_id"
            )
        return _document(row)

    def chunks(self) -> Iterator[Chunk]:
        """All chunks in the order in which they were added. Loads one at a time."""
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

    def query(self, sql: str) -> Iterator[tuple[Any, ...]]:
        """Rows of a query on `documents.sqlite`."""
        return self._database.all(sql)

    def vectors_by_content(self) -> ContentVectors:
        """Embeddings by `content_key`, so that the same text is not embedded again."""
        return ContentVectors(self._database, self.exact.vectors, self.sparse(), self.multi_vectors())

    def _of_all(self, part: _PartT) -> _PartT:
        if len(part) != self.manifest.counts.chunks:
            raise DamagedIndexError(f"Version {self.name} lacks vectors of some chunks: publish again.")
        return part


class ChunkLines:
    """The JSON of each chunk by row, memory-mapped, and the order of chunk ids."""

    def __init__(self, folder: Path, count: int) -> None:
        self._starts = np.fromfile(folder / "chunks.i64", "<i8")
        self.order: npt.NDArray[np.int32] = np.fromfile(folder / "chunk_order.i32", "<i4")[:count]
        """int32[rows]: rank of the row's chunk when chunks are sorted by id."""
        if len(self._starts) != count + 1 or len(self.order) != count:
            raise DamagedIndexError(f"Version {folder.name} does not have one line per chunk: publish again.")
        path = folder / "chunks.jsonl"
        self._bytes = np.memmap(path, np.uint8, "r").view(np.ndarray) if count else np.empty(0, np.uint8)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, row: int) -> bytes:
        """A JSON object without its newline."""
        return self._bytes[self._starts[row] : self._starts[row + 1] - 1].tobytes()


class _Database:
    """Reads `documents.sqlite` through one connection for single rows and one for each iteration."""

    def __init__(self, path: Path) -> None:
        # Immutable means without locks and journal, so that it works on read-only and shared volumes.
        self._uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        self._lock = threading.Lock()
        self._connection = self._connect()
        # SQLite opens the file at the first statement. Afterwards the file may be removed.
        self.one("SELECT row FROM documents LIMIT 1", ())

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


def fill_store(store: str, ref: VersionRef, table: VectorTable, dimension: int) -> None:
    """Creates the version's store and fills it from the exact vectors. Raises StoreFailedError."""
    writer = store_type(store).create(ref, dimension)
    vectors, fields = table.vectors, table.fields
    try:
        for start in range(0, len(vectors), _REFILL_ROWS):
            block = vectors[start : start + _REFILL_ROWS]
            writer.add(block, fields.rows(start, start + len(block)))
        writer.finish()
    except BaseException:
        writer.discard()
        raise


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASHED_BYTES):
            digest.update(block)
    return digest.hexdigest()


_HASHED_BYTES = 1 << 20

_DOCUMENT = "id, source, source_sha256, title, url, metadata, text"


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
