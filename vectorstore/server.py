"""Adapts `VectorstoreService` to KServe: the model `vectorstore`, and further routes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import orjson
from fastapi import APIRouter, Path, Query, Request
from kserve import InferRequest, InferResponse
from pydantic import ValidationError

from chassis.context import CallContext
from chassis.errors import InvalidRequestError, NotFoundError
from chassis.openapi import InferenceRouteDocs, ServiceApi
from chassis.routes import UPSTREAM_ERRORS, error_responses
from chassis.server import ServiceModel
from chassis.tensors import metadata, per_row, read_columns, respond
from chassis.validation import invalid_request
from vectorstore.search.passages import QueryResult
from vectorstore.service import VectorstoreService
from vectorstore.wire import (
    ResponseShape,
    SearchInstance,
    SearchRequest,
    SearchResponse,
    ServedIndexes,
    StoredDocument,
)

NAME = "vectorstore"

_INPUTS = {
    "input": "BYTES",
    "num_docs": "INT32",
    "filters": "BYTES",
    "mode": "BYTES",
    "min_score": "FP32",
    "diversity": "FP32",
    "neighbours": "INT32",
    "collections": "BYTES",
    "explain": "BOOL",
    "sentence_similarity": "BOOL",
}
_JSON_INPUTS = ("filters", "collections")

API = ServiceApi(
    title="kserve-rag: the vectorstore",
    text=(
        "Finds passages of documents for queries: by vectors, by words, and, if the index has them, by learned sparse "
        "vectors and late interaction.\n\n"
        "Every route accepts `Authorization`, which is forwarded to the embedder, `x-request-id`, which every response "
        "repeats, `traceparent`, and `x-request-timeout-ms`, the client's timeout in milliseconds. A 503 has "
        "`Retry-After`. gRPC offers the v2 protocol on another port."
    ),
    tags={"search": "Queries, one or many.", "documents": "The served indexes, and their documents."},
    predict=InferenceRouteDocs(
        summary="Search (v1)",
        text="One prediction for each query, in their order.",
        request=SearchRequest,
        response=SearchResponse,
        example={"instances": [{"input": "How long is the warranty?", "num_docs": 3, "explain": True}]},
    ),
    infer=InferenceRouteDocs(
        summary="Search with tensors, KServe's v2",
        text=(
            "The tensor `input`, BYTES [n, 1], has the queries. Other fields are tensors of [1] for all queries, or "
            "[n, 1]. The tensor `passages`, BYTES [n, 1], has the JSON of a `Prediction` for each query."
        ),
        example={
            "inputs": [{"name": "input", "datatype": "BYTES", "shape": [1, 1], "data": ["How long is the warranty?"]}]
        },
    ),
)


class VectorstoreModel(ServiceModel):
    """Serves v1, v2 and gRPC."""

    def __init__(self, service: VectorstoreService, *, response_shape: ResponseShape, timeout_s: float) -> None:
        super().__init__(NAME)
        self._service = service
        self._response_shape = response_shape
        self._timeout_s = timeout_s

    async def not_ready_reason(self) -> str | None:
        """Why the default index cannot answer now; None if it can."""
        return self._service.not_ready_reason()

    async def get_input_types(self) -> list[dict[str, Any]]:
        """Input tensors of the v2 protocol."""
        return metadata({name: (datatype, [-1, 1]) for name, datatype in _INPUTS.items()})

    async def get_output_types(self) -> list[dict[str, Any]]:
        """Output tensors of the v2 protocol."""
        return metadata({"passages": ("BYTES", [-1, 1])})

    async def predict(
        self,
        payload: Any,
        headers: Mapping[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> bytes | InferResponse:
        """One prediction for each instance (v1) or row of `input` (v2)."""
        ctx = CallContext.start(self._timeout_s, headers)
        if isinstance(payload, InferRequest):
            results = await self._service.search(_rows(payload), ctx)
            passages = np.array([result.json() for result in results], object).reshape(-1, 1)
            return respond(payload, self.name, {"passages": passages})
        request = _request(payload)
        results = await self._service.search(request.instances, ctx)
        if response_headers is not None:
            response_headers["content-type"] = "application/json"
        shape = request.response_shape or self._response_shape
        return _strings(results) if shape == "strings" else _predictions(results)


def routes(service: VectorstoreService, *, timeout_s: float) -> APIRouter:
    """Routes that are not part of KServe's protocols."""
    router = APIRouter(tags=["documents"], responses=error_responses(*UPSTREAM_ERRORS))

    @router.get("/v1/indexes", summary="The indexes")
    async def indexes(request: Request) -> ServedIndexes:
        """The served versions, and the reason if an index cannot be searched or its newest version was refused."""
        return await service.status(CallContext.start(timeout_s, request.headers))

    @router.get(
        "/v1/documents/{document_id:path}", summary="A stored document", responses=error_responses(NotFoundError)
    )
    async def document(
        request: Request,
        document_id: Annotated[str, Path(description="`document_id` of a passage.")],
        version: Annotated[
            str | None, Query(description="`index_version` of a passage. By default the served version.")
        ] = None,
        collection: Annotated[
            str | None, Query(description="`collection` of a passage. By default the default index.")
        ] = None,
    ) -> StoredDocument:
        """Spans of passages count the characters (Unicode code points) of its `text`."""
        ctx = CallContext.start(timeout_s, request.headers)
        return await service.document(document_id, ctx, version=version, collection=collection)

    return router


def _request(payload: Any) -> SearchRequest:
    try:
        return SearchRequest.model_validate(payload)
    except ValidationError as error:
        raise invalid_request(error, SearchRequest) from error


def _rows(request: InferRequest) -> list[SearchInstance]:
    columns = read_columns(request, _INPUTS)
    if "input" not in columns:
        raise InvalidRequestError("inputs: the tensor 'input' (BYTES [n, 1]) is missing.", field="input")
    instances: list[dict[str, Any]] = [{"input": text} for text in columns["input"]]
    for name in columns.keys() - {"input"}:
        for instance, value in zip(instances, per_row(columns, name, len(instances)) or [], strict=True):
            # Tensors have a value for every row, so an empty text means that the field is not set.
            if value != "":
                instance[name] = _parsed(name, value) if name in _JSON_INPUTS else value
    return _request({"instances": instances}).instances


def _parsed(name: str, value: str) -> Any:
    try:
        return orjson.loads(value) if value.strip() else None
    except orjson.JSONDecodeError as error:
        raise InvalidRequestError(f"{name}: a row is not valid JSON: {error}.", field=name) from error


def _predictions(results: Sequence[QueryResult]) -> bytes:
    return b'{"predictions":[%b]}' % b",".join(result.json() for result in results)


def _strings(results: Sequence[QueryResult]) -> bytes:
    """A flat list of texts for one instance, which earlier clients expect; a list of lists for several."""
    texts = [result.texts() for result in results]
    return orjson.dumps({"predictions": texts[0] if len(texts) == 1 else texts})
