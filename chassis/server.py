"""Serves KServe models and their extra routes, over REST behind `chassis.edge` and over gRPC beside it.

Why not `kserve.ModelServer` as it is: it listens on every address, lets any caller unload the model, answers 500 with
internal text and a closed connection for unforeseen errors, hands `application/json; charset=utf-8` to the model as
bytes, and reads bodies of any size. Each point is mended here, once, with KServe's own parts.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import secrets
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import kserve
import uvicorn
import uvloop
from fastapi import APIRouter, FastAPI, Request
from grpc import StatusCode, aio
from grpc_interceptor.exceptions import GrpcException
from kserve import InferRequest
from kserve.errors import InvalidInput, ModelNotFound, ModelNotReady
from kserve.metrics import PREDICT_HIST_TIME, get_labels
from kserve.model import InferenceVerb
from kserve.model_server import app
from kserve.model_server import args as kserve_args
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc
from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelReadyResponse
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.server import RESTServer
from kserve.protocol.rest.v1_endpoints import V1Endpoints
from starlette.types import ASGIApp, Receive, Scope, Send

from chassis import tracing
from chassis.edge import (
    CLIENT_LEFT,
    Edge,
    ErrorMapper,
    ErrorShape,
    Observed,
    access_logger,
    drain_on_signal,
    inherited_listeners,
    notify_ready,
    sentence,
)
from chassis.errors import ForbiddenError, InvalidRequestError, NotFoundError, NotReadyError, ServiceError
from chassis.openapi import Description, describe
from chassis.settings import ServerSettings, SettingError

logger = logging.getLogger("chassis.server")

Lifespan = Callable[[], contextlib.AbstractAsyncContextManager[None]]

__all__ = ["ModelService", "ServiceModel", "app", "application", "kserve_args", "serve"]


class ServiceModel(kserve.Model):
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
class ModelService:
    """What a room serves. One per process: KServe has one application in each."""

    model: ServiceModel
    """Registered under its name on v1, v2 and gRPC."""
    settings: ServerSettings
    """Addresses and limits."""
    routers: Sequence[APIRouter] = ()
    """Further routes."""
    error_shapes: Mapping[str, ErrorShape] = field(default_factory=dict)
    """Path prefix → error body for routes that speak another protocol."""
    description: Description | None = None
    """What `/openapi.json` tells beside the routes; None leaves it as KServe has it."""
    lifespan: Lifespan = contextlib.nullcontext
    """Entered inside the event loop before the ports open, left after they are closed."""


def serve(service: ModelService) -> None:
    """Serves `service` over REST and gRPC until SIGTERM or SIGINT, then lets requests in flight finish."""
    try:
        _Server(service).run()
    finally:
        tracing.shutdown()


def application(service: ModelService) -> ASGIApp:
    """The REST side of `service` for another ASGI server, which runs its lifespan. It has no use for the addresses."""
    app.include_router(APIRouter(lifespan=lambda _: service.lifespan()))
    rest = _Server(service).rest()
    rest.create_application()
    served: ASGIApp = rest.config.app
    return served


class _Server(kserve.ModelServer):
    def __init__(self, service: ModelService) -> None:
        settings = service.settings
        super().__init__(
            http_port=settings.http_port,
            grpc_port=settings.grpc_port,
            workers=1,  # more would break transformers: PredictorConfig and models do not cross a spawn
            enable_grpc=settings.enable_grpc,
            enable_latency_logging=False,
            grace_period=settings.grace_period_s,
        )
        self._model = service.model
        self._settings = settings
        self._lifespan = service.lifespan
        self._register_and_check_atleast_one_model_is_ready([service.model])
        self.dataplane = _DataPlane(self.registered_models)
        self.model_repository_extension = _ClosedRepository(self.registered_models)
        self._errors = _ErrorMapper(service.model, service.error_shapes)
        for router in (_readiness_routes(service.model), *service.routers):
            app.include_router(router)
        if service.description is not None:
            app.openapi = functools.cache(functools.partial(describe, app, service.description, service.model.name))

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

            async def finish_calls() -> None:
                if grpc_server is not None:
                    await grpc_server.stop(self._settings.timeout_s)

            drain_on_signal(rest.edge, rest.uvicorn, also=finish_calls)
            try:
                await rest.start()
            finally:
                if grpc_server is not None:
                    await grpc_server.stop(self._settings.grace_period_s)


class _DataPlane(DataPlane):
    """KServe's, which takes a caller's fault in a binary body for one of its own."""

    def decode_inference_request(self, body: Any, headers: Any, model_name: str) -> InferRequest:
        try:
            return super().decode_inference_request(body, headers, model_name)
        except InvalidInput:
            raise
        except Exception as error:
            raise InvalidRequestError(
                "The body cannot be read: send JSON of the length that inference-header-content-length says, and after "
                "it the tensors, each of its binary_data_size, in the shape and datatype that are named."
            ) from error


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


def _readiness_routes(model: ServiceModel) -> APIRouter:
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
        self._settings = settings
        self.config.host = settings.host
        self.config.callback_notify = notify_ready
        direct = _PredictRoute(app, V1Endpoints(dataplane, repository), model_name)
        self.edge = Edge(direct, errors, settings.max_body_bytes, model_name)
        self.config.app = self.edge

    @property
    def was_told_to_end(self) -> bool:
        return bool(self._server.should_exit)

    @property
    def uvicorn(self) -> uvicorn.Server:
        """The server itself."""
        server: uvicorn.Server = self._server
        return server

    async def start(self) -> None:
        """Like KServe's, and serves on an inherited listening socket if there is one."""
        self.create_application()
        await self.uvicorn.serve(inherited_listeners(self._settings))

    def _add_middlewares(self, app: FastAPI) -> None:
        """None of KServe's: its timing middleware matches every route again to write two log lines per request."""

    def _add_exception_handlers(self, app: FastAPI) -> None:
        self._errors.register(app)


