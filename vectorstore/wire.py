"""Requests and responses of the vectorstore on all protocols.

`GET /v1/indexes` returns `ServedIndexes`, `GET /v1/documents/{id}` returns `StoredDocument`.

v1: `POST /v1/models/vectorstore:predict` takes `SearchRequest` and returns `SearchResponse`.
v2: `POST /v2/models/vectorstore/infer` takes `input` BYTES [n, 1] and returns `passages` BYTES [n, 1]: the JSON
of a `Prediction` for each query. The other fields of an instance are optional tensors [1] or [n, 1]: `num_docs` and
`neighbours` INT32, `min_score` and `diversity` FP32, `explain` and `sentence_similarity` BOOL, `mode` BYTES, `filters`
and `collections` BYTES (JSON). An empty text means that the field is not set.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from chassis.validation import Whole

MAX_NUM_DOCS = 100
MAX_INSTANCES = 64
MAX_QUERY_CHARS = 32_768
MAX_NEIGHBOURS = 5
MAX_COLLECTIONS = 16

Mode = Literal["dense", "lexical", "fused", "rescored"]
"""Signals of a search. `dense`: vectors only; `lexical`: BM25 only; `fused`: all signals that find candidates;
`rescored`: also late interaction of multi-vectors for the best candidates."""

Signal = Literal["dense", "lexical", "sparse", "multi_vector"]

CutReason = Literal["num_docs", "min_score", "diversity", "duplicate", "rescore", "filter"]
"""Why a candidate is not a passage. `num_docs`: enough others are better; `min_score`: its score is too low;
`diversity`: candidates with lower scores are more different; `duplicate`: it overlaps a passage that was joined with
its neighbours; `rescore`: it was not good enough to be rescored; `filter`: `filters` excludes it."""


DescribedT = TypeVar("DescribedT", bound="Described")


class Described(BaseModel):
    """Base of types whose field docstrings become descriptions in `/openapi.json`."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    @classmethod
    def construct_unchecked(cls: type[DescribedT], **fields: Any) -> DescribedT:
        """Creates an object from all of its fields, in order, without validation.

        It is four times as fast as `model_construct`, which handles aliases and defaults.
        """
        created = cls.__new__(cls)
        put = object.__setattr__
        put(created, "__dict__", fields)
        put(created, "__pydantic_fields_set__", set(fields))
        put(created, "__pydantic_extra__", None)
        put(created, "__pydantic_private__", None)
        return created


class Span(Described):
    """Half-open range of characters (Unicode code points) in the stored text of the document."""

    start: int
    end: int


class Evidence(Described):
    """The value of one signal for a passage."""

    score: float
    """`dense`: cosine; `lexical`: BM25 as a share of the greatest possible; `sparse`: dot product of learned weights;
    `multi_vector`: mean over the query's tokens of the greatest dot product."""
    weight: float
    """Share of the signal in the passage's score, 0 … 1. 0 if the signal does not count."""
    rank: int | None
    """Rank among the candidates by this signal, from 1; None if the signal does not count."""


class Explanation(Described):
    """The signals and terms behind a passage's score."""

    signals: dict[Signal, Evidence]
    terms: dict[str, float]
    """Terms of the query in the chunk → their BM25 scores, whose sum is `lexical_score`."""


class Cut(Described):
    """A candidate that is not a passage."""

    collection: str
    chunk_id: str
    document_id: str
    score: float | None
    """None for `rescore` and `filter`: the candidate was left out before it had a comparable score."""
    reason: CutReason


class Passage(Described):
    """A chunk that a search returned, joined with its neighbours if the query asks for that.

    `text` is the stored text: `document.text[span.start:span.end] == text`.
    """

    text: str
    score: float
    """Higher is nearer, about 0 … 1: the weighted mean of the signals. Comparable between queries."""
    chunk_id: str
    """Id of the chunk that the search found."""
    document_id: str
    title: str = ""
    url: str | None = None
    source: str = ""
    """File of the document, relative to the ingested folder."""
    heading_path: list[str] = Field(default_factory=list)
    """Headings above the passage, outermost first."""
    span: Span
    metadata: dict[str, str | int | float | bool] = Field(default_factory=dict)
    collection: str = ""
    """Name of its index."""
    index_version: str
    similarity: float
    """Cosine of query and passage, -1 … 1."""
    lexical_score: float
    """BM25 score; 0 if query and passage share no term."""
    support: float
    """How far the passage is about the question: `similarity` plus `lexical_score` as a share (0 … 1) of the greatest
    possible one. Comparable between queries."""
    explain: Explanation | None = None


