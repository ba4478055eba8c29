"""Where the vectors of an index version are kept and searched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from vectorstore.errors import InvalidContentError
from vectorstore.filters import FieldValue, Where

Vectors = npt.NDArray[np.float32]

UNIT_TOLERANCE = 1e-3
"""How far from 1 the length of a vector may be and still count as normalised."""


@dataclass(frozen=True, slots=True)
class Hits:
    """The nearest vectors of one query, nearest first; equal similarities in the order of rows."""

    rows: npt.NDArray[np.int64]
    """int64[k]: rows of the index version."""
    similarities: Vectors
    """float32[k]: cosine with the query, -1 … 1."""


class Store(Protocol):
    """Vectors with metadata, addressed by the row of their chunk. Its calls block: keep them off the event loop."""

    def add(self, vectors: Vectors, metadata: Sequence[Mapping[str, FieldValue]]) -> None:
        """Appends float32[n, dim], rows L2-normalised (see `normalised`), under the next n rows."""
        ...

    def search(self, queries: Vectors, *, limit: int, where: Where | None = None) -> list[Hits]:
        """At most `limit` hits for each row of float32[q, dim], in the order of the queries.

        Args:
            queries: L2-normalised rows.
            limit: most hits per query; fewer come back where fewer vectors pass the filter. 0 gives none.
            where: a filter from `filters.check`.

        Raises:
            StoreFailedError: the store failed.

        """
        ...

    def count(self) -> int:
        """Vectors in the store."""
        ...

    def health(self) -> None:
        """Returns if the store can answer.

        Raises:
            StoreFailedError: it cannot.
        """
        ...

    def close(self) -> None:
        """Writes what is pending and frees files and memory. Nothing may be called afterwards."""
        ...


def cosines(vectors: Vectors, query: Vectors) -> Vectors:
    """float32[n]: cosine of each row of float32[n, dim] with float32[dim], all of length 1.

    Row by row: equal rows give equal numbers wherever they stand, which a matrix product does not promise.
    """
    products: Vectors = (vectors * query).sum(axis=1)
    return np.clip(products, -1, 1)


def normalised(vectors: object, dimension: int) -> Vectors:
    """The rows as float32[n, dim] of length 1; those within `UNIT_TOLERANCE` of it are kept bit for bit.

    Raises:
        InvalidContentError: another shape, a value that is not finite, or a row of zeros, which has no direction.
    """
    given = np.asarray(vectors)
    if given.ndim != 2 or given.shape[1] != dimension or given.dtype.kind not in "fiu":
        raise InvalidContentError(
            f"Vectors have shape {list(given.shape)} and type {given.dtype}: send numbers of shape [n, {dimension}].",
            field="vectors",
        )
    rows = np.ascontiguousarray(given, dtype=np.float32)
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1) | ~(lengths > 0))
    if bad.size:
        raise InvalidContentError(
            f"Vector {int(bad[0])} of {len(rows)} is not finite or is all zeros: embed its text again.", field="vectors"
        )
    if (np.abs(lengths - 1) > UNIT_TOLERANCE).any():
        rows = (rows / lengths[:, None]).astype(np.float32)
    return rows
