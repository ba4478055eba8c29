"""Serves KServe models and their extra routes: edges, errors and shutdown that every room shares.

Why not `kserve.ModelServer` as it is: it listens on every address, lets any caller unload the model, answers 500 with
internal text and a closed connection for unforeseen errors, hands `application/json; charset=utf-8` to the model as
bytes, and reads bodies of any size. Each point is mended here, once, with KServe's own parts.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
import time
import uuid
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import kserve
import orjson
import uvloop
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from grpc import StatusCode, aio
from grpc_interceptor.exceptions import GrpcException
from kserve.errors import InvalidInput, ModelNotFound, ModelNotReady
from kserve.metrics import PREDICT_HIST_TIME, get_labels
from kserve.model import InferenceVerb
from kserve.model_server import app
from kserve.model_server import args as kserve_args
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc
from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelReadyResponse
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.server import RESTServer
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chassis import metrics, signals, tracing
from chassis.errors import (
    ForbiddenError,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    NotReadyError,
    PayloadTooLargeError,
    ServiceError,
)
from chassis.settings import ServerSettings, SettingError
from chassis.telemetry import request_ids

logger = logging.getLogger("chassis.server")
access_logger = logging.getLogger("chassis.access")

ErrorShape = Callable[[ServiceError], Mapping[str, Any]]
Lifespan = Callable[[], contextlib.AbstractAsyncContextManager[None]]

__all__ = ["Room", "RoomModel", "app", "application", "error_response", "kserve_args", "serve"]


def oip_error(error: ServiceError) -> dict[str, Any]:
    """The error body of KServe's v1 and v2 protocols: `{"error": text}`, with the kind and the field beside it."""
    body: dict[str, Any] = {"error": error.message, "code": error.code}
    if error.field is not None:
        body["field"] = error.field
    return body


class RoomModel(kserve.Model):
    """A KServe model whose readiness has a reason and whose errors reach the caller in the protocol's own shape."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.ready = True
        self._predict_seconds = PREDICT_HIST_TIME.labels(**get_labels(name))

    async def __call__(
        self, body: Any, headers: dict[str, str] | None = None, verb: InferenceVerb = InferenceVerb.PREDICT
    ) -> tuple[Any, dict[str, str]]:
        """Times and runs `predict`. KServe's own pre- and postprocessing steps have nothing to do here."""
        if verb is not InferenceVerb.PREDICT:
            raise NotFoundError("This model explains nothing: use its predict routes.")
        response_headers: dict[str, str] = {}
        with self._predict_seconds.time():
            return await self.predict(body, headers, response_headers), response_headers

    async def not_ready_reason(self) -> str | None:
        """Why the model cannot answer now and what to do about it; None when it can.

        Asked by readiness probes. A request is tried all the same: its own errors say what it missed.
        """
        return None


@dataclass(frozen=True)
class Room:
    """What a room serves. One per process: KServe has one application in each."""

    model: RoomModel
    """Registered under its name on v1, v2 and gRPC."""
    settings: ServerSettings
    """Addresses and limits."""
    routers: Sequence[APIRouter] = ()
    """Further routes."""
    error_shapes: Mapping[str, ErrorShape] = field(default_factory=dict)
    """Path prefix → error body for routes that speak another protocol."""
    lifespan: Lifespan = contextlib.nullcontext
    """Entered inside the event loop before the ports open, left after they are closed."""


def serve(room: Room) -> None:
    """Serves `room` over REST and gRPC until SIGTERM or SIGINT, then lets requests in flight finish."""
    try:
        _Server(room).run()
    finally:
        tracing.shutdown()


def application(room: Room) -> ASGIApp:
    """The REST side of `room` for another ASGI server, which runs its lifespan. It has no use for the addresses."""
    app.include_router(APIRouter(lifespan=lambda _: room.lifespan()))
    rest = _Server(room).rest()
    rest.create_application()
    served: ASGIApp = rest.config.app
    return served


