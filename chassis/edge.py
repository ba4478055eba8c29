"""The outermost layer of every HTTP service: body limit, request ids, error bodies, metrics, traces, cancellation."""

from __future__ import annotations

import asyncio
import functools
import logging
import secrets
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from types import MappingProxyType
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chassis import metrics, tracing
from chassis.errors import (
    InternalError,
    InvalidRequestError,
    NotFoundError,
    PayloadTooLargeError,
    ServiceError,
)
from chassis.telemetry import request_ids

logger = logging.getLogger("chassis.edge")
access_logger = logging.getLogger("chassis.access")

ErrorShape = Callable[[ServiceError], Mapping[str, Any]]


def oip_error(error: ServiceError) -> dict[str, Any]:
    """The error body of KServe's v1 and v2 protocols, `{"error": text}`, with our `code` and `field`."""
    body: dict[str, Any] = {"error": error.message, "code": error.code}
    if error.field is not None:
        body["field"] = error.field
    return body


class ErrorMapper:
    """Maps exceptions to a `ServiceError`, and that to the error body of the path's protocol."""

    kinds: tuple[type[Exception], ...] = (
        ServiceError,
        RequestValidationError,
        HTTPException,
        NotImplementedError,
        Exception,
    )
    """Exceptions to handle."""

    def __init__(self, shapes: Mapping[str, ErrorShape] = MappingProxyType({})) -> None:
        """`shapes`: path prefix → error body, for routes of another protocol than KServe's."""
        self._shapes = shapes

    def register(self, app: FastAPI) -> None:
        """Registers the handlers with an application."""
        for kind in self.kinds:
            app.add_exception_handler(kind, self._respond)

    async def _respond(self, request: Request, error: Exception) -> Response:
        mapped = await self.map(error, f"{request.method} {request.url.path}")
        return error_response(mapped, self.shape(request.url.path))

    def shape(self, path: str) -> ErrorShape:
        """The error body of a path."""
        return next((shape for prefix, shape in self._shapes.items() if path.startswith(prefix)), oip_error)

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


def error_response(error: ServiceError, shape: ErrorShape = oip_error) -> Response:
    """The HTTP response for an error, in the protocol's shape."""
    headers = {"retry-after": str(error.retry_after_s)} if error.retry_after_s is not None else {}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(orjson.dumps(shape(error)), error.status, headers, media_type="application/json")


def _validation_error(error: RequestValidationError) -> InvalidRequestError:
    # KServe declares the v2 body as "a request or bytes"; the errors about bytes help nobody.
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
    """A status chosen by the framework, such as 405 for a method."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status  # type: ignore[misc]
        self.code = code  # type: ignore[misc]


def _http_error(error: HTTPException, where: str) -> ServiceError:
    if error.status_code == 404:
        return NotFoundError(f"There is no {where} here.")
    if error.status_code == 405:
        return _HttpStatusError(405, "method_not_allowed", f"{where}: this method is not allowed here.")
    if error.status_code == 400:
        return InvalidRequestError("The body cannot be read as JSON: send UTF-8 text, not too deeply nested.")
    return _HttpStatusError(error.status_code, "http_error", str(error.detail))


def sentence(text: str) -> str:
    """The text with a full stop."""
    return text if text.endswith((".", "!", "?")) else text + "."


REQUEST = tracing.SpanType(
    "{http.request.method} {http.route}",
    "server",
    "A request over HTTP, from its first byte to the last of its response. Readiness and metrics have none.",
    (
        "http.request.method",
        "http.route",
        "http.request.body.size",
        "http.request.header.x-request-id",
        "http.response.status_code",
    ),
)
REQUESTS = metrics.Metric(
    "kserve_rag_requests_total",
    "counter",
    "requests",
    "Requests by the template of their path and the status. 499: the client disconnected. A gRPC call counts under the "
    "equivalent HTTP status.",
    ("model_name", "route", "status"),
)
REQUEST_DURATION = metrics.Metric(
    "kserve_rag_request_duration_seconds",
    "histogram",
    "seconds",
    "From a request's arrival to the last byte of its response, streams included.",
    ("model_name", "route"),
    (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0),
)
IN_FLIGHT = metrics.Metric(
    "kserve_rag_requests_in_flight",
    "gauge",
    "requests",
    "Requests in progress, streams included.",
    ("model_name",),
)

_REQUESTS = metrics.counter(REQUESTS)
_REQUEST_DURATION = metrics.histogram(REQUEST_DURATION)
_IN_FLIGHT = metrics.gauge(IN_FLIGHT)

_UNKNOWN_ROUTE = "none"
"""Label of all paths without a route: clients must not create series."""
CLIENT_LEFT = 499
"""nginx's status for a client that disconnected; there is no standard one."""


