"""Serves a KServe model and further routes over REST and gRPC.

It uses KServe's endpoints and data plane, but not `kserve.ModelServer`, which listens on all addresses, lets any client
unload the model, sends internal text to clients and closes the connection on unexpected errors, passes
`application/json; charset=utf-8` to the model as bytes, and reads bodies of any size.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import kserve
from fastapi import APIRouter, FastAPI, Request
from grpc import StatusCode, aio
from grpc_health.v1 import health, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_interceptor.exceptions import GrpcException
from grpc_reflection.v1alpha import reflection
from kserve import InferRequest
from kserve.errors import InvalidInput, ModelNotFound, ModelNotReady
from kserve.metrics import PREDICT_HIST_TIME, get_labels
from kserve.model import InferenceVerb
from kserve.model_server import args as kserve_args
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc
from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelInferResponse, ModelMetadataResponse, ModelReadyResponse
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.v1_endpoints import V1Endpoints, register_v1_endpoints
from kserve.protocol.rest.v2_endpoints import register_v2_endpoints
from starlette.types import ASGIApp, Receive, Scope, Send

from chassis import tracing
from chassis.edge import CLIENT_LEFT, Edge, Observed, access_logger
from chassis.error_mapping import ErrorMapper, ErrorShape, sentence
from chassis.errors import (
    ForbiddenError,
    InvalidRequestError,
    MethodNotAllowedError,
    NotFoundError,
    NotReadyError,
    ServiceError,
)
from chassis.openapi import ServiceApi, describe
from chassis.principal import caller, identifier
from chassis.serving import Lifespan, metrics, run
from chassis.settings import ServerSettings, SettingError

__all__ = ["ModelService", "ServiceModel", "application", "kserve_args", "serve"]


class ServiceModel(kserve.Model):
    """A KServe model that can say why it is not ready."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.ready = True
        self._predict_seconds = PREDICT_HIST_TIME.labels(**get_labels(name))

    async def __call__(
        self, body: Any, headers: dict[str, str] | None = None, verb: InferenceVerb = InferenceVerb.PREDICT
    ) -> tuple[Any, dict[str, str]]:
        """Runs and times `predict`, without KServe's pre- and postprocessing."""
        if verb is not InferenceVerb.PREDICT:
            raise NotFoundError("This model has no explainer: use its predict routes.")
        response_headers: dict[str, str] = {}
        with self._predict_seconds.time():
            return await self.predict(body, headers, response_headers), response_headers

    async def not_ready_reason(self) -> str | None:
        """Why the model is not ready and what to do about it; None if it is ready.

        Only readiness probes call it. Requests are served even if the model is not ready; their errors name the cause.
        """
        return None


@dataclass(frozen=True)
class ModelService:
    """A service with one KServe model."""

    model: ServiceModel
    """Served under its name on v1, v2 and gRPC."""
    settings: ServerSettings
    """Addresses and limits."""
    routers: Sequence[APIRouter] = ()
    """Further routes. They take precedence over KServe's."""
    error_shapes: Mapping[str, ErrorShape] = field(default_factory=dict)
    """Path prefix → error body, for routes that do not speak KServe's protocols."""
    api: ServiceApi | None = None
    """For `/openapi.json`; without it there is none."""
    lifespan: Lifespan = contextlib.nullcontext
    """Entered before the ports open, left after the last request."""


def serve(service: ModelService) -> None:
    """Serves REST and gRPC until SIGTERM or SIGINT, then finishes the requests in flight."""
    rest, settings = _Rest(service), service.settings
    grpc = _GrpcServer(rest, service) if settings.enable_grpc else None

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with service.lifespan():
            if grpc is not None:
                await grpc.start()
            try:
                yield
            finally:
                await stop_grpc(settings.grace_period_s)

    async def stop_grpc(grace_s: float) -> None:
        if grpc is not None:
            await grpc.stop(grace_s)

    run(rest.edge, settings, lifespan=lifespan, draining=lambda: stop_grpc(settings.timeout_s))


def application(service: ModelService) -> ASGIApp:
    """The REST application of a service, for an ASGI server that chooses the address and runs the lifespan."""
    return _Rest(service).edge


