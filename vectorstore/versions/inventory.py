"""Lists the sources of an index version, with their documents and chunks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from vectorstore.versions.reading import IndexVersion


@dataclass(frozen=True, slots=True)
class Holding:
    """The numbers of documents and chunks of a source."""

    source: str
    sha256: str
    title: str | None
    """Title of the source's document; None if it has several."""
    documents: int
    chunks: int


def holdings(version: IndexVersion) -> list[Holding]:
    """All sources of the version, sorted by name. Reads no texts."""
    chunks: Counter[object] = Counter()
    for metadata, rows in version.exact.fields.groups():
        chunks[metadata.get("source")] += rows
    sql = "SELECT source, source_sha256, COUNT(*), MIN(title) FROM documents GROUP BY source ORDER BY source"
    return [
        Holding(source, sha256, title if documents == 1 else None, documents, chunks[source])
        for source, sha256, documents, title in version.query(sql)
    ]
