"""What there is to ask, and the documents that answers quote: `GET /v1/indexes` and `GET /v1/documents/{id}`."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from chassis.context import CallContext
from transformer.generate import json_response
from transformer.service import RagService


def browsing_routes(service: RagService, *, timeout_s: float) -> APIRouter:
    """The routes over `service`'s vectorstore, which is asked with the caller's own credentials."""
    router = APIRouter(prefix="/v1", tags=["documents"])

    @router.get("/indexes", response_model=None)
    async def indexes(request: Request) -> Response:
        """The indexes that are served, with questions to begin with."""
        return json_response(await service.indexes(CallContext.start(timeout_s, request.headers)), {})

    @router.get("/documents/{document_id:path}", response_model=None)
    async def document(
        document_id: str, request: Request, version: str | None = None, collection: str | None = None
    ) -> Response:
        """A stored document, whole."""
        ctx = CallContext.start(timeout_s, request.headers)
        return json_response(await service.document(document_id, ctx, version=version, collection=collection), {})

    return router
