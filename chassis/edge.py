"""The edge of every HTTP service: body limit, request ids, error bodies, metrics, traces, and a server around it.

Knows nothing of KServe: `chassis.server` puts it in front of KServe's model server, `serve` in front of another
application.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from types import MappingProxyType
from typing import Any

import orjson
import prometheus_client
import uvicorn
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chassis import metrics, tracing
from chassis.errors import (
    InternalError,
    InvalidRequestError,
    NotFoundError,
    NotReadyError,
    PayloadTooLargeError,
    ServiceError,
)
from chassis.settings import EdgeSettings, SettingError
from chassis.telemetry import request_ids

logger = logging.getLogger("chassis.edge")
access_logger = logging.getLogger("chassis.access")

ErrorShape = Callable[[ServiceError], Mapping[str, Any]]
NotReadyReason = Callable[[], Awaitable["str | None"]]

_KEEP_ALIVE_S = 65
"""How long a connection may be idle. Longer than proxies' 60 s: who closes first decides whose request is lost."""


def oip_error(error: ServiceError) -> dict[str, Any]:
    """The error body of KServe's v1 and v2 protocols: `{"error": text}`, with the kind and the field beside it."""
    body: dict[str, Any] = {"error": error.message, "code": error.code}
    if error.field is not None:
        body["field"] = error.field
    return body


class ErrorMapper:
    """Whatever is raised in a route → a `ServiceError` → the protocol's error body."""

    kinds: tuple[type[Exception], ...] = (
        ServiceError,
        RequestValidationError,
        HTTPException,
        NotImplementedError,
        Exception,
    )
    """What a framework has to hand over."""

    def __init__(self, shapes: Mapping[str, ErrorShape] = MappingProxyType({})) -> None:
        """`shapes`: path prefix → error body, for routes that speak another protocol than the house's."""
        self._shapes = shapes

    def register(self, app: FastAPI) -> None:
        """Has the application answer with these bodies."""
        for kind in self.kinds:
            app.add_exception_handler(kind, self._respond)

    async def _respond(self, request: Request, error: Exception) -> Response:
        mapped = await self.map(error, f"{request.method} {request.url.path}")
        return error_response(mapped, self.shape(request.url.path))

    def shape(self, path: str) -> ErrorShape:
        """The error body of a path."""
        return next((shape for prefix, shape in self._shapes.items() if path.startswith(prefix)), oip_error)

    async def map(self, error: Exception, where: str) -> ServiceError:
        """What a caller is told of it. What nobody foresaw is logged."""
        if isinstance(error, ServiceError):
            return error
        if isinstance(error, RequestValidationError):
            return _validation_error(error)
        if isinstance(error, NotImplementedError):
            return NotFoundError(sentence(str(error) or "Not supported by this service."))
        if isinstance(error, HTTPException):
            return _http_error(error, where)
        logger.error("unforeseen error in %s", where, exc_info=error)
        return InternalError("The service failed on this request. Its log has the reason under the x-request-id.")


def error_response(error: ServiceError, shape: ErrorShape = oip_error) -> Response:
    """The HTTP answer for an error, in the protocol's shape."""
    headers = {"retry-after": str(error.retry_after_s)} if error.retry_after_s is not None else {}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(orjson.dumps(shape(error)), error.status, headers, media_type="application/json")


def _validation_error(error: RequestValidationError) -> InvalidRequestError:
    # KServe declares the v2 body as "a request or bytes": what pydantic says of the bytes helps nobody.
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
    """A status that the framework chose: 404 of a route, 405 of a method, 400 of an unreadable body."""

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
    """The text with a full stop, where it has none."""
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
"""Of a path that no route has: what callers make up is no label."""
CLIENT_LEFT = 499
"""nginx's status for it: there is no standard one."""


# The library's own way from labels to a series takes longer than all else that is done for them here.


@functools.cache
def _in_flight(model_name: str) -> metrics.Gauge:
    return _IN_FLIGHT.labels(model_name)


@functools.lru_cache(512)
def _of_route(model_name: str, route: str, status: int) -> tuple[metrics.Counter, metrics.Histogram]:
    return _REQUESTS.labels(model_name, route, str(status)), _REQUEST_DURATION.labels(model_name, route)


