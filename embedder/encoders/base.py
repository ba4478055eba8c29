"""The base class of encoders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from embedder.encoders.texts import EncoderTokenizer
from embedder.errors import TextError
from embedder.folder import EmbedderFolder
from embedder.settings import EncoderSettings
from embedder.wire import Embeddings, InputType, SparseVector

TokenIds = npt.NDArray[np.int64]
Collect = Callable[[int, Mapping[Any, npt.NDArray[np.float32]]], None]
"""Called with a batch's position and its outputs `dense` [n, dim], `sparse` [n, tokens] and `multi_vectors`
[n, tokens, dim]. The arrays are reused afterwards, so it must copy them."""


class Encoder(ABC):
    """Embeds texts by running a network on batches of similar length. Safe for concurrent use."""

    fingerprint: str
    """`<model id>@sha256:<hash of the weights>`."""
    dimension: int
    """Length of a dense embedding."""
    max_tokens: int
    """Maximum length of a text in tokens, including special tokens. Longer texts are truncated."""

    def __init__(self, tokenizer: EncoderTokenizer, *, special_ids: TokenIds | None = None) -> None:
        """`special_ids`: tokens without learned weights; None if the model has no learned weights."""
        self._tokenizer, self._special_ids = tokenizer, special_ids
        self.max_tokens = tokenizer.max_tokens

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
        special_ids = self._special_ids
        if sparse and special_ids is None:
            raise TextError(f"The model {self.fingerprint.partition('@')[0]} has no learned token weights.")
        tokenized = self._tokenizer(texts, input_type)
        batches = self._plan(tokenized.counts.tolist())
        dense = np.empty((len(texts), self.dimension), np.float32)
        weights: dict[int, SparseVector] = {}
        matrices: dict[int, npt.NDArray[np.float32]] = {}

        def collect(position: int, outputs: Mapping[Any, npt.NDArray[np.float32]]) -> None:
            dense[batches[position]] = normalize_rows(outputs["dense"])
            for row, text in enumerate(batches[position]):
                ids = tokenized.ids[text]
                if sparse and special_ids is not None:
                    weights[text] = sparse_vector(ids, outputs["sparse"][row, : len(ids)], special_ids)
                if multi_vectors:
                    matrices[text] = normalize_rows(outputs["multi_vectors"][row, self._vectors_of(len(ids))])

        ids_of = [[tokenized.ids[text] for text in batch] for batch in batches]
        self._run(ids_of, collect, sparse=sparse, multi_vectors=multi_vectors)
        return Embeddings(
            dense,
            tokenized.counts,
            tokenized.truncated,
            self.fingerprint,
            tuple(weights[text] for text in range(len(texts))) if sparse else None,
            tuple(matrices[text] for text in range(len(texts))) if multi_vectors else None,
        )

    @abstractmethod
    def _plan(self, lengths: Sequence[int]) -> list[list[int]]:
        """Batches of positions in `lengths`, the numbers of tokens."""

    @abstractmethod
    def _run(
        self, batches: Sequence[Sequence[TokenIds]], collect: Collect, *, sparse: bool, multi_vectors: bool
    ) -> None:
        """Calls `collect` for every batch, perhaps in several threads. Outputs that are not requested may be absent."""

    @abstractmethod
    def _vectors_of(self, tokens: int) -> slice:
        """The rows of `multi_vectors` that belong to a text of this many tokens."""


def sparse_vector(ids: TokenIds, weights: npt.NDArray[np.float32], dropped: TokenIds) -> SparseVector:
    """The largest weight of each distinct token of one text, without `dropped` ids and without weights <= 0."""
    counted = (weights > 0) & ~np.isin(ids, dropped)
    unique, places = np.unique(ids[counted], return_inverse=True)
    largest = np.zeros(len(unique), np.float32)
    np.maximum.at(largest, places, weights[counted])
    return SparseVector(unique.astype(np.int32), largest)


def open_tokenizer(
    folder: EmbedderFolder, settings: EncoderSettings, *, default_tokens: int, model_tokens: int
) -> EncoderTokenizer:
    """The folder's tokenizer. It truncates at the settings' `max_tokens`, else the card's, else `default_tokens`.

    The limit never exceeds `model_tokens`, the number of the model's positions.
    """
    card = folder.card
    return EncoderTokenizer(
        folder.file("tokenizer.json"),
        max_tokens=min(settings.max_tokens or card.max_tokens or default_tokens, model_tokens),
        query_prefix=card.query_prefix if settings.query_prefix is None else settings.query_prefix,
        passage_prefix=card.passage_prefix if settings.passage_prefix is None else settings.passage_prefix,
    )


def normalize_rows(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """float32 of the same shape, L2-normalised along the last axis. Rows of zeros stay zero.

    Source: torch.nn.functional.normalize, with its eps of 1e-12.
    """
    norms = np.linalg.norm(rows, axis=-1, keepdims=True).astype(np.float32, copy=False)
    unit: npt.NDArray[np.float32] = rows / np.maximum(norms, np.float32(1e-12))
    return unit
