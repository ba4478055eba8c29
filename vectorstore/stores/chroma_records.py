"""Records of collections that another program filled, as Chroma and its server return them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np

from vectorstore.stores import Record

WHOLE: Final = ("embeddings", "documents", "metadatas")
"""The `include` of a request for whole records, in the order of `records`."""


def records(
    ids: Iterable[str],
    embeddings: Iterable[Any],
    documents: Iterable[str | None],
    metadatas: Iterable[Mapping[str, Any] | None],
) -> list[Record]:
    """The records of one result. Chroma's text is the field `document`, unless the metadata has that field."""
    return [
        Record(record_id, np.asarray(embedding, np.float32), {"document": document, **(metadata or {})})
        for record_id, embedding, document, metadata in zip(ids, embeddings, documents, metadatas, strict=True)
    ]


def metric_of(configuration: Mapping[str, Any] | None, metadata: Mapping[str, Any] | None) -> str:
    """The metric of a collection. Releases before 1.0 kept it in the metadata."""
    index = (configuration or {}).get("hnsw") or (configuration or {}).get("spann") or {}
    return str((metadata or {}).get("hnsw:space") or index.get("space") or "l2")
