"""Learned sparse vectors of the chunks of an index version: an inverted index, and the vector of each row.

Source: Chen et al., "BGE M3-Embedding" (arXiv:2402.03216), section 3.2: the score of a query and a passage is the sum
of the products of their weights over the tokens that both have.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedder.wire import SparseVector
from vectorstore.errors import DamagedIndexError, InvalidContentError
from vectorstore.signals.postings import Postings, PostingsWriter, open_array

_MAX_TOKEN_ID = 2**24
"""Maximum token id. Building needs a table of this length."""

_ENTRY = np.dtype([("token", "<i4"), ("weight", "<f4")])


class SparseWriter:
    """Builds the index in a folder. Memory depends on the vocabulary, not on the corpus."""

    def __init__(self, folder: Path) -> None:
        self._postings = PostingsWriter(folder)
        self._entries = (folder / "entries.bin").open("wb")
        self._ends = (folder / "entries.i64").open("wb")
        self._keys = 0
        self._end = 0

    def add(self, vectors: Sequence[SparseVector]) -> None:
        """Appends one row per vector. `check` must have accepted the vectors."""
        for vector in vectors:
            entries = np.empty(len(vector.indices), _ENTRY)
            entries["token"], entries["weight"] = vector.indices, vector.weights
            self._entries.write(entries.tobytes())
            self._end += len(entries)
            self._ends.write(self._end.to_bytes(8, "little"))
            self._postings.add(vector.indices, vector.weights)
            self._keys = max(self._keys, int(vector.indices.max(initial=-1)) + 1)

    def finish(self) -> None:
        """Writes the searchable files and removes the temporary ones."""
        self.close()
        self._postings.finish(self._keys)

    def close(self) -> None:
        """Closes the files."""
        self._postings.close()
        self._entries.close()
        self._ends.close()


class SparseIndex:
    """Searches the files of `SparseWriter`. Thread-safe; works on read-only volumes."""

    def __init__(self, folder: Path) -> None:
        try:
            self._postings = Postings(folder)
            self._entries = open_array(folder / "entries.bin", _ENTRY)
            self._starts = np.concatenate([[0], np.fromfile(folder / "entries.i64", "<i8")])
        except (OSError, ValueError) as error:
            raise DamagedIndexError("The learned sparse vectors cannot be read: publish again.") from error
        if self._starts[-1] != len(self._entries):
            raise DamagedIndexError("The learned sparse vectors are incomplete: publish again.")

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, row: int) -> SparseVector:
        """Vector of the row."""
        entries = self._entries[self._starts[row] : self._starts[row + 1]]
        return SparseVector(entries["token"].copy(), entries["weight"].copy())

    def scores(self, query: SparseVector) -> npt.NDArray[np.float32]:
        """float32[rows]: dot product of every row with the query."""
        scores = np.zeros(len(self), np.float32)
        for token, weight in zip(query.indices.tolist(), query.weights.tolist(), strict=True):
            if 0 <= token < len(self._postings):
                self._postings[token].add_to(scores, weight)
        return scores


def check(vectors: Sequence[SparseVector]) -> None:
    """Raises InvalidContentError unless ids ascend, from 0 or more, and weights are positive and finite."""
    for number, vector in enumerate(vectors):
        ids, weights = vector.indices, vector.weights
        if ids.shape != weights.shape or ids.ndim != 1 or not np.isfinite(weights).all() or (weights <= 0).any():
            raise InvalidContentError(
                f"Sparse vector {number} must have one positive weight per token: embed its text again.",
                field="sparse",
            )
        if len(ids) and (ids[0] < 0 or ids[-1] > _MAX_TOKEN_ID or (np.diff(ids) <= 0).any()):
            raise InvalidContentError(
                f"Sparse vector {number} must have ascending token ids, not negative: embed its text again.",
                field="sparse",
            )
