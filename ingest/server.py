"""Ingestion over HTTP: `python -m ingest.server`. Adapts the service to HTTP.

`python -m ingest.server --openapi` prints the OpenAPI description.
"""

from __future__ import annotations

import argparse
import hmac
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Path, Query, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import SecretStr
from starlette.requests import ClientDisconnect

from chassis.errors import InvalidRequestError, UnauthorizedError
from chassis.origin import check_origin
from chassis.principal import caller
from ingest.access import Caller
from ingest.errors import IngestError
from ingest.service import MAX_PAGE, IngestService
from ingest.settings import IngestServerSettings
from ingest.uploads import FIELD
from ingest.wire import ErrorBody, SkippedSources, SourceListings, Task, TaskList, UploadLimits
from vectorstore.versions import AccessRules, Acl

NAME = "ingest"


async def _service(request: Request) -> IngestService:
    service: IngestService = request.app.state.service
    await service.opened()
    return service


def _authorise(
    request: Request,
    sent: Annotated[
        HTTPAuthorizationCredentials | None,
        Security(HTTPBearer(auto_error=False, description="Required if INGEST_TOKEN is set.")),
    ],
) -> None:
    token: SecretStr | None = request.app.state.token
    if token is None:
        return
    given = "" if sent is None else sent.credentials
    if not hmac.compare_digest(given.encode(), token.get_secret_value().encode()):
        raise UnauthorizedError(
            "The token is missing or wrong: send the header `Authorization: Bearer …` with the token of this service.",
            field="authorization",
        )


def _check_origin(request: Request) -> None:
    """Prevents pages of other sites from using the browser's credentials."""
    if request.method != "GET":
        check_origin(request.headers)


Service = Annotated[IngestService, Depends(_service)]


async def _caller(service: Service) -> Caller | None:
    """The rights of the caller; required by every route about documents and tasks."""
    return service.caller(caller.get())


Known = Annotated["Caller | None", Depends(_caller)]


async def _existing(service: Service, known: Known, task_id: str) -> str:
    await service.task(task_id, known)
    return task_id


Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Maximum number of files in the response.")]
After = Annotated[str | None, Query(description="`next` of the previous page.")]
Index = Annotated[str, Path(description="Name of the index.", examples=["default"])]
TaskId = Annotated[str, Path(description="Id of the task.")]
ExistingTask = Annotated[str, Depends(_existing)]


def _refusals(**reasons: str) -> dict[int | str, dict[str, Any]]:
    """Error responses for a route's description: `s404="There is none."`."""
    reasons = {"s401": "The token is missing or wrong.", "s503": "Not ready; try again.", **reasons}
    return {int(status[1:]): {"model": ErrorBody, "description": reason} for status, reason in sorted(reasons.items())}


_NO_INDEX = "The service does not serve an index of this name."
_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {FIELD: {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            }
        },
    }
}

_GUARDS = [Depends(_check_origin), Depends(_authorise)]

documents = APIRouter(prefix="/v1", tags=["documents"], dependencies=_GUARDS)
tasks = APIRouter(prefix="/v1", tags=["tasks"], dependencies=_GUARDS)


@documents.get("/limits", summary="Limits of one upload", responses=_refusals())
async def limits(service: Service) -> UploadLimits:
    """Limits, so that clients can check files before they send them."""
    return service.limits()


@documents.get(
    "/indexes/{name}/documents", summary="List the files of an index", responses=_refusals(s400="limit", s404=_NO_INDEX)
)
async def listed(
    service: Service,
    known: Known,
    name: Index,
    limit: Limit = 100,
    after: After = None,
) -> SourceListings:
    """Files in the current version and uploads that are not in it yet, sorted by name."""
    return await service.documents(name, known, limit, after)


@documents.get(
    "/indexes/{name}/skipped",
    summary="List the files that an index cannot use",
    responses=_refusals(s400="limit", s404=_NO_INDEX),
)
async def skipped(
    service: Service,
    known: Known,
    name: Index,
    limit: Limit = 100,
    after: After = None,
) -> SkippedSources:
    """Files that the last runs could not use, with the reason, sorted by name."""
    return await service.skipped(name, known, limit, after)


@documents.post(
    "/indexes/{name}/documents",
    status_code=202,
    summary="Upload files",
    openapi_extra=_FORM,
    responses=_refusals(
        s400="No form, no file, a type that is not read, or too many files.",
        s404=_NO_INDEX,
        s409="The index has reached its limit of uploads.",
        s413="A file, or the request, is too large.",
        s429="Too many tasks are unfinished.",
        s503="The disk is full, or the service is not ready.",
    ),
)
async def upload(
    service: Service,
    known: Known,
    name: Index,
    request: Request,
    readers: Annotated[
        list[str],
        Query(
            max_length=1_000,
            description="Who may read the files, if the service identifies callers: `user:NAME`, `group:NAME`, "
            "`signed-in` or `anyone`. Default: only the caller.",
        ),
    ] = [],  # noqa: B006 - FastAPI copies it
) -> Task:
    """Receives one or more files in the field `files` and queues the task that indexes them.

    A file with the name of an earlier upload replaces it. If one file is rejected, all are. Files
    that cannot be parsed are listed in `skipped` of the task's result.
    """
    try:
        return await service.upload(name, request.headers.get("content-type", ""), request.stream(), known, readers)
    except ClientDisconnect:
        raise InvalidRequestError("The upload was interrupted.") from None


