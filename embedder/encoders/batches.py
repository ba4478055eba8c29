"""Which texts are encoded together: neighbours in length, so that little is computed for padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_MAX_PADDING = 0.25
"""Largest share of padding in a batch. Texts of about one length fill a batch long before this binds."""


def plan_batches(lengths: Sequence[int], *, max_texts: int, max_tokens: int) -> list[list[int]]:
    """Splits texts into batches of neighbouring length, longest first.

    Args:
        lengths: tokens of each text.
        max_texts: most texts in a batch.
        max_tokens: most tokens in a batch, padding included; a longer text makes a batch of its own.

    Returns:
        Positions in `lengths`; each is in exactly one batch. No batches for no texts.
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


def padded_length(longest: int, most: int) -> int:
    """Tokens that a batch is padded to: at most an eighth more than its longest text, and never more than `most`.

    An engine keeps kernels and memory for every shape that it has met. So there are a few lengths per octave: all
    lengths of MiniLM's batches of eight took 1,270 MB after 800 texts and grew on, these 700 MB.
    """
    step = max(4, 1 << (longest.bit_length() - 4)) if longest > 16 else 4
    return min(most, -(-longest // step) * step)


def pad(
    sequences: Sequence[npt.NDArray[np.int64]], padding_id: int, length: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """int64[n, length] token ids padded on the right, and int64[n, length] with 1 where a token is."""
    ids = np.full((len(sequences), length), padding_id, np.int64)
    mask = np.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return ids, mask
