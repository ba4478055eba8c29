"""Chroma, embedded: one directory per index version, searched by HNSW over cosine distance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import chromadb
import numpy as np
from chromadb.api.types import Metadata
from chromadb.config import Settings
from chromadb.errors import ChromaError

from vectorstore.errors import StoreFailedError
from vectorstore.filters import FieldValue, Where
from vectorstore.stores import Hits, Vectors

COLLECTION = "chunks"

_BATCH_ROWS = 1_000
_SEARCH_WIDTH = 200
"""HNSW's `ef_search`: candidates held while searching. Chroma's default of 100 loses neighbours at the depths that
a hybrid search asks for."""


class ChromaStore:
    """A collection `chunks` whose ids are rows in decimal. Chroma writes when it opens: the folder must be writable."""

    def __init__(self, folder: Path) -> None:
        self._pending: list[tuple[Vectors, Mapping[str, FieldValue]]] = []
        try:
            self._client = chromadb.PersistentClient(
                path=str(folder), settings=Settings(anonymized_telemetry=False, allow_reset=False)
            )
            self._collection = self._client.get_or_create_collection(
                COLLECTION,
                embedding_function=None,
                configuration={"hnsw": {"space": "cosine", "ef_search": _SEARCH_WIDTH}},
            )
            self._written = self._collection.count()
        except (ChromaError, OSError, ValueError) as error:
            raise StoreFailedError("Chroma cannot open its folder: is the volume writable and complete?") from error

    def add(self, vectors: Vectors, metadata: Sequence[Mapping[str, FieldValue]]) -> None:
        """Gathers rows and writes them in batches: a call of Chroma costs as much as a hundred rows."""
        self._pending.extend(zip(vectors, metadata, strict=True))
        while len(self._pending) >= _BATCH_ROWS:
            self._write(_BATCH_ROWS)

    def search(self, queries: Vectors, *, limit: int, where: Where | None = None) -> list[Hits]:
        """Approximate nearest neighbours; one query of Chroma for all queries."""
        if not len(queries) or not limit or not self.count():
            return [Hits(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in queries]
        try:
            found = self._collection.query(
                query_embeddings=queries, n_results=min(limit, self._written), where=where, include=["distances"]
            )
            distances = found["distances"]
            if distances is None or len(distances) != len(queries):
                raise StoreFailedError("Chroma answered another number of queries than it was asked.")
            return [_hits(ids, values) for ids, values in zip(found["ids"], distances, strict=True)]
        except (ChromaError, ValueError) as error:
            raise StoreFailedError("Chroma failed on a search.") from error

    def rows(self, where: Where) -> list[int]:
        """Rows whose metadata the checked filter lets through."""
        try:
            return sorted(int(name) for name in self._collection.get(where=where, include=[])["ids"])
        except (ChromaError, ValueError) as error:
            raise StoreFailedError("Chroma failed on a filter.") from error

    def count(self) -> int:
        """Vectors in the collection."""
        self._write(len(self._pending))
        return self._written

    def health(self) -> None:
        """Asks Chroma for its count."""
        try:
            self._collection.count()
        except (ChromaError, ValueError) as error:
            raise StoreFailedError("Chroma does not answer.") from error

    def close(self) -> None:
        """Writes what is pending and releases the directory."""
        try:
            self._write(len(self._pending))
        finally:
            self._client.close()  # type: ignore[attr-defined]

    def _write(self, count: int) -> None:
        batch, self._pending = self._pending[:count], self._pending[count:]
        if not batch:
            return
        ids = [str(self._written + i) for i in range(len(batch))]
        # Chroma refuses an empty mapping but takes none.
        metadata: list[Metadata] = [dict(mapping) or None for _, mapping in batch]  # type: ignore[misc]
        try:
            self._collection.add(ids=ids, embeddings=np.stack([vector for vector, _ in batch]), metadatas=metadata)
        except (ChromaError, ValueError) as error:
            raise StoreFailedError(f"Chroma refused rows {ids[0]} to {ids[-1]}.") from error
        self._written += len(batch)


def _hits(ids: Sequence[str], distances: Sequence[float]) -> Hits:
    rows = np.array([int(i) for i in ids], np.int64)
    similarities = np.clip(1 - np.asarray(distances, np.float32), -1, 1)
    order = np.lexsort((rows, -similarities))
    return Hits(rows[order], similarities[order])