class _Server(kserve.ModelServer):
    def __init__(self, room: Room) -> None:
        settings = room.settings
        super().__init__(
            http_port=settings.http_port,
            grpc_port=settings.grpc_port,
            workers=1,  # more would break transformers: PredictorConfig and models do not cross a spawn
            enable_grpc=settings.enable_grpc,
            enable_latency_logging=False,
            grace_period=settings.grace_period_s,
        )
        self._model = room.model
        self._settings = settings
        self._lifespan = room.lifespan
        self._register_and_check_atleast_one_model_is_ready([room.model])
        self.model_repository_extension = _ClosedRepository(self.registered_models)
        self._errors = _ErrorMapper(room.model, room.error_shapes)
        for router in (_readiness_routes(room.model), *room.routers):
            app.include_router(router)

    def run(self) -> None:
        try:
            with contextlib.suppress(asyncio.CancelledError):  # told to end while it started
                uvloop.run(self._main())
        except SettingError as error:
            logger.error("%s", error)
            raise SystemExit(2) from None

    def rest(self) -> _RestServer:
        return _RestServer(
            self.dataplane, self.model_repository_extension, self._settings, self._errors, self._model.name
        )

    async def _main(self) -> None:
        rest = self.rest()
        _end_on_signals(rest)
        async with self._lifespan():
            grpc_server = None
            if self.enable_grpc:
                grpc_server = await _start_grpc(
                    _Servicer(self.dataplane, self.model_repository_extension), self._settings, self._model
                )
            try:
                await rest.start()
            finally:
                if grpc_server is not None:
                    await grpc_server.stop(self._settings.grace_period_s)


def _end_on_signals(rest: _RestServer) -> None:
    """Lets SIGTERM and SIGINT cancel the current task until the REST server listens to them itself.

    uvicorn drains on them, and raises them again when it has: by then they end nothing else.
    """
    loop, starting = asyncio.get_running_loop(), asyncio.current_task()

    def told(number: int, _: object) -> None:
        if starting is not None and not rest.was_told_to_end:
            logger.info("%s while starting", signal.Signals(number).name)
            loop.call_soon_threadsafe(starting.cancel)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, told)


class _ClosedRepository(ModelRepositoryExtension):
    """Models are loaded by the program, never by its callers."""

    def __init__(self, registry: Any) -> None:
        super().__init__(model_registry=registry)

    async def load(self, model_name: str) -> None:
        raise ForbiddenError("Models cannot be loaded by request here: deploy another service instead.")

    async def unload(self, model_name: str) -> None:
        raise ForbiddenError("Models cannot be unloaded by request here: remove the service instead.")


# REST


def _readiness_routes(model: RoomModel) -> APIRouter:
    """KServe's readiness routes, told by the model: its own say ready as soon as the process runs."""
    router = APIRouter(tags=["readiness"])

    async def ready() -> dict[str, Any]:
        reason = await model.not_ready_reason()
        if reason is not None:
            raise NotReadyError(reason)
        return {"name": model.name, "ready": True}

    for path in (f"/v1/models/{model.name}", f"/v2/models/{model.name}/ready", "/v2/health/ready"):
        router.add_api_route(path, ready, methods=["GET"], summary="Ready, or 503 with the reason")
    return router


class _RestServer(RESTServer):
    def __init__(
        self,
        dataplane: Any,
        repository: ModelRepositoryExtension,
        settings: ServerSettings,
        errors: _ErrorMapper,
        model_name: str,
    ) -> None:
        super().__init__(
            "kserve.model_server:app",
            dataplane,
            repository,
            settings.http_port,
            grace_period=settings.grace_period_s,
        )
        self._errors = errors
        self.config.host = settings.host
        self.config.app = _Edge(app, errors, settings.max_body_bytes, model_name)

    @property
    def was_told_to_end(self) -> bool:
        return bool(self._server.should_exit)

    def _add_middlewares(self, app: FastAPI) -> None:
        """None of KServe's: its timing middleware matches every route again to write two log lines per request."""

    def _add_exception_handlers(self, app: FastAPI) -> None:
        for kind in (
            ServiceError,
            InvalidInput,
            ModelNotFound,
            ModelNotReady,
            RequestValidationError,
            HTTPException,
            NotImplementedError,
            Exception,
        ):
            app.add_exception_handler(kind, self._errors.respond)


