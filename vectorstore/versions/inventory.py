"""The documents and chunks of each source in an index version."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from vectorstore.versions.reading import IndexVersion


@dataclass(frozen=True, slots=True)
class Holding:
    """The documents and chunks of one source."""

    source: str
    sha256: str
    title: str | None
    """Title of its document; None if it has several."""
    documents: int
    chunks: int


def holdings(version: IndexVersion) -> list[Holding]:
    """Every source of the version, by name. Reads no text."""
    chunks: Counter[object] = Counter()
    for metadata, rows in version.exact.fields.groups():
        chunks[metadata.get("source")] += rows
    sql = "SELECT source, source_sha256, COUNT(*), MIN(title) FROM documents GROUP BY source ORDER BY source"
    return [
        Holding(source, sha256, title if documents == 1 else None, documents, chunks[source])
        for source, sha256, documents, title in version.query(sql)
    ]
