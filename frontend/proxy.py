"""Forwards a browser's requests to the graph, on a fixed list of routes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Literal, NamedTuple

import orjson
from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from chassis.context import CallContext
from chassis.edge import CLIENT_LEFT
from chassis.error_mapping import oip_error
from chassis.errors import DeadlineExceededError, NotFoundError, PayloadTooLargeError, ServiceError
from chassis.events import encode_event
from chassis.origin import check_origin
from chassis.relay import Relay, RelayedResponse

_REQUEST_HEADERS = ("accept", "content-type", "last-event-id")
"""Request headers to forward, in addition to `chassis.context.FORWARDED_HEADERS`. Cookies are not forwarded."""
_RESPONSE_HEADERS = (
    "cache-control",
    "content-type",
    "retry-after",
    "server-timing",
    "www-authenticate",
    "x-accel-buffering",
)

_MAX_JSON_BYTES = 8 * 1024 * 1024
"""Maximum size of a body kept in memory for a retry: the transformer's default limit."""

_STALLS_S = 60.0
"""Maximum pause in an upload."""


class Route(NamedTuple):
    """A route that the proxy forwards."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    """Template of the path, here and at the upstream."""
    changes: bool = False
    """Whether it changes data."""
    streams: bool = False
    """Whether the body is streamed."""
    long: bool = False
    """Whether `transfer_timeout_s` applies instead of `timeout_s`."""


TRANSFORMER = (
    Route("GET", "/openai/v1/models"),
    Route("GET", "/v1/indexes"),
    Route("GET", "/v1/documents/{document_id:path}"),
    Route("GET", "/v2/models/{model}/ready"),
    Route("POST", "/v2/models/{model}/generate"),
    Route("POST", "/v2/models/{model}/generate_stream"),
    Route("POST", "/openai/v1/chat/completions"),
)
INGEST = (
    Route("GET", "/v1/limits"),
    Route("GET", "/v1/indexes/{name}/documents"),
    Route("POST", "/v1/indexes/{name}/documents", changes=True, streams=True, long=True),
    Route("DELETE", "/v1/indexes/{name}/documents/{source:path}", changes=True),
    Route("POST", "/v1/indexes/{name}/reindex", changes=True),
    Route("GET", "/v1/tasks"),
    Route("GET", "/v1/tasks/{task_id}"),
    Route("GET", "/v1/tasks/{task_id}/events", long=True),
    Route("DELETE", "/v1/tasks/{task_id}", changes=True),
)


def proxy_routes(
    prefix: str, upstream: Relay, routes: Sequence[Route], *, timeout_s: float, transfer_timeout_s: float
) -> APIRouter:
    """The routes under `prefix`, forwarded to the same paths of the upstream."""
    router = APIRouter(prefix=prefix)

    def add(route: Route) -> None:
        async def forward(request: Request) -> Response:
            if route.method != "GET":
                check_origin(request.headers, require_origin=route.changes)
            path: str = request.scope["path"]
            is_relative = not {".", ".."}.isdisjoint(path.split("/"))  # another proxy might resolve it
            if is_relative or not request.scope["raw_path"].startswith(prefix.encode()):
                raise NotFoundError(f"There is no {request.method} {path} here.")
            ctx = CallContext.start(transfer_timeout_s if route.long else timeout_s, request.headers)
            try:
                body = _Upload(request) if route.streams else await _read_body(request)
            except ClientDisconnect:
                return Response(status_code=CLIENT_LEFT)
            return _ForwardedResponse(upstream, request, _target(request.scope, prefix), ctx, body)

        router.add_api_route(route.path, forward, methods=[route.method], response_model=None)

    for route in routes:
        add(route)
    return router


def _target(scope: Scope, prefix: str) -> str:
    """Path and query with the client's percent-encoding."""
    path: bytes = scope["raw_path"]
    query: bytes = scope["query_string"]
    return path.decode("latin-1").removeprefix(prefix) + (f"?{query.decode('latin-1')}" if query else "")


async def _read_body(request: Request) -> bytes | None:
    """The body. GET bodies are read too, because the edge notices a disconnect only after the body."""
    body = bytearray()
    async for block in request.stream():
        body += block
        if len(body) > _MAX_JSON_BYTES:
            raise PayloadTooLargeError(
                f"The body is larger than {_MAX_JSON_BYTES} bytes, the limit of this service. Send less at a time."
            )
    return bytes(body) if request.method == "POST" else None


class _Upload:
    """A streamed body. Stores the browser's error, so that it is not attributed to the upstream."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.error: ServiceError | ClientDisconnect | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        blocks = self._request.stream()
        try:
            while True:
                block = await asyncio.wait_for(anext(blocks, None), _STALLS_S)
                if block is None:
                    return
                yield block
        except asyncio.TimeoutError:
            self.error = DeadlineExceededError(f"The upload stalled for {_STALLS_S:.0f} seconds.")
            raise self.error from None
        except (ClientDisconnect, ServiceError) as error:
            self.error = error
            raise


class _ForwardedResponse(Response):
    """The upstream's response, streamed to the browser."""

    def __init__(
        self, upstream: Relay, request: Request, target: str, ctx: CallContext, body: bytes | _Upload | None
    ) -> None:
        super().__init__()
        self._upstream = upstream
        self._method = request.method
        self._target = target
        self._ctx = ctx
        self._body = body
        self._forwarded = {name: request.headers[name] for name in _REQUEST_HEADERS if name in request.headers}
        if isinstance(body, _Upload) and "content-length" in request.headers:
            self._forwarded["content-length"] = request.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application. If the browser disconnects, cancellation closes the request to the upstream."""
        try:
            async with self._upstream.exchange(
                self._method, self._target, self._ctx, headers=self._forwarded, body=self._body
            ) as answer:
                await self._send_response(answer, send)
        except ServiceError:
            left = self._body.error if isinstance(self._body, _Upload) else None
            if left is None:
                raise
            if not isinstance(left, ClientDisconnect):
                raise left from None

    async def _send_response(self, answer: RelayedResponse, send: Send) -> None:
        received = answer.headers
        headers = [(name.encode(), received[name].encode("latin-1")) for name in _RESPONSE_HEADERS if name in received]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        try:
            async for block in answer.blocks:
                await send({"type": "http.response.body", "body": block, "more_body": True})
        except ServiceError as error:
            if self._method == "GET" or not answer.is_event_stream:
                # Close the connection, so that the browser notices and resumes events with Last-Event-ID.
                raise
            last = encode_event(orjson.dumps(oip_error(error)))
            await send({"type": "http.response.body", "body": last, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
