"""Stores of vectors: the protocol that each implements, and the registry that finds them.

A version always holds its own exact vectors, texts and metadata. A store is an accelerator beside them: it can be
dropped and filled again from the version (`IndexVersion.refill_store`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from pydantic_settings import BaseSettings

from chassis.registry import Registry, RegistryError
from vectorstore.errors import StoreFailedError
from vectorstore.signals.dense import Hits, Vectors
from vectorstore.stores.filters import FieldValue, Where

Mask = npt.NDArray[np.bool_]
"""bool[rows of the version]: true at the rows that may be found."""

AUTO = "auto"
"""Setting of the service: search the version's store if the index is large, else compare with every vector."""

DEFAULT_STORE = "chroma"
"""The store of a version whose builder names none."""


@dataclass(frozen=True, slots=True)
class VersionRef:
    """The index version whose vectors a store holds."""

    index: str
    build_id: str
    """16 hexadecimal digits, different for every version. A version gets its name only when it is published."""
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
        """Appends float32[n, dim], rows L2-normalised, as the next n rows; the first row of a version is 0."""
        ...

    def finish(self) -> None:
        """Writes what is pending and releases the store. Nothing may be called afterwards."""
        ...

    def discard(self) -> None:
        """Removes what was added and releases the store. Nothing may be called afterwards."""
        ...


class Store(Protocol):
    """The store of one version, open for reading. Thread-safe. All methods block."""

    def search(self, queries: Vectors, *, limit: int, where: Where | None, mask: Mask | None) -> list[Hits]:
        """At most `limit` nearest rows for each row of float32[q, dim], in the order of the queries.

        Args:
            queries: L2-normalised rows.
            limit: most hits per query; 0 gives none.
            where: a filter that `filters.check` returned; None lets every row through.
            mask: rows that the caller may see; None lets every row through.

        Raises:
            UnsupportedFilterError: the store cannot evaluate this filter correctly.
            StoreFailedError: the store failed.

        """
        ...

    def count(self, where: Where | None = None) -> int:
        """Number of rows that the filter lets through. Raises the errors of `search`."""
        ...

    def health(self) -> None:
        """Raises StoreFailedError if the store cannot answer."""
        ...

    def close(self) -> None:
        """Releases files, memory and connections. Nothing may be called afterwards."""
        ...


class StoreType(Protocol):
    """One kind of store. The object behind an entry point of the group `kserve_rag.stores`."""

    name: str
    """The name of the entry point; manifests and settings hold it."""
    settings: type[BaseSettings]
    """Read from the environment by `create` and `open`."""

    def create(self, version: VersionRef, dimension: int) -> Writer:
        """An empty store for a version that is being built. Raises StoreFailedError."""
        ...

    def open(self, version: VersionRef) -> Store:
        """The store of a version. Raises StoreFailedError if it was never finished, was dropped or cannot be read."""
        ...

    def drop(self, version: VersionRef) -> None:
        """Removes the store of a version, if it is there. Raises StoreFailedError."""
        ...


STORES: Registry[StoreType] = Registry("kserve_rag.stores", "store")


def store_type(name: str) -> StoreType:
    """The registered kind of store of this name. Raises StoreFailedError if it is not installed."""
    try:
        return STORES.get(name)
    except RegistryError as error:
        raise StoreFailedError(f"This version cannot be used: {error}.") from error
