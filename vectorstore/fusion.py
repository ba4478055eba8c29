"""Reciprocal rank fusion: one ranking out of several whose scores cannot be compared."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

K = 60
"""Source: Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning
Methods" (SIGIR 2009), who fix it at 60."""


def fuse(
    rankings: Sequence[Sequence[int]], *, limit: int, tie_order: Sequence[int] | npt.NDArray[np.int32], k: int = K
) -> list[tuple[int, float]]:
    """At most `limit` rows with their fused scores, best first.

    A row's score is the sum of 1 / (k + rank) over the rankings that have it, ranks counted from 1. The order of the
    rankings does not matter.

    Args:
        rankings: rows, best first, each at most once.
        limit: most rows to give.
        tie_order: row → its place among rows of equal score.
        k: how much less a first rank counts than it would alone.

    """
    parts: dict[int, list[float]] = {}
    for ranking in rankings:
        for rank, row in enumerate(ranking, 1):
            parts.setdefault(row, []).append(1 / (k + rank))
    # fsum: the same to the last bit in whatever order the rankings came.
    scores = [(row, math.fsum(part) if len(part) > 1 else part[0]) for row, part in parts.items()]
    scores.sort(key=lambda scored: (-scored[1], tie_order[scored[0]]))
    return scores[: max(limit, 0)]
