"""What a service tells of its HTTP routes at `/openapi.json`: made from the routes, and whole where they say little.

FastAPI knows the types of what it parses itself. KServe's routes, and those that read their bodies as bytes, declare
none: a `Description` adds them. It leaves out routes that refuse every request, and adds the errors that all share.

Source: https://spec.openapis.org/oas/v3.1.0
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Literal

import orjson
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from kserve.protocol.rest.v2_datamodels import ListModelsResponse
from pydantic import BaseModel, ConfigDict
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from chassis.errors import (
    BadUpstreamError,
    BusyError,
    DeadlineExceededError,
    ForbiddenError,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    NotReadyError,
    PayloadTooLargeError,
    ServiceError,
    UnauthorizedError,
)

_REFUSED = re.compile(r".*:explain|/v2/repository/.*|.*/versions/.*|/metrics")
_REFUSED_PARAMETER = "model_version"
"""Of KServe's routes, what refuses every request here: no model explains, is loaded by request, or has versions."""
_ALL = (
    InvalidRequestError,
    UnauthorizedError,
    ForbiddenError,
    InternalError,
    BadUpstreamError,
    NotReadyError,
    DeadlineExceededError,
)
_OF_BODIES = (PayloadTooLargeError, BusyError)
_REF = "#/components/schemas/{model}"


class Readiness(BaseModel):
    """Whether a model can answer."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: str
    ready: Literal[True]
    """Where it is not, a 503 says why."""


class ErrorBody(BaseModel):
    """An error, as KServe's protocols have it, with its kind and field beside."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    error: str
    """Names the offending value, the limit and the next step."""
    code: str
    """Stable kind, as `invalid_request`."""
    field: str | None = None
    """What of the request is meant, as `instances[0].top_p`."""


@dataclass(frozen=True, slots=True)
class Operation:
    """What is told of one route and method beside what the route says of itself."""

    summary: str = ""
    text: str = ""
    tag: str = ""
    request: type[BaseModel] | None = None
    request_example: Mapping[str, Any] | None = None
    answer: type[BaseModel] | None = None
    events: Sequence[type[BaseModel]] = ()
    """Of an answer that is, or may be, a stream of server-sent events: what the `data` of each may be."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Name → description."""
    errors: Sequence[type[ServiceError]] | None = None
    """What it may answer beside; None: whatever a call to another service may come to."""


_READY = Operation(
    summary="Whether the model can answer",
    text="What it needs is asked each time; a 503 says what is missing.",
    tag="readiness",
    answer=Readiness,
    errors=[NotReadyError],
)
_OF_EVERY_SERVICE = {
    "GET /v2/models/{model_name}/ready": _READY,
    "GET /v1/models/{model_name}": _READY,
    "GET /v2/health/ready": _READY,
    "GET /v2/health/live": Operation(summary="Whether the process runs, KServe's v2", tag="readiness", errors=[]),
    "GET /": Operation(summary="Whether the process runs", tag="readiness", errors=[]),
    "GET /v2": Operation(summary="The server and its extensions", tag="readiness", errors=[]),
    "GET /v1/models": Operation(
        summary="The models, KServe's v1", tag="readiness", answer=ListModelsResponse, errors=[]
    ),
    "GET /v2/models": Operation(summary="The models, KServe's v2", tag="readiness", errors=[]),
    "GET /v2/models/{model_name}": Operation(
        summary="The tensors of a model",
        text="What `infer` takes and gives, by name, datatype and shape.",
        tag="readiness",
        errors=[NotFoundError],
    ),
}
"""KServe's own."""


@dataclass(frozen=True)
class Description:
    """A service, for those who read its description or make clients from it."""

    title: str
    text: str
    tags: Mapping[str, str]
    """Tag → what its routes are for, in the order of reading."""
    operations: Mapping[str, Operation]
    """`METHOD path`, as in `POST /v1/models/{model_name}:predict`."""
    error_bodies: Mapping[str, type[BaseModel]] = field(default_factory=dict)
    """Path prefix → type of errors, where they have another shape."""