class _PredictRoute:
    """KServe's own `POST /v1/models/{name}:predict`, reached without the framework's routing.

    It is what services ask each other. Matching the other routes first, and resolving the arguments of a handler, takes
    longer than all else that is done here for a request (python -m benchmarks chain).
    """

    path_format = "/v1/models/{model_name}:predict"
    """As the framework's route says it."""

    def __init__(self, inner: ASGIApp, endpoints: V1Endpoints, model_name: str) -> None:
        self._inner = inner
        self._endpoints = endpoints
        self._model_name = model_name
        self._path = f"/v1/models/{model_name}:predict"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != self._path or scope["method"] != "POST":
            await self._inner(scope, receive, send)
            return
        scope["route"] = self
        response = await self._endpoints.predict(self._model_name, Request(scope, receive))
        await response(scope, receive, send)


class _ErrorMapper(ErrorMapper):
    """With KServe's own errors."""

    kinds = (InvalidInput, ModelNotFound, ModelNotReady, *ErrorMapper.kinds)

    def __init__(self, model: ServiceModel, shapes: Mapping[str, ErrorShape]) -> None:
        super().__init__(shapes)
        self._model = model

    async def map(self, error: Exception, where: str) -> ServiceError:
        """Of KServe's kinds too."""
        if isinstance(error, InvalidInput):
            return InvalidRequestError(sentence(str(error)))
        if isinstance(error, ModelNotFound):
            return NotFoundError(f"{error} This service has the model {self._model.name!r}.", field="model")
        if isinstance(error, ModelNotReady):
            reason = await self._model.not_ready_reason()
            return NotReadyError(f"{error}" + (f" {reason}" if reason else ""))
        return await super().map(error, where)


# gRPC

CALL = tracing.SpanType(
    "{rpc.service}/{rpc.method}",
    "server",
    "A call over gRPC.",
    ("rpc.system.name", "rpc.method", "http.request.header.x-request-id", "rpc.response.status_code"),
)


class _Servicer(InferenceServicer):
    """KServe's, with the true readiness of a model."""

    async def ModelReady(self, request: Any, context: Any) -> ModelReadyResponse:  # noqa: N802 - the RPC's name
        model = self._data_plane.get_model_from_registry(request.name)
        return ModelReadyResponse(ready=await model.not_ready_reason() is None)


async def _start_grpc(servicer: InferenceServicer, settings: ServerSettings, model: ServiceModel) -> aio.Server:
    server = aio.server(
        interceptors=(_StatusInterceptor(_ErrorMapper(model, {}), model.name),),
        options=[
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", settings.max_body_bytes),
            ("grpc.so_reuseport", int(settings.http_fd is not None)),
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
        self.status, self.code_name = CLIENT_LEFT, "CANCELLED"
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
        request_id = call.headers.get("x-request-id", "")[:128] or secrets.token_hex(16)
        call.put({"x-request-id": request_id})
        traced = name.endswith("/ModelInfer") or "traceparent" in call.headers
        observed = Observed(self._model_name, CALL, request_id, call.headers, traced=traced)
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
