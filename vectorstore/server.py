"""The KServe model `vectorstore` and its extra routes: requests in, the service's answers out, no decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter, Response
from kserve import InferRequest, InferResponse
from pydantic import ValidationError

from chassis.context import CallContext
from chassis.errors import InvalidRequestError
from chassis.server import ServiceModel
from chassis.tensors import metadata, per_row, read_columns, respond
from chassis.validation import invalid_request
from vectorstore.search.passages import QueryResult
from vectorstore.service import VectorstoreService
from vectorstore.wire import ResponseShape, SearchInstance, SearchRequest

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
}
_JSON_INPUTS = ("filters", "collections")


class VectorstoreModel(ServiceModel):
    """Answers v1, v2 and gRPC from one service."""

    def __init__(self, service: VectorstoreService, *, response_shape: ResponseShape, timeout_s: float) -> None:
        super().__init__(NAME)
        self._service = service
        self._response_shape = response_shape
        self._timeout_s = timeout_s

    async def not_ready_reason(self) -> str | None:
        """Why no query can be answered now."""
        return self._service.not_ready_reason()

    async def get_input_types(self) -> list[dict[str, Any]]:
        """Of the v2 protocol."""
        return metadata({name: (datatype, [-1, 1]) for name, datatype in _INPUTS.items()})

    async def get_output_types(self) -> list[dict[str, Any]]:
        """Of the v2 protocol."""
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
            found = await self._service.search(_rows(payload), ctx)
            passages = np.array([answer.json() for answer in found], object).reshape(-1, 1)
            return respond(payload, self.name, {"passages": passages})
        asked = _asked(payload)
        found = await self._service.search(asked.instances, ctx)
        if response_headers is not None:
            response_headers["content-type"] = "application/json"
        shape = asked.response_shape or self._response_shape
        return _strings(found) if shape == "strings" else _predictions(found)


def routes(service: VectorstoreService) -> APIRouter:
    """What KServe's protocols have no route for."""
    router = APIRouter(tags=["documents"])

    @router.get("/v1/indexes", response_model=None)
    async def indexes() -> Response:
        """The indexes that are served, and what is wrong with those that are not."""
        return _json(service.status())

    @router.get("/v1/documents/{document_id:path}", response_model=None)
    async def document(document_id: str, version: str | None = None, collection: str | None = None) -> Response:
        """A stored document, whole."""
        stored, index_version = await service.document(document_id, version, collection)
        return _json(
            {
                "id": stored.id,
                "title": stored.title,
                "url": stored.url,
                "text": stored.text,
                "source": stored.source,
                "metadata": stored.metadata,
                "collection": service.default if collection is None else collection,
                "index_version": index_version,
            }
        )

    return router


def _json(content: Any) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")


def _asked(payload: Any) -> SearchRequest:
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
            # An empty text stands for none: a tensor cannot leave a row out.
            if value != "":
                instance[name] = _parsed(name, value) if name in _JSON_INPUTS else value
    return _asked({"instances": instances}).instances


def _parsed(name: str, value: str) -> Any:
    try:
        return orjson.loads(value) if value.strip() else None
    except orjson.JSONDecodeError as error:
        raise InvalidRequestError(f"{name}: a row is not JSON: {error}.", field=name) from error


def _predictions(found: Sequence[QueryResult]) -> bytes:
    return b'{"predictions":[%b]}' % b",".join(answer.json() for answer in found)


def _strings(found: Sequence[QueryResult]) -> bytes:
    """A flat list of texts for one instance, as earlier clients read it; for several a list of lists."""
    texts = [answer.texts() for answer in found]
    return orjson.dumps({"predictions": texts[0] if len(texts) == 1 else texts})
