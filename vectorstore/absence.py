"""Whether a deletion left nothing behind: every part of a version is looked through for what its sources were."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from embedder.wire import SparseVector
from vectorstore.inventory import metadata_groups, query, rows_of_groups
from vectorstore.lexical import LexicalIndex, Terms
from vectorstore.reading import IndexVersion
from vectorstore.sparse import SparseIndex


@dataclass(frozen=True, slots=True)
class DeletionReport:
    """What was found of some sources in each part of a version. None: the version has no such part."""

    manifest: int
    """Sources and document ids that the manifest names."""
    documents: int
    """Stored documents, and sources in the table of sources."""
    chunks: int
    """Stored chunks."""
    metadata: int
    """Lines of the metadata that filters compare."""
    dense: int
    """Rows of the vector table that are a chunk of theirs, or of no chunk."""
    chroma: int
    """The same in Chroma."""
    lexical: int
    """Rows of BM25 as above, and terms of theirs whose list leads to no chunk that has them."""
    sparse: int | None
    """The same of the learned sparse vectors and their tokens."""
    multi_vector: int | None
    """Rows with vectors of tokens, as above."""

    def found(self) -> int:
        """In all parts together."""
        return sum(count for count in asdict(self).values() if count)


@dataclass(slots=True)
class _Gone:
    """What is looked for."""

    sources: Collection[str]
    documents: set[str] = field(default_factory=set)
    chunks: set[str] = field(default_factory=set)
    texts: list[str] = field(default_factory=list)
    """As BM25 reads them."""
    tokens: set[int] = field(default_factory=set)
    """Of the learned sparse vectors."""

    def has(self, values: dict[str, Any]) -> bool:
        """Whether a stored chunk, or its metadata, is theirs."""
        return (
            values.get("source") in self.sources
            or values.get("document_id") in self.documents
            or values.get("chunk_id") in self.chunks
        )


def remains(version: IndexVersion, sources: Collection[str], before: IndexVersion | None = None) -> DeletionReport:
    """What a version holds of sources that it should not hold.

    A row of a vector, of BM25 or of another part belongs to the chunk of that row: so a row is theirs where its chunk
    is, and a row beyond the last chunk is nobody's and counts too. The lists of terms and tokens are followed to the
    text or vector that they lead to.

    Args:
        version: made without them.
        sources: names.
        before: a version that held them: then their documents, chunks, terms and tokens are looked for also where
            nothing bears the name of a source.

    Raises:
        DamagedIndexError: a part cannot be read, or the parts do not agree on their rows.
    """
    gone = _Gone(sources) if before is None else _of(before, sources)
    folder, total = version.folder, version.manifest.counts.chunks
    named = {name: set(info.document_ids) for name, info in version.manifest.sources.items()}
    rows = [row for row, values in enumerate(_lines(version)) if gone.has(values)]
    stored = query(folder, "SELECT source, id FROM documents")
    groups = [gone.has(group) for group in metadata_groups(folder)]
    dense = sum(count for count, theirs in zip(rows_of_groups(folder), groups, strict=True) if theirs)
    sparse, multi_vectors = version.sparse(), version.multi_vectors()
    return DeletionReport(
        manifest=sum((name in sources) + len(ids & gone.documents) for name, ids in named.items()),
        documents=sum(source in sources or document_id in gone.documents for source, document_id in stored)
        + sum(source in sources for (source,) in query(folder, "SELECT source FROM sources")),
        chunks=len(rows) + sum(chunk_id in gone.chunks for (chunk_id,) in query(folder, "SELECT id FROM chunks")),
        metadata=sum(groups),
        dense=max(dense, len(rows)) + abs(version.exact.count() - total),
        chroma=_in_chroma(version, sources),
        lexical=_in_lexical(version, gone, rows),
        sparse=None if sparse is None else len(rows) + _stray_tokens(sparse, gone.tokens),
        multi_vector=None if multi_vectors is None else sum(len(multi_vectors[row].factors) > 0 for row in rows),
    )


def _of(before: IndexVersion, sources: Collection[str]) -> _Gone:
    """What a version holds of these sources."""
    gone = _Gone(sources)
    for source in sources:
        if source in before.manifest.sources:
            gone.documents.update(before.manifest.sources[source].document_ids)
    sparse = before.sparse()
    for row, values in enumerate(_lines(before)):
        if values["document_id"] in gone.documents:
            gone.chunks.add(values["chunk_id"])
            gone.texts.append(_lexical_text(values))
            if sparse is not None:
                gone.tokens.update(sparse[row].indices.tolist())
    return gone


def _lines(version: IndexVersion) -> Iterator[dict[str, Any]]:
    with (version.folder / "chunks.jsonl").open("rb") as lines:
        for line in lines:
            yield orjson.loads(line)


def _lexical_text(values: dict[str, Any]) -> str:
    return "\n".join((values["title"], *values["heading_path"], values["text"]))


def _in_chroma(version: IndexVersion, sources: Collection[str]) -> int:
    store = version.chroma()
    try:
        return len(store.rows({"source": {"$in": sorted(sources)}}))
    finally:
        store.close()


def _in_lexical(version: IndexVersion, gone: _Gone, rows: list[int]) -> int:
    index, lines = version.lexical(), version.lines()
    terms = {term: number for text in gone.texts for term, number, _ in index.analyse(text).known}
    stray = 0
    for term, number in terms.items():
        listed = _listed(index.scores(Terms(((term, number, 1),), 0.0)))
        if not len(listed) or listed[0] >= len(lines):
            stray += 1
        else:
            text = _lexical_text(orjson.loads(lines[int(listed[0])]))
            stray += not _has(index, text, term)
    return len(rows) + abs(len(index) - len(lines)) + stray


def _has(index: LexicalIndex, text: str, term: str) -> bool:
    return any(known == term for known, _, _ in index.analyse(text).known)


def _stray_tokens(sparse: SparseIndex, tokens: set[int]) -> int:
    """Tokens whose list leads to a row that does not have them."""
    stray = 0
    for token in tokens:
        listed = _listed(sparse.scores(SparseVector(np.array([token], np.int32), np.ones(1, np.float32))))
        stray += len(listed) > 0 and token not in sparse[int(listed[0])].indices
    return stray


def _listed(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    return np.flatnonzero(scores)
