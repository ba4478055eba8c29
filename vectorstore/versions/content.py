"""Documents and their chunks, and the checks that both must pass before they are stored."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from embedder.wire import SparseVector
from text_analysis.words import normalise
from vectorstore.errors import InvalidContentError
from vectorstore.signals.multivectors import EncodedVectors
from vectorstore.stores.filters import MAX_INT, FieldValue


@dataclass(frozen=True, slots=True)
class Document:
    """A stored document. Spans of its chunks count the characters of `text`."""

    id: str
    text: str
    title: str
    url: str | None
    source: str
    """Path of its file, relative to the ingested folder."""
    source_sha256: str
    """SHA-256 of the source's bytes; equal for all documents of a source."""
    metadata: dict[str, FieldValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A span of a document: `document.text[start:end] == text`."""

    id: str
    document_id: str
    text: str
    start: int
    end: int
    heading_path: tuple[str, ...] = ()
    embedding_text: str | None = None
    """Text that was embedded, if it differs from `text`. Only its content key is stored."""


@dataclass(frozen=True, slots=True)
class ChunkVectors:
    """The embeddings of a chunk."""

    dense: npt.NDArray[np.float32]
    """float32[dim]"""
    sparse: SparseVector | None = None
    multi_vectors: npt.NDArray[np.float32] | EncodedVectors | None = None
    """float32[tokens, dim], rows L2-normalised, or their encoding."""


def content_key(embedder_fingerprint: str, text: str) -> str:
    """Key of an embedding: SHA-256 over the embedder and the text in NFKC, as it is embedded, in hexadecimal."""
    return hashlib.sha256(embedder_fingerprint.encode() + b"\0" + normalise(text).encode()).hexdigest()


def check_document(document: Document) -> None:
    """Raises InvalidContentError if the document cannot be stored."""
    if not document.id or not document.source:
        raise InvalidContentError("A document needs an id and a source.", field="document.id")
    for name in ("id", "text", "title", "url", "source", "source_sha256"):
        _check_text(getattr(document, name) or "", f"document.{name}", document.id)
    for name, value in document.metadata.items():
        if not name or name.startswith(("$", "chroma:")):
            raise InvalidContentError(
                f"Document {document.id!r} has the metadata field {name!r}: names must not be empty or start with "
                "'$' or 'chroma:'.",
                field="document.metadata",
            )
        _check_text(name, "document.metadata", document.id)
        if not isinstance(value, str | int | float | bool):
            raise InvalidContentError(
                f"Document {document.id!r}: metadata {name!r} is a {type(value).__name__}; it must be text, a number, "
                "true or false.",
                field="document.metadata",
            )
        if isinstance(value, str):
            _check_text(value, "document.metadata", document.id)
        elif not math.isfinite(value) or abs(value) > MAX_INT:
            raise InvalidContentError(
                f"Document {document.id!r}: metadata {name!r} is {value!r}; it must be finite and fit into 64 bits.",
                field="document.metadata",
            )


def check_chunk(chunk: Chunk, document: Document) -> None:
    """Raises InvalidContentError if the chunk does not quote its span of the document, or cannot be stored."""
    if chunk.document_id != document.id:
        raise InvalidContentError(
            f"Chunk {chunk.id!r} names document {chunk.document_id!r}, not {document.id!r}.", field="chunk.document_id"
        )
    if not chunk.id:
        raise InvalidContentError(f"A chunk of document {document.id!r} has no id.", field="chunk.id")
    if not 0 <= chunk.start < chunk.end or document.text[chunk.start : chunk.end] != chunk.text:
        raise InvalidContentError(
            f"The text of chunk {chunk.id!r} is not the text of document {document.id!r} from character {chunk.start} "
            f"to {chunk.end}: chunks quote their document.",
            field="chunk.start",
        )
    for name, text in (
        ("id", chunk.id),
        ("embedding_text", chunk.embedding_text or ""),
        *(("heading_path", heading) for heading in chunk.heading_path),
    ):
        _check_text(text, f"chunk.{name}", document.id)


def _check_text(text: str, what: str, document_id: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidContentError(
            f"Document {document_id!a}: {what} has a lone surrogate at character {error.start}.", field=what
        ) from error