class Observed:
    """One request as operators see it: its metrics, its span, its ids in the log."""

    def __init__(
        self, model_name: str, kind: tracing.SpanType, request_id: str, headers: Mapping[str, str], *, traced: bool
    ) -> None:
        """Begins. `headers` are those that name a trace; where not `traced`, it has no span."""
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
        """Tells of the request, and gives the seconds that it took."""
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
    """The outermost layer of ASGI: body limit, content type, request id, access log, and no connection ever dropped."""

    def __init__(self, inner: ASGIApp, errors: ErrorMapper, max_body_bytes: int, model_name: str) -> None:
        self._inner = inner
        self._errors = errors
        self._max_body_bytes = max_body_bytes
        self._model_name = model_name
        self._parting: list[tuple[bytes, bytes]] = []

    def start_draining(self) -> None:
        """From now on every answer is its connection's last."""
        self._parting[:] = [(b"connection", b"close")]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's call."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._max_body_bytes, self._parting)
        # What only asks how the service is belongs to no trace, unless its caller has one.
        traced = scope["method"] == "POST" or "traceparent" in exchange.trace
        observed = Observed(self._model_name, REQUEST, exchange.request_id, exchange.trace, traced=traced)
        if observed.span is not None:
            exchange.trace_within(observed.span.headers)
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
            # The framework has answered 500 already and raises for a server that would close the connection.
            if exchange.status is None and not exchange.too_large:
                await exchange.refuse(await self._errors.map(error, scope["path"]), self._errors)
        finally:
            exchange.stop_watching()
        if exchange.too_large and exchange.status is None:
            await exchange.refuse(self._too_large(), self._errors)

    def _too_large(self) -> PayloadTooLargeError:
        return PayloadTooLargeError(
            f"The body is larger than {self._max_body_bytes} bytes, the most that is read here. Send less at a time."
        )


_TRACE_HEADERS = (b"traceparent", b"tracestate")

_WATCH_AFTER_S = 0.2
"""How long a request runs before anybody looks whether its client is still there."""


class _Exchange:
    """One request and its answer, as seen from the edge."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, max_body_bytes: int, parting: Sequence[tuple[bytes, bytes]]
    ) -> None:
        """Begins. `parting`: headers that every answer has when it begins."""
        self.status: int | None = None
        self.too_large = False
        self.client_left = False
        self._answered = False
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[Message] | None = None
        self._scope = scope
        self._receive = receive
        self._send = send
        self._parting = parting
        self._left = max_body_bytes
        self._length = 0
        self.received = 0
        """Bytes of the body."""
        self.trace: dict[str, str] = {}
        """The headers that name the caller's trace."""
        self.request_id = self._prepare(scope)

    def _prepare(self, scope: MutableMapping[str, Any]) -> str:
        """Normalises the headers in place: JSON's content type without parameters; an x-request-id always."""
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
            # What curl -d and bare clients send. No route here reads forms.
            headers = [h for h in headers if h[0] != b"content-type"]
            headers.append((b"content-type", b"application/json"))
        request_id = request_id or secrets.token_hex(16).encode()
        headers.append((b"x-request-id", request_id))
        scope["headers"] = headers
        return request_id.decode("latin-1")

    def trace_within(self, headers: Mapping[str, str]) -> None:
        """Replaces the headers that name the caller's trace: what follows happens within the span they name."""
        kept = [header for header in self._scope["headers"] if header[0] not in _TRACE_HEADERS]
        self._scope["headers"] = kept + [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]

    def declared_too_large(self) -> bool:
        return self._length > self._left

    async def receive(self) -> Message:
        if self._timer is not None and self._watcher is None:  # the framework watches itself, and ends its own work
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
                # What is answered at once needs no watching.
                loop, task = asyncio.get_running_loop(), asyncio.current_task()
                self._timer = loop.call_later(_WATCH_AFTER_S, self._start_watching, task)
        return message

    def _start_watching(self, task: asyncio.Task[Any] | None) -> None:
        self._watcher = asyncio.create_task(self._watch(task))

    async def _watch(self, task: asyncio.Task[Any] | None) -> Message:
        """Waits for the client to leave; then nobody wants the answer, and what makes it is cancelled."""
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
            return  # whatever the framework makes of the broken-off body; `refuse` answers instead
        if message["type"] == "http.response.start":
            self.status = message["status"]
            request_id = (b"x-request-id", self.request_id.encode("latin-1"))
            message["headers"] = [*message.get("headers", ()), request_id, *self._parting]
        elif not message.get("more_body", False):
            self._answered = True
        await self._send(message)

    async def refuse(self, error: ServiceError, errors: ErrorMapper) -> None:
        self.too_large = False
        await error_response(error, errors.shape(self._scope["path"]))(self._scope, self._receive, self.send)


_SILENT_S = 5.0
"""How long a connection must have been idle to be closed while the service drains. A connection in use is closed with
its response, which announces it: no request is on its way then."""
_DRAIN_POLL_S = 0.1


