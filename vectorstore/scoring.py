"""What candidates score: the weighted mean of signals that mean the same for every query and every index.

A convex combination and not a fusion of ranks: how far the best is ahead of the next stays visible, and a score can be
compared between queries, between indexes, and with a threshold. Evidence: `docs/decisions/`.

Source: Bruch, Gai and Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval" (ACM TOIS 2023), who find convex
combinations above reciprocal rank fusion in and out of domain.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vectorstore.errors import MissingPartError
from vectorstore.wire import Mode, Signal

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each signal counts. None: by what the index has, see `of`."""

    dense: float | None = None
    lexical: float | None = None
    sparse: float | None = None
    multi_vector: float | None = None

    def of(self, parts: Collection[Signal], mode: Mode) -> dict[Signal, float]:
        """Signal → its share of the score, above 0, together 1, for an index that has `parts`.

        Raises:
            MissingPartError: the mode needs a part that the index does not have.
        """
        if mode in ("dense", "lexical"):
            needed: Signal = mode
            if needed not in parts:
                raise MissingPartError(f"The index has no {needed} part: choose another mode, or publish it again.")
            return {needed: 1.0}
        used = [signal for signal in parts if not (signal == "multi_vector" and mode == "fused")]
        defaults = _LEARNED if "sparse" in used else _RESCORED if "multi_vector" in used else _FUSED
        chosen: dict[Signal, float] = {}
        for signal in used:
            given = getattr(self, signal)
            weight = defaults.get(signal, 0.0) if given is None else given
            if weight > 0:
                chosen[signal] = weight
        if not chosen.keys() - {"multi_vector"}:
            raise MissingPartError("No part that finds candidates has a weight above 0: set one.")
        total = sum(chosen.values())
        return {signal: weight / total for signal, weight in chosen.items()}


_FUSED: Mapping[Signal, float] = {"dense": 0.4, "lexical": 0.6}
_RESCORED: Mapping[Signal, float] = {"dense": 1 / 6, "lexical": 1 / 3, "multi_vector": 1 / 2}
"""Both: the best of one grid for all the sets of docs/evaluation.md; neighbouring weights do as well."""
_LEARNED: Mapping[Signal, float] = {"dense": 0.4, "sparse": 0.2, "multi_vector": 0.4}
"""Source: the example for `compute_score` in the README of BAAI/bge-m3; not measured here."""


def weighted(weights: Mapping[Signal, float], signals: Mapping[Signal, npt.NDArray[np.floating]]) -> Scores:
    """float64[n]: the weighted mean of each candidate's signals, added in one order whatever the mapping's."""
    names = sorted(weights)
    total = signals[names[0]].astype(np.float64) * weights[names[0]]
    for name in names[1:]:
        total += signals[name].astype(np.float64) * weights[name]
    return total
