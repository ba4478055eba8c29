"""Descriptions of KServe's routes of the vectorstore for `/openapi.json`."""

from __future__ import annotations

from kserve.protocol.rest.v2_datamodels import InferenceRequest, InferenceResponse

from chassis.openapi import Description, Operation
from vectorstore.wire import SearchRequest, SearchResponse

_QUERY = "How long is the warranty?"

DESCRIPTION = Description(
    title="kserve-rag: the vectorstore",
    text=(
        "Passages of documents for queries: by vectors, by words, and where the index has them by learned sparse "
        "vectors and late interaction.\n\n"
        "Every route takes `Authorization`, which is passed on to the embedder, `x-request-id`, which every answer "
        "repeats, `traceparent`, and `x-request-timeout-ms`, the milliseconds that the caller waits. A 503 has "
        "`Retry-After`. gRPC, the same as v2, has a port of its own."
    ),
    tags={
        "search": "Queries, one or many.",
        "documents": "The indexes that are served, and their documents.",
        "readiness": "Whether the service lives and can answer.",
    },
    operations={
        "POST /v1/models/{model_name}:predict": Operation(
            summary="Search, KServe's v1",
            text="One prediction per query, in their order.",
            tag="search",
            request=SearchRequest,
            request_example={"instances": [{"input": _QUERY, "num_docs": 3, "explain": True}]},
            answer=SearchResponse,
        ),
        "POST /v2/models/{model_name}/infer": Operation(
            summary="Search with tensors, KServe's v2",
            text=(
                "The tensor `input`, BYTES [n, 1], has the queries; other fields are tensors of [1] for all of them or "
                "[n, 1]. The tensor `passages`, BYTES [n, 1], has the JSON of a `Prediction` per query."
            ),
            tag="search",
            request=InferenceRequest,
            request_example={"inputs": [{"name": "input", "datatype": "BYTES", "shape": [1, 1], "data": [_QUERY]}]},
            answer=InferenceResponse,
        ),
    },
)
