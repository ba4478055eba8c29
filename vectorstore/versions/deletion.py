"""Checks that a version contains no data of deleted sources, by searching each of its parts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import orjson

from embedder.wire import SparseVector
from vectorstore.signals.sparse import SparseIndex
from vectorstore.versions.reading import IndexVersion


@dataclass(frozen=True, slots=True)
class DeletionReport:
    """Number of remains of deleted sources in each part of a version. None: the version has no such part."""

    manifest: int
    """Sources and document ids in the manifest."""
    documents: int
    """Stored documents, and rows in the table of sources."""
    chunks: int
    """Stored chunks."""
    metadata: int
    """Lines of the metadata that filters use."""
    dense: int
    """Exact vectors of chunks of the sources, and exact vectors without a chunk."""
    store: int
    """Vectors in the store with their metadata."""
    lexical: int
    """Rows of such chunks or without a chunk, and terms whose list refers to a chunk without the term."""
    sparse: int | None
    """Like `lexical`, for learned sparse vectors and their tokens."""
    multi_vector: int | None
    """Multi-vectors of chunks of the sources."""

    def found(self) -> int:
        """Sum over all parts."""
        return sum(count for count in asdict(self).values() if count)


@dataclass(slots=True)
class _Deleted:
    """Deleted content, which must not be found."""

    sources: Collection[str]
    documents: set[str] = field(default_factory=set)
    chunks: set[str] = field(default_factory=set)
    texts: list[str] = field(default_factory=list)
    """Texts that BM25 indexed."""
    tokens: set[int] = field(default_factory=set)
    """Tokens in the learned sparse vectors."""

    def includes(self, values: Mapping[str, Any]) -> bool:
        """Whether a stored chunk, or the metadata of one, belongs to the deleted sources."""
        return (
            values.get("source") in self.sources
            or values.get("document_id") in self.documents
            or values.get("chunk_id") in self.chunks
        )


def remains(version: IndexVersion, sources: Collection[str], before: IndexVersion | None = None) -> DeletionReport:
    """Counts what a version still contains of deleted sources.

    A row of any part belongs to the chunk with the same row. Rows beyond the last chunk are counted too. Lists of terms
    and tokens are compared with the text or vector that they refer to.

    Args:
        version: the version to check.
        sources: names of the deleted sources.
        before: a version that still has the sources. If given, its documents, chunks, terms and tokens are also
            searched for where the name of the source does not occur.

    Raises:
        DamagedIndexError: a part cannot be read, or parts have different numbers of rows.
        StoreFailedError: the store cannot be read.
    """
    deleted = _Deleted(sources) if before is None else _content_of(before, sources)
    total = version.manifest.counts.chunks
    rows = [row for row, values in enumerate(_chunks(version)) if deleted.includes(values)]
    groups = [count for metadata, count in version.exact.fields.groups() if deleted.includes(metadata)]
    sparse, multi_vectors = version.sparse(), version.multi_vectors()
    return DeletionReport(
        manifest=sum(
            (name in sources) + len(deleted.documents.intersection(info.document_ids))
            for name, info in version.manifest.sources.items()
        ),
        documents=sum(
            source in sources or document_id in deleted.documents
            for source, document_id in version.query("SELECT source, id FROM documents")
        )
        + sum(source in sources for (source,) in version.query("SELECT source FROM sources")),
        chunks=len(rows) + sum(chunk_id in deleted.chunks for (chunk_id,) in version.query("SELECT id FROM chunks")),
        metadata=len(groups),
        dense=max(sum(groups), len(rows)) + abs(version.exact.count() - total),
        store=_in_store(version, sources),
        lexical=_in_lexical(version, deleted, rows),
        sparse=None if sparse is None else len(rows) + _stray_tokens(sparse, deleted.tokens),
        multi_vector=None if multi_vectors is None else sum(len(multi_vectors[row].factors) > 0 for row in rows),
    )


def _content_of(before: IndexVersion, sources: Collection[str]) -> _Deleted:
    deleted = _Deleted(sources)
    for source in sources:
        if source in before.manifest.sources:
            deleted.documents.update(before.manifest.sources[source].document_ids)
    sparse = before.sparse()
    for row, values in enumerate(_chunks(before)):
        if values["document_id"] in deleted.documents:
            deleted.chunks.add(values["chunk_id"])
            deleted.texts.append(_lexical_text(values))
            if sparse is not None:
                deleted.tokens.update(sparse[row].indices.tolist())
    return deleted


def _chunks(version: IndexVersion) -> Iterator[dict[str, Any]]:
    with (version.folder / "chunks.jsonl").open("rb") as lines:
        for line in lines:
            yield orjson.loads(line)


def _lexical_text(values: dict[str, Any]) -> str:
    return "\n".join((values["title"], *values["heading_path"], values["text"]))


def _in_store(version: IndexVersion, sources: Collection[str]) -> int:
    store = version.open_store()
    try:
        return store.count({"source": {"$in": sorted(sources)}})
    finally:
        store.close()


def _in_lexical(version: IndexVersion, deleted: _Deleted, rows: list[int]) -> int:
    index, lines = version.lexical(), version.lines()
    terms = {term: posting for text in deleted.texts for term, _, posting in index.analyse(text).known}
    texts: dict[int, frozenset[str]] = {}
    stray = 0
    for term, posting in terms.items():
        if not len(posting.rows) or (row := int(posting.rows[0])) >= len(lines):
            stray += 1
            continue
        if row not in texts:
            known = index.analyse(_lexical_text(orjson.loads(lines[row]))).known
            texts[row] = frozenset(own for own, _, _ in known)
        stray += term not in texts[row]
    return len(rows) + abs(len(index) - len(lines)) + stray


def _stray_tokens(sparse: SparseIndex, tokens: set[int]) -> int:
    """Number of tokens whose list refers to a row without the token."""
    stray = 0
    for token in tokens:
        listed = np.flatnonzero(sparse.scores(SparseVector(np.array([token], np.int32), np.ones(1, np.float32))))
        stray += len(listed) > 0 and token not in sparse[int(listed[0])].indices
    return stray
