"""Inverted lists on disk: key → rows and weights. Built in bounded memory, memory-mapped for reading.

A folder holds `starts.i64` (the start of each key's list, and the end of the last), `rows.i32` and `weights.f32`. Rows
ascend within a list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vectorstore.errors import DamagedIndexError

_POSTING = np.dtype([("key", "<i4"), ("row", "<i4"), ("value", "<f4")])

Ints = npt.NDArray[np.signedinteger]
Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Posting:
    """The rows of one key, ascending, and their weights."""

    rows: Ints
    weights: npt.NDArray[np.float32]

    def add_to(self, scores: npt.NDArray[np.float32], factor: float) -> None:
        """Adds the weights, times `factor`, to `scores`, float32[rows of the index]."""
        weights = self.weights
        # `scores[rows] += weights` takes twice as long: it reads, adds and writes in three passes.
        np.add.at(scores, self.rows, weights if factor == 1 else weights * np.float32(factor))

    def weight(self, row: int) -> float | None:
        """Weight of the key in the row; None if the row does not have the key."""
        place = int(np.searchsorted(self.rows, row))
        return float(self.weights[place]) if place < len(self.rows) and self.rows[place] == row else None


class PostingsWriter:
    """Streams postings to disk row by row, and inverts them at the end."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._file = (folder / "postings.tmp").open("w+b")
        self.rows = 0
        """Number of rows added."""

    def add(self, keys: npt.ArrayLike, values: npt.ArrayLike) -> None:
        """Appends a row: its keys, without repetitions, and their values."""
        keys = np.asarray(keys, "<i4")
        postings = np.empty(len(keys), _POSTING)
        postings["key"], postings["row"], postings["value"] = keys, self.rows, values
        self._file.write(postings.tobytes())
        self.rows += 1

    def finish(
        self,
        keys: int,
        weigh: Callable[[Ints], Callable[[Ints, Ints, Floats], Floats]] | None = None,
        *,
        block: int = 1_000_000,
    ) -> None:
        """Writes the lists of keys 0 … `keys` - 1 and removes the temporary file.

        Args:
            keys: number of keys.
            weigh: takes the number of rows with each key, int64[keys], and returns a function that computes weights
                from the keys, rows and values of postings. None: the values are the weights.
            block: number of postings sorted at a time; a million take about 50 MB.
        """
        self.close()
        source = self._folder / "postings.tmp"
        count = source.stat().st_size // _POSTING.itemsize
        postings = np.memmap(source, _POSTING, "r", shape=(count,)) if count else np.empty(0, _POSTING)
        frequencies = np.zeros(keys, np.int64)
        for start in range(0, count, block):
            frequencies += np.bincount(postings[start : start + block]["key"], minlength=keys)
        starts = np.zeros(keys + 1, "<i8")
        np.cumsum(frequencies, out=starts[1:])
        weight_of = weigh(frequencies) if weigh is not None else None
        rows, weights = (
            _create(self._folder / "rows.i32", "<i4", count),
            _create(self._folder / "weights.f32", "<f4", count),
        )
        free = starts[:-1].copy()
        for start in range(0, count, block):
            part = np.asarray(postings[start : start + block])
            # Stable, so that rows ascend within each key.
            part = part[np.argsort(part["key"], kind="stable")]
            present, first, repeats = np.unique(part["key"], return_index=True, return_counts=True)
            places = free[part["key"]] + np.arange(len(part)) - np.repeat(first, repeats)
            free[present] += repeats
            rows[places] = part["row"]
            weights[places] = part["value"] if weight_of is None else weight_of(part["key"], part["row"], part["value"])
        for array in (rows, weights):
            if isinstance(array, np.memmap):
                array.flush()
        starts.tofile(self._folder / "starts.i64")
        source.unlink()

    def close(self) -> None:
        """Closes the temporary file."""
        self._file.close()


class Postings:
    """Reads the files of `PostingsWriter`. Thread-safe; works on read-only volumes."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError or ValueError if a file cannot be read, DamagedIndexError if the files are inconsistent."""
        self._starts = np.fromfile(folder / "starts.i64", "<i8")
        self._rows = open_array(folder / "rows.i32", "<i4")
        self._weights = open_array(folder / "weights.f32", "<f4")
        if not len(self._starts) or self._starts[-1] != len(self._rows) or len(self._rows) != len(self._weights):
            raise DamagedIndexError("Inverted lists of the index are incomplete: publish again.")

    def __len__(self) -> int:
        """Number of keys."""
        return len(self._starts) - 1

    def __getitem__(self, key: int) -> Posting:
        """The list of a key, without copying it."""
        span = slice(self._starts[key], self._starts[key + 1])
        return Posting(self._rows[span], self._weights[span])


def _create(path: Path, dtype: str, count: int) -> npt.NDArray[Any]:
    if not count:  # an empty file cannot be mapped
        path.touch()
        return np.empty(0, dtype)
    return np.memmap(path, dtype, "w+", shape=(count,))


def open_array(path: Path, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A file of numbers as a read-only memory map."""
    # As a plain array: slicing an np.memmap object takes several times as long.
    return np.asarray(np.memmap(path, dtype, "r")).view(np.ndarray) if path.stat().st_size else np.empty(0, dtype)
