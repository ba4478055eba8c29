"""Immutable index versions on disk: built in a hidden folder, published atomically, opened by name, pruned.

    <root>/<name>/current                 one line: the version to serve
    <root>/<name>/<version>.calibration.json
                                          calibration of refusals for this version, if it exists
    <root>/<name>/access.json             who may read the documents of all versions, if there are rules
    <root>/<name>/existing.json           instead of versions: a collection that another program stores
    <root>/<name>/<version>/manifest.json settings, sources, counts, sizes and digests
                            manifest.sha256   digest of manifest.json
                            documents.sqlite  documents, and the keys of chunks
                            chunks.jsonl      the fixed fields of `vectorstore.wire.Passage` for each chunk, by row
                            chunks.i64        offsets of these lines, and the end of the last
                            chunk_order.i32   rank of each row when chunks are sorted by id
                            exact/            vectors and metadata of the rows
                            store/            files of an embedded store, which can be dropped and refilled
                            lexical/          BM25
                            sparse/           learned sparse vectors, if the embedder returns them
                            multi_vectors/    quantised vectors of tokens, if the embedder returns them

Chunks are numbered by row, from 0, in the order in which they were added.
"""

from __future__ import annotations

from vectorstore.signals.lexical import LANGUAGES, LexicalSettings
from vectorstore.signals.multivectors import Bits, EncodedVectors, Quantiser
from vectorstore.stores import DEFAULT_STORE, STORES
from vectorstore.versions.access import AccessFile, AccessRules, Acl, Decision, admits, names_of
from vectorstore.versions.archive import Archive, export_version
from vectorstore.versions.building import VersionBuilder
from vectorstore.versions.content import Chunk, ChunkVectors, Document, content_key
from vectorstore.versions.deletion import DeletionReport, remains
from vectorstore.versions.existing import EXISTING_FILE, ExistingCollection
from vectorstore.versions.inventory import Holding, holdings
from vectorstore.versions.manifest import Manifest
from vectorstore.versions.reading import ContentVectors, IndexVersion
from vectorstore.versions.root import IndexRoot

__all__ = [
    "DEFAULT_STORE",
    "EXISTING_FILE",
    "LANGUAGES",
    "STORES",
    "AccessFile",
    "AccessRules",
    "Acl",
    "Archive",
    "Bits",
    "Chunk",
    "ChunkVectors",
    "ContentVectors",
    "Decision",
    "DeletionReport",
    "Document",
    "EncodedVectors",
    "ExistingCollection",
    "Holding",
    "IndexRoot",
    "IndexVersion",
    "LexicalSettings",
    "Manifest",
    "Quantiser",
    "VersionBuilder",
    "admits",
    "content_key",
    "export_version",
    "holdings",
    "names_of",
    "remains",
]
