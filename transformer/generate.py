"""Triton's generate extension: `POST /v2/models/{model}/generate` and `/generate_stream` (server-sent events).

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_generate.md
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.responses import StreamingResponse

from chassis.context import CallContext
from chassis.error_mapping import oip_error
from chassis.errors import NotFoundError
from chassis.routes import (
    BODY_ERRORS,
    UPSTREAM_ERRORS,
    JsonRoute,
    error_responses,
    event_responses,
    json_response,
    request_example,
)
from chassis.streaming import event_stream
from transformer.question import Question
from transformer.server import event_timing_headers, timing_headers
from transformer.service import Event, RagService
from transformer.wire import Answer, GenerateRequest

_QUESTION = "How long is the warranty?"


def generate_routes(service: RagService, *, timeout_s: float) -> APIRouter:
    """The two routes of the service's model."""

    def check_model(model_name: Annotated[str, Path(description="Name of the model.", examples=["rag"])]) -> None:
        if model_name != service.model_name:
            raise NotFoundError(
                f"model: there is no {model_name!r}. This service has the model {service.model_name!r}.", field="model"
            )

    router = APIRouter(
        prefix="/v2/models",
        tags=["ask"],
        route_class=JsonRoute,
        dependencies=[Depends(check_model)],
        responses=error_responses(*UPSTREAM_ERRORS, *BODY_ERRORS, NotFoundError),
    )

    @router.post(
        "/{model_name}/generate",
        summary="Ask, Triton's generate extension",
        response_model=Answer,
        response_description="The answer.",
        openapi_extra=request_example({"text_input": _QUESTION, "max_tokens": 100}),
    )
    async def generate(request: Request, body: GenerateRequest) -> Response:
        """The whole answer at once."""
        ctx = CallContext.start(timeout_s, request.headers)
        answer = await service.answer(_question(body), ctx)
        return json_response(answer, timing_headers([answer.timings]))

    @router.post(
        "/{model_name}/generate_stream",
        summary="Ask, and stream the answer",
        response_class=StreamingResponse,
        response_description="The events.",
        responses=event_responses(Event),
        openapi_extra=request_example(
            {
                "text_input": "And how can I extend it?",
                "history": [
                    {"role": "user", "content": _QUESTION},
                    {"role": "assistant", "content": "Three years."},
                ],
            }
        ),
    )
    async def generate_stream(request: Request, body: GenerateRequest) -> Response:
        """Server-sent events: the sources, then pieces of the answer, then the end with usage, timings and citations.

        If the stream fails after it has begun, its last event is an error's body.
        """
        ctx = CallContext.start(timeout_s, request.headers)
        events = service.stream(_question(body), ctx)
        return await event_stream(events, lambda event: [event], event_timing_headers, oip_error)

    return router


def _question(body: GenerateRequest) -> Question:
    identity = {"id": body.id} if body.id else {}
    return Question(
        body.text_input, sampling=body, grounding=body, history=tuple(body.history), model=body.model, **identity
    )