class SearchInstance(Described):
    """One query."""

    model_config = ConfigDict(extra="forbid", strict=True)

    input: Annotated[str, StringConstraints(min_length=1, max_length=MAX_QUERY_CHARS)]
    num_docs: Annotated[int, Field(ge=0, le=MAX_NUM_DOCS), Whole] | None = None
    """Number of passages. Default: the service's setting."""
    filters: dict[str, Any] | None = None
    """Chroma's `where` language over document metadata: {"lang": "en"}, {"$and": [...]}, {"year": {"$gte": 2023}}."""
    mode: Mode | None = None
    """Default: the service's setting."""
    min_score: Annotated[float, Field(ge=0, le=1)] | None = None
    """Least `score` of a passage."""
    diversity: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Weight of the difference from better passages against the score. 0: only the score counts."""
    neighbours: Annotated[int, Field(ge=0, le=MAX_NEIGHBOURS), Whole] = 0
    """Number of chunks before and after in the same document that are joined to each passage."""
    collections: Annotated[list[str], Field(min_length=1, max_length=MAX_COLLECTIONS)] | None = None
    """Indexes to search. Default: the service's default index. Passages of several are merged by score."""
    explain: bool = False
    """Adds `explain` to passages and `cut` to the prediction."""
    sentence_similarity: bool = False
    """Adds `sentence_similarity` to the prediction."""


ResponseShape = Literal["passages", "strings"]


class SearchRequest(Described):
    """The v1 body."""

    model_config = ConfigDict(extra="forbid", strict=True)

    instances: Annotated[list[SearchInstance], Field(min_length=1, max_length=MAX_INSTANCES)]
    response_shape: ResponseShape | None = None
    """`passages`: predictions are `Prediction`s; `strings`: lists of texts. Default: the service's setting."""


class Prediction(Described):
    """The result of one query, highest score first; equal scores in the order of chunk ids."""

    passages: list[Passage]
    index_version: str
    """Version of the first collection."""
    index_versions: dict[str, str] = Field(default_factory=dict)
    """Collection → version, for every searched collection."""
    cut: list[Cut] = Field(default_factory=list)
    """Candidates that are not passages, best first. Empty unless the query sets `explain`."""
    sentence_similarity: dict[str, list[float]] = Field(default_factory=dict)
    """Chunk id → late interaction of the query with each sentence of the passage, as `text_analysis.sentences` cuts it.
    Only if the query sets `sentence_similarity`, and without passages whose multi-vectors do not count or that were
    joined with their neighbours."""
    query_tokens: int = 0
    query_truncated: bool = False
    timings_ms: dict[str, float] = Field(default_factory=dict)
    """Milliseconds of `embed` (the call of the embedder) and `search`."""
    calibration: dict[str, Any] | None = None
    """Calibration of refusals for the version and embedder of the first collection; None if there is none."""


class SearchResponse(Described):
    """The v1 response, in the order of the instances."""

    predictions: list[Prediction]


class StoredDocument(Described):
    """A document in its index."""

    id: str
    title: str
    url: str | None
    text: str
    """Spans of passages and quotes count its characters (Unicode code points)."""
    source: str
    """File of the document, relative to the ingested folder."""
    metadata: dict[str, str | int | float | bool]
    collection: str
    """Name of its index."""
    index_version: str


class IndexInfo(Described):
    """The served version of an index."""

    name: str
    version: str
    documents: int
    chunks: int
    embedder: str
    """Fingerprint of the embedder that made its vectors."""
    parts: list[Signal]
    """Signals that it can be searched by."""
    weights: dict[Signal, float] = Field(default_factory=dict)
    """Share of each signal in the score of a search with the default mode."""
    languages: dict[str, float] = Field(default_factory=dict)
    """Language of its documents (ISO 639-1) → share of the chunks, largest first; empty if not known."""
    calibration: dict[str, Any] | None
    """Content of the version's calibration file; None if there is none."""
    examples: list[str]
    """Questions that its documents answer."""


class IndexStatus(Described):
    """An index, and its problem if it has one."""

    index: IndexInfo | None
    """None if no version is served."""
    reason: str | None
    """Why no version is served, why it cannot be searched now, or why a newer version was refused; else None."""


class ServedIndexes(IndexStatus):
    """All indexes of a service. `index` and `reason` describe the default index."""

    default: str
    """Name of the index for queries that name none."""
    collections: dict[str, IndexStatus]
    """By name, the default index first."""
