"""Tensors of the embedder's Triton models, and the types that its client returns.

| tensor | datatype, shape | when |
|---|---|---|
| `text_input` | BYTES [n, 1] | required; UTF-8 texts |
| `input_type` | BYTES [n, 1] | optional; `query` (default) or `passage`: chooses the model's prefix |
| `embeddings` | FP32 [n, dim] | output; rows L2-normalised |
| `token_count` | INT32 [n, 1] | output, by name; number of tokens after truncation, including special tokens |
| `truncated` | BOOL [n, 1] | output, by name; true if the text was longer than the model's window |
| `fingerprint` | BYTES [n, 1] | output, by name; `<model id>@sha256:<hash of the weights>` |
| `sparse_indices` | INT32 [n, k] | output, by name, bge_m3; token ids, padded with -1 |
| `sparse_weights` | FP32 [n, k] | output, by name, bge_m3; weights of those tokens, padded with 0 |
| `multi_vectors` | FP32 [n, t, dim] | output, by name; one per token, rows L2-normalised, padded with 0 |
| `multi_vector_count` | INT32 [n, 1] | output, by name; number of rows of `multi_vectors` before the padding |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

InputType = Literal["query", "passage"]


@dataclass(frozen=True, slots=True)
class SparseVector:
    """Learned token weights of one text."""

    indices: npt.NDArray[np.int32]
    """int32[k]: token ids, ascending, unique."""
    weights: npt.NDArray[np.float32]
    """float32[k]: positive."""


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Embeddings of n texts, in the order of the texts."""

    dense: npt.NDArray[np.float32]
    """float32[n, dim], rows L2-normalised."""
    token_counts: npt.NDArray[np.int32]
    """int32[n]: number of tokens after truncation, including special tokens."""
    truncated: npt.NDArray[np.bool_]
    """bool[n]: the text was longer than the model's window, so its end was ignored."""
    fingerprint: str
    """`<model id>@sha256:<hash>` of the model's weights."""
    sparse: tuple[SparseVector, ...] | None = None
    multi_vectors: tuple[npt.NDArray[np.float32], ...] | None = None
    """For each text float32[tokens, dim], rows L2-normalised."""
