"""The score of a candidate: the weighted mean of its signals.

Unlike a fusion of ranks, the score preserves differences between candidates, and can be compared between queries,
between indexes and with a threshold.

Source: Bruch, Gai and Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval" (ACM TOIS 2023): convex
combinations outperform reciprocal rank fusion in and out of domain.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from vectorstore.errors import MissingPartError
from vectorstore.wire import Mode, Signal

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of the signals. None: a default that depends on the index's signals."""

    dense: float | None = None
    lexical: float | None = None
    sparse: float | None = None
    multi_vector: float | None = None

    def of(
        self, parts: Collection[Signal], mode: Mode, trust: Mapping[Signal, float] = MappingProxyType({})
    ) -> dict[Signal, float]:
        """Signal → its share of the score, for an index with the signals `parts`. Shares are positive and sum to 1.

        Args:
            parts: signals of the index.
            mode: signals to use.
            trust: signal → 0 … 1; 1 if absent. It scales default weights, not configured ones. If no first-stage
                signal has a weight then, BM25 is used alone.

        Raises:
            MissingPartError: the mode needs a signal that the index lacks.
        """
        if mode in ("dense", "lexical"):
            needed: Signal = mode
            if needed not in parts:
                raise MissingPartError(f"The index lacks the signal {needed!r}: choose another mode, or rebuild it.")
            return {needed: 1.0}
        used = [signal for signal in parts if not (signal == "multi_vector" and mode == "fused")]
        late = trust.get("multi_vector", 1.0) if "multi_vector" in used else 0.0
        chosen: dict[Signal, float] = {}
        for signal in used:
            if (weight := getattr(self, signal)) is None:
                if "sparse" in used:
                    weight = _LEARNED.get(signal, 0.0) * trust.get(signal, 1.0)
                elif signal == "multi_vector":
                    weight = late * _RESCORED[signal]
                else:
                    weight = ((1 - late) * _FUSED[signal] + late * _RESCORED[signal]) * trust.get(signal, 1.0)
            if weight > 0:
                chosen[signal] = weight
        if not chosen.keys() - {"multi_vector"}:
            if trust and self == Weights() and "lexical" in parts:
                return {"lexical": 1.0}
            raise MissingPartError("All signals that find candidates have the weight 0: set at least one higher.")
        total = sum(chosen.values())
        return {signal: weight / total for signal, weight in chosen.items()}


_FUSED: Mapping[Signal, float] = {"dense": 0.4, "lexical": 0.6}
_RESCORED: Mapping[Signal, float] = {"dense": 1 / 6, "lexical": 1 / 3, "multi_vector": 1 / 2}
"""Both are the best on a grid over all datasets of docs/evaluation.md. Neighbouring weights are as good."""
_LEARNED: Mapping[Signal, float] = {"dense": 0.4, "sparse": 0.2, "multi_vector": 0.4}
"""Source: the example for `compute_score` in the README of BAAI/bge-m3; not measured here."""


def weighted(weights: Mapping[Signal, float], signals: Mapping[Signal, npt.NDArray[np.floating]]) -> Scores:
    """float64[n]: the weighted mean of each candidate's signals. Does not depend on the order of the mappings."""
    names = sorted(weights)
    total = signals[names[0]].astype(np.float64) * weights[names[0]]
    for name in names[1:]:
        total += signals[name].astype(np.float64) * weights[name]
    return total