def drain_on_signal(edge: Edge, server: uvicorn.Server, also: Callable[[], Awaitable[object]]) -> None:
    """On SIGUSR1, drains and then exits, so that no request is lost while another process takes over.

    The listening socket is closed here (a supervisor and other processes may still hold it), responses close their
    connections, and idle connections are closed after a while. SIGTERM closes idle connections at once: a request that
    is on its way then is lost for a client that does not retry. Call it in the event loop, before the server listens.

    Args:
        edge: its responses close their connections from then on.
        server: exits when its last connection has ended.
        also: awaited before that: other work to finish.
    """
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[None]] = []

    def close_idle(before: Mapping[Any, Any]) -> None:
        """Closes connections that were idle before and have sent nothing since."""
        connections: set[Any] = set(server.server_state.connections)
        idle = {one: one.cycle for one in connections if one.cycle is None or one.cycle.response_complete}
        for connection, last in idle.items():
            if connection in before and before[connection] is last:
                connection.shutdown()
        loop.call_later(_SILENT_S, close_idle, idle)

    async def drain() -> None:
        logger.info("draining: every response closes its connection")
        edge.start_draining()
        for listener in server.servers:
            listener.close()
        close_idle({})
        await also()
        while server.server_state.connections:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(_DRAIN_POLL_S)
        server.should_exit = True

    loop.add_signal_handler(signal.SIGUSR1, lambda: tasks.append(loop.create_task(drain())))


def inherited_listeners(settings: EdgeSettings) -> list[socket.socket] | None:
    """The listening socket that a supervisor passed to this process; None: uvicorn opens one.

    Raises:
        SettingError: the descriptor is not a socket.
    """
    if settings.http_fd is None:
        return None
    try:
        listener = socket.socket(fileno=settings.http_fd)
    except OSError as error:
        raise SettingError(f"HTTP_FD: descriptor {settings.http_fd} is not an inherited socket.") from error
    logger.info("listening on %s, passed by the parent process", listener.getsockname())
    return [listener]


async def notify_ready() -> None:
    """Reports to a supervisor that connections are accepted. Without NOTIFY_SOCKET in the environment: nothing.

    Source: sd_notify(3)
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor, contextlib.suppress(OSError):
            supervisor.sendto(b"READY=1", address.replace("@", "\0", 1))


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, edge: Edge, stopping: Callable[[], object]) -> None:
        super().__init__(config)
        self._edge = edge
        self._stopping = stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        async def end_streams() -> None:
            self._stopping()

        drain_on_signal(self._edge, self, end_streams)
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stopping()
        await super().shutdown(sockets)


def serve(
    app: FastAPI,
    settings: EdgeSettings,
    *,
    name: str,
    not_ready_reason: NotReadyReason | None = None,
    stopping: Callable[[], object] = lambda: None,
) -> None:
    """Serves an application behind the edge until SIGTERM or SIGINT, then lets requests in flight finish.

    Adds `GET /ready` (200, or 503 with the reason), `GET /live` and `GET /metrics`.

    Args:
        app: with its own lifespan.
        settings: address and limits.
        name: of the service, in metrics and readiness.
        not_ready_reason: why nothing can be answered now and what to do about it; None when it can.
        stopping: called before requests in flight are waited for: ends streams that would not end by themselves.
    """
    errors = ErrorMapper()
    errors.register(app)
    app.include_router(_health_routes(name, not_ready_reason))
    edge = Edge(app, errors, settings.max_body_bytes, name)
    config = uvicorn.Config(
        edge,
        host=settings.host,
        port=settings.http_port,
        log_config=None,
        timeout_graceful_shutdown=settings.grace_period_s,
        timeout_keep_alive=_KEEP_ALIVE_S,
        server_header=False,
        callback_notify=notify_ready,
    )
    server = _Server(config, edge, stopping)

    def told(number: int, _: object) -> None:
        # uvicorn drains on these signals, and raises them again when it has: by then they end nothing else.
        if not server.should_exit:
            raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, told)
    try:
        server.run(inherited_listeners(settings))
    except SettingError as error:
        logger.error("%s", error)
        raise SystemExit(2) from None
    finally:
        tracing.shutdown()


def _health_routes(name: str, not_ready_reason: NotReadyReason | None) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/ready", summary="Ready, or 503 with the reason")
    async def ready() -> dict[str, Any]:
        reason = None if not_ready_reason is None else await not_ready_reason()
        if reason is not None:
            raise NotReadyError(reason)
        return {"name": name, "ready": True}

    @router.get("/live", summary="The process runs")
    async def live() -> dict[str, Any]:
        return {"name": name, "live": True}

    @router.get("/metrics", summary="Prometheus metrics")
    async def shown() -> Response:
        return Response(prometheus_client.generate_latest(), media_type=prometheus_client.CONTENT_TYPE_LATEST)

    return router
