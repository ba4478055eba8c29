"""Reading a published index version."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import orjson

from vectorstore.content import Chunk, ChunkVectors, Document
from vectorstore.errors import DamagedIndexError, UnknownDocumentError
from vectorstore.lexical import LexicalIndex
from vectorstore.manifest import read_manifest
from vectorstore.multivectors import MultiVectorIndex
from vectorstore.sparse import SparseIndex
from vectorstore.stores import Vectors
from vectorstore.stores.exact import ExactStore

if TYPE_CHECKING:
    from vectorstore.stores.chroma import ChromaStore


_PartT = TypeVar("_PartT", SparseIndex, MultiVectorIndex)


class ContentVectors(Mapping[str, ChunkVectors]):
    """Content key → what the embedder made of that text, with every part the version has. Reads disk; thread-safe."""

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
    """A published version, open for reading. Thread-safe. Close it, or use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name
        """Of the version, such as `20261120T035012-3f9a1c`."""
        self.manifest = read_manifest(folder)
        for name, size_bytes in self.manifest.files.items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != size_bytes:
                raise DamagedIndexError(
                    f"Version {self.name} is incomplete: {name} is missing or cut off. Copy or publish it again."
                )
        self.exact = ExactStore(folder / "exact", self.manifest.embedder.dimension)
        """Vectors and metadata of the rows."""
        if self.exact.count() != self.manifest.counts.chunks:
            self.exact.close()
            raise DamagedIndexError(f"Version {self.name} has another number of vectors than of chunks: publish again.")
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
        """Frees the files. Nothing may be read afterwards."""
        self._database.close()
        self.exact.close()

    def chroma(self) -> ChromaStore:
        """The same vectors in Chroma. The caller closes it."""
        # Here, because importing Chroma takes half a second that a service with a small index need not spend.
        from vectorstore.stores.chroma import ChromaStore

        store = ChromaStore(self.folder / "chroma")
        if store.count() != self.manifest.counts.chunks:
            store.close()
            raise DamagedIndexError(f"Version {self.name} has another number of vectors in Chroma than of chunks.")
        return store

    def lexical(self) -> LexicalIndex:
        """BM25 over the rows."""
        return LexicalIndex(self.folder / "lexical")

    def sparse(self) -> SparseIndex | None:
        """Learned sparse vectors of the rows; None where the version was built without."""
        return self._of_all(SparseIndex(self.folder / "sparse")) if "sparse" in self.manifest.parts else None

    def multi_vectors(self) -> MultiVectorIndex | None:
        """Multi-vectors of the rows; None where the version was built without."""
        if "multi_vector" not in self.manifest.parts:
            return None
        return self._of_all(MultiVectorIndex(self.folder / "multi_vectors"))

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
        return ContentVectors(self._database, self.exact.vectors, self.sparse(), self.multi_vectors())

    def _of_all(self, part: _PartT) -> _PartT:
        if len(part) != self.manifest.counts.chunks:
            raise DamagedIndexError(f"Version {self.name} has chunks without all of their vectors: publish again.")
        return part


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
        # SQLite opens files at the first statement; from then on removing the file takes nothing away.
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