class _ErrorMapper:
    """Whatever is raised in a route or a model → a `ServiceError` → the protocol's error body."""

    def __init__(self, model: RoomModel, shapes: Mapping[str, ErrorShape]) -> None:
        self._model = model
        self._shapes = shapes

    async def respond(self, request: Request, error: Exception) -> Response:
        mapped = await self.map(error, f"{request.method} {request.url.path}")
        return error_response(mapped, self.shape(request.url.path))

    def shape(self, path: str) -> ErrorShape:
        return next((shape for prefix, shape in self._shapes.items() if path.startswith(prefix)), oip_error)

    async def map(self, error: Exception, where: str) -> ServiceError:
        if isinstance(error, ServiceError):
            return error
        if isinstance(error, InvalidInput):
            return InvalidRequestError(_sentence(str(error)))
        if isinstance(error, ModelNotFound):
            return NotFoundError(f"{error} This service has the model {self._model.name!r}.", field="model")
        if isinstance(error, ModelNotReady):
            reason = await self._model.not_ready_reason()
            return NotReadyError(f"{error}" + (f" {reason}" if reason else ""))
        if isinstance(error, RequestValidationError):
            return _validation_error(error)
        if isinstance(error, NotImplementedError):
            return NotFoundError(_sentence(str(error) or "Not supported by this service."))
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


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else text + "."


_REQUESTS = metrics.counter(signals.REQUESTS)
_REQUEST_DURATION = metrics.histogram(signals.REQUEST_DURATION)
_IN_FLIGHT = metrics.gauge(signals.IN_FLIGHT)

_UNKNOWN_ROUTE = "none"
"""Of a path that no route has: what callers make up is no label."""
_CLIENT_LEFT = 499
"""nginx's status for it: there is no standard one."""


# The library's own way from labels to a series takes longer than all else that is done for them here.


@functools.cache
def _in_flight(model_name: str) -> metrics.Gauge:
    return _IN_FLIGHT.labels(model_name)


@functools.lru_cache(512)
def _of_route(model_name: str, route: str, status: int) -> tuple[metrics.Counter, metrics.Histogram]:
    return _REQUESTS.labels(model_name, route, str(status)), _REQUEST_DURATION.labels(model_name, route)


class _Observed:
    """One request as operators see it: its metrics, its span, its ids in the log."""

    def __init__(
        self, model_name: str, kind: signals.SpanType, request_id: str, headers: Mapping[str, str], *, traced: bool
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
            self.span.end(asyncio.CancelledError() if status == _CLIENT_LEFT else None)
        return seconds


class _Edge:
    """The outermost layer of ASGI: body limit, content type, request id, access log, and no connection ever dropped."""

    def __init__(self, inner: ASGIApp, errors: _ErrorMapper, max_body_bytes: int, model_name: str) -> None:
        self._inner = inner
        self._errors = errors
        self._max_body_bytes = max_body_bytes
        self._model_name = model_name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._max_body_bytes)
        # What only asks how the service is belongs to no trace, unless its caller has one.
        traced = scope["method"] == "POST" or "traceparent" in exchange.trace
        observed = _Observed(self._model_name, signals.REQUEST, exchange.request_id, exchange.trace, traced=traced)
        if observed.span is not None:
            exchange.trace_within(observed.span.headers)
        try:
            await self._answer(scope, exchange)
        finally:
            route = getattr(scope.get("route"), "path_format", _UNKNOWN_ROUTE)
            status = exchange.status or _CLIENT_LEFT
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
            if exchange.status is None:
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

_WATCH_AFTER_S = 0.05
"""How long a request runs before anybody looks whether its client is still there."""


