"""Maps exceptions to HTTP responses."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from chassis.errors import InternalError, InvalidRequestError, MethodNotAllowedError, NotFoundError, ServiceError

logger = logging.getLogger(__name__)

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

ErrorShape = Callable[[ServiceError], Mapping[str, Any]]


def oip_error(error: ServiceError) -> dict[str, Any]:
    """The error body of KServe's v1 and v2 protocols, `{"error": text}`, with our `code` and `field`."""
    body: dict[str, Any] = {"error": error.message, "code": error.code}
    if error.field is not None:
        body["field"] = error.field
    return body


def error_response(error: ServiceError, shape: ErrorShape = oip_error) -> Response:
    """The HTTP response for an error, in the protocol's shape."""
    headers = dict(error.headers)
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(orjson.dumps(shape(error)), error.status, headers, media_type="application/json")


class ErrorMapper:
    """Maps exceptions to `ServiceError`s, and these to the error body of the path's protocol."""

    kinds: tuple[type[Exception], ...] = (
        ServiceError,
        RequestValidationError,
        HTTPException,
        NotImplementedError,
        Exception,
    )
    """Exceptions to handle."""

    def __init__(self, shapes: Mapping[str, ErrorShape] = MappingProxyType({})) -> None:
        """`shapes`: path prefix → error body, for routes that do not speak KServe's protocols."""
        self._shapes = shapes

    def register(self, app: FastAPI) -> None:
        """Registers the handlers with an application."""
        for kind in self.kinds:
            app.add_exception_handler(kind, self._handle)

    async def _handle(self, request: Request, error: Exception) -> Response:
        mapped = await self.map(error, f"{request.method} {request.url.path}")
        if mapped.status == 405:
            mapped.headers["allow"] = ", ".join(_allowed_methods(request))
        return self.respond(mapped, request.url.path)

    def respond(self, error: ServiceError, path: str) -> Response:
        """The response in the protocol of a path."""
        shapes = (shape for prefix, shape in self._shapes.items() if path.startswith(prefix))
        return error_response(error, next(shapes, oip_error))

    async def map(self, error: Exception, where: str) -> ServiceError:
        """The error for the client. Unexpected exceptions are logged."""
        if isinstance(error, ServiceError):
            return error
        if isinstance(error, RequestValidationError):
            return _validation_error(error)
        if isinstance(error, NotImplementedError):
            return NotFoundError(sentence(str(error) or "Not supported by this service."))
        if isinstance(error, HTTPException):
            return _http_error(error, where)
        logger.error("unexpected error in %s", where, exc_info=error)
        return InternalError("The service failed on this request. Its log has the reason under the x-request-id.")


def _allowed_methods(request: Request) -> list[str]:
    """Methods of all routes at the request's path; the framework names only those of the first route."""
    return [
        method
        for method in _METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in request.app.routes)
    ]


def _validation_error(error: RequestValidationError) -> InvalidRequestError:
    # KServe declares the v2 body as "a request or bytes"; errors about bytes do not help the client.
    problems = [p for p in error.errors() if "bytes" not in p["loc"]] or list(error.errors())
    first = problems[0]
    if first["type"] == "json_invalid":
        return InvalidRequestError(f"The body is not valid JSON: {first.get('ctx', {}).get('error', first['msg'])}.")
    path = ".".join(str(part) for part in first["loc"] if part not in ("body", "InferenceRequest"))
    if not path:
        return InvalidRequestError("The body is missing: send a JSON object.")
    more = f" ({len(problems) - 1} more problems)" if len(problems) > 1 else ""
    return InvalidRequestError(f"{path}: {first['msg']}{more}.", field=path)


class _HttpStatusError(ServiceError):
    """A status chosen by the framework."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status  # type: ignore[misc]
        self.code = code  # type: ignore[misc]


def _http_error(error: HTTPException, where: str) -> ServiceError:
    if error.status_code == 404:
        return NotFoundError(f"There is no {where} here.")
    if error.status_code == 405:
        return MethodNotAllowedError(f"{where}: this method is not allowed here.")
    if error.status_code == 400:
        return InvalidRequestError(
            "The body cannot be read as JSON: send UTF-8 text, not too deeply nested, and numbers of fewer digits."
        )
    return _HttpStatusError(error.status_code, "http_error", str(error.detail))


def sentence(text: str) -> str:
    """The text, ending with a full stop."""
    return text if text.endswith((".", "!", "?")) else text + "."
