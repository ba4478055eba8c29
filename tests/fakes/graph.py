"""The transformer's and the ingest service's HTTP as the page meets it, behind the edge that both have.

A program. What it does is said by the question or by the document's id: a word, and where it waits or tells of itself
the name of an event beside it. POST /test/NAME makes an event happen, GET /test/NAME waits until it has.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import datetime, timezone
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from pydantic import BaseModel
from pydantic_settings import SettingsConfigDict
from starlette.requests import ClientDisconnect

from chassis.errors import BusyError, InvalidRequestError, NotFoundError, PayloadTooLargeError, UnauthorizedError
from chassis.serving import serve
from chassis.settings import EdgeSettings, load_settings
from chassis.telemetry import start_telemetry
from ingest.wire import SourceListings, State, Task, TaskKind, TaskList, UploadLimits
from transformer.wire import EndEvent, Index, Indexes, Source, SourcesEvent, TextEvent, Usage
from vectorstore.wire import Span

LARGEST = 4_000_000

PIECES = ("Records ", "are sent ", "at 06:00 UTC.")
SOURCE = Source(
    number=1,
    text="Records are sent at 06:00 UTC.",
    document_id="manual/transmission.html",
    chunk_id="c1",
    title="Transmission",
    source="manual/transmission.html",
    heading_path=[],
    span=Span(start=0, end=30),
    metadata={},
    index_version="20261120T044912-08e948",
    collection="default",
    score=0.6,
    similarity=0.5,
    lexical_score=7.5,
    support=1.0,
)
END = EndEvent(finish_reason="stop", refused=False, sources=[SOURCE], usage=Usage(completion_tokens=9), timings={})
INDEX = Index(
    name="default",
    version=SOURCE.index_version,
    documents=1,
    chunks=1,
    embedder="minilm",
    examples=["When are records sent?"],
)


def sources(question: str) -> SourcesEvent:
    return SourcesEvent(
        id="1",
        model_name="rag",
        sources=[SOURCE],
        index_version=SOURCE.index_version,
        cut=[],
        query=question,
        timings={"total": 1.0},
    )


def as_task(task_id: str, kind: TaskKind, state: State, *sources: str) -> Task:
    return Task(
        id=task_id,
        kind=kind,
        index="default",
        state=state,
        created_at=datetime.now(timezone.utc),
        sources=list(sources),
    )


class WireSettings(EdgeSettings):
    model_config = SettingsConfigDict(env_prefix="WIRE_")

    max_body_bytes: int = 256_000_000


app = FastAPI()


events: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)


@app.post("/test/{name}", status_code=204)
async def happens(name: str) -> None:
    events[name].set()


@app.get("/test/{name}", status_code=204)
async def happened(name: str) -> None:
    await events[name].wait()


def event(content: BaseModel) -> bytes:
    return b"data: " + content.model_dump_json().encode() + b"\n\n"


def told(content: BaseModel, status: int = 200, **more: Any) -> Response:
    """A response with extra fields for the test."""
    return JSONResponse({**content.model_dump(mode="json"), **more}, status)


def sent(request: Request) -> dict[str, str]:
    return dict(request.headers)


class BrokenOffError(Exception):
    """Closes the connection in the middle of a response."""


@app.get("/openai/v1/models")
async def models(request: Request) -> Response:
    return JSONResponse({"object": "list", "data": [{"id": "rag"}], "headers": sent(request)})


@app.get("/v1/indexes")
async def indexes(request: Request) -> Response:
    return told(Indexes(default="default", indexes=[INDEX], reason=None), query=request.url.query)


@app.get("/v1/documents/{document_id:path}")
async def document(request: Request, document_id: str) -> Response:
    match document_id:
        case "absent":
            raise NotFoundError("There is no document 'absent'.", field="document_id")
        case "moved":
            return RedirectResponse("http://127.0.0.1:1/")
        case "denied":
            raise UnauthorizedError("The token has expired.")
        case "mesh":
            return PlainTextResponse("Jwt is expired", 401)
        case "html":
            return Response("<script>alert(1)</script>", 200, media_type="text/html")
        case "half":
            return StreamingResponse(_half(), media_type="application/json")
    return JSONResponse({"id": document_id, "raw": request.scope["raw_path"].decode(), "query": request.url.query})


async def _half() -> AsyncIterator[bytes]:
    yield b'{"text": "the first half'
    raise BrokenOffError


@app.get("/v2/models/{model}/ready")
async def ready(model: str) -> dict[str, Any]:
    return {"name": model, "ready": True}


@app.post("/v2/models/{model}/generate")
async def generate(request: Request) -> Response:
    does, _, name = (await request.json())["text_input"].partition(" ")
    match does:
        case "busy":
            raise BusyError("The queue is full.", retry_after_s=7)
        case "invalid":
            raise InvalidRequestError("temperature: is 9, at most 2.", field="temperature")
        case "hang":
            try:
                events[f"{name}.asked"].set()
                await asyncio.Event().wait()
            finally:
                events[f"{name}.left"].set()
    return JSONResponse(
        {"text_output": "".join(PIECES), "headers": sent(request)}, headers={"server-timing": "total;dur=1"}
    )


@app.post("/v2/models/{model}/generate_stream")
async def generate_stream(request: Request) -> Response:
    question = (await request.json())["text_input"]
    headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    return StreamingResponse(_answer(question), media_type="text/event-stream", headers=headers)


@app.post("/openai/v1/chat/completions")
async def chat(request: Request) -> Response:
    return await generate_stream(request)


async def _answer(question: str) -> AsyncIterator[bytes]:
    does, _, name = question.partition(" ")
    try:
        yield event(sources(question))
        for number, piece in enumerate(PIECES):
            if does == "step":
                await events[f"{name}.{number}"].wait()
            yield event(TextEvent(text_output=piece))
        match does:
            case "hang":
                await asyncio.Event().wait()
            case "break":
                yield b'data: {"text_out'
                raise BrokenOffError
            case "crlf":
                yield b"data: {}\r\n\r\n: a comment\r\n\r\n"
        yield event(END)
    except asyncio.CancelledError:
        events[f"{name}.left"].set()
        raise


# The ingest service


@app.get("/v1/limits")
async def limits() -> UploadLimits:
    return UploadLimits(max_file_bytes=LARGEST, max_files=10, max_request_bytes=LARGEST, types=[".md"])


@app.get("/v1/indexes/{name}/documents")
async def documents(request: Request) -> Response:
    return told(SourceListings(documents=[], next=None, version=INDEX.version), query=request.url.query)


@app.post("/v1/indexes/{name}/documents")
async def upload(request: Request, name: str) -> Response:
    if int(request.headers.get("content-length", 0)) > LARGEST:
        raise PayloadTooLargeError(f"The files are larger than {LARGEST} bytes, the most that is taken at once.")
    size = 0
    try:
        async for block in request.stream():
            size += len(block)
            events[f"{name}.began"].set()
    except ClientDisconnect:
        events[f"{name}.left"].set()
        raise
    return told(as_task("t1", "upload", "queued", "uploads/a.md"), 202, size=size, headers=sent(request))


@app.delete("/v1/indexes/{name}/documents/{source:path}")
async def delete(source: str) -> Response:
    return told(as_task("t2", "delete", "queued", source), 202)


@app.post("/v1/indexes/{name}/reindex")
async def reindex() -> Response:
    return told(as_task("t3", "reindex", "queued"), 202)


@app.get("/v1/tasks")
async def tasks(request: Request) -> Response:
    return told(TaskList(tasks=[]), query=request.url.query)


@app.get("/v1/tasks/{task_id}")
async def task(task_id: str) -> Task:
    return as_task(task_id, "upload", "running")


@app.delete("/v1/tasks/{task_id}")
async def cancel(task_id: str) -> Task:
    return as_task(task_id, "upload", "cancelled")


@app.get("/v1/tasks/{task_id}/events")
async def task_events(task_id: str, request: Request) -> Response:
    after = int(request.headers.get("last-event-id", 0))

    async def lines() -> AsyncIterator[bytes]:
        for number in range(after + 1, 4):
            state = as_task(task_id, "upload", "running" if number < 3 else "succeeded").model_dump_json()
            yield f"event: task\nid: {number}\ndata: {state}\n\n".encode()
            if task_id == "break":
                raise BrokenOffError

    return StreamingResponse(lines(), media_type="text/event-stream")


if __name__ == "__main__":
    settings = load_settings(WireSettings)
    start_telemetry("wire", settings.log_level, settings.log_format)
    serve(app, settings, name="wire")
