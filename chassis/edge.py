"""The outermost layer of every HTTP service.

Checks hosts, content types and sizes; request ids, error bodies, metrics, traces, cancellation, CORS.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import secrets
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chassis import metrics, tracing
from chassis.error_mapping import ErrorMapper
from chassis.errors import (
    ForbiddenError,
    InvalidRequestError,
    PayloadTooLargeError,
    ServiceError,
    UnsupportedMediaTypeError,
)
from chassis.principal import caller, identifier
from chassis.settings import EdgeSettings, parts
from chassis.telemetry import request_ids

access_logger = logging.getLogger("chassis.access")

REQUEST = tracing.SpanType(
    "{http.request.method} {http.route}",
    "server",
    "An HTTP request, from its first byte to the last byte of the response. Probes and /metrics are not traced.",
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
"""Label of all paths without a route, so that clients cannot create series."""
CLIENT_LEFT = 499
"""nginx's status for a client that disconnected; there is no standard one."""


# Cached: looking up a series by its labels is the slowest part of recording a request.


@functools.cache
def _in_flight(model_name: str) -> metrics.Gauge:
    return _IN_FLIGHT.labels(model_name)


@functools.lru_cache(512)
def _route_series(model_name: str, route: str, status: int) -> tuple[metrics.Counter, metrics.Histogram]:
    return _REQUESTS.labels(model_name, route, str(status)), _REQUEST_DURATION.labels(model_name, route)


class Observed:
    """The telemetry of one request: metrics, span, and ids for the log."""

    def __init__(
        self, model_name: str, kind: tracing.SpanType, request_id: str, headers: Mapping[str, str], *, traced: bool
    ) -> None:
        """Starts the timer and, if `traced`, a span below the one in `headers`."""
        self._began = time.perf_counter()
        self._model_name = model_name
        self.span = tracing.begin(kind, headers) if traced else tracing.Span(None, headers)
        ids = {"request_id": request_id}
        found = tracing.ids(self.span.headers)
        if found is not None:
            ids["trace_id"], ids["span_id"] = found
        request_ids.set(ids)
        self.span.set("http.request.header.x-request-id", (request_id,))
        _in_flight(model_name).inc()

    def end(self, route: str, status: int, attributes: Mapping[str, tracing.Value]) -> float:
        """Records the request and returns its duration in seconds."""
        seconds = time.perf_counter() - self._began
        _in_flight(self._model_name).dec()
        count, duration = _route_series(self._model_name, route, status)
        count.inc()
        duration.observe(seconds)
        for name, value in attributes.items():
            self.span.set(name, value)
        if status >= 500:
            self.span.failed(str(status))
        self.span.end(asyncio.CancelledError() if status == CLIENT_LEFT else None)
        return seconds