# REST


class _Rest:
    """The REST application of a service."""

    def __init__(self, service: ModelService) -> None:
        models = kserve.ModelRepository()
        models.update(service.model)
        self.data_plane = _DataPlane(models)
        self.repository = _ReadOnlyRepository(models)
        self.app = FastAPI(
            lifespan=lambda _: service.lifespan(),
            openapi_url="/openapi.json" if service.api else None,
            redirect_slashes=False,
        )
        for router in (*service.routers, _readiness_routes(service.model)):
            self.app.include_router(router)
        self.app.add_api_route("/", self.data_plane.live)
        self.app.add_api_route("/metrics", metrics)
        register_v1_endpoints(self.app, self.data_plane, self.repository)
        register_v2_endpoints(self.app, self.data_plane, self.repository)
        if service.api is not None:
            document = functools.partial(describe, service.api, service.routers, service.model.name)
            self.app.openapi = functools.cache(document)  # type: ignore[method-assign]
        errors = _ErrorMapper(service.model, service.error_shapes)
        errors.register(self.app)
        inner = _PredictRoute(self.app, V1Endpoints(self.data_plane, self.repository), service.model.name)
        self.edge = Edge(inner, errors, service.settings, service.model.name)


MODEL_VERSION = "1"
"""Version of every model in the v2 protocol. KServe has none, but Triton's clients request it."""


def check_version(model_name: str, version: str) -> None:
    """Raises NotFoundError for a version that no model has. Empty: any version."""
    if version not in ("", MODEL_VERSION):
        raise NotFoundError(
            f"model version: there is no {version!r}. The model {model_name!r} has version {MODEL_VERSION}."
        )


class _DataPlane(DataPlane):
    """KServe's data plane, with our extensions and version. A malformed binary body is the client's error."""

    def metadata(self) -> dict[str, Any]:
        return {**super().metadata(), "extensions": ["binary_tensor_data"]}

    async def model_metadata(self, model_name: str) -> dict[str, Any]:
        return {**await super().model_metadata(model_name), "versions": [MODEL_VERSION]}

    def decode_inference_request(self, body: Any, headers: Any, model_name: str) -> InferRequest:
        try:
            return super().decode_inference_request(body, headers, model_name)
        except InvalidInput:
            raise
        except Exception as error:
            if isinstance(error.__context__, UnicodeDecodeError):
                raise InvalidRequestError("A text of the binary tensors is not valid UTF-8.") from error
            raise InvalidRequestError(
                "The body cannot be read: send JSON of the length in inference-header-content-length, followed by the "
                "tensors, each of its binary_data_size, in the declared shape and datatype."
            ) from error


class _ReadOnlyRepository(ModelRepositoryExtension):
    """Rejects requests to load and unload models."""

    def __init__(self, registry: Any) -> None:
        super().__init__(model_registry=registry)

    async def load(self, model_name: str) -> None:
        raise ForbiddenError("Models cannot be loaded by request here: deploy another service instead.")

    async def unload(self, model_name: str) -> None:
        raise ForbiddenError("Models cannot be unloaded by request here: remove the service instead.")


def _readiness_routes(model: ServiceModel) -> APIRouter:
    """KServe's readiness routes, with the model's reason. KServe's own report ready as soon as the process runs."""
    router = APIRouter()

    async def ready() -> dict[str, Any]:
        reason = await model.not_ready_reason()
        if reason is not None:
            raise NotReadyError(reason)
        return {"name": model.name, "ready": True}

    for path in (f"/v1/models/{model.name}", f"/v2/models/{model.name}/ready", "/v2/health/ready"):
        router.add_api_route(path, ready)
    return router


_VERSIONED = re.compile(r"(?P<model>/v2/models/(?P<name>[^/]+))/versions/(?P<version>[^/]+)(?P<rest>/.*)?")


