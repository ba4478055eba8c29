"""The parts of the current version that a run can reuse: documents, chunks and vectors."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from typing import Any

from ingest.chunking import EmbeddingTexts
from ingest.embedding import EmbedderCapabilities
from ingest.events import Reporter
from ingest.sources import is_upload
from vectorstore.errors import DamagedIndexError, UnsupportedFormatError
from vectorstore.versions import Chunk, ChunkVectors, ContentVectors, Document, EncodedVectors, IndexRoot, IndexVersion


class PreviousVersion:
    """The open current version, from which a run copies unchanged parts."""

    def __init__(self, version: IndexVersion, capabilities: EmbedderCapabilities) -> None:
        """Loads the vectors if the embedder is the same. Raises DamagedIndexError if they cannot be read."""
        self._version = version
        self._capabilities = capabilities
        self.manifest = version.manifest
        self._vectors: ContentVectors | None = None
        if self.manifest.embedder.fingerprint == capabilities.fingerprint:
            self._vectors = version.vectors_by_content()

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(
        cls, root: IndexRoot, capabilities: EmbedderCapabilities, reporter: Reporter
    ) -> AsyncIterator[PreviousVersion | None]:
        """Verifies and opens the current version. None if there is none, or with a notice if it is damaged."""
        previous = None
        with contextlib.ExitStack() as stack:
            try:
                if root.current() is not None:
                    version = stack.enter_context(root.open())
                    await asyncio.to_thread(version.verify)
                    previous = cls(version, capabilities)
            except (DamagedIndexError, UnsupportedFormatError) as error:
                reporter.notice(f"index {root.folder.name}", f"{error.message} It is rebuilt from its sources.")
            yield previous

    @property
    def tokens(self) -> dict[str, str]:
        """Name of each file in the version → its change token."""
        return {name: info.sha256 for name, info in self.manifest.sources.items()}

    def documents_of(self, names: Collection[str]) -> int:
        """Number of documents of these files."""
        return sum(len(info.document_ids) for name, info in self.manifest.sources.items() if name in names)

    @property
    def from_sources(self) -> frozenset[str]:
        """Names of the files that were not uploaded."""
        return frozenset(name for name in self.manifest.sources if not is_upload(name))

    def matches(self, parameters: dict[str, Any], store: str) -> bool:
        """Whether a run with these parameters would build the same documents, chunks and vectors from the same file."""
        return self._vectors is not None and self.manifest.settings == parameters and self.manifest.store == store

    def documents(self, names: frozenset[str]) -> Iterator[Document]:
        """The documents of these files."""
        return (document for document in self._version.documents() if document.source in names)

    def documents_with_chunks(
        self, names: frozenset[str], texts: EmbeddingTexts
    ) -> Iterator[tuple[Document, list[Chunk]]]:
        """The documents of these files with their chunks, including the text to embed."""
        chunks = self._version.chunks()
        ahead = next(chunks, None)
        for document in self._version.documents():
            own: list[Chunk] = []
            while ahead is not None and ahead.document_id == document.id:
                own.append(ahead)
                ahead = next(chunks, None)
            if document.source in names:
                yield document, [_with_embedding_text(chunk, document, texts) for chunk in own]

    def vectors(self, keys: Sequence[str]) -> dict[str, ChunkVectors]:
        """Content key → vectors. Only texts with all vectors that the run needs are included."""
        known: dict[str, ChunkVectors] = {}
        if self._vectors is None:
            return known
        for key in keys:
            with contextlib.suppress(KeyError):
                vectors = self._vectors[key]
                stored = vectors.multi_vectors
                bits = stored.bits if isinstance(stored, EncodedVectors) else None
                if (not self._capabilities.sparse or vectors.sparse is not None) and (
                    self._capabilities.multi_vector_bits in (None, bits)
                ):
                    known[key] = vectors
        return known


def _with_embedding_text(chunk: Chunk, document: Document, texts: EmbeddingTexts) -> Chunk:
    prefix = texts.prefix(document.title, chunk.heading_path, chunk.text) or ""
    return dataclasses.replace(chunk, embedding_text=prefix + chunk.text)
