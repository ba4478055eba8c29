"""Exact search over vectors in one memory-mapped file: the vector table of every index version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from vectorstore.errors import DamagedIndexError, StoreFailedError
from vectorstore.fields import FieldTable, FieldTableWriter
from vectorstore.filters import FieldValue, Where
from vectorstore.stores import Hits, Vectors, cosines

_BLOCK_ROWS = 65_536
"""Rows compared at a time: similarities of a block of queries stay within tens of megabytes at any size of index."""

_COPY_COST = 3
"""How many rows are compared in the time that one is picked out and compared."""

_FILE = "vectors.f32"


class ExactStore:
    """Compares a query with every vector. Works on read-only volumes; pages of the file are shared and evictable.

    The folder holds `vectors.f32` (float32[n, dim], little-endian, row after row) and the metadata of the rows.
    """

    def __init__(self, folder: Path, dimension: int, *, writable: bool = False) -> None:
        """Opens the folder to read, or makes it and opens it to append."""
        self._folder = folder
        self._dimension = dimension
        self._file: BinaryIO | None = None
        self._writer: FieldTableWriter | None = None
        self._vectors: Vectors | None = None
        self._fields: FieldTable | None = None
        if writable:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / _FILE).open("ab")
            self._writer = FieldTableWriter(folder)
        else:
            self._map()

    @property
    def vectors(self) -> Vectors:
        """float32[n, dim], memory-mapped, read-only."""
        return self._vectors if self._vectors is not None else self._map()[0]

    @property
    def fields(self) -> FieldTable:
        """Metadata of the rows."""
        return self._fields if self._fields is not None else self._map()[1]

    def add(self, vectors: Vectors, metadata: Sequence[Mapping[str, FieldValue]]) -> None:
        """Appends the rows to the files."""
        if self._file is None or self._writer is None:
            raise StoreFailedError("This index version is published: it takes no more vectors.")
        self._file.write(np.ascontiguousarray(vectors, dtype="<f4").tobytes())
        self._writer.add(metadata)
        if self._fields is not None:
            self._fields.close()
        self._vectors = self._fields = None

    def search(self, queries: Vectors, *, limit: int, where: Where | None = None) -> list[Hits]:
        """The exact nearest neighbours."""
        vectors = self.vectors
        rows = None if where is None else np.flatnonzero(self.fields.mask(where))
        total = len(vectors) if rows is None else len(rows)
        limit = min(limit, total)
        if not limit:
            return [_NO_HITS for _ in queries]
        blocks = [self._block(queries, rows, start, limit) for start in range(0, total, _BLOCK_ROWS)]
        found = blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)
        return [_nearest(candidates, vectors, query, limit) for candidates, query in zip(found, queries, strict=True)]

    def count(self) -> int:
        """Vectors in the file."""
        return len(self.vectors)

    def health(self) -> None:
        """A mapped file needs no connection."""
        if self.vectors.shape[1] != self._dimension:
            raise StoreFailedError("The vectors have another dimension than the index.")

    def close(self) -> None:
        """Closes the files; the mapping goes with its last user."""
        if self._file is not None and self._writer is not None:
            self._file.close()
            self._writer.close()
            self._file = self._writer = None
        if self._fields is not None:
            self._fields.close()
        self._vectors = self._fields = None

    def _block(
        self, queries: Vectors, rows: npt.NDArray[np.int64] | None, start: int, limit: int
    ) -> npt.NDArray[np.int64]:
        """int64[q, k]: the rows of one block's best, in no order."""
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

    def _map(self) -> tuple[Vectors, FieldTable]:
        """Maps what is in the files now. They may be removed afterwards: what is mapped stays."""
        if self._file is not None and self._writer is not None:
            self._file.flush()
            self._writer.flush()
        path = self._folder / _FILE
        row_bytes = 4 * self._dimension
        size_bytes = path.stat().st_size
        if size_bytes % row_bytes:
            raise DamagedIndexError(f"The vectors end in the middle of a row of {row_bytes} bytes: publish again.")
        shape = (size_bytes // row_bytes, self._dimension)
        # An empty file cannot be mapped.
        mapped = np.memmap(path, "<f4", "r", shape=shape) if shape[0] else np.empty(shape, np.float32)
        # A plain view: slicing an np.memmap object costs several times as much.
        self._vectors, self._fields = mapped.view(np.ndarray), FieldTable(self._folder)
        return self._vectors, self._fields


def _best_columns(similarities: Vectors, limit: int) -> npt.NDArray[np.int64]:
    """int64[q, limit]: columns of each row's `limit` greatest values; of equal ones at the border, the first."""
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


_NO_HITS = Hits(np.empty(0, np.int64), np.empty(0, np.float32))