class _PredictRoute:
    """KServe's `POST /v1/models/{name}:predict`, without the framework's routing. v2's paths lose their version.

    Services call each other on this route, and the framework's routing takes longer than the rest of our work on a
    request (python -m benchmarks chain).
    """

    path_format = "/v1/models/{model_name}:predict"
    """Read by `chassis.edge`, as for the framework's routes."""

    def __init__(self, inner: ASGIApp, endpoints: V1Endpoints, model_name: str) -> None:
        self._inner = inner
        self._endpoints = endpoints
        self._model_name = model_name
        self._path = f"/v1/models/{model_name}:predict"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != self._path:
            if scope["type"] == "http" and (versioned := _VERSIONED.fullmatch(scope["path"])):
                check_version(versioned["name"], versioned["version"])
                scope["path"] = versioned["model"] + (versioned["rest"] or "")
            await self._inner(scope, receive, send)
            return
        scope["route"] = self
        if scope["method"] != "POST":
            error = MethodNotAllowedError(f"{scope['method']} {self._path}: send a POST.")
            error.headers["allow"] = "POST"
            raise error
        response = await self._endpoints.predict(self._model_name, Request(scope, receive))
        await response(scope, receive, send)


class _ErrorMapper(ErrorMapper):
    """Also maps KServe's errors."""

    kinds = (InvalidInput, ModelNotFound, ModelNotReady, *ErrorMapper.kinds)

    def __init__(self, model: ServiceModel, shapes: Mapping[str, ErrorShape]) -> None:
        super().__init__(shapes)
        self._model = model

    async def map(self, error: Exception, where: str) -> ServiceError:
        """Like `ErrorMapper.map`."""
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
    """KServe's servicer, with the model's own readiness and version."""

    async def ModelInfer(self, request: Any, context: Any) -> ModelInferResponse:  # noqa: N802 - the RPC's name
        check_version(request.model_name, request.model_version)
        return await super().ModelInfer(request, context)

    async def ModelMetadata(self, request: Any, context: Any) -> ModelMetadataResponse:  # noqa: N802 - the RPC's name
        check_version(request.name, request.version)
        return ModelMetadataResponse(**await self._data_plane.model_metadata(request.name))

    async def ModelReady(self, request: Any, context: Any) -> ModelReadyResponse:  # noqa: N802 - the RPC's name
        check_version(request.name, request.version)
        model = self._data_plane.get_model_from_registry(request.name)
        return ModelReadyResponse(ready=await model.not_ready_reason() is None)


_INFERENCE = "inference.GRPCInferenceService"


class _Health(health_pb2_grpc.HealthServicer):
    """gRPC's standard health service. Server, inference service and model share one status.

    Source: https://grpc.io/docs/guides/health-checking/
    """

    def __init__(self, model: ServiceModel) -> None:
        self._model = model

    async def Check(self, request: Any, context: Any) -> HealthCheckResponse:  # noqa: N802 - the RPC's name
        if request.service not in ("", _INFERENCE, self._model.name):
            raise NotFoundError(f"There is no service {request.service!r} here.")
        ready = await self._model.not_ready_reason() is None
        return HealthCheckResponse(status="SERVING" if ready else "NOT_SERVING")

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802 - the RPC's name
        await context.abort(StatusCode.UNIMPLEMENTED, "Watch is not supported: call Check.")


_REFUSAL_S = 0.05
"""Delay before connections are closed, so that calls already on their way are answered with UNAVAILABLE."""


