"""The protocol of encoders, and the functions that they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from embedder.encoders.texts import EncoderTokenizer
from embedder.folder import EmbedderFolder
from embedder.settings import EncoderSettings
from embedder.wire import Embeddings, InputType


class Encoder(Protocol):
    """Texts in, embeddings out. Safe for concurrent use. Arguments are never modified."""

    fingerprint: str
    """`<model id>@sha256:<hash of the weights>`."""
    dimension: int
    """Length of a dense embedding."""
    max_tokens: int
    """Longest text in tokens, including special tokens. Longer texts are truncated."""

    def encode(
        self,
        texts: Sequence[str],
        *,
        input_type: InputType | Sequence[InputType] = "query",
        sparse: bool = False,
        multi_vectors: bool = False,
    ) -> Embeddings:
        """Encodes any number of texts of any length. The result has the order of `texts`.

        A text's embedding does not depend on the other texts. Texts longer than `max_tokens` are truncated and marked
        in `Embeddings.truncated`. No texts give arrays with no rows.

        Args:
            texts: n texts; an empty text is encoded like any other.
            input_type: chooses the prefix of the texts: one value for all, or n values.
            sparse: also return learned token weights.
            multi_vectors: also return one vector per token.

        Raises:
            TextError: an input type is unknown, or the model does not have a requested output.
        """
        ...


def open_tokenizer(
    folder: EmbedderFolder, settings: EncoderSettings, *, default_tokens: int, most_tokens: int
) -> EncoderTokenizer:
    """The folder's tokenizer. It truncates at the settings' `max_tokens`, else the card's, else `default_tokens`.

    The limit never exceeds `most_tokens`, the number of the model's positions.
    """
    card = folder.card
    return EncoderTokenizer(
        folder.file("tokenizer.json"),
        max_tokens=min(settings.max_tokens or card.max_tokens or default_tokens, most_tokens),
        query_prefix=card.query_prefix if settings.query_prefix is None else settings.query_prefix,
        passage_prefix=card.passage_prefix if settings.passage_prefix is None else settings.passage_prefix,
    )


def normalize_rows(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """float32 of the same shape, L2-normalised along the last axis. Rows of zeros stay zero.

    Source: torch.nn.functional.normalize, with its smallest divisor of 1e-12.
    """
    norms = np.linalg.norm(rows, axis=-1, keepdims=True).astype(np.float32, copy=False)
    unit: npt.NDArray[np.float32] = rows / np.maximum(norms, np.float32(1e-12))
    return unit
