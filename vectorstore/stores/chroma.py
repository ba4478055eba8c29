"""Embedded Chroma: a folder in each index version, searched by HNSW with cosine distance."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
from chromadb.api import ClientAPI
from chromadb.api.types import Metadata
from chromadb.config import Settings
from chromadb.errors import ChromaError, NotFoundError
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from chassis.settings import read_settings
from vectorstore.errors import StoreFailedError
from vectorstore.signals.dense import NO_HITS, Hits, Vectors
from vectorstore.stores import Mask, Record, VersionRef, chroma_filters
from vectorstore.stores.batches import BatchWriter, ranked
from vectorstore.stores.chroma_records import WHOLE, metric_of, records
from vectorstore.stores.filters import FieldValue, Where

COLLECTION = "chunks"
"""Name of the collection, whose ids are row numbers in decimal."""


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
    existing_folder: Path | None = Field(
        None,
        description="Folder of Chroma with collections that another program filled. Chroma writes when it opens a "
        "folder, and upgrades those of earlier releases: use a copy.",
    )


class ChromaStore:
    """The store type. Chroma writes when it opens a folder, so the version's folder must be writable."""

    name = "chroma"
    settings: type[BaseSettings] = ChromaSettings

    def create(self, version: VersionRef, dimension: int) -> ChromaWriter:
        """A new collection in the version's folder."""
        settings = read_settings(ChromaSettings)
        try:
            client = _client(version.store_folder)
            collection = client.create_collection(
                COLLECTION,
                embedding_function=None,
                configuration={"hnsw": {"space": "cosine", "ef_search": settings.search_width}},
            )
        except (ChromaError, OSError, ValueError) as error:
            raise StoreFailedError("Chroma cannot create its folder. Is the volume writable?") from error
        return ChromaWriter(version, client, collection, dimension)

    def open(self, version: VersionRef) -> ChromaReader:
        """The collection in the version's folder."""
        if not (version.store_folder / "chroma.sqlite3").is_file():
            raise StoreFailedError(f"A version of index {version.index!r} has no Chroma folder: fill it again.")
        try:
            client = _client(version.store_folder)
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

    def attach(self, collection: str) -> ExistingChroma:
        """A collection of the folder in the settings."""
        folder = read_settings(ChromaSettings).existing_folder
        if folder is None or not (folder / "chroma.sqlite3").is_file():
            raise StoreFailedError(
                f"VECTORSTORE_CHROMA_EXISTING_FOLDER={folder or ''}: set it to a folder of Chroma; it has a file "
                "chroma.sqlite3."
            )
        try:
            client = _client(folder)
        except (ChromaError, OSError, ValueError) as error:
            raise StoreFailedError(f"Chroma cannot open {folder}. Is the volume writable and complete?") from error
        try:
            return ExistingChroma(client, collection)
        except BaseException:
            _close(client)
            raise


class ChromaWriter(BatchWriter):
    """Adds rows to a collection."""

    def __init__(self, version: VersionRef, client: ClientAPI, collection: chromadb.Collection, dimension: int) -> None:
        super().__init__(dimension)
        self._version = version
        self._client = client
        self._collection = collection

    def finish(self) -> None:
        """Writes the last batch."""
        self.flush()
        _close(self._client)

    def discard(self) -> None:
        """Removes the folder."""
        _close(self._client)
        STORE.drop(self._version)

    def write(self, first: int, vectors: Vectors, metadata: Sequence[Mapping[str, FieldValue]]) -> None:
        """Adds a batch."""
        ids = [str(first + i) for i in range(len(vectors))]
        # Chroma rejects an empty mapping but accepts None.
        fields: list[Metadata] = [dict(mapping) or None for mapping in metadata]  # type: ignore[misc]
        try:
            self._collection.add(ids=ids, embeddings=vectors, metadatas=fields)
        except (ChromaError, ValueError) as error:
            raise StoreFailedError(f"Chroma refused rows {ids[0]} to {ids[-1]}.") from error


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
        chroma_filters.check(where)
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
        return [ranked(ids, 1 - np.asarray(values)) for ids, values in zip(found["ids"], distances, strict=True)]

    def count(self, where: Where | None = None) -> int:
        """Rows of the collection."""
        chroma_filters.check(where)
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


class ExistingChroma:
    """A collection of a folder that another program filled."""

    def __init__(self, client: ClientAPI, name: str) -> None:
        self._client = client
        try:
            self._collection = client.get_collection(name, embedding_function=None)
            self.metric = metric_of(self._collection.configuration_json, self._collection.metadata)
        except NotFoundError as error:
            known = ", ".join(sorted(one.name for one in client.list_collections())) or "none"
            raise StoreFailedError(f"Chroma's folder has no collection {name!r}; it has: {known}.") from error
        except (ChromaError, ValueError) as error:
            raise StoreFailedError(f"Chroma cannot open the collection {name!r}.") from error
        found = self.sample(1)
        self.dimension = len(found[0].vector) if found else 0

    def count(self) -> int:
        """Records of the collection."""
        try:
            return self._collection.count()
        except (ChromaError, ValueError) as error:
            raise StoreFailedError("Chroma failed on a count.") from error

    def sample(self, limit: int) -> list[Record]:
        """The first records."""
        return self._get(limit=limit)

    def fetch(self, record_id: str) -> Record | None:
        """The record with this id."""
        return next(iter(self._get(ids=[record_id])), None)

    def search(self, queries: Vectors, *, limit: int, where: Where | None) -> list[list[Record]]:
        """Approximate nearest neighbours; all queries in one call of Chroma."""
        chroma_filters.check(where)
        try:
            found: Any = self._collection.query(
                query_embeddings=queries, n_results=limit, where=where, include=[*WHOLE]
            )
        except (ChromaError, ValueError) as error:
            raise StoreFailedError("Chroma failed on a search.") from error
        return [records(*each) for each in zip(found["ids"], *(found[name] for name in WHOLE), strict=True)]

    def _get(self, **what: Any) -> list[Record]:
        try:
            found: Any = self._collection.get(include=[*WHOLE], **what)
        except (ChromaError, ValueError) as error:
            raise StoreFailedError("Chroma failed to read records.") from error
        return records(found["ids"], *(found[name] for name in WHOLE))

    def close(self) -> None:
        """Releases the folder."""
        _close(self._client)


def _client(folder: Path) -> ClientAPI:
    return chromadb.PersistentClient(path=str(folder), settings=Settings(anonymized_telemetry=False, allow_reset=False))


def _close(client: ClientAPI) -> None:
    client.close()  # type: ignore[attr-defined]


STORE = ChromaStore()