class _GrpcServer:
    """The gRPC side of a service."""

    def __init__(self, rest: _Rest, service: ModelService) -> None:
        self._interceptor = _StatusInterceptor(_ErrorMapper(service.model, {}), service)
        self._servicer = _Servicer(rest.data_plane, rest.repository)
        self._health = _Health(service.model)
        self._settings = service.settings
        self._server: aio.Server | None = None

    async def start(self) -> None:
        settings = self._settings
        server = aio.server(
            interceptors=(self._interceptor,),
            options=[
                ("grpc.max_send_message_length", -1),
                ("grpc.max_receive_message_length", settings.max_body_bytes),
                ("grpc.so_reuseport", int(settings.http_fd is not None)),
            ],
        )
        grpc_predict_v2_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self._servicer, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (_INFERENCE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        address = f"{settings.host}:{settings.grpc_port}"
        try:
            server.add_insecure_port(address)
        except RuntimeError as error:
            raise SettingError(f"GRPC_PORT: cannot listen on {address}. Is the port in use?") from error
        await server.start()
        self._server = server

    async def stop(self, grace_s: float) -> None:
        """Refuses new calls, then finishes those in progress, for up to `grace_s` seconds."""
        if self._server is None:
            return
        self._interceptor.draining = True
        await asyncio.sleep(_REFUSAL_S)
        stopped = asyncio.create_task(self._server.stop(grace_s))
        while self._interceptor.calls and not stopped.done():
            await asyncio.wait({stopped}, timeout=0.1)
        # gRPC may hold a call that it never starts; its client would wait for the whole grace period.
        await self._server.stop(None)
        await stopped


class _Call:
    """A gRPC call's context, with metadata that can be replaced and the status for telemetry."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._metadata = list(context.invocation_metadata() or ())
        self.status, self.code_name = CLIENT_LEFT, "CANCELLED"
        """The equivalent HTTP status, and the gRPC status."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    @property
    def headers(self) -> dict[str, str]:
        """The text values of the metadata."""
        return {name: value for name, value in self._metadata if isinstance(value, str)}

    def invocation_metadata(self) -> tuple[Any, ...]:
        return tuple(self._metadata)

    def put(self, headers: Mapping[str, str]) -> None:
        """Sets or replaces values of the metadata."""
        kept = [each for each in self._metadata if each[0] not in headers]
        self._metadata = [*kept, *(_Metadatum(name, value) for name, value in headers.items())]


class _Metadatum(NamedTuple):
    """A metadata entry, as KServe reads it."""

    key: str
    value: str


class _StatusInterceptor(ExceptionToStatusInterceptor):
    """Maps errors to their gRPC status, and records calls like HTTP requests."""

    def __init__(self, errors: _ErrorMapper, service: ModelService) -> None:
        super().__init__()
        self._errors = errors
        self._model_name = service.model.name
        self._identifier = identifier(service.settings)
        self.draining = False
        self.calls = 0
        """Number of calls in progress."""

    async def intercept(self, method: Any, request_or_iterator: Any, context: Any, method_name: str) -> Any:
        if self.draining:
            await context.abort(StatusCode.UNAVAILABLE, "The service is shutting down. Try again.")
        call, name = _Call(context), method_name.removeprefix("/")
        request_id = call.headers.get("x-request-id", "")[:128] or secrets.token_hex(16)
        call.put({"x-request-id": request_id})
        traced = name.endswith("/ModelInfer") or "traceparent" in call.headers
        observed = Observed(self._model_name, CALL, request_id, call.headers, traced=traced)
        if observed.span.recording:
            call.put({"traceparent": observed.span.headers["traceparent"]})
        self.calls += 1
        try:
            try:
                await self._identify(name, call)
            except ServiceError as error:
                await self.handle_exception(error, request_or_iterator, call, method_name)
            response = await super().intercept(method, request_or_iterator, call, method_name)
            call.status, call.code_name = 200, "OK"
            return response
        finally:
            self.calls -= 1
            observed.span.rename(name)
            attributes = {"rpc.system.name": "grpc", "rpc.method": name, "rpc.response.status_code": call.code_name}
            seconds = observed.end(method_name, call.status, attributes)
            access_logger.info("gRPC %s", name, extra={"status": call.status, "ms": round(seconds * 1000, 1)})

    async def _identify(self, name: str, call: _Call) -> None:
        """Sets the caller. Probes need no token."""
        caller.set(None)
        if self._identifier is not None and not name.endswith(("Live", "Ready")) and not name.startswith("grpc.health"):
            caller.set(await self._identifier.identify(call.headers))

    async def handle_exception(self, ex: Exception, request_or_iterator: Any, context: Any, method_name: str) -> None:
        if isinstance(ex, (aio.AbortError, GrpcException, asyncio.CancelledError)):
            raise ex
        error = await self._errors.map(ex, method_name)
        context.status, context.code_name = error.status, error.grpc_status
        await context.abort(StatusCode[error.grpc_status], error.message)
