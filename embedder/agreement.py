"""Compares the embeddings of one model in two precisions or on two engines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embedder.wire import Embeddings, SparseVector


@dataclass(frozen=True, slots=True)
class Agreement:
    """Per head, the lowest cosine between two embeddings of the same text. 1 if there is nothing to compare."""

    dense: float
    sparse: float
    multi_vectors: float
    """The lowest over all tokens of all texts."""


def agreement(ours: Embeddings, reference: Embeddings) -> Agreement:
    """Compares embeddings of the same texts: L2-normalised rows, from models with the same tokenizer."""
    tokens = zip(ours.multi_vectors or (), reference.multi_vectors or (), strict=True)
    weights = zip(ours.sparse or (), reference.sparse or (), strict=True)
    return Agreement(
        dense=float((ours.dense * reference.dense).sum(axis=1).min(initial=1)),
        sparse=min((sparse_cosine(one, other) for one, other in weights), default=1.0),
        multi_vectors=min((float((one * other).sum(axis=1).min(initial=1)) for one, other in tokens), default=1.0),
    )


def sparse_cosine(one: SparseVector, other: SparseVector) -> float:
    """The cosine of two sparse vectors; 1 if both are empty."""
    _, shared, other_shared = np.intersect1d(one.indices, other.indices, assume_unique=True, return_indices=True)
    norms = float(np.linalg.norm(one.weights) * np.linalg.norm(other.weights))
    if norms == 0:
        return float(len(one.indices) == len(other.indices))
    return float((one.weights[shared] * other.weights[other_shared]).sum()) / norms
