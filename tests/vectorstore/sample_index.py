"""Small indexes for tests, built through the same API that the ingestion uses."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embedder.wire import SparseVector
from tests.fakes.embedder import DIMENSION, FINGERPRINT, embed, embed_sparse, embed_tokens
from vectorstore.versions import Bits, Chunk, Document, IndexRoot

ANIMALS = [
    ("cats", "Cats sleep for most of the day. Cats purr when they are content. A cat lands on its feet."),
    ("dogs", "Dogs were the first animals kept by people. A dog barks at strangers. Dogs need walks."),
    ("birds", "Birds have feathers and lay eggs. Most birds fly. Penguins swim instead of flying."),
    ("fish", "Fish breathe through gills. A fish cannot close its eyes. Sharks are fish."),
]


def document(name: str, text: str, **metadata: Any) -> Document:
    return Document(
        id=name,
        text=text,
        title=name.title(),
        url=f"https://example.org/{name}",
        source=f"{name}.md",
        source_sha256=hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
        metadata=metadata,
    )


def sentences(doc: Document) -> list[Chunk]:
    """One chunk per sentence."""
    chunks, start = [], 0
    for number, sentence in enumerate(doc.text.split(". ")):
        end = start + len(sentence)
        chunks.append(Chunk(f"{doc.id}-{number}", doc.id, sentence, start, end, ("Animals", doc.title)))
        start = end + 2
    return chunks


def animals() -> list[Document]:
    return [
        document(name, text, legs=legs, kind=kind, wild=wild, weight=weight)
        for (name, text), legs, kind, wild, weight in zip(
            ANIMALS,
            (4, 4, 2, 0),
            ("mammal", "mammal", "bird", "fish"),
            (False, False, True, True),
            (4.5, 20.0, 0.1, 1.0),
            strict=True,
        )
    ]


def publish(
    path: Path,
    documents: Sequence[Document] | None = None,
    *,
    name: str = "default",
    fingerprint: str = FINGERPRINT,
    bits: Bits | None = None,
) -> str:
    """Publishes a version of whole documents, chunked by sentence.

    With `bits` it has learned sparse vectors and multi-vectors of so many bits too.
    """
    root = IndexRoot(path, name)
    with root.begin(
        embedder_fingerprint=fingerprint,
        dimension=DIMENSION,
        settings={"by": "sentence"},
        sparse=bits is not None,
        multi_vector_bits=bits,
    ) as builder:
        for doc in animals() if documents is None else documents:
            chunks = sentences(doc) if doc.text else []
            builder.add(
                doc,
                chunks,
                embed([chunk.text for chunk in chunks]),
                sparse=[sparse(chunk.text) for chunk in chunks] if bits else (),
                multi_vectors=[embed_tokens(chunk.text) for chunk in chunks] if bits else (),
            )
        return builder.publish()


def sparse(text: str) -> SparseVector:
    ids, weights = embed_sparse(text)
    return SparseVector(np.array(ids, np.int32), np.array(weights, np.float32))
