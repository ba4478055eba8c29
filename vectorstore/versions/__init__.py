"""Immutable index versions on disk: built in a hidden folder, published atomically, opened by name, pruned.

    <root>/<name>/current                 one line: the version to serve
    <root>/<name>/<version>.calibration.json
                                          the calibration of refusals for this version, if there is one
    <root>/<name>/<version>/manifest.json settings, sources, counts, sizes and digests
                            documents.sqlite  documents, and the keys of chunks
                            chunks.jsonl      per chunk the fixed part of `vectorstore.wire.Passage`, in row order
                            chunks.i64        offset of each of these lines, and the end
                            chunk_order.i32   per row its rank when chunks are sorted by id
                            exact/            vectors and metadata of the rows
                            store/            files of an embedded store, which can be dropped and filled again
                            lexical/          BM25
                            sparse/           learned sparse vectors, if the embedder makes them
                            multi_vectors/    a vector per token, compressed, if the embedder makes them

The row of a chunk is its number in the order in which chunks were added, from 0.
"""

from __future__ import annotations

from vectorstore.signals.lexical import LANGUAGES, LexicalSettings
from vectorstore.signals.multivectors import Bits, EncodedVectors, Quantiser
from vectorstore.stores import DEFAULT_STORE, STORES
from vectorstore.versions.building import VersionBuilder
from vectorstore.versions.content import Chunk, ChunkVectors, Document, content_key
from vectorstore.versions.deletion import DeletionReport, remains
from vectorstore.versions.inventory import Holding, holdings
from vectorstore.versions.manifest import Manifest
from vectorstore.versions.reading import ContentVectors, IndexVersion
from vectorstore.versions.root import IndexRoot

__all__ = [
    "DEFAULT_STORE",
    "LANGUAGES",
    "STORES",
    "Bits",
    "Chunk",
    "ChunkVectors",
    "ContentVectors",
    "DeletionReport",
    "Document",
    "EncodedVectors",
    "Holding",
    "IndexRoot",
    "IndexVersion",
    "LexicalSettings",
    "Manifest",
    "Quantiser",
    "VersionBuilder",
    "content_key",
    "holdings",
    "remains",
]
