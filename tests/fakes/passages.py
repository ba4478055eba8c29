"""Passages as the vectorstore returns them."""

from __future__ import annotations

from typing import Any

from vectorstore.wire import Passage, Span


def passage(text: str, *, start: int = 0, **fields: Any) -> Passage:
    """A passage with this text and these fields, at an offset of its document."""
    ids = {"chunk_id": "c", "document_id": "d", "index_version": "v"}
    scores = {"score": 0.5, "similarity": 0.6, "lexical_score": 1.0, "support": 0.9}
    return Passage(text=text, span=Span(start=start, end=start + len(text)), **{**ids, **scores, **fields})
