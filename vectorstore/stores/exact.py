"""The exact vectors of an index version, memory-mapped, and the store that compares a query with all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic_settings import BaseSettings, SettingsConfigDict

from vectorstore.errors import DamagedIndexError, StoreFailedError
from vectorstore.signals.dense import NO_HITS, Hits, Vectors, cosines
from vectorstore.stores import Mask, VersionRef
from vectorstore.stores.fields import FieldTable, FieldTableWriter
from vectorstore.stores.filters import FieldValue, Where

FOLDER = "exact"
"""Name of the folder within a version's folder."""

_BLOCK_ROWS = 65_536
"""Number of rows compared at a time, which limits the similarities in memory to tens of megabytes."""

_COPY_COST = 3
"""Comparing a row takes about this many times as long if it must be copied first."""

_FILE = "vectors.f32"


class VectorTableWriter:
    """Appends the vectors and the metadata of rows to the files of a `VectorTable`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / _FILE).open("wb")
        self._fields = FieldTableWriter(folder)

    def add(self, vectors: Vectors, metadata: Sequence[Mapping[str, FieldValue]]) -> None:
        """Appends float32[n, dim], rows L2-normalised, and a mapping per row."""
        self._file.write(np.ascontiguousarray(vectors, dtype="<f4").tobytes())
        self._fields.add(metadata)

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        self._fields.close()


class VectorTable:
    """The vectors and metadata of a version's rows. Works on read-only volumes, and after the files were removed.

    The folder holds `vectors.f32` (float32[n, dim], little-endian, row after row) and the files of `FieldTable`.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / _FILE
        size_bytes = path.stat().st_size
        self.fields = FieldTable(folder)
        """Metadata of the rows."""
        rows = len(self.fields)
        row_bytes, rest = divmod(size_bytes, rows) if rows else (0, size_bytes)
        if rest or row_bytes % 4:
            self.fields.close()
            raise DamagedIndexError("The vectors of the index are cut off: publish again.")
        # An empty file cannot be mapped. A plain array: slicing an np.memmap object takes several times as long.
        shape = (rows, row_bytes // 4)
        mapped = np.memmap(path, "<f4", "r", shape=shape) if rows else np.empty(shape, np.float32)
        self.vectors: Vectors = mapped.view(np.ndarray)
        """float32[n, dim], memory-mapped, read-only."""

    def search(
        self, queries: Vectors, *, limit: int, where: Where | None = None, mask: Mask | None = None
    ) -> list[Hits]:
        """The exact nearest neighbours. See `Store.search`."""
        rows = None
        if where is not None:
            allowed = self.fields.mask(where)
            rows = np.flatnonzero(allowed if mask is None else allowed & mask)
        elif mask is not None:
            rows = np.flatnonzero(mask)
        total = len(self.vectors) if rows is None else len(rows)
        limit = min(limit, total)
        if not limit:
            return [NO_HITS for _ in queries]
        blocks = [self._block(queries, rows, start, limit) for start in range(0, total, _BLOCK_ROWS)]
        found = blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)
        return [
            _nearest(candidates, self.vectors, query, limit) for candidates, query in zip(found, queries, strict=True)
        ]

    def count(self, where: Where | None = None) -> int:
        """Number of rows that match the filter."""
        return len(self.vectors) if where is None else int(self.fields.mask(where).sum())

    def health(self) -> None:
        """A mapped file can always answer."""

    def close(self) -> None:
        """Closes the files. The memory mapping lasts while arrays refer to it."""
        self.fields.close()

    def _block(
        self, queries: Vectors, rows: npt.NDArray[np.int64] | None, start: int, limit: int
    ) -> npt.NDArray[np.int64]:
        """int64[q, k]: the best rows of one block, unordered."""
        if rows is None:
            block = self.vectors[start : start + _BLOCK_ROWS]
            similarities = queries @ block.T
        else:
            chosen = rows[start : start + _BLOCK_ROWS]
            first, end = int(chosen[0]), int(chosen[-1]) + 1
            if len(chosen) * _COPY_COST > end - first:
                similarities = (queries @ self.vectors[first:end].T)[:, chosen - first]
            else:
                similarities = queries @ self.vectors[chosen].T
        size = similarities.shape[1]
        if size > limit:
            best = _best_columns(similarities, limit)
        else:
            best = np.broadcast_to(np.arange(size, dtype=np.int64), similarities.shape)
        return best + start if rows is None else rows[best + start]


def _best_columns(similarities: Vectors, limit: int) -> npt.NDArray[np.int64]:
    """int64[q, limit]: columns of the greatest values of each row. Ties are broken by column."""
    best = np.argpartition(similarities, -limit, axis=1)[:, -limit:]
    border = np.take_along_axis(similarities, best, axis=1).min(axis=1)
    for query in np.flatnonzero((similarities >= border[:, None]).sum(axis=1) > limit):
        row = similarities[query]
        above = np.flatnonzero(row > border[query])
        equal = np.flatnonzero(row == border[query])
        best[query] = np.concatenate([above, equal[: limit - len(above)]])
    return best


def _nearest(rows: npt.NDArray[np.int64], vectors: Vectors, query: Vectors, limit: int) -> Hits:
    similarities = cosines(vectors[rows], query)
    order = np.lexsort((rows, -similarities))[:limit]
    return Hits(rows[order], similarities[order])


class ExactSettings(BaseSettings):
    """The exact store has no settings."""

    model_config = SettingsConfigDict(env_prefix="VECTORSTORE_EXACT_")


class ExactStore:
    """A store without its own data: it searches the exact vectors that every version has."""

    name = "exact"
    settings: type[BaseSettings] = ExactSettings

    def create(self, version: VersionRef, dimension: int) -> _NothingToWrite:
        """Writes nothing: the version's builder writes the vectors."""
        return _NothingToWrite()

    def open(self, version: VersionRef) -> VectorTable:
        """The version's vectors, whatever store it was built with."""
        try:
            return VectorTable(version.folder / FOLDER)
        except OSError as error:
            raise StoreFailedError(f"Index {version.index!r} has no exact vectors: publish again.") from error

    def drop(self, version: VersionRef) -> None:
        """Removes nothing: the vectors belong to the version."""


class _NothingToWrite:
    def add(self, vectors: Vectors, metadata: Sequence[Mapping[str, FieldValue]]) -> None:
        pass

    def finish(self) -> None:
        pass

    def discard(self) -> None:
        pass


STORE = ExactStore()
