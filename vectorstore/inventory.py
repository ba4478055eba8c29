"""What an index version holds of each source."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from vectorstore.errors import DamagedIndexError
from vectorstore.reading import IndexVersion


@dataclass(frozen=True, slots=True)
class Holding:
    """What became of one source."""

    source: str
    sha256: str
    title: str | None
    """Of its document; None where it became several."""
    documents: int
    chunks: int


def holdings(version: IndexVersion) -> list[Holding]:
    """Every source of the version, by name. Reads no text."""
    chunks: Counter[object] = Counter()
    for group, rows in zip(metadata_groups(version.folder), rows_of_groups(version.folder), strict=True):
        chunks[group.get("source")] += rows
    asked = "SELECT source, source_sha256, COUNT(*), MIN(title) FROM documents GROUP BY source ORDER BY source"
    return [
        Holding(source, sha256, title if documents == 1 else None, documents, chunks[source])
        for source, sha256, documents, title in query(version.folder, asked)
    ]


def query(folder: Path, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
    """Rows of the documents' database of the version in `folder`."""
    uri = f"{(folder / 'documents.sqlite').absolute().as_uri()}?mode=ro&immutable=1"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as database:
            return database.execute(sql, values).fetchall()
    except sqlite3.Error as error:
        raise DamagedIndexError("The documents of the index cannot be read: publish again.") from error


def metadata_groups(folder: Path) -> Iterator[dict[str, Any]]:
    """The metadata that neighbouring rows share, in the order of rows."""
    with (folder / "exact" / "metadata.jsonl").open("rb") as lines:
        for line in lines:
            yield orjson.loads(line)


def rows_of_groups(folder: Path) -> list[int]:
    """How many rows share each."""
    groups = sum(1 for _ in metadata_groups(folder))
    counts: list[int] = np.bincount(
        np.fromfile(folder / "exact" / "metadata_of_row.i32", "<i4"), minlength=groups
    ).tolist()
    return counts