class Edge:
    """The outermost ASGI middleware. It answers every request: no connection is dropped without a response."""

    def __init__(self, inner: ASGIApp, errors: ErrorMapper, settings: EdgeSettings, model_name: str) -> None:
        origins = parts(settings.cors_origins)
        if origins:
            inner = CORSMiddleware(
                inner,
                allow_origins=origins,
                allow_methods=["*"],
                allow_headers=["*"],
                expose_headers=["x-request-id", "server-timing", "retry-after"],
            )
        self._inner = inner
        self._errors = errors
        self._max_body_bytes = settings.max_body_bytes
        self._identifier = identifier(settings)
        self._hosts = settings.known_hosts()
        self._hosts_variable = f"{settings.model_config.get('env_prefix', '')}ALLOWED_HOSTS"
        # Probes use the address of the pod.
        self._probes = {*_PROBES, f"/v2/models/{model_name}/ready", f"/v1/models/{model_name}"}
        self._model_name = model_name
        self._extra_headers: list[tuple[bytes, bytes]] = []

    def start_draining(self) -> None:
        """From now on, every response closes its connection."""
        self._extra_headers[:] = [(b"connection", b"close")]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        method = scope["method"]
        # HEAD is answered like GET; the server leaves the body out.
        scope = {**scope, "method": "GET" if method == "HEAD" else method}
        exchange = _Exchange(
            scope, receive, send, self._max_body_bytes, self._extra_headers, only_head=method == "HEAD"
        )
        # Probes start no trace.
        traced = method == "POST" or "traceparent" in exchange.trace
        observed = Observed(self._model_name, REQUEST, exchange.request_id, exchange.trace, traced=traced)
        if observed.span.recording:
            exchange.replace_trace(observed.span.headers)
        try:
            await self._answer(scope, exchange)
        finally:
            route = getattr(scope.get("route"), "path_format", _UNKNOWN_ROUTE)
            status = exchange.status or CLIENT_LEFT
            observed.span.rename(f"{method} {route}")
            attributes: dict[str, tracing.Value] = {
                "http.request.method": method,
                "http.route": route,
                "http.request.body.size": exchange.received,
                "http.response.status_code": status,
            }
            seconds = observed.end(route, status, attributes)
            if access_logger.isEnabledFor(logging.INFO):
                access_logger.info(
                    "%s %s", method, scope["path"], extra={"status": status, "ms": round(seconds * 1000, 1)}
                )

    def _check_host(self, host: str, path: str) -> None:
        """Raises ForbiddenError for a name that is not the service's. Clients of HTTP/1.0 may send none."""
        if self._hosts is None or not host or host in self._hosts or path in self._probes:
            return
        names = f"{self._hosts_variable} lists its names"
        raise ForbiddenError(f"The service is not available under {host[:100]!r}: {names}.")

    async def _identify(self, scope: Scope) -> None:
        """Sets the caller. Raises UnauthorizedError if its token is invalid or missing."""
        caller.set(None)
        # Preflights of CORS carry no credentials.
        if self._identifier is not None and scope["path"] not in self._probes and scope["method"] != "OPTIONS":
            caller.set(await self._identifier.identify(_text_headers(scope)))

    async def _answer(self, scope: Scope, exchange: _Exchange) -> None:
        try:
            exchange.check_head()
            self._check_host(exchange.host, scope["path"])
            await self._identify(scope)
            await self._inner(scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:
            if not exchange.client_left:
                raise
        except Exception as error:
            # Starlette raises the error again after it has sent a 500.
            if exchange.status is None and exchange.refusal is None:
                exchange.refusal = await self._errors.map(error, scope["path"])
        finally:
            exchange.stop_watching()
        if exchange.refusal is not None and exchange.status is None:
            response = self._errors.respond(exchange.refusal, scope["path"])
            exchange.refusal = None
            await response(scope, exchange.receive, exchange.send)


def _text_headers(scope: Scope) -> dict[str, str]:
    """The headers by name. Values of a repeated header are joined, so that none of them is valid by itself."""
    headers: dict[str, str] = {}
    for raw_name, value in scope["headers"]:
        name, text = raw_name.decode("latin-1"), value.decode("latin-1")
        headers[name] = f"{headers[name]}, {text}" if name in headers else text
    return headers


_PORT = re.compile(r":[0-9]*$")

_CODINGS = ("gzip", "deflate")
"""Content codings of requests."""
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
"""zlib detects which of the two it is."""

_PROBES = ("/ready", "/live", "/metrics", "/v2/health/ready", "/v2/health/live")

_FORMS = (b"application/x-www-form-urlencoded", b"text/plain")
"""Content types that a page of any site can send without asking. The third one, multipart/form-data, is of uploads."""

_NO_FORMS = "The content-type is not JSON's: send the header `content-type: application/json`."

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
        *,
        only_head: bool,
    ) -> None:
        """`extra_headers`: added to the response; read when it starts. `only_head`: the client reads no body."""
        self.status: int | None = None
        self.client_left = False
        self.refusal: ServiceError | None = None
        """Error to send instead of the framework's response."""
        self._answered = False
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[Message] | None = None
        self._scope = scope
        self._receive = receive
        self._send = send
        self._extra_headers = extra_headers
        self._max_body_bytes = max_body_bytes
        self._declared_length = 0
        self._only_head = only_head
        self._task = asyncio.current_task()
        self._coding = ""
        self._decoder: zlib._Decompress | None = None
        self.received = 0
        """Size of the body so far, in bytes."""
        self.trace: dict[str, str] = {}
        """The client's trace headers."""
        self.host = ""
        """Name in the Host header, in lower case and without the port."""
        self._is_form = self._is_chunked = False
        self.request_id = self._prepare(scope)

    def _prepare(self, scope: Scope) -> str:
        """Normalises the request for the framework. Returns the request id.

        Removes trailing slashes of the path, parameters of a JSON content type and the content coding, and adds an
        x-request-id if there is none.
        """
        path = scope.get("raw_path") or scope["path"].encode()
        if slashes := len(path) - len(path.rstrip(b"/")) - (not path.strip(b"/")):
            scope["path"], scope["raw_path"] = scope["path"][:-slashes], path[:-slashes]
        headers: list[tuple[bytes, bytes]] = []
        request_id = b""
        content_type: bytes | None = None
        binary = from_page = False
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
                self._declared_length = int(value)
            elif name == b"inference-header-content-length":
                binary = True
            elif name == b"content-encoding":
                self._coding = value.decode("latin-1").strip().lower()
                continue
            elif name == b"host":
                self.host = _PORT.sub("", value.decode("latin-1").lower())
            elif name == b"origin":
                from_page = True
            elif name == b"transfer-encoding":
                self._is_chunked = True
            headers.append((name, value))
        if self._coding in _CODINGS:
            self._decoder = zlib.decompressobj(wbits=_GZIP_OR_ZLIB)
            headers = [header for header in headers if header[0] != b"content-length"]
        if content_type is not None and b"json" in content_type:
            headers.append((b"content-type", content_type))
        elif scope["method"] in ("POST", "PUT", "PATCH"):
            has_body = self._declared_length > 0 or self._is_chunked
            self._is_form = has_body and (content_type in _FORMS or (content_type is None and from_page))
            if content_type is None and not binary:  # minimal clients
                headers.append((b"content-type", b"application/json"))
        request_id = request_id or secrets.token_hex(16).encode()
        headers.append((b"x-request-id", request_id))
        scope["headers"] = headers
        return request_id.decode("latin-1")

    def replace_trace(self, headers: Mapping[str, str]) -> None:
        """Replaces the trace headers, so that inner spans become children of this request's."""
        kept = [header for header in self._scope["headers"] if header[0] not in _TRACE_HEADERS]
        self._scope["headers"] = kept + [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]

    def check_head(self) -> None:
        """Checks the headers.

        Raises:
            InvalidRequestError: there is no Host.
            UnsupportedMediaTypeError: the body is a form, or its coding is unknown.
            PayloadTooLargeError: the client declares a body larger than the limit.
        """
        if not self.host and self._scope["http_version"] == "1.1":
            self._refuse(InvalidRequestError("The request has no Host header, which HTTP/1.1 requires."))
        if self._is_form:
            self._refuse(UnsupportedMediaTypeError(_NO_FORMS))
        if self._coding not in ("", "identity", *_CODINGS):
            error = UnsupportedMediaTypeError(
                f"content-encoding: {self._coding[:50]!r} is not supported. Send gzip, deflate or no coding."
            )
            error.headers["accept-encoding"] = ", ".join(_CODINGS)
            self._refuse(error)
        self._check_length(self._declared_length)

    def _refuse(self, error: ServiceError) -> NoReturn:
        self.refusal = error
        raise error

    def _check_length(self, size_bytes: int) -> None:
        if size_bytes > self._max_body_bytes:
            self._refuse(
                PayloadTooLargeError(
                    f"The body is larger than {self._max_body_bytes} bytes, the limit of this service. "
                    "Send less at a time."
                )
            )

    def _decode(self, message: Message) -> Message:
        """The message with its part of the body decoded, at most one byte beyond the limit."""
        if self._decoder is None:
            return message
        try:
            body = self._decoder.decompress(message.get("body", b""), self._max_body_bytes - self.received + 1)
        except zlib.error as error:
            self._refuse(InvalidRequestError(f"The body is not valid {self._coding}: {error}."))
        complete = self._decoder.eof and not self._decoder.unused_data
        if not complete and not message.get("more_body", False) and not self._decoder.unconsumed_tail:
            self._refuse(InvalidRequestError(f"The body is not one complete {self._coding} stream."))
        return {**message, "body": body}

    async def receive(self) -> Message:
        if self._timer is not None and self._watcher is None:  # the framework watches for a disconnect itself
            self._timer.cancel()
            self._start_watching(None)
        if self._watcher is not None:
            return await asyncio.shield(self._watcher)
        message = await self._receive()
        if message["type"] == "http.request":
            message = self._decode(message)
            self.received += len(message.get("body", b""))
            self._check_length(self.received)
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
        if self.refusal is not None and self.status is None:
            return  # the framework's response to a truncated body
        if message["type"] == "http.response.start":
            self.status = message["status"]
            request_id = (b"x-request-id", self.request_id.encode("latin-1"))
            message["headers"] = [*message.get("headers", ()), request_id, *self._extra_headers]
            if self._only_head:
                self._answered = True
                await self._send(message)
                message = {"type": "http.response.body"}
        elif self._only_head:
            if message.get("more_body", False) and self._task is not None:
                self.client_left = True
                self._task.cancel()
            return
        elif not message.get("more_body", False):
            self._answered = True
        await self._send(message)