def describe(app: FastAPI, description: Description, model_name: str) -> dict[str, Any]:
    """The OpenAPI document of an application.

    Args:
        app: with all of its routes.
        description: adds to what they tell.
        model_name: of the model that KServe serves; routes under its own name are told as those of every model.
    """
    with warnings.catch_warnings():
        # Of several routes for one path only the first is ever asked, and what is told here holds for it.
        warnings.filterwarnings("ignore", "Duplicate Operation ID")
        document = get_openapi(
            title=description.title,
            version=metadata.version("kserve-rag"),
            description=description.text,
            routes=app.routes,
            tags=[{"name": name, "description": text} for name, text in description.tags.items()],
        )
    hoist_definitions(document)
    paths = {
        path: operations
        for path, operations in document["paths"].items()
        if not _REFUSED.fullmatch(path) and not re.search(rf"/models/{re.escape(model_name)}(/|$)", path)
    }
    described = {
        **description.operations,
        **{k: v for k, v in _OF_EVERY_SERVICE.items() if k not in description.operations},
    }
    order = [name.split(" ")[1] for name in described]
    document["paths"] = dict(
        sorted(paths.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order))
    )
    asked: set[tuple[type[BaseModel], JsonSchemaMode]] = {(ErrorBody, "serialization")}
    asked.update((body, "serialization") for body in description.error_bodies.values())
    for more in described.values():
        asked.update((model, "serialization") for model in more.events)
        if more.answer is not None:
            asked.add((more.answer, "serialization"))
        if more.request is not None:
            asked.add((more.request, "validation"))
    refs, definitions = models_json_schema(sorted(asked, key=lambda one: (one[0].__name__, one[1])), ref_template=_REF)
    for path, method, operation in _operations(document):
        more = described.get(f"{method.upper()} {path}", Operation())
        _complete(operation, more, refs, model_name)
        shape = next((body for prefix, body in description.error_bodies.items() if path.startswith(prefix)), ErrorBody)
        kinds = _errors(method, path) if more.errors is None else more.errors
        _add_errors(operation, kinds, refs[shape, "serialization"])
    schemas = {**document.get("components", {}).get("schemas", {}), **definitions.get("$defs", {})}
    document["components"] = {"schemas": {name: schemas[name] for name in sorted(_used(document["paths"], schemas))}}
    return document


def hoist_definitions(document: dict[str, Any]) -> None:
    """Moves the `$defs` of all schemas in an OpenAPI document to its components."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    waiting: list[Any] = [document["paths"]]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            schemas.update(part.pop("$defs", {}))
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


def _used(content: Any, schemas: Mapping[str, Any]) -> set[str]:
    """Names of the schemas that something refers to, and that these refer to."""
    found: set[str] = set()
    waiting = [content]
    while waiting:
        for name in re.findall(r'"#/components/schemas/([^"]+)"', orjson.dumps(waiting.pop()).decode()):
            if name not in found:
                found.add(name)
                waiting.append(schemas[name])
    return found


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document.get("paths", {}).items():
        for method, operation in methods.items():
            yield path, method, operation


def _complete(operation: dict[str, Any], more: Operation, refs: Mapping[Any, Any], model_name: str) -> None:
    if more.summary:
        operation["summary"] = more.summary
        operation["description"] = more.text
    responses = operation["responses"]
    responses["200"]["description"] = "The answer."
    if not operation.get("description"):
        operation.pop("description", None)
    if more.tag:
        operation["tags"] = [more.tag]
    operation["parameters"] = [one for one in operation.get("parameters", ()) if one["name"] != _REFUSED_PARAMETER]
    for parameter in operation["parameters"]:
        name = parameter["name"]
        if name in more.parameters:
            parameter["description"] = more.parameters[name]
        elif name == "model_name":
            parameter["description"], parameter["example"] = "Name of the model.", model_name
    if more.request is not None:
        content: dict[str, Any] = {"schema": refs[more.request, "validation"]}
        if more.request_example is not None:
            content["example"] = more.request_example
        operation["requestBody"] = {"required": True, "content": {"application/json": content}}
    if more.answer is not None or more.events:
        contents = {}
        if more.answer is not None:
            contents["application/json"] = {"schema": refs[more.answer, "serialization"]}
        if more.events:
            kinds = [refs[model, "serialization"] for model in more.events]
            contents["text/event-stream"] = {"schema": {"anyOf": kinds} if len(kinds) > 1 else kinds[0]}
        responses["200"]["content"] = contents


def _errors(method: str, path: str) -> list[type[ServiceError]]:
    """What a route may answer that calls another service."""
    of_path = [NotFoundError] if "{" in path or path.endswith("/completions") else []
    return [*_ALL, *of_path, *(_OF_BODIES if method == "post" else ())]


def _add_errors(operation: dict[str, Any], kinds: Sequence[type[ServiceError]], body: Mapping[str, Any]) -> None:
    responses = operation["responses"]
    responses.pop("422", None)
    for kind in sorted(kinds, key=lambda one: one.status):
        responses[str(kind.status)] = {
            "description": f"`{kind.code}`: {inspect.cleandoc(kind.__doc__ or '').splitlines()[0]}",
            "content": {"application/json": {"schema": body}},
        }
