"""What the vectorstore is asked and what it answers, on every protocol.

v1: `POST /v1/models/vectorstore:predict` with `SearchRequest` gives `SearchResponse`, one prediction per instance.
v2: `POST /v2/models/vectorstore/infer` takes `input` BYTES [n, 1], optional `num_docs` INT32 [1] or [n, 1] and
`filters` BYTES [1] or [n, 1] (JSON), and gives `passages` BYTES [n, 1]: per query the JSON of one `Prediction`.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MAX_NUM_DOCS = 100
MAX_INSTANCES = 64
MAX_QUERY_CHARS = 32_768


class Span(BaseModel):
    """Half-open range of characters (Unicode code points) of the stored text of the document."""

    start: int
    end: int


class Passage(BaseModel):
    """A chunk of a document that answers a query. `document_text[span.start:span.end] == text`, always."""

    text: str
    score: float
    """Higher is nearer. The fused score of the search; comparable only within one answer."""
    chunk_id: str
    document_id: str
    title: str = ""
    url: str | None = None
    source: str = ""
    """File that the document was read from, relative to the folder that was ingested."""
    heading_path: list[str] = Field(default_factory=list)
    """Headings above the passage, outermost first."""
    span: Span
    metadata: dict[str, str | int | float | bool] = Field(default_factory=dict)
    index_version: str
    similarity: float
    """Cosine of query and passage, -1 … 1."""
    lexical_score: float
    """BM25 score; 0 where they share no term."""
    support: float
    """How far the passage speaks of what is asked: `similarity`, plus `lexical_score` as a share of the greatest that
    any passage could have (0 … 1). Comparable between queries."""


class SearchInstance(BaseModel):
    """One query."""

    model_config = ConfigDict(extra="forbid", strict=True)

    input: Annotated[str, StringConstraints(min_length=1, max_length=MAX_QUERY_CHARS)]
    num_docs: Annotated[int, Field(ge=0, le=MAX_NUM_DOCS)] | None = None
    """Passages wanted; the service's setting where absent."""
    filters: dict[str, Any] | None = None
    """Chroma's `where` language over document metadata: {"lang": "en"}, {"$and": [...]}, {"year": {"$gte": 2023}}."""


class SearchRequest(BaseModel):
    """The v1 body."""

    model_config = ConfigDict(extra="forbid", strict=True)

    instances: Annotated[list[SearchInstance], Field(min_length=1, max_length=MAX_INSTANCES)]


class Prediction(BaseModel):
    """What one query found, best first; ties keep the order of chunk ids."""

    passages: list[Passage]
    index_version: str
    query_tokens: int = 0
    query_truncated: bool = False
    timings_ms: dict[str, float] = Field(default_factory=dict)
    """Milliseconds of `embed` (the embedder's hop) and `search`."""


class SearchResponse(BaseModel):
    """The v1 answer, in the order of the instances."""

    predictions: list[Prediction]
