"""What the vectorstore is asked and what it answers, on every protocol.

`GET /v1/indexes` gives `ServedIndexes`, `GET /v1/documents/{id}` gives `StoredDocument`.

v1: `POST /v1/models/vectorstore:predict` with `SearchRequest` gives `SearchResponse`, one prediction per instance.
v2: `POST /v2/models/vectorstore/infer` takes `input` BYTES [n, 1] and gives `passages` BYTES [n, 1]: per query the JSON
of one `Prediction`. The other fields of an instance are optional tensors [1] or [n, 1]: `num_docs` and `neighbours`
INT32, `min_score` and `diversity` FP32, `explain` BOOL, `mode` BYTES, `filters` and `collections` BYTES (JSON). An
empty text stands for none.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MAX_NUM_DOCS = 100
MAX_INSTANCES = 64
MAX_QUERY_CHARS = 32_768
MAX_NEIGHBOURS = 5
MAX_COLLECTIONS = 16

Mode = Literal["dense", "lexical", "fused", "rescored"]
"""Which signals a search uses: the vectors alone; BM25 alone; all that are searched for; these, and late interaction of
multi-vectors for the best."""

Signal = Literal["dense", "lexical", "sparse", "multi_vector"]

CutReason = Literal["num_docs", "min_score", "diversity", "duplicate", "rescore", "filter"]
"""Why a candidate is no passage: enough better ones were found; its score is below `min_score`; others, lower, say
something more different; it overlaps another passage that is joined with neighbours; it was not among the best, which
alone are rescored; `filters` keeps it out."""


DescribedT = TypeVar("DescribedT", bound="Described")


class Described(BaseModel):
    """A type whose fields are described, in `/openapi.json` too, by what stands below them."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    @classmethod
    def construct_unchecked(cls: type[DescribedT], **fields: Any) -> DescribedT:
        """An object of all its fields, in their order, which were checked already.

        As `model_construct`, which looks for aliases and defaults and takes four times as long.
        """
        made = cls.__new__(cls)
        put = object.__setattr__
        put(made, "__dict__", fields)
        put(made, "__pydantic_fields_set__", set(fields))
        put(made, "__pydantic_extra__", None)
        put(made, "__pydantic_private__", None)
        return made


class Span(Described):
    """Half-open range of characters (Unicode code points) of the stored text of the document."""

    start: int
    end: int


class Evidence(Described):
    """What one signal says of a passage."""

    score: float
    """`dense`: cosine; `lexical`: BM25 as a share of the greatest possible; `sparse`: dot product of learned weights;
    `multi_vector`: mean over the query's tokens of the greatest dot product."""
    weight: float
    """Share of the signal in the passage's score, 0 … 1. 0 where the signal is only shown."""
    rank: int | None
    """Place among the candidates by this signal, from 1; None where it is not searched by."""


class Explanation(Described):
    """Why a passage stands where it does."""

    signals: dict[Signal, Evidence]
    terms: dict[str, float]
    """Terms of the query that the chunk has → their BM25 scores, whose sum is `lexical_score`."""


class Cut(Described):
    """A candidate that became no passage."""

    collection: str
    chunk_id: str
    document_id: str
    score: float | None
    """None where it was left out before it had the score of the others: `rescore` and `filter`."""
    reason: CutReason


class Passage(Described):
    """A chunk of a document that answers a query, with its neighbours where the query asks for them.

    `document_text[span.start:span.end] == text`, always.
    """

    text: str
    score: float
    """Higher is nearer, about 0 … 1: the weighted mean of the search's signals. Comparable between queries."""
    chunk_id: str
    """Of the chunk that was found."""
    document_id: str
    title: str = ""
    url: str | None = None
    source: str = ""
    """File that the document was read from, relative to the folder that was ingested."""
    heading_path: list[str] = Field(default_factory=list)
    """Headings above the passage, outermost first."""
    span: Span
    metadata: dict[str, str | int | float | bool] = Field(default_factory=dict)
    collection: str = ""
    """Index that the passage is from."""
    index_version: str
    similarity: float
    """Cosine of query and passage, -1 … 1."""
    lexical_score: float
    """BM25 score; 0 where they share no term."""
    support: float
    """How far the passage speaks of what is asked: `similarity`, plus `lexical_score` as a share of the greatest that
    any passage could have (0 … 1). Comparable between queries."""
    explain: Explanation | None = None