# Cached, because the library's lookup of a series by its labels is the slowest part of recording.


@functools.cache
def _in_flight(model_name: str) -> metrics.Gauge:
    return _IN_FLIGHT.labels(model_name)


@functools.lru_cache(512)
def _of_route(model_name: str, route: str, status: int) -> tuple[metrics.Counter, metrics.Histogram]:
    return _REQUESTS.labels(model_name, route, str(status)), _REQUEST_DURATION.labels(model_name, route)


class Observed:
    """The telemetry of one request: metrics, span, and ids for the log."""

    def __init__(
        self, model_name: str, kind: tracing.SpanType, request_id: str, headers: Mapping[str, str], *, traced: bool
    ) -> None:
        """Starts. `headers` may have a trace; without `traced` there is no span."""
        self._began = time.perf_counter()
        self._model_name = model_name
        self.span = tracing.begin(kind, headers) if traced else None
        ids = {"request_id": request_id}
        found = tracing.ids(headers if self.span is None else self.span.headers)
        if found is not None:
            ids["trace_id"], ids["span_id"] = found
        request_ids.set(ids)
        if self.span is not None:
            self.span.set("http.request.header.x-request-id", (request_id,))
        _in_flight(model_name).inc()

    def end(self, route: str, status: int) -> float:
        """Records the request and returns its duration in seconds."""
        seconds = time.perf_counter() - self._began
        _in_flight(self._model_name).dec()
        count, duration = _of_route(self._model_name, route, status)
        count.inc()
        duration.observe(seconds)
        if self.span is not None:
            if status >= 500:
                self.span.failed(str(status))
            self.span.end(asyncio.CancelledError() if status == CLIENT_LEFT else None)
        return seconds


