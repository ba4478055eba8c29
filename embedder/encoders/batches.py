"""Groups texts of similar length into batches, so that little computation is spent on padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

ScalarT = TypeVar("ScalarT", bound=np.generic)

_MAX_PADDING = 0.25
"""Maximum share of padding in a batch."""


def plan_batches(lengths: Sequence[int], *, max_texts: int, max_tokens: int) -> list[list[int]]:
    """Splits texts into batches of similar length, longest first.

    Args:
        lengths: number of tokens of each text.
        max_texts: maximum number of texts in a batch.
        max_tokens: maximum number of tokens in a batch, including padding. A longer text is the only one of its batch.

    Returns:
        Batches of positions in `lengths`. Each position is in exactly one; no texts give no batches.
    """
    batches: list[list[int]] = []
    batch: list[int] = []
    tokens = 0
    for position in sorted(range(len(lengths)), key=lambda position: -lengths[position]):
        if batch:
            padded = (len(batch) + 1) * lengths[batch[0]]
            wasted = padded - tokens - lengths[position]
            if len(batch) == max_texts or padded > max_tokens or wasted > _MAX_PADDING * padded:
                batches.append(batch)
                batch, tokens = [], 0
        batch.append(position)
        tokens += lengths[position]
    if batch:
        batches.append(batch)
    return batches


def padded_length(longest: int, limit: int) -> int:
    """Length to pad a batch to: `longest` rounded up to a multiple of 4; above 32, by at most 1/8; at most `limit`.

    OpenVINO keeps kernels and memory for every shape that it has run, so only a few lengths per power of two are used.
    With MiniLM, 800 texts in batches of eight take 700 MB; without rounding, they took 1,270 MB, and it kept growing.
    """
    step = max(4, 1 << max(0, longest.bit_length() - 4))
    return min(limit, -(-longest // step) * step)


def pad(
    sequences: Sequence[npt.NDArray[np.int64]], padding_id: int, length: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """int64[n, length] token ids, padded on the right, and the int64[n, length] attention mask: 1 for tokens."""
    mask = stack_padded([np.ones_like(sequence) for sequence in sequences], 0, length)
    return stack_padded(sequences, padding_id, length), mask


def stack_padded(arrays: Sequence[npt.NDArray[ScalarT]], fill: float, length: int) -> npt.NDArray[ScalarT]:
    """Stacks n arrays of shape [up to `length`, ...] into one of [n, length, ...], padded at the end with `fill`."""
    stacked = np.full((len(arrays), length, *arrays[0].shape[1:]), fill, arrays[0].dtype)
    for row, array in enumerate(arrays):
        stacked[row, : len(array)] = array
    return stacked
