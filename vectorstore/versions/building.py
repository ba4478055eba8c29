"""Builds an index version in a hidden folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import orjson

from embedder.wire import Embeddings, SparseVector
from vectorstore.errors import BuilderClosedError, InvalidContentError
from vectorstore.signals.dense import Vectors, normalised
from vectorstore.signals.lexical import LexicalIndex, LexicalSettings, LexicalWriter
from vectorstore.signals.multivectors import Bits, EncodedVectors, Matrix, MultiVectorIndex, MultiVectorWriter
from vectorstore.signals.sparse import SparseIndex, SparseWriter
from vectorstore.signals.sparse import check as check_sparse
from vectorstore.stores import VersionRef, Writer, store_type
from vectorstore.stores.exact import FOLDER, VectorTable, VectorTableWriter
from vectorstore.versions.content import Chunk, Document, check_chunk, check_document, content_key
from vectorstore.versions.examples import Examples
from vectorstore.versions.manifest import Counts, EmbedderInfo, Manifest, SourceInfo
from vectorstore.versions.reading import sha256_of
from vectorstore.versions.trust import ProbeSampler, measure
from vectorstore.wire import Signal

_MAX_CHUNKS = 2**31 - 1

LOCK_FILE = "lock"
"""Name of the lock file in a builder's folder. It contains the name of the store."""

_BEST = 3
"""A lexical search for an example must find its document among this many chunks."""