class SearchInstance(Described):
    """One query."""

    model_config = ConfigDict(extra="forbid", strict=True)

    input: Annotated[str, StringConstraints(min_length=1, max_length=MAX_QUERY_CHARS)]
    num_docs: Annotated[int, Field(ge=0, le=MAX_NUM_DOCS)] | None = None
    """Passages wanted; the service's setting where absent."""
    filters: dict[str, Any] | None = None
    """Chroma's `where` language over document metadata: {"lang": "en"}, {"$and": [...]}, {"year": {"$gte": 2023}}."""
    mode: Mode | None = None
    """The service's setting where absent."""
    min_score: Annotated[float, Field(ge=0, le=1)] | None = None
    """Passages of a lower `score` are left out."""
    diversity: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How much a passage is held against for saying what a better one says: 0 not at all, 1 nothing else counts."""
    neighbours: Annotated[int, Field(ge=0, le=MAX_NEIGHBOURS)] = 0
    """Chunks before and after, of the same document, that are joined to each passage."""
    collections: Annotated[list[str], Field(min_length=1, max_length=MAX_COLLECTIONS)] | None = None
    """Indexes to search; the service's own where absent. Passages of several are merged by score."""
    explain: bool = False
    """Also tell why each passage is there, and what was cut."""


ResponseShape = Literal["passages", "strings"]


class SearchRequest(Described):
    """The v1 body."""

    model_config = ConfigDict(extra="forbid", strict=True)

    instances: Annotated[list[SearchInstance], Field(min_length=1, max_length=MAX_INSTANCES)]
    response_shape: ResponseShape | None = None
    """What a prediction is: a `Prediction`, or a list of texts. The service's setting where absent."""


class Prediction(Described):
    """What one query found, highest score first; ties keep the order of chunk ids."""

    passages: list[Passage]
    index_version: str
    """Of the first collection searched."""
    index_versions: dict[str, str] = Field(default_factory=dict)
    """Collection → its version, of all that were searched."""
    cut: list[Cut] = Field(default_factory=list)
    """Where the query asks to explain: candidates that became no passage, best first."""
    query_tokens: int = 0
    query_truncated: bool = False
    timings_ms: dict[str, float] = Field(default_factory=dict)
    """Milliseconds of `embed` (the embedder's hop) and `search`."""
    calibration: dict[str, Any] | None = None
    """Calibration of refusals for the version and embedder of the first collection; None if there is none."""


class SearchResponse(Described):
    """The v1 answer, in the order of the instances."""

    predictions: list[Prediction]


class StoredDocument(Described):
    """A document as its index holds it."""

    id: str
    title: str
    url: str | None
    text: str
    """Spans of passages and of quotes count its characters (Unicode code points)."""
    source: str
    """File that the document was read from, relative to the folder that was ingested."""
    metadata: dict[str, str | int | float | bool]
    collection: str
    """Index that it is from."""
    index_version: str


class IndexInfo(Described):
    """The version of an index that is being served."""

    name: str
    version: str
    documents: int
    chunks: int
    embedder: str
    """Fingerprint of what made its vectors."""
    parts: list[Signal]
    """What it can be searched by."""
    calibration: dict[str, Any] | None
    """Content of the version's calibration file."""
    examples: list[str]
    """Questions that its documents answer."""


class IndexStatus(Described):
    """An index, and what is wrong with it."""

    index: IndexInfo | None
    """None where no version of it is being served."""
    reason: str | None
    """Why none is, why it cannot be searched now, or why a newer version was refused."""


class ServedIndexes(IndexStatus):
    """All indexes of a service; `index` and `reason` are those of the default one."""

    default: str
    """Name of the index that is searched where a query names none."""
    collections: dict[str, IndexStatus]
    """By name, the default one first."""
