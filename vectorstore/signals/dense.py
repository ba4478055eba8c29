"""Dense vectors: their shape and length, cosines, and the best rows of a search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vectorstore.errors import InvalidContentError

Vectors = npt.NDArray[np.float32]

UNIT_TOLERANCE = 1e-3
"""How far the length of a vector may be from 1 and still count as normalised."""


@dataclass(frozen=True, slots=True)
class Hits:
    """The best rows of one query, best first; equal scores in the order of rows."""

    rows: npt.NDArray[np.int64]
    """int64[k]: rows of the index version."""
    scores: Vectors
    """float32[k]: of dense vectors the cosine, -1 … 1; of words and learned sparse vectors above 0."""


NO_HITS = Hits(np.empty(0, np.int64), np.empty(0, np.float32))


def best(
    scores: Vectors,
    limit: int,
    mask: npt.NDArray[np.bool_] | None = None,
    order: npt.NDArray[np.int32] | None = None,
) -> Hits:
    """The greatest of float32[rows] that are not 0.

    Args:
        scores: none below 0.
        limit: most hits.
        mask: bool[rows]; only rows where it is true are hits.
        order: int32[rows]; of equal scores the lowest by this order come first. None: the order of rows.

    """
    if limit <= 0:
        return NO_HITS
    if mask is not None:
        scores = np.where(mask, scores, np.float32(0))
    rows = np.flatnonzero(scores)
    values = scores[rows]
    if len(rows) > limit:
        border = np.partition(values, -limit)[-limit]
        keep = values >= border
        rows, values = rows[keep], values[keep]
    sorted_ = np.lexsort((rows if order is None else order[rows], -values))[:limit]
    return Hits(rows[sorted_], values[sorted_])


def cosines(vectors: Vectors, query: Vectors) -> Vectors:
    """float32[n]: cosine of each row of float32[n, dim] with float32[dim], all of length 1.

    Computed row by row, so that equal rows get equal numbers; a matrix product does not promise that.
    """
    products: Vectors = (vectors * query).sum(axis=1)
    return np.clip(products, -1, 1)


def normalised(vectors: object, dimension: int) -> Vectors:
    """The rows as float32[n, dim] of length 1; rows within `UNIT_TOLERANCE` of it are not changed.

    Raises:
        InvalidContentError: a wrong shape, a value that is not finite, or a row of zeros.
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
