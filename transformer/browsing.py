"""The indexes, and the documents that answers quote: `GET /v1/indexes` and `GET /v1/documents/{id}`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from chassis.context import CallContext
from chassis.errors import NotFoundError
from chassis.routes import UPSTREAM_ERRORS, error_responses, json_response
from transformer.service import RagService
from transformer.wire import Indexes, TemplateList
from vectorstore.wire import StoredDocument


def browsing_routes(service: RagService, *, timeout_s: float) -> APIRouter:
    """The routes over `service`'s vectorstore."""
    router = APIRouter(prefix="/v1", tags=["documents"], responses=error_responses(*UPSTREAM_ERRORS))

    @router.get(
        "/indexes",
        summary="The indexes that can be asked",
        response_model=Indexes,
        response_description="The indexes.",
    )
    async def indexes(request: Request) -> Response:
        """The indexes that are served, with example questions."""
        return json_response(await service.indexes(CallContext.start(timeout_s, request.headers)))

    @router.get(
        "/templates",
        summary="The prompt templates",
        response_model=TemplateList,
        response_description="The templates.",
    )
    async def templates() -> Response:
        """The names that `template` of a question may have. The first is that of the settings."""
        return json_response({"templates": service.templates})

    @router.get(
        "/documents/{document_id:path}",
        summary="A stored document",
        response_model=StoredDocument,
        response_description="The document.",
        responses=error_responses(NotFoundError),
    )
    async def document(
        document_id: Annotated[str, Path(description="`document_id` of a source, passage or quote.")],
        request: Request,
        version: Annotated[
            str | None, Query(description="Version of the index, from `index_version`; the served one if absent.")
        ] = None,
        collection: Annotated[str | None, Query(description="Index that holds it; the default one if absent.")] = None,
    ) -> Response:
        """Spans of passages and quotes count the characters (Unicode code points) of its `text`."""
        ctx = CallContext.start(timeout_s, request.headers)
        return json_response(await service.document(document_id, ctx, version=version, collection=collection))

    return router
