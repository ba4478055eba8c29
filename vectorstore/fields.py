"""Metadata of an index version's rows, as one file: which rows does a filter let through?"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson

from vectorstore.errors import DamagedIndexError
from vectorstore.filters import FieldValue, Where, matches

_GROUPS = "metadata.jsonl"
_ROWS = "metadata_of_row.i32"
_CACHED_MASKS = 64
"""A closed set of filters is the rule: a product, a language, a year."""


class FieldTableWriter:
    """Appends the metadata of rows. Neighbours with the same metadata, as a document's chunks have, share one line."""

    def __init__(self, folder: Path) -> None:
        self._groups = (folder / _GROUPS).open("ab")
        self._rows = (folder / _ROWS).open("ab")
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

    def flush(self) -> None:
        """Makes what was added readable."""
        self._groups.flush()
        self._rows.flush()

    def close(self) -> None:
        """Closes the files."""
        self._groups.close()
        self._rows.close()


class FieldTable:
    """Reads what `FieldTableWriter` wrote. The metadata is loaded by the first filter, then kept. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._lock = threading.Lock()
        # Open from now on, so that removing the files takes nothing away.
        self._lines = (folder / _GROUPS).open("rb")
        self._groups: list[dict[str, FieldValue]] | None = None
        self._group_of_row: npt.NDArray[np.int32] = np.fromfile(folder / _ROWS, "<i4")
        self._masks: OrderedDict[bytes, npt.NDArray[np.bool_]] = OrderedDict()

    def mask(self, where: Where) -> npt.NDArray[np.bool_]:
        """bool[n]: true at the rows whose metadata the checked filter lets through."""
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
        if self._groups is None:
            try:
                self._groups = [orjson.loads(line) for line in self._lines]
            except (OSError, orjson.JSONDecodeError) as error:
                raise DamagedIndexError("The metadata of the index cannot be read: publish again.") from error
        chosen = np.fromiter((matches(where, group) for group in self._groups), np.bool_, len(self._groups))
        if not len(chosen):
            return np.zeros(0, np.bool_)
        return chosen[self._group_of_row]
