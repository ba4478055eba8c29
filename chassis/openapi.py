"""`/openapi.json` of a KServe service.

FastAPI documents the service's own routes from their types. KServe's routes are untyped, so this module declares typed
routes of the same paths, which are documented but never called.

Source: https://spec.openapis.org/oas/v3.1.0
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from kserve.protocol.rest.v2_datamodels import (
    InferenceRequest,
    InferenceResponse,
    ListModelsResponse,
    ModelMetadataResponse,
    ServerLiveResponse,
    ServerMetadataResponse,
)
from pydantic import BaseModel, ConfigDict

from chassis.errors import NotFoundError, NotReadyError, ServiceError
from chassis.routes import BODY_ERRORS, UPSTREAM_ERRORS, error_responses, request_example

_READINESS = "readiness"


class Readiness(BaseModel):
    """The model is ready."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: str
    ready: Literal[True]
    """If the model is not ready, the response is a 503 with the reason."""


class Liveness(BaseModel):
    """The process runs."""

    status: str


@dataclass(frozen=True)
class InferenceRouteDocs:
    """Documentation of one of KServe's inference routes."""

    summary: str
    text: str
    example: Mapping[str, Any]
    """Example of a request."""
    request: type[BaseModel] = InferenceRequest
    response: type[BaseModel] = InferenceResponse


@dataclass(frozen=True)
class ServiceApi:
    """Documentation of a service."""

    title: str
    text: str
    tags: Mapping[str, str]
    """Tag → description. The first one is the tag of the inference routes."""
    predict: InferenceRouteDocs
    """The v1 route."""
    infer: InferenceRouteDocs
    """The v2 route."""


def describe(api: ServiceApi, routers: Sequence[APIRouter], model_name: str) -> dict[str, Any]:
    """The OpenAPI document. Routes of `routers` replace KServe's routes with the same path."""
    own = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
    replaced = {route.path for route in own}
    routes = [*(route for route in _kserve_routes(api, model_name) if route.path not in replaced), *own]
    tags = {**api.tags, _READINESS: "Liveness, readiness and metadata."}
    order = list(tags)
    routes.sort(key=lambda route: order.index(str(route.tags[0])))
    document = get_openapi(
        title=api.title,
        version=metadata.version("kserve-rag"),
        description=api.text,
        routes=routes,
        tags=[{"name": name, "description": text} for name, text in tags.items()],
    )
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):  # `chassis.error_mapping` replaces them
        schemas.pop(name, None)
    for schema in schemas.values():  # KServe's examples have tensors that no service here has
        schema.pop("example", None)
    for operation in (each for methods in document["paths"].values() for each in methods.values()):
        operation["responses"].pop("422", None)
    _hoist_definitions(document["paths"], schemas)
    return document


def _kserve_routes(api: ServiceApi, model_name: str) -> list[APIRoute]:
    """Typed routes that document KServe's, without those that reject every request."""
    router = APIRouter()
    name = Annotated[str, Path(description="Name of the model.", examples=[model_name])]
    for path, docs in (
        ("/v1/models/{model_name}:predict", api.predict),
        ("/v2/models/{model_name}/infer", api.infer),
    ):
        router.add_api_route(
            path,
            _endpoint(model_name=name, body=docs.request),
            methods=["POST"],
            name=path.rpartition("/")[2].rpartition(":")[2],
            summary=docs.summary,
            description=docs.text,
            tags=[next(iter(api.tags))],
            response_model=docs.response,
            responses=error_responses(*UPSTREAM_ERRORS, *BODY_ERRORS, NotFoundError),
            openapi_extra=request_example(docs.example),
        )
    routes: list[tuple[str, str, type[BaseModel], list[type[ServiceError]]]] = [
        ("/v2/models/{model_name}/ready", "Whether the model is ready", Readiness, [NotReadyError]),
        ("/v1/models/{model_name}", "Whether the model is ready (v1)", Readiness, [NotReadyError]),
        ("/v2/health/ready", "Whether the service is ready", Readiness, [NotReadyError]),
        ("/v2/health/live", "Whether the process runs (v2)", ServerLiveResponse, []),
        ("/", "Whether the process runs", Liveness, []),
        ("/v2", "The server and its extensions", ServerMetadataResponse, []),
        ("/v1/models", "The models (v1)", ListModelsResponse, []),
        ("/v2/models", "The models (v2)", ListModelsResponse, []),
        ("/v2/models/{model_name}", "The tensors of a model", ModelMetadataResponse, [NotFoundError]),
    ]
    for path, summary, response, errors in routes:
        router.add_api_route(
            path,
            _endpoint(**({"model_name": name} if "{" in path else {})),
            name=path.rpartition("/")[2].strip("{}") or "root",
            summary=summary,
            tags=[_READINESS],
            response_model=response,
            responses=error_responses(*errors),
        )
    return [route for route in router.routes if isinstance(route, APIRoute)]


def _endpoint(**parameters: Any) -> Any:
    """A function with these parameters and types, for FastAPI to inspect."""

    def endpoint(**_: Any) -> None: ...

    endpoint.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind) for name, kind in parameters.items()]
    )
    return endpoint


def _hoist_definitions(part: Any, schemas: dict[str, Any]) -> None:
    """Moves the `$defs` of all schemas below `part` to the document's components."""
    if isinstance(part, dict):
        schemas.update(part.pop("$defs", {}))
        part = list(part.values())
    if isinstance(part, list):
        for each in part:
            _hoist_definitions(each, schemas)
