"""What every encoder is, and what all of them do alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from embedder.encoders.texts import TextTokenizer
from embedder.folder import ModelFolder
from embedder.settings import EncoderSettings
from embedder.wire import Embeddings, InputType


class Encoder(Protocol):
    """Texts in, embeddings out. Safe for concurrent use; never changes its arguments."""

    fingerprint: str
    """`<model id>@sha256:<hash of the weights>`."""
    dimension: int
    """Length of a dense embedding."""
    max_tokens: int
    """Longest text that is read whole, in tokens, special tokens included."""

    def encode(
        self,
        texts: Sequence[str],
        *,
        input_type: InputType | Sequence[InputType] = "query",
        sparse: bool = False,
        multi_vectors: bool = False,
    ) -> Embeddings:
        """Encodes texts of any length and number, in any mixture; the result is in the order of `texts`.

        A text's embedding does not depend on the texts beside it. Of a text longer than `max_tokens` the end is cut
        off, which `Embeddings.truncated` tells. No texts give arrays of no rows.

        Args:
            texts: n texts; an empty text is encoded like any other.
            input_type: which of the model's prefixes is put before the texts: one for all, or n.
            sparse: also give learned weights of tokens.
            multi_vectors: also give one vector per token.

        Raises:
            TextError: an unknown input type, or an output that this model does not have.
        """
        ...


def open_tokenizer(
    folder: ModelFolder, settings: EncoderSettings, *, default_tokens: int, most_tokens: int
) -> TextTokenizer:
    """The folder's tokenizer, cutting where the settings, else the card, else the model's default say.

    `most_tokens`, what the model has positions for, is never passed.
    """
    card = folder.card
    return TextTokenizer(
        folder.file("tokenizer.json"),
        max_tokens=min(settings.max_tokens or card.max_tokens or default_tokens, most_tokens),
        query_prefix=card.query_prefix if settings.query_prefix is None else settings.query_prefix,
        passage_prefix=card.passage_prefix if settings.passage_prefix is None else settings.passage_prefix,
    )


def normalize_rows(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """float32 of the same shape, L2-normalised along the last axis; rows of zeros stay zero.

    Source: torch.nn.functional.normalize, whose smallest divisor is 1e-12.
    """
    norms = np.linalg.norm(rows, axis=-1, keepdims=True).astype(np.float32, copy=False)
    unit: npt.NDArray[np.float32] = rows / np.maximum(norms, np.float32(1e-12))
    return unit