@documents.delete(
    "/indexes/{name}/documents/{source:path}",
    status_code=202,
    summary="Delete an uploaded file",
    responses=_refusals(
        s403="The file comes from a folder that the index follows.", s404=f"No such file, or: {_NO_INDEX}"
    ),
)
async def delete(
    service: Service,
    known: Known,
    name: Index,
    source: Annotated[str, Path(description="As in the list of files.", examples=["uploads/handbook.pdf"])],
    purge: Annotated[
        bool | None,
        Query(description="Also remove earlier versions, which still contain the file. Default: INGEST_PURGE_DELETED."),
    ] = None,
) -> Task:
    """Queues the task that publishes a version without the file, and verifies that nothing of it remains."""
    return await service.delete(name, source, known, purge=purge)


@documents.post(
    "/indexes/{name}/reindex", status_code=202, summary="Re-index everything", responses=_refusals(s404=_NO_INDEX)
)
async def reindex(
    service: Service,
    known: Known,
    name: Index,
    allow_removal: Annotated[
        bool, Query(description="Allow the removal of more than half of the documents because their files are gone.")
    ] = False,
) -> Task:
    """Queues a task that reads all folders and uploads again. Unchanged text is not embedded again.

    The task fails with the code `removal_not_confirmed` if it would remove more than half of the documents.
    """
    return await service.reindex(name, known, allow_removal=allow_removal)


RulePath = Annotated[str, Query(description="A file of the index, a folder such as `hr/`, or empty for everything.")]
_MANAGERS = "Callers are identified, and this one is not a manager (INGEST_MANAGERS)."


@documents.get(
    "/indexes/{name}/access", summary="Who may read the documents", responses=_refusals(s403=_MANAGERS, s404=_NO_INDEX)
)
async def access(service: Service, known: Known, name: Index) -> AccessRules:
    """The rules of an index."""
    return await service.rules(name, known)


@documents.put(
    "/indexes/{name}/access",
    summary="Set a rule",
    responses=_refusals(s400="The path or a caller is malformed.", s403=_MANAGERS, s404=_NO_INDEX),
)
async def set_rule(service: Service, known: Known, name: Index, rule: Acl, path: RulePath = "") -> AccessRules:
    """Replaces the rule of a path. It holds from the next request on, for all versions."""
    return await service.rules(name, known, {path: rule})


@documents.delete(
    "/indexes/{name}/access", summary="Remove a rule", responses=_refusals(s403=_MANAGERS, s404=_NO_INDEX)
)
async def remove_rule(service: Service, known: Known, name: Index, path: RulePath = "") -> AccessRules:
    """Removes the rule of a path, if there is one."""
    return await service.rules(name, known, {path: None})


@tasks.get("/tasks", summary="List tasks", responses=_refusals(s404=_NO_INDEX))
async def latest(
    service: Service,
    known: Known,
    index: Annotated[str | None, Query(description="Only the tasks of this index.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="Maximum number of tasks in the response.")] = 100,
) -> TaskList:
    """The newest tasks first."""
    return TaskList(tasks=await service.tasks(index, known, limit))


@tasks.get("/tasks/{task_id}", summary="A task", responses=_refusals(s404="No such task."))
async def task(service: Service, known: Known, task_id: TaskId) -> Task:
    """State, progress and result of a task."""
    return await service.task(task_id, known)


@tasks.get(
    "/tasks/{task_id}/events",
    summary="Follow a task",
    response_class=EventSourceResponse,
    responses=_refusals(s404="No such task."),
)
async def events(
    service: Service,
    known: Known,
    task_id: ExistingTask,
    last_event_id: Annotated[str | None, Header(description="Id of the last received event.")] = None,
) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events named `task`, each with the whole task. The stream ends with the task."""
    async for event_id, changed in service.follow(task_id, known, last_event_id):
        yield ServerSentEvent(event="task", id=event_id, data=changed)


@tasks.delete(
    "/tasks/{task_id}",
    summary="Cancel a task",
    responses=_refusals(s404="No such task.", s409="The task has already ended."),
)
async def cancel(service: Service, known: Known, task_id: TaskId) -> Task:
    """Cancels a queued or running task. Its files are discarded and the index is unchanged."""
    return await service.cancel(task_id, known)


def application(settings: IngestServerSettings | None = None) -> FastAPI:
    """The FastAPI application. Without settings it can only describe its routes."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with app.state.service.running():
            yield

    app = FastAPI(
        title="kserve-rag ingest",
        summary="Adds and deletes documents of an index while the graph runs.",
        version=metadata.version("kserve-rag"),
        lifespan=lifespan,
        # FastAPI's documentation pages load scripts from other sites.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    app.include_router(documents)
    app.include_router(tasks)
    if settings is not None:
        app.state.service = IngestService(settings)
        app.state.token = settings.token
    return app


def main(arguments: list[str] | None = None) -> int:
    """Runs the service, or prints its OpenAPI description. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ingest.server", description="Ingestion as a service.")
    parser.add_argument("--openapi", action="store_true", help="print the description of the routes as JSON and exit")
    if parser.parse_args(arguments).openapi:
        sys.stdout.write(json.dumps(application().openapi(), indent=2) + "\n")
        return 0

    from chassis.serving import serve
    from chassis.settings import load_settings
    from chassis.telemetry import start_telemetry

    settings = load_settings(IngestServerSettings)
    app = application(settings)
    service: IngestService = app.state.service
    try:
        settings.chunks()
        service.check()
    except IngestError as error:
        print(error, file=sys.stderr)  # noqa: T201 - logging is not up yet
        return 2
    start_telemetry(NAME, settings.log_level, settings.log_format)

    async def not_ready_reason() -> str | None:
        return service.not_ready_reason()

    serve(app, settings, name=NAME, not_ready_reason=not_ready_reason, stopping=service.stop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
