"""Embedded Chroma: a folder in each index version, searched by HNSW with cosine distance."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import chromadb
import numpy as np
from chromadb.api import ClientAPI
from chromadb.api.types import Metadata
from chromadb.config import Settings
from chromadb.errors import ChromaError
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from chassis.settings import read_settings
from vectorstore.errors import StoreFailedError, UnsupportedFilterError
from vectorstore.signals.dense import NO_HITS, Hits, Vectors
from vectorstore.stores import Mask, VersionRef
from vectorstore.stores.filters import FieldValue, Where

COLLECTION = "chunks"
"""Name of the collection, whose ids are row numbers in decimal."""

_BATCH_ROWS = 1_000
"""Rows per call. A call takes as long as a hundred rows."""


class ChromaSettings(BaseSettings):
    """Settings of the store, read when a version is built."""

    model_config = SettingsConfigDict(env_prefix="VECTORSTORE_CHROMA_")

    search_width: int = Field(
        200,
        ge=1,
        le=10_000,
        description="HNSW's ef_search: number of candidates during a search. Chroma's default of 100 loses neighbours "
        "in deep searches such as hybrid search.",
    )


class ChromaStore:
    """The store type. Chroma writes when it opens a folder, so the version's folder must be writable."""

    name = "chroma"
    settings: type[BaseSettings] = ChromaSettings

    def create(self, version: VersionRef, dimension: int) -> ChromaWriter:
        """A new collection in the version's folder."""
        settings = read_settings(ChromaSettings)
        try:
            client = _client(version)
            collection = client.create_collection(
                COLLECTION,
                embedding_function=None,
                configuration={"hnsw": {"space": "cosine", "ef_search": settings.search_width}},
            )
        except (ChromaError, OSError, ValueError) as error:
            raise StoreFailedError("Chroma cannot create its folder. Is the volume writable?") from error
        return ChromaWriter(version, client, collection)

    def open(self, version: VersionRef) -> ChromaReader:
        """The collection in the version's folder."""
        if not (version.store_folder / "chroma.sqlite3").is_file():
            raise StoreFailedError(f"A version of index {version.index!r} has no Chroma folder: fill it again.")
        try:
            client = _client(version)
            return ChromaReader(client, client.get_collection(COLLECTION, embedding_function=None))
        except (ChromaError, OSError, ValueError) as error:
            raise StoreFailedError("Chroma cannot open its folder. Is the volume writable and complete?") from error

    def drop(self, version: VersionRef) -> None:
        """Removes the folder."""
        try:
            shutil.rmtree(version.store_folder)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StoreFailedError(f"Chroma's folder cannot be removed: {error.strerror}.") from error


class ChromaWriter:
    """Adds rows to a collection in batches."""

    def __init__(self, version: VersionRef, client: ClientAPI, collection: chromadb.Collection) -> None:
        self._version = version
        self._client = client
        self._collection = collection
        self._pending: list[tuple[Vectors, Mapping[str, FieldValue]]] = []
        self._written = 0

    def add(self, vectors: Vectors, metadata: Sequence[Mapping[str, FieldValue]]) -> None:
        """Appends rows."""
        self._pending.extend(zip(vectors, metadata, strict=True))
        while len(self._pending) >= _BATCH_ROWS:
            self._write()

    def finish(self) -> None:
        """Writes the last batch."""
        if self._pending:
            self._write()
        _close(self._client)

    def discard(self) -> None:
        """Removes the folder."""
        _close(self._client)
        STORE.drop(self._version)

    def _write(self) -> None:
        batch, self._pending = self._pending[:_BATCH_ROWS], self._pending[_BATCH_ROWS:]
        ids = [str(self._written + i) for i in range(len(batch))]
        # Chroma rejects an empty mapping but accepts None.
        metadata: list[Metadata] = [dict(mapping) or None for _, mapping in batch]  # type: ignore[misc]
        try:
            self._collection.add(ids=ids, embeddings=np.stack([vector for vector, _ in batch]), metadatas=metadata)
        except (ChromaError, ValueError) as error:
            raise StoreFailedError(f"Chroma refused rows {ids[0]} to {ids[-1]}.") from error
        self._written += len(batch)


class ChromaReader:
    """Searches a collection."""

    def __init__(self, client: ClientAPI, collection: chromadb.Collection) -> None:
        self._client = client
        self._collection = collection
        self._rows = collection.count()

    def search(self, queries: Vectors, *, limit: int, where: Where | None, mask: Mask | None) -> list[Hits]:
        """Approximate nearest neighbours; all queries in one call of Chroma."""
        allowed = None if mask is None else [str(row) for row in np.flatnonzero(mask)]
        if not len(queries) or not limit or not self._rows or allowed == []:
            return [NO_HITS for _ in queries]
        _check(where)
        try:
            found = self._collection.query(
                query_embeddings=queries,
                ids=allowed,
                n_results=min(limit, self._rows),
                where=where,
                include=["distances"],
            )
        except (ChromaError, ValueError) as error:
            raise StoreFailedError("Chroma failed on a search.") from error
        distances = found["distances"]
        if distances is None or len(distances) != len(queries):
            raise StoreFailedError("Chroma sent results for a different number of queries.")
        return [_hits(ids, values) for ids, values in zip(found["ids"], distances, strict=True)]

    def count(self, where: Where | None = None) -> int:
        """Rows of the collection."""
        _check(where)
        try:
            return (
                self._collection.count() if where is None else len(self._collection.get(where=where, include=[])["ids"])
            )
        except (ChromaError, ValueError) as error:
            raise StoreFailedError("Chroma failed on a filter.") from error

    def health(self) -> None:
        """Asks Chroma for its count."""
        self.count()

    def close(self) -> None:
        """Releases the folder."""
        _close(self._client)


def _client(version: VersionRef) -> ClientAPI:
    return chromadb.PersistentClient(
        path=str(version.store_folder), settings=Settings(anonymized_telemetry=False, allow_reset=False)
    )


def _close(client: ClientAPI) -> None:
    client.close()  # type: ignore[attr-defined]


def _check(where: Any) -> None:
    """Raises UnsupportedFilterError if a filter has a fraction, or whole numbers and floats in the same list.

    Chroma 1.5.9 reads 2021.5 as 2021 for rows with whole numbers, and rejects lists of both kinds.
    """
    if isinstance(where, dict):
        for part in where.values():
            _check(part)
    elif isinstance(where, list):
        if len({type(part) for part in where} & {int, float}) > 1:
            raise UnsupportedFilterError(f"Chroma does not support whole numbers and floats in the same list: {where}.")
        for part in where:
            _check(part)
    elif isinstance(where, float) and not where.is_integer():
        raise UnsupportedFilterError(f"Chroma compares {where} as a whole number.")


def _hits(ids: Sequence[str], distances: Sequence[float]) -> Hits:
    rows = np.array([int(i) for i in ids], np.int64)
    similarities = np.clip(1 - np.asarray(distances, np.float32), -1, 1)
    order = np.lexsort((rows, -similarities))
    return Hits(rows[order], similarities[order])


STORE = ChromaStore()
