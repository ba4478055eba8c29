"""Dense vectors: normalisation, cosines, and selection of the best rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vectorstore.errors import InvalidContentError

Vectors = npt.NDArray[np.float32]

UNIT_TOLERANCE = 1e-3
"""Vectors whose length differs from 1 by at most this much count as normalised."""


@dataclass(frozen=True, slots=True)
class Hits:
    """The best rows of one query, best first; rows with equal scores in their order."""

    rows: npt.NDArray[np.int64]
    """int64[k]: rows of the index version."""
    scores: Vectors
    """float32[k]: cosines, -1 … 1, for dense vectors; positive scores for words and learned sparse vectors."""


NO_HITS = Hits(np.empty(0, np.int64), np.empty(0, np.float32))


def best(
    scores: Vectors,
    limit: int,
    mask: npt.NDArray[np.bool_] | None = None,
    order: npt.NDArray[np.int32] | None = None,
) -> Hits:
    """The rows with the highest scores, without those that score 0.

    Args:
        scores: float32[rows], not negative.
        limit: maximum number of hits.
        mask: bool[rows]; rows where it is false are excluded.
        order: int32[rows]; rows with equal scores are sorted by it. None: by row.
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
    """float32[n]: cosines of the rows of float32[n, dim] with float32[dim], all L2-normalised.

    Computed row by row, so that equal rows have equal cosines, which a matrix product does not guarantee.
    """
    products: Vectors = (vectors * query).sum(axis=1)
    return np.clip(products, -1, 1)


def normalised(vectors: object, dimension: int) -> Vectors:
    """The rows as float32[n, dim], L2-normalised unless they already are, within `UNIT_TOLERANCE`.

    Raises:
        InvalidContentError: the shape is wrong, a value is not finite, or a row is all zeros.
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