class VersionBuilder:
    """Builds a version. As a context manager, it removes its files unless `publish` was called.

    Everything except the vocabulary is streamed to disk, so that memory does not grow with the corpus. Not thread-safe.
    """

    def __init__(
        self,
        ref: VersionRef,
        lock: IO[str],
        embedder: EmbedderInfo,
        settings: dict[str, Any],
        lexical: LexicalSettings,
        store: str,
        publish: Callable[[Path, Manifest, str], str],
        *,
        sparse: bool = False,
        multi_vector_bits: Bits | None = None,
    ) -> None:
        """Called by `IndexRoot.begin`, which documents the other arguments.

        `ref.folder` is hidden and contains only `lock`, which the builder holds until it ends. `publish` takes a
        complete folder, its manifest and the digest of its content, makes it visible and returns the version's name.
        """
        self._ref = ref
        self._publish = publish
        self._folder = folder = ref.folder
        self._lock = lock
        self._embedder = embedder
        self._settings = settings
        self._store = store
        described = [embedder.fingerprint, settings, sparse, multi_vector_bits]
        self._digest = hashlib.sha256(orjson.dumps(described, option=orjson.OPT_SORT_KEYS))
        self._fields: dict[str, set[str]] = {}
        self._examples = Examples()
        self._sampler = ProbeSampler()
        self._probes: list[tuple[int, str]] = []
        self._documents = 0
        self._chunks = 0
        self._open = True
        self._writer: Writer | None = None
        self._files = contextlib.ExitStack()
        with contextlib.ExitStack() as undo:
            undo.callback(self.abandon)
            keep, closing = self._files.enter_context, contextlib.closing
            database = sqlite3.connect(folder / "documents.sqlite", isolation_level=None, check_same_thread=False)
            self._database = keep(closing(database))
            self._database.executescript(_SCHEMA)
            self._lines = keep(closing((folder / "chunks.jsonl").open("wb")))
            self._starts = keep(closing((folder / "chunks.i64").open("wb")))
            self._exact = keep(closing(VectorTableWriter(folder / FOLDER)))
            self._lexical = keep(closing(LexicalWriter(folder / "lexical", lexical)))
            self._sparse = keep(closing(SparseWriter(folder / "sparse"))) if sparse else None
            self._multi_vectors = None
            if multi_vector_bits is not None:
                writer = MultiVectorWriter(folder / "multi_vectors", embedder.dimension, multi_vector_bits)
                self._multi_vectors = keep(closing(writer))
            self._writer = store_type(store).create(ref, embedder.dimension)
            self._database.execute("BEGIN")
            undo.pop_all()

    def __enter__(self) -> VersionBuilder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abandon()

    def add(
        self,
        document: Document,
        chunks: Sequence[Chunk],
        vectors: npt.ArrayLike,
        *,
        sparse: Sequence[SparseVector] = (),
        multi_vectors: Sequence[Matrix | EncodedVectors] = (),
    ) -> None:
        """Adds a document with its chunks and their vectors; nothing if it raises.

        A document without chunks is stored, but searches never find it.

        Args:
            document: the document.
            chunks: chunks of the document, in order.
            vectors: float32[len(chunks), dim]; rows are L2-normalised if they are not yet.
            sparse: one per chunk if the version has sparse vectors.
            multi_vectors: one per chunk if the version has multi-vectors: float32[tokens, dim], rows L2-normalised, or
                the encoding of the same text from a version with the same embedder and bits.

        Raises:
            InvalidContentError: a chunk does not quote its span, an id is repeated, a text is not valid Unicode,
                metadata has a wrong type, or vectors have a wrong number or shape or contain NaN.
        """
        self._check_open()
        dimension = self._embedder.dimension
        rows = normalised(vectors if len(chunks) else np.reshape(vectors, (0, dimension)), dimension)
        self._check(document, chunks, rows, sparse, multi_vectors)
        self._insert(document, chunks)
        # A document's own fields with these names are replaced.
        metadata = {**document.metadata, "document_id": document.id, "source": document.source}
        try:
            self._write_lines(document, chunks)
            self._exact.add(rows, [metadata] * len(chunks))
            if self._writer is not None:
                self._writer.add(rows, [metadata] * len(chunks))
            self._lexical.add("\n".join((document.title, *chunk.heading_path, chunk.text)) for chunk in chunks)
            if self._sparse is not None:
                self._sparse.add(sparse)
            if self._multi_vectors is not None:
                self._multi_vectors.add(multi_vectors)
        except BaseException:
            # For example, the disk is full. The parts no longer have the same rows.
            self.abandon()
            raise
        for name, value in metadata.items():
            self._fields.setdefault(name, set()).add(type(value).__name__)
        self._examples.add(document, chunks, self._chunks)
        self._sampler.add(chunks, self._chunks)
        self._documents += 1
        self._chunks += len(chunks)

    def probes(self) -> list[str]:
        """Queries with which `publish` measures the signals: at most 96 short texts."""
        self._probes = self._sampler.probes()
        return [query for _, query in self._probes]

    def publish(self, probes: Embeddings | None = None) -> str:
        """Completes the version, makes it visible, and makes it the current one.

        Args:
            probes: embeddings of `probes()`, as queries. None: the signals are not measured and get default weights.

        Returns:
            The version's name.
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
        parts: list[Signal] = ["dense", "lexical"]
        self._lexical.finish()
        if self._sparse is not None:
            self._sparse.finish()
            parts.append("sparse")
        if self._multi_vectors is not None:
            self._multi_vectors.finish()
            parts.append("multi_vector")
        self._files.close()
        if self._writer is not None:
            self._writer.finish()
            self._writer = None
        words = LexicalIndex(self._folder / "lexical")
        examples = self._examples.pick(lambda question: words.search(question, limit=_BEST).rows.tolist())
        sizes = self._sizes()
        manifest = Manifest(
            version="",
            build_id=self._ref.build_id,
            name=self._ref.index,
            created_at=datetime.now(timezone.utc),
            embedder=self._embedder,
            store=self._store,
            settings=self._settings,
            sources=sources,
            counts=Counts(documents=self._documents, chunks=self._chunks),
            parts=parts,
            metadata_fields={name: sorted(kinds) for name, kinds in sorted(self._fields.items())},
            trust={} if probes is None else self._trust(probes, words),
            languages=self._sampler.languages(),
            examples=list(examples),
            example_sources=list(examples.values()),
            files=sizes,
            sha256={name: sha256_of(self._folder / name) for name in sizes},
        )
        _sync_all(self._folder)
        version = self._publish(self._folder, manifest, self._digest.hexdigest())
        self._lock.close()
        self._open = False
        return version

    def _trust(self, embeddings: Embeddings, words: LexicalIndex) -> dict[Signal, float]:
        if not self._probes:
            return {}
        rows, queries = zip(*self._probes, strict=True)
        table = VectorTable(self._folder / FOLDER)
        try:
            return measure(
                rows,
                queries,
                embeddings,
                vectors=table.vectors,
                lexical=words,
                sparse=SparseIndex(self._folder / "sparse") if self._sparse is not None else None,
                multi_vectors=MultiVectorIndex(self._folder / "multi_vectors") if self._multi_vectors else None,
            )
        finally:
            table.close()

    def abandon(self) -> None:
        """Removes the unpublished version. Does nothing after `publish`."""
        if not self._open:
            return
        self._open = False
        try:
            self._files.close()
            if self._writer is not None:
                self._writer.discard()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._lock.close()

    def _check_open(self) -> None:
        if not self._open:
            raise BuilderClosedError("This builder has published or was abandoned: create another.")

    def _check(
        self,
        document: Document,
        chunks: Sequence[Chunk],
        rows: Vectors,
        sparse: Sequence[SparseVector],
        multi_vectors: Sequence[Matrix | EncodedVectors],
    ) -> None:
        """Raises the errors of `add`, except for repeated ids."""
        for field, given, required in (
            ("vectors", rows, True),
            ("sparse", sparse, self._sparse is not None),
            ("multi_vectors", multi_vectors, self._multi_vectors is not None),
        ):
            if len(given) != (len(chunks) if required else 0):
                raise InvalidContentError(f"{len(chunks)} chunks came with {len(given)} {field}.", field=field)
        check_sparse(sparse)
        if self._multi_vectors is not None:
            self._multi_vectors.check(multi_vectors)
        if self._chunks + len(chunks) > _MAX_CHUNKS:
            raise InvalidContentError(f"An index holds at most {_MAX_CHUNKS} chunks: split it.", field="chunks")
        check_document(document)
        for chunk in chunks:
            check_chunk(chunk, document)

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
                f"Source {document.source!r} has two different hashes: it changed while it was read.",
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
            raise InvalidContentError(f"Document {document.id!r} was already added.", field="document.id") from error
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
                f"A chunk id of document {document.id!r} is already used: ids must be unique in an index.",
                field="chunk.id",
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
                        "source": document.source,
                        "heading_path": chunk.heading_path,
                        "span": {"start": chunk.start, "end": chunk.end},
                        "metadata": document.metadata,
                    },
                    option=orjson.OPT_APPEND_NEWLINE,
                )
            )

    def _sizes(self) -> dict[str, int]:
        """Path → size in bytes, for all files that do not change."""
        return {
            path.relative_to(self._folder).as_posix(): path.stat().st_size
            for path in sorted(self._folder.rglob("*"))
            if path.is_file() and path.name != LOCK_FILE and self._ref.store_folder not in path.parents
        }


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


def _sync_all(folder: Path) -> None:
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Flushes a file or a folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
