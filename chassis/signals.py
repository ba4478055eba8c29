"""Every span and metric of the services, declared once: what code records, documentation lists and dashboards read.

Data alone. A row belongs to the room that `owner` names; the chassis itself uses its own rows only.

Names of attributes are OpenTelemetry's where it has one; the others begin with `kserve_rag.`. None holds text of a
question, a document, a prompt or an answer: sizes, counts, names and versions.

Source: https://opentelemetry.io/docs/specs/semconv/http/, …/rpc/grpc/ and …/gen-ai/ for attributes and names of spans;
https://prometheus.io/docs/practices/naming/ for names of metrics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SpanKind = Literal["server", "client", "internal"]
MetricKind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class SpanType:
    """A kind of span."""

    name: str
    """As it is recorded; what is in braces is filled in."""
    kind: SpanKind
    owner: str
    """The room that records it."""
    help: str
    attributes: tuple[str, ...] = ()
    """All that it may have."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of a service's /metrics."""

    name: str
    """As a query names it, less the suffixes of a histogram."""
    kind: MetricKind
    unit: str
    owner: str
    """The room that counts it. `chassis`: every service."""
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram."""

    def series(self) -> tuple[str, ...]:
        """Names under which Prometheus stores it."""
        if self.kind == "histogram":
            return (f"{self.name}_bucket", f"{self.name}_sum", f"{self.name}_count")
        return (self.name,)


# ── spans ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

REQUEST = SpanType(
    "{http.request.method} {http.route}",
    "server",
    "chassis",
    "A request over HTTP, from its first byte to the last of its answer. Readiness and metrics have none.",
    (
        "http.request.method",
        "http.route",
        "http.request.body.size",
        "http.request.header.x-request-id",
        "http.response.status_code",
        "error.type",
        "kserve_rag.cancelled",
    ),
)
CALL = SpanType(
    "{rpc.service}/{rpc.method}",
    "server",
    "chassis",
    "A call over gRPC.",
    (
        "rpc.system.name",
        "rpc.method",
        "http.request.header.x-request-id",
        "rpc.response.status_code",
        "error.type",
        "kserve_rag.cancelled",
    ),
)
UPSTREAM = SpanType(
    "{http.request.method} {peer.service}",
    "client",
    "chassis",
    "A request to another service, to the end of its answer.",
    (
        "http.request.method",
        "http.request.body.size",
        "http.request.resend_count",
        "http.response.status_code",
        "server.address",
        "server.port",
        "peer.service",
        "error.type",
        "kserve_rag.cancelled",
    ),
)
ANSWER = SpanType(
    "answer",
    "internal",
    "transformer",
    "One question, from retrieval to the checked answer.",
    (
        "kserve_rag.question.chars",
        "kserve_rag.history.turns",
        "kserve_rag.outcome",
        "kserve_rag.sources",
        "kserve_rag.index.version",
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.output_tokens",
        "gen_ai.response.finish_reasons",
        "error.type",
        "kserve_rag.cancelled",
    ),
)
CONDENSE = SpanType(
    "condense",
    "internal",
    "transformer",
    "A conversation made into one query.",
    ("kserve_rag.history.turns", "kserve_rag.query.chars", "error.type", "kserve_rag.cancelled"),
)
CITATIONS = SpanType(
    "citations",
    "internal",
    "transformer",
    "An answer checked against its sources.",
    (
        "kserve_rag.statements",
        "kserve_rag.statements.unsupported",
        "kserve_rag.quotes.dropped",
        "error.type",
        "kserve_rag.cancelled",
    ),
)
RETRIEVAL = SpanType(
    "retrieval",
    "client",
    "vectorstore",
    "Queries put to the vectorstore, by its client.",
    ("gen_ai.operation.name", "kserve_rag.queries", "kserve_rag.passages", "error.type", "kserve_rag.cancelled"),
)
SEARCH = SpanType(
    "search",
    "internal",
    "vectorstore",
    "Queries embedded and searched for, all of one request together.",
    (
        "kserve_rag.queries",
        "kserve_rag.passages",
        "kserve_rag.index.version",
        "error.type",
        "kserve_rag.cancelled",
    ),
)
EMBEDDINGS = SpanType(
    "embeddings {gen_ai.request.model}",
    "client",
    "embedder",
    "Texts put to the embedder, by its client; in several requests where they are many.",
    (
        "gen_ai.operation.name",
        "gen_ai.request.model",
        "gen_ai.usage.input_tokens",
        "gen_ai.embeddings.dimension.count",
        "kserve_rag.texts",
        "kserve_rag.texts.truncated",
        "error.type",
        "kserve_rag.cancelled",
    ),
)
GENERATION = SpanType(
    "text_completion {gen_ai.request.model}",
    "client",
    "predictor",
    "A prompt put to the LLM, by its client. The event `first_token` is in it.",
    (
        "gen_ai.operation.name",
        "gen_ai.request.model",
        "gen_ai.request.max_tokens",
        "gen_ai.request.temperature",
        "gen_ai.request.top_k",
        "gen_ai.request.top_p",
        "gen_ai.request.seed",
        "gen_ai.request.stream",
        "gen_ai.response.finish_reasons",
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.output_tokens",
        "kserve_rag.prompt.chars",
        "error.type",
        "kserve_rag.cancelled",
    ),
)
INGESTION = SpanType(
    "ingest",
    "internal",
    "ingest",
    "A run of ingestion: the root of its trace.",
    ("error.type", "kserve_rag.cancelled"),
)

SPANS = (
    REQUEST,
    CALL,
    UPSTREAM,
    ANSWER,
    CONDENSE,
    CITATIONS,
    RETRIEVAL,
    SEARCH,
    EMBEDDINGS,
    GENERATION,
    INGESTION,
)

# ── metrics ───────────────────────────────────────────────────────────────────────────────────────────────────────────

_ANSWER_S = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0)
"""From a cached first token to the longest time that an answer is given by default."""
_HOP_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

REQUESTS = Metric(
    "kserve_rag_requests_total",
    "counter",
    "requests",
    "chassis",
    "Requests answered, by the template of their path and the status. 499: the caller left. A gRPC call counts under "
    "the status that HTTP would have given it.",
    ("model_name", "route", "status"),
)
REQUEST_DURATION = Metric(
    "kserve_rag_request_duration_seconds",
    "histogram",
    "seconds",
    "chassis",
    "From a request's arrival to the last byte of its answer, streams included.",
    ("model_name", "route"),
    (0.0025, 0.005, 0.01, *_ANSWER_S),
)
IN_FLIGHT = Metric(
    "kserve_rag_requests_in_flight",
    "gauge",
    "requests",
    "chassis",
    "Requests that have arrived and are not answered to their end.",
    ("model_name",),
)
ANSWERS = Metric(
    "kserve_rag_answers_total",
    "counter",
    "answers",
    "transformer",
    "Questions by what became of them: answered; refused, because no passage supports an answer (no_support) or as the "
    "model said that it does not know (model_refused); failed; left by the caller.",
    ("outcome",),
)
FIRST_TOKEN = Metric(
    "kserve_rag_first_token_seconds",
    "histogram",
    "seconds",
    "transformer",
    "From a question's arrival to the first token of its answer, retrieval included.",
    (),
    _ANSWER_S,
)
OUTPUT_TOKEN = Metric(
    "kserve_rag_output_token_seconds",
    "histogram",
    "seconds",
    "transformer",
    "Per token of an answer after the first: the mean of one answer.",
    (),
    (0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0),
)
TOKENS = Metric(
    "kserve_rag_tokens_total",
    "counter",
    "tokens",
    "transformer",
    "Tokens of the LLM, as its server counts them: input (prompts) and output (answers).",
    ("type",),
)
RETRIEVAL_DURATION = Metric(
    "kserve_rag_retrieval_seconds",
    "histogram",
    "seconds",
    "transformer",
    "The vectorstore's answer to one question, as the transformer waits for it.",
    (),
    _HOP_S,
)
STATEMENTS = Metric(
    "kserve_rag_statements_total",
    "counter",
    "sentences",
    "transformer",
    "Sentences of answers that were checked against their sources: supported, unsupported, no_claim.",
    ("verdict",),
)
EMBED_DURATION = Metric(
    "kserve_rag_embed_seconds",
    "histogram",
    "seconds",
    "vectorstore",
    "The embedder's answer to the queries of one request.",
    (),
    _HOP_S,
)
SEARCH_DURATION = Metric(
    "kserve_rag_search_seconds",
    "histogram",
    "seconds",
    "vectorstore",
    "Searching for the queries of one request, once they are embedded.",
    (),
    _HOP_S,
)
PASSAGES = Metric(
    "kserve_rag_passages_found",
    "histogram",
    "passages",
    "vectorstore",
    "Passages found for one query.",
    (),
    (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0),
)
INDEX_INFO = Metric(
    "kserve_rag_index_info",
    "gauge",
    "1",
    "vectorstore",
    "1 for the version of a collection that serves.",
    ("collection", "version", "embedder"),
)
INDEX_DOCUMENTS = Metric(
    "kserve_rag_index_documents",
    "gauge",
    "documents",
    "vectorstore",
    "Documents in the version that serves.",
    ("collection",),
)
INDEX_CHUNKS = Metric(
    "kserve_rag_index_chunks",
    "gauge",
    "chunks",
    "vectorstore",
    "Chunks in the version that serves.",
    ("collection",),
)
INDEX_TROUBLE = Metric(
    "kserve_rag_index_trouble",
    "gauge",
    "1",
    "vectorstore",
    "1 where a collection has no version that serves, or its newest is refused; /v1/indexes says why.",
    ("collection",),
)

INGEST_TASKS = Metric(
    "kserve_rag_ingest_tasks_total",
    "counter",
    "tasks",
    "ingest",
    "Tasks of the ingest service that have ended: upload, delete or reindex; succeeded, failed or cancelled.",
    ("kind", "state"),
)
INGEST_WAITING = Metric(
    "kserve_rag_ingest_tasks_unfinished",
    "gauge",
    "tasks",
    "ingest",
    "Tasks of the ingest service that are queued or running.",
    ("kind",),
)
INGEST_DOCUMENTS = Metric(
    "kserve_rag_ingest_documents_total",
    "counter",
    "documents",
    "ingest",
    "Documents that uploaded files became.",
)
INGEST_BYTES = Metric(
    "kserve_rag_ingest_uploaded_bytes_total",
    "counter",
    "bytes",
    "ingest",
    "Bytes of the files that were taken in.",
)

METRICS = (
    REQUESTS,
    REQUEST_DURATION,
    IN_FLIGHT,
    ANSWERS,
    FIRST_TOKEN,
    OUTPUT_TOKEN,
    TOKENS,
    RETRIEVAL_DURATION,
    STATEMENTS,
    EMBED_DURATION,
    SEARCH_DURATION,
    PASSAGES,
    INDEX_INFO,
    INDEX_DOCUMENTS,
    INDEX_CHUNKS,
    INDEX_TROUBLE,
    INGEST_TASKS,
    INGEST_WAITING,
    INGEST_DOCUMENTS,
    INGEST_BYTES,
)
