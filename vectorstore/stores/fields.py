"""Metadata of the rows of an index version, and evaluation of filters on it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson

from vectorstore.errors import DamagedIndexError
from vectorstore.stores.filters import FieldValue, Where, matches

_GROUPS = "metadata.jsonl"
_ROWS = "metadata_of_row.i32"
_CACHED_MASKS = 64
"""Applications typically use few different filters: a product, a language, a year."""


class FieldTableWriter:
    """Appends the metadata of rows. Consecutive rows with equal metadata, such as a document's chunks, share a line."""

    def __init__(self, folder: Path) -> None:
        self._groups = (folder / _GROUPS).open("wb")
        self._rows = (folder / _ROWS).open("wb")
        self._last: bytes | None = None
        self._count = 0

    def add(self, metadata: Sequence[Mapping[str, FieldValue]]) -> None:
        """Appends one mapping per row."""
        rows = np.empty(len(metadata), "<i4")
        for i, mapping in enumerate(metadata):
            line = orjson.dumps(dict(mapping), option=orjson.OPT_SORT_KEYS)
            if line != self._last:
                self._groups.write(line + b"\n")
                self._last = line
                self._count += 1
            rows[i] = self._count - 1
        self._rows.write(rows.tobytes())

    def close(self) -> None:
        """Closes the files."""
        self._groups.close()
        self._rows.close()


class FieldTable:
    """Reads the files of `FieldTableWriter`. Loads the metadata at the first use. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._lock = threading.Lock()
        # Opened now, so that the metadata can still be loaded after the file was removed.
        self._lines = (folder / _GROUPS).open("rb")
        self._groups: list[dict[str, FieldValue]] | None = None
        self._group_of_row: npt.NDArray[np.int32] = np.fromfile(folder / _ROWS, "<i4")
        self._masks: OrderedDict[bytes, npt.NDArray[np.bool_]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._group_of_row)

    def rows(self, start: int, end: int) -> list[dict[str, FieldValue]]:
        """The metadata of rows `start` to `end`."""
        with self._lock:
            groups = self._loaded()
        return [groups[group] for group in self._group_of_row[start:end]]

    def groups(self) -> list[tuple[dict[str, FieldValue], int]]:
        """The distinct lines of metadata, with the number of rows that share each."""
        with self._lock:
            groups = self._loaded()
        return list(zip(groups, np.bincount(self._group_of_row, minlength=len(groups)).tolist(), strict=True))

    def numbers(self, number: Callable[[Mapping[str, FieldValue]], int]) -> npt.NDArray[np.int32]:
        """int32[rows]: a number computed from the metadata of each row."""
        with self._lock:
            groups = self._loaded()
        of_group = np.fromiter((number(group) for group in groups), np.int32, len(groups))
        return of_group[self._group_of_row]

    def names(self, mask: npt.NDArray[np.bool_]) -> frozenset[str]:
        """Names of the fields that the rows with a true value in `mask`, bool[rows], have."""
        with self._lock:
            groups = self._loaded()
        return frozenset[str]().union(*(groups[group] for group in np.unique(self._group_of_row[mask])))

    def mask(self, where: Where) -> npt.NDArray[np.bool_]:
        """bool[rows]: whether each row matches the checked filter."""
        key = orjson.dumps(where, option=orjson.OPT_SORT_KEYS)
        with self._lock:
            mask = self._masks.get(key)
            if mask is None:
                mask = self._evaluate(where)
                self._masks[key] = mask
                if len(self._masks) > _CACHED_MASKS:
                    self._masks.popitem(last=False)
            else:
                self._masks.move_to_end(key)
        return mask

    def close(self) -> None:
        """Closes the file."""
        self._lines.close()

    def _evaluate(self, where: Where) -> npt.NDArray[np.bool_]:
        groups = self._loaded()
        chosen = np.fromiter((matches(where, group) for group in groups), np.bool_, len(groups))
        return chosen[self._group_of_row] if len(groups) else np.zeros(0, np.bool_)

    def _loaded(self) -> list[dict[str, FieldValue]]:
        if self._groups is None:
            try:
                self._groups = [orjson.loads(line) for line in self._lines]
            except (OSError, orjson.JSONDecodeError) as error:
                raise DamagedIndexError("The metadata of the index cannot be read: publish again.") from error
        return self._groups
