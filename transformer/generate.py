"""Triton's generate extension: `POST /v2/models/{model}/generate` and `/generate_stream` (server-sent events).

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_generate.md
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Any, TypeVar

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ValidationError

from chassis.context import CallContext
from chassis.edge import ErrorShape, oip_error
from chassis.errors import InternalError, InvalidRequestError, NotFoundError, ServiceError
from chassis.validation import invalid_request
from transformer.server import encode, timing_headers
from transformer.service import Event, Question, RagService
from transformer.wire import GenerateRequest, SourcesEvent

logger = logging.getLogger(__name__)

ModelT = TypeVar("ModelT", bound=BaseModel)

_FIRST_TOKEN_WAIT_S = 0.5

SSE_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def generate_routes(service: RagService, *, timeout_s: float) -> APIRouter:
    """The two routes for `service`'s model."""
    router = APIRouter(prefix="/v2/models", tags=["generate"])

    async def read(request: Request, model_name: str) -> Question:
        if model_name != service.model_name:
            raise NotFoundError(
                f"model: there is no {model_name!r}. This service has the model {service.model_name!r}.", field="model"
            )
        return _question(await read_json(request, GenerateRequest))

    @router.post("/{model_name}/generate", response_model=None)
    async def generate(model_name: str, request: Request) -> Response:
        """The whole answer."""
        ctx = CallContext.start(timeout_s, request.headers)
        answer = await service.answer(await read(request, model_name), ctx)
        return json_response(answer, timing_headers([answer.timings]))

    @router.post("/{model_name}/generate_stream", response_model=None)
    async def generate_stream(model_name: str, request: Request) -> Response:
        """Server-sent events: sources, then pieces of the answer, then the end with usage and timings."""
        ctx = CallContext.start(timeout_s, request.headers)
        events = service.stream(await read(request, model_name), ctx)
        return await event_stream(events, lambda event: [event], oip_error)

    return router


async def read_json(request: Request, kind: type[ModelT]) -> ModelT:
    """The request's body as `kind`.

    Raises:
        InvalidRequestError: it is not JSON, or not of that shape.
    """
    raw = await request.body()
    try:
        payload = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        reason = f"{error}" if raw else "it is empty"
        raise InvalidRequestError(f"The body is not valid JSON: {reason}.") from None
    if not isinstance(payload, dict):
        raise InvalidRequestError("The body is not a JSON object.")
    try:
        return kind.model_validate(payload)
    except ValidationError as error:
        raise invalid_request(error, kind) from None


def json_response(content: Any, headers: Mapping[str, str]) -> Response:
    """A JSON answer."""
    return Response(encode(content), headers=dict(headers), media_type="application/json")


async def event_stream(
    events: AsyncGenerator[Event, None],
    told: Callable[[Event], Sequence[Any]],
    error_shape: ErrorShape,
    *,
    end: bytes = b"",
) -> Response:
    """Events as `text/event-stream`.

    The status line waits for the first event, and for half a second for the second, which is the first token: what
    fails before has its own HTTP status. What fails later is the last event, in the protocol's error shape.

    Args:
        events: closed in every case.
        told: what is sent for an event.
        error_shape: body of an error.
        end: sent after the last event.
    """
    try:
        first = await anext(events)
        second = asyncio.ensure_future(anext(events, None))
        try:
            await asyncio.wait({second}, timeout=_FIRST_TOKEN_WAIT_S)
            if second.done():
                second.result()
        except BaseException:
            await _stop(second)
            raise
    except BaseException:
        await events.aclose()
        raise

    async def lines() -> AsyncIterator[bytes]:
        try:
            yield _lines(told(first))
            event = await second
            while event is not None:
                yield _lines(told(event))
                event = await anext(events, None)
        except ServiceError as error:
            yield _lines([error_shape(error)])
        except Exception:
            logger.exception("unforeseen error in a stream")
            yield _lines([error_shape(InternalError("The service failed in the middle of this answer."))])
        finally:
            await _stop(second)
            await events.aclose()
        if end:
            yield end

    timings = first.timings if isinstance(first, SourcesEvent) else {}
    return StreamingResponse(
        lines(), media_type="text/event-stream", headers={**SSE_HEADERS, **timing_headers([timings])}
    )


async def _stop(task: asyncio.Future[Any]) -> None:
    """Ends a task that reads from a generator, which cannot be closed while it is read."""
    task.cancel()
    await asyncio.wait({task})


def _lines(contents: Sequence[Any]) -> bytes:
    return b"".join(b"data: " + encode(content) + b"\n\n" for content in contents)


def _question(request: GenerateRequest) -> Question:
    extra = {"id": request.id} if request.id else {}
    return Question(
        text=request.text_input,
        sampling=request,
        history=tuple(request.history),
        grounding=request,
        **extra,
    )
