"""Vector stores: their interface, and the registry that finds implementations.

A version always holds its own exact vectors, texts and metadata. A store only accelerates the search: it can be dropped
and filled again from the version (`IndexVersion.refill_store`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from pydantic_settings import BaseSettings

from chassis.registry import Registry, RegistryError
from chassis.settings import SettingError
from vectorstore.errors import StoreFailedError
from vectorstore.signals.dense import Hits, Vectors
from vectorstore.stores.filters import FieldValue, Where

Mask = npt.NDArray[np.bool_]
"""bool[rows of the version]: true for rows that may be found."""

AUTO = "auto"
"""Value of the setting `store`: search the version's store if the index is large, else compare with all vectors."""

DEFAULT_STORE = "chroma"
"""Default store of new versions."""


@dataclass(frozen=True, slots=True)
class VersionRef:
    """The index version whose vectors a store holds."""

    index: str
    build_id: str
    """16 hexadecimal digits, unique for every version, which has no name before it is published."""
    folder: Path
    """The version's folder. Publishing renames it."""

    @property
    def collection(self) -> str:
        """Name of the version's collection on a store server."""
        return f"{self.index}-{self.build_id}"

    @property
    def store_folder(self) -> Path:
        """Where an embedded store keeps its files. It may change them at any time."""
        return self.folder / "store"


class Writer(Protocol):
    """Fills the store of one version. Not thread-safe."""

    def add(self, vectors: Vectors, metadata: Sequence[Mapping[str, FieldValue]]) -> None:
        """Appends n rows: float32[n, dim], L2-normalised. Rows are numbered from 0."""
        ...

    def finish(self) -> None:
        """Writes pending rows and releases the store. Call nothing afterwards."""
        ...

    def discard(self) -> None:
        """Removes all rows and releases the store. Call nothing afterwards."""
        ...


class Store(Protocol):
    """The store of one version, open for reading. Thread-safe. All methods block."""

    def search(self, queries: Vectors, *, limit: int, where: Where | None, mask: Mask | None) -> list[Hits]:
        """The nearest rows for each query, in the order of the queries.

        Args:
            queries: float32[q, dim], rows L2-normalised.
            limit: maximum number of hits per query; may be 0.
            where: a filter that `filters.check` returned; None matches all rows.
            mask: rows that the caller may see; None: all.

        Raises:
            UnsupportedFilterError: the store cannot evaluate this filter correctly.
            StoreFailedError: the store failed.
        """
        ...

    def count(self, where: Where | None = None) -> int:
        """Number of rows that match the filter. Raises the errors of `search`."""
        ...

    def health(self) -> None:
        """Raises StoreFailedError if the store cannot answer."""
        ...

    def close(self) -> None:
        """Releases files, memory and connections. Call nothing afterwards."""
        ...


class StoreType(Protocol):
    """A kind of store. Entry points of the group `kserve_rag.stores` refer to such objects."""

    name: str
    """Name of the entry point, used in manifests and settings."""
    settings: type[BaseSettings]
    """Class of its settings, which `create` and `open` read from the environment."""

    def create(self, version: VersionRef, dimension: int) -> Writer:
        """An empty store for a version that is being built. Raises StoreFailedError."""
        ...

    def open(self, version: VersionRef) -> Store:
        """The store of a version. Raises StoreFailedError if it was never finished, was dropped or cannot be read."""
        ...

    def drop(self, version: VersionRef) -> None:
        """Removes the store of a version, if it exists. Raises StoreFailedError."""
        ...


@dataclass(frozen=True, slots=True)
class Record:
    """A record of a collection that another program filled."""

    id: str
    vector: Vectors
    """float32[dim], of any length."""
    fields: Mapping[str, Any]
    """Name → value of its text and metadata."""


class ExistingReader(Protocol):
    """A collection that another program filled, open for reading. Thread-safe. All methods block."""

    metric: str
    """Distance by which it is searched, in the store's own word."""
    dimension: int

    def count(self) -> int:
        """Number of records. Raises StoreFailedError."""
        ...

    def sample(self, limit: int) -> list[Record]:
        """Any records, at most `limit`. Raises StoreFailedError."""
        ...

    def fetch(self, record_id: str) -> Record | None:
        """The record with this id; None if there is none. Raises StoreFailedError."""
        ...

    def search(self, queries: Vectors, *, limit: int, where: Where | None) -> list[list[Record]]:
        """The nearest records for each query, in the order of the queries. The caller evaluates the filter again.

        Args:
            queries: float32[q, dim], rows L2-normalised.
            limit: maximum number of records per query, at least 1.
            where: a filter that `filters.check` returned; None matches all records.

        Raises:
            InvalidFilterError: the collection has no such field, or its values are of another kind.
            UnsupportedFilterError: the store cannot evaluate this filter.
            StoreFailedError: the store failed.
        """
        ...

    def close(self) -> None:
        """Releases files, memory and connections. Call nothing afterwards."""
        ...


@runtime_checkable
class Attachable(Protocol):
    """A kind of store that can also serve collections that another program filled."""

    def attach(self, collection: str) -> ExistingReader:
        """The collection with this name. Raises StoreFailedError if there is none, or if it has no vectors."""
        ...


STORES: Registry[StoreType] = Registry("kserve_rag.stores", "store")


def attach(store: str, collection: str) -> ExistingReader:
    """A collection that another program filled. Raises StoreFailedError."""
    kind = store_type(store)
    if not isinstance(kind, Attachable):
        raise StoreFailedError(f"The store {store} cannot serve collections that another program filled.")
    try:
        return kind.attach(collection)
    except SettingError as error:
        raise StoreFailedError(str(error)) from error


def store_type(name: str) -> StoreType:
    """The kind of store with this name. Raises StoreFailedError if it is not installed."""
    try:
        return STORES.get(name)
    except RegistryError as error:
        raise StoreFailedError(f"This version cannot be used: {error}.") from error
