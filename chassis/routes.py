"""Typed JSON routes, from whose declarations FastAPI generates `/openapi.json`."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from chassis.errors import (
    BadUpstreamError,
    BusyError,
    DeadlineExceededError,
    ForbiddenError,
    InternalError,
    InvalidRequestError,
    NotReadyError,
    PayloadTooLargeError,
    ServiceError,
    UnauthorizedError,
    UnsupportedMediaTypeError,
)
from chassis.validation import invalid_request

ModelT = TypeVar("ModelT", bound=BaseModel)

UPSTREAM_ERRORS = (
    InvalidRequestError,
    UnauthorizedError,
    ForbiddenError,
    InternalError,
    BadUpstreamError,
    NotReadyError,
    DeadlineExceededError,
)
"""Errors of a route that calls another service."""
BODY_ERRORS = (PayloadTooLargeError, UnsupportedMediaTypeError, BusyError)
"""Errors of a route that reads a body."""


class ErrorBody(BaseModel):
    """The error body of KServe's protocols, with our `code` and `field`."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    error: str
    """The offending value, the limit and the next step."""
    code: str
    """Stable kind of error, such as `invalid_request`."""
    field: str | None = None
    """Field of the request, such as `instances[0].top_p`."""


class JsonRoute(APIRoute):
    """A route whose parameters are `request` and, if it reads a JSON object, `body`.

    FastAPI documents it, but does not parse the body: this class reads it with orjson, under any content type but a
    form's, and rejects an invalid one with the error of `chassis.validation`. Dependencies are plain functions of the
    path's parameters, called first.
    """

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        """The handler, without FastAPI's parsing for routes that have a body."""
        if self.body_field is None:
            return super().get_route_handler()
        kind: Any = self.body_field.field_info.annotation

        async def handle(request: Request) -> Response:
            for check in self.dependencies:
                check.dependency(**request.path_params)  # type: ignore[misc]
            response: Response = await self.endpoint(request=request, body=await read_json(request, kind))
            return response

        return handle


async def read_json(request: Request, kind: type[ModelT]) -> ModelT:
    """The request's body. Raises InvalidRequestError if it is not JSON of this type."""
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise UnsupportedMediaTypeError("The body is a form: send JSON.")
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


def encode(content: Any) -> bytes:
    """JSON of models, and of lists and dicts of models. Fields keep the order in which they were set."""
    return orjson.dumps(content, default=vars)


def json_response(content: Any, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response; see `encode`."""
    return Response(encode(content), headers=headers, media_type="application/json")


def error_responses(*kinds: type[ServiceError], body: type[BaseModel] = ErrorBody) -> dict[int | str, dict[str, Any]]:
    """FastAPI's `responses` for these errors, whose body is `body`."""
    return {
        kind.status: {
            "model": body,
            "description": f"`{kind.code}`: {inspect.cleandoc(kind.__doc__ or '').splitlines()[0]}",
        }
        for kind in sorted(kinds, key=lambda kind: kind.status)
    }


def event_responses(events: Any) -> dict[int | str, dict[str, Any]]:
    """FastAPI's `responses` for a stream of server-sent events. `events`: the union of the types of their `data`."""
    schema = TypeAdapter(events).json_schema(mode="serialization", ref_template="#/components/schemas/{model}")
    return {200: {"content": {"text/event-stream": {"schema": schema}}}}


def request_example(body: Mapping[str, Any]) -> dict[str, Any]:
    """FastAPI's `openapi_extra` with an example of the request."""
    return {"requestBody": {"content": {"application/json": {"example": dict(body)}}}}
