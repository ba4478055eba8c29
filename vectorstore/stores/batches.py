"""Parts of stores that send rows in batches and get ranked rows back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from vectorstore.signals.dense import Hits, Vectors
from vectorstore.stores.filters import FieldValue

_BATCH_ROWS = 1_000
_BATCH_NUMBERS = 1_000_000
"""Maximum size of a batch: 12 MB as JSON. Chroma's servers accept 40 MB, Milvus's 64 MB."""


class BatchWriter(ABC):
    """Collects rows, and passes them on in batches."""

    def __init__(self, dimension: int, *, numbers: int = _BATCH_NUMBERS) -> None:
        """`numbers`: maximum number of float32 in a batch."""
        self._size = max(1, min(_BATCH_ROWS, numbers // dimension))
        self._pending: list[tuple[Vectors, Mapping[str, FieldValue]]] = []
        self._written = 0

    def add(self, vectors: Vectors, metadata: Sequence[Mapping[str, FieldValue]]) -> None:
        """Appends rows."""
        self._pending.extend(zip(vectors, metadata, strict=True))
        while len(self._pending) >= self._size:
            self._send()

    def flush(self) -> None:
        """Passes on the last batch."""
        if self._pending:
            self._send()

    @abstractmethod
    def write(self, first: int, vectors: Vectors, metadata: Sequence[Mapping[str, FieldValue]]) -> None:
        """Stores rows `first`, `first` + 1 and so on. Raises StoreFailedError."""

    def _send(self) -> None:
        batch, self._pending = self._pending[: self._size], self._pending[self._size :]
        self.write(self._written, np.stack([vector for vector, _ in batch]), [mapping for _, mapping in batch])
        self._written += len(batch)


def ranked(rows: npt.ArrayLike, cosines: npt.ArrayLike) -> Hits:
    """Rows, as numbers or decimal texts, with their cosines: the nearest first, rows with equal cosines in order."""
    numbers = np.asarray(rows, np.int64)
    similarities = np.clip(np.asarray(cosines, np.float32), -1, 1)
    order = np.lexsort((numbers, -similarities))
    return Hits(numbers[order], similarities[order])