class _Exchange:
    """One request and its answer, as seen from the edge."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, max_body_bytes: int) -> None:
        self.status: int | None = None
        self.too_large = False
        self.client_left = False
        self._answered = False
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[Message] | None = None
        self._scope = scope
        self._receive = receive
        self._send = send
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
        request_id = request_id or uuid.uuid4().hex.encode()
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
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self.request_id.encode("latin-1"))]
        elif not message.get("more_body", False):
            self._answered = True
        await self._send(message)

    async def refuse(self, error: ServiceError, errors: _ErrorMapper) -> None:
        self.too_large = False
        await error_response(error, errors.shape(self._scope["path"]))(self._scope, self._receive, self.send)


# gRPC


class _Servicer(InferenceServicer):
    """KServe's, with the true readiness of a model."""

    async def ModelReady(self, request: Any, context: Any) -> ModelReadyResponse:  # noqa: N802 - the RPC's name
        model = self._data_plane.get_model_from_registry(request.name)
        return ModelReadyResponse(ready=await model.not_ready_reason() is None)


async def _start_grpc(servicer: InferenceServicer, settings: ServerSettings, model: RoomModel) -> aio.Server:
    server = aio.server(
        interceptors=(_StatusInterceptor(_ErrorMapper(model, {}), model.name),),
        options=[
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", settings.max_body_bytes),
        ],
    )
    grpc_predict_v2_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    address = f"{settings.host}:{settings.grpc_port}"
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise SettingError(f"GRPC_PORT: nothing can listen on {address}. Is another program there?") from error
    await server.start()
    return server


class _Call:
    """A gRPC call's context, with the trace that goes on within its span. All else is gRPC's own."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._metadata = list(context.invocation_metadata() or ())
        self.status, self.code_name = _CLIENT_LEFT, "CANCELLED"
        """What HTTP would have answered, and what gRPC does."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    @property
    def headers(self) -> dict[str, str]:
        """The texts of its metadata."""
        return {name: value for name, value in self._metadata if isinstance(value, str)}

    def invocation_metadata(self) -> tuple[Any, ...]:
        """As the call was sent, within its span."""
        return tuple(self._metadata)

    def put(self, headers: Mapping[str, str]) -> None:
        """Sets metadata, in place of what has the same name."""
        kept = [each for each in self._metadata if each[0] not in headers]
        self._metadata = [*kept, *(_Metadatum(name, value) for name, value in headers.items())]


class _Metadatum(NamedTuple):
    """As KServe reads it."""

    key: str
    value: str


class _StatusInterceptor(ExceptionToStatusInterceptor):
    """Faults get their status; calls are counted, traced and logged as requests over HTTP are."""

    def __init__(self, errors: _ErrorMapper, model_name: str) -> None:
        super().__init__()
        self._errors = errors
        self._model_name = model_name

    async def intercept(self, method: Any, request_or_iterator: Any, context: Any, method_name: str) -> Any:
        call, name = _Call(context), method_name.removeprefix("/")
        request_id = call.headers.get("x-request-id", "")[:128] or uuid.uuid4().hex
        call.put({"x-request-id": request_id})
        traced = name.endswith("/ModelInfer") or "traceparent" in call.headers
        observed = _Observed(self._model_name, signals.CALL, request_id, call.headers, traced=traced)
        if observed.span is not None:
            call.put({"traceparent": observed.span.headers["traceparent"]})
        try:
            answer = await super().intercept(method, request_or_iterator, call, method_name)
            call.status, call.code_name = 200, "OK"
            return answer
        finally:
            if observed.span is not None:
                observed.span.rename(name)
                observed.span.set("rpc.system.name", "grpc")
                observed.span.set("rpc.method", name)
                observed.span.set("rpc.response.status_code", call.code_name)
            seconds = observed.end(method_name, call.status)
            access_logger.info("gRPC %s", name, extra={"status": call.status, "ms": round(seconds * 1000, 1)})

    async def handle_exception(self, ex: Exception, request_or_iterator: Any, context: Any, method_name: str) -> None:
        if isinstance(ex, (aio.AbortError, GrpcException, asyncio.CancelledError)):
            raise ex
        error = await self._errors.map(ex, method_name)
        context.status, context.code_name = error.status, error.grpc_status
        await context.abort(StatusCode[error.grpc_status], error.message)