class Edge:
    """ASGI middleware around everything else. It answers every request: no connection is dropped without a response."""

    def __init__(self, inner: ASGIApp, errors: ErrorMapper, max_body_bytes: int, model_name: str) -> None:
        self._inner = inner
        self._errors = errors
        self._max_body_bytes = max_body_bytes
        self._model_name = model_name
        self._extra_headers: list[tuple[bytes, bytes]] = []

    def start_draining(self) -> None:
        """From now on, every response closes its connection."""
        self._extra_headers[:] = [(b"connection", b"close")]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's call."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._max_body_bytes, self._extra_headers)
        # Probes start no trace.
        traced = scope["method"] == "POST" or "traceparent" in exchange.trace
        observed = Observed(self._model_name, REQUEST, exchange.request_id, exchange.trace, traced=traced)
        if observed.span is not None:
            exchange.replace_trace(observed.span.headers)
        try:
            await self._answer(scope, exchange)
        finally:
            route = getattr(scope.get("route"), "path_format", _UNKNOWN_ROUTE)
            status = exchange.status or CLIENT_LEFT
            if observed.span is not None:
                observed.span.rename(f"{scope['method']} {route}")
                observed.span.set("http.request.method", scope["method"])
                observed.span.set("http.route", route)
                observed.span.set("http.request.body.size", exchange.received)
                observed.span.set("http.response.status_code", status)
            seconds = observed.end(route, status)
            if access_logger.isEnabledFor(logging.INFO):
                access_logger.info(
                    "%s %s", scope["method"], scope["path"], extra={"status": status, "ms": round(seconds * 1000, 1)}
                )

    async def _answer(self, scope: Scope, exchange: _Exchange) -> None:
        try:
            if exchange.declared_too_large():
                await exchange.refuse(self._too_large(), self._errors)
            else:
                await self._inner(scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:
            if not exchange.client_left:
                raise
        except Exception as error:
            # The framework re-raises after its 500 response, for servers that would close the connection.
            if exchange.status is None and not exchange.too_large:
                await exchange.refuse(await self._errors.map(error, scope["path"]), self._errors)
        finally:
            exchange.stop_watching()
        if exchange.too_large and exchange.status is None:
            await exchange.refuse(self._too_large(), self._errors)

    def _too_large(self) -> PayloadTooLargeError:
        return PayloadTooLargeError(
            f"The body is larger than {self._max_body_bytes} bytes, the limit of this service. Send less at a time."
        )


_TRACE_HEADERS = (b"traceparent", b"tracestate")

_WATCH_AFTER_S = 0.2
"""A request must run this long before we watch for a disconnect: most finish earlier and need no watcher."""


class _Exchange:
    """One request and its response."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        max_body_bytes: int,
        extra_headers: Sequence[tuple[bytes, bytes]],
    ) -> None:
        """`extra_headers`: added to the response; read when it starts."""
        self.status: int | None = None
        self.too_large = False
        self.client_left = False
        self._answered = False
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[Message] | None = None
        self._scope = scope
        self._receive = receive
        self._send = send
        self._extra_headers = extra_headers
        self._left = max_body_bytes
        self._length = 0
        self.received = 0
        """Size of the body so far, in bytes."""
        self.trace: dict[str, str] = {}
        """The trace headers of the client."""
        self.request_id = self._prepare(scope)

    def _prepare(self, scope: MutableMapping[str, Any]) -> str:
        """Removes parameters of a JSON content type and adds an x-request-id if there is none. Returns the id."""
        headers: list[tuple[bytes, bytes]] = []
        request_id = b""
        content_type: bytes | None = None
        binary = False
        for name, value in scope["headers"]:
            if name == b"content-type":
                content_type = value.split(b";")[0].strip().lower()
                if b"json" not in content_type:
                    headers.append((name, value))
                continue
            if name == b"x-request-id":
                request_id = value[:128]
                continue
            if name in _TRACE_HEADERS:
                self.trace[name.decode()] = value.decode("latin-1")
            if name == b"content-length" and value.isdigit():
                self._length = int(value)
            elif name == b"inference-header-content-length":
                binary = True
            headers.append((name, value))
        if content_type is not None and b"json" in content_type:
            headers.append((b"content-type", content_type))
        elif scope["method"] == "POST" and not binary and content_type in (None, b"application/x-www-form-urlencoded"):
            # Sent by `curl -d` and minimal clients. No route reads forms.
            headers = [h for h in headers if h[0] != b"content-type"]
            headers.append((b"content-type", b"application/json"))
        request_id = request_id or secrets.token_hex(16).encode()
        headers.append((b"x-request-id", request_id))
        scope["headers"] = headers
        return request_id.decode("latin-1")

    def replace_trace(self, headers: Mapping[str, str]) -> None:
        """Replaces the trace headers, so that inner spans become children of ours."""
        kept = [header for header in self._scope["headers"] if header[0] not in _TRACE_HEADERS]
        self._scope["headers"] = kept + [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]

    def declared_too_large(self) -> bool:
        return self._length > self._left

    async def receive(self) -> Message:
        if self._timer is not None and self._watcher is None:  # the framework watches for a disconnect itself
            self._timer.cancel()
            self._start_watching(None)
        if self._watcher is not None:
            return await asyncio.shield(self._watcher)
        message = await self._receive()
        if message["type"] == "http.request":
            received = len(message.get("body", b""))
            self.received += received
            self._left -= received
            if self._left < 0:
                self.too_large = True
                raise PayloadTooLargeError("The body is too large.")
            if not message.get("more_body", False):
                # Watch only if the response takes a while.
                loop, task = asyncio.get_running_loop(), asyncio.current_task()
                self._timer = loop.call_later(_WATCH_AFTER_S, self._start_watching, task)
        return message

    def _start_watching(self, task: asyncio.Task[Any] | None) -> None:
        self._watcher = asyncio.create_task(self._watch(task))

    async def _watch(self, task: asyncio.Task[Any] | None) -> Message:
        """Waits for the client to disconnect, and then cancels the request's task."""
        message = await self._receive()
        if not self._answered:
            self.client_left = True
            if task is not None:
                task.cancel()
        return message

    def stop_watching(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    async def send(self, message: Message) -> None:
        if self.too_large and self.status is None:
            return  # the framework's response to the truncated body; `refuse` sends ours
        if message["type"] == "http.response.start":
            self.status = message["status"]
            request_id = (b"x-request-id", self.request_id.encode("latin-1"))
            message["headers"] = [*message.get("headers", ()), request_id, *self._extra_headers]
        elif not message.get("more_body", False):
            self._answered = True
        await self._send(message)

    async def refuse(self, error: ServiceError, errors: ErrorMapper) -> None:
        self.too_large = False
        await error_response(error, errors.shape(self._scope["path"]))(self._scope, self._receive, self.send)
