"""The proxy from a browser to the graph: a fixed list of routes."""

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

_PASSED_ON = ("accept", "content-type", "last-event-id")
"""Request headers that are forwarded, in addition to those of chassis/context.py. Cookies are not."""
_PASSED_BACK = (
    "cache-control",
    "content-type",
    "retry-after",
    "server-timing",
    "www-authenticate",
    "x-accel-buffering",
)

_MAX_JSON_BYTES = 8 * 1024 * 1024
"""Largest body that is kept in memory for a retry; the transformer's default limit."""

_STALLS_S = 60.0
"""Longest pause in an upload."""


class Route(NamedTuple):
    """A route that the proxy forwards."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    """Template of the path, the same here and at the upstream."""
    changes: bool = False
    """Whether it changes data."""
    streams: bool = False
    """Whether the body is streamed."""
    long: bool = False
    """Whether it has the timeout of a transfer instead of that of an answer."""


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
        async def passed_on(request: Request) -> Response:
            if route.method != "GET":
                check_origin(request.headers, require_origin=route.changes)
            path: str = request.scope["path"]
            is_relative = not {".", ".."}.isdisjoint(path.split("/"))  # another proxy might resolve it
            if is_relative or not request.scope["raw_path"].startswith(prefix.encode()):
                raise NotFoundError(f"There is no {request.method} {path} here.")
            ctx = CallContext.start(transfer_timeout_s if route.long else timeout_s, request.headers)
            try:
                body = _Upload(request) if route.streams else await _whole(request)
            except ClientDisconnect:
                return Response(status_code=CLIENT_LEFT)
            return _Passing(upstream, request, _target(request.scope, prefix), ctx, body)

        router.add_api_route(route.path, passed_on, methods=[route.method], response_model=None)

    for route in routes:
        add(route)
    return router


def _target(scope: Scope, prefix: str) -> str:
    """Path and query with the client's percent-encoding."""
    path: bytes = scope["raw_path"]
    query: bytes = scope["query_string"]
    return path.decode("latin-1").removeprefix(prefix) + (f"?{query.decode('latin-1')}" if query else "")


async def _whole(request: Request) -> bytes | None:
    """The body. Also read for a GET: the edge watches for a disconnect after the body."""
    body = bytearray()
    async for block in request.stream():
        body += block
        if len(body) > _MAX_JSON_BYTES:
            raise PayloadTooLargeError(
                f"The body is larger than {_MAX_JSON_BYTES} bytes, the limit of this service. Send less at a time."
            )
    return bytes(body) if request.method == "POST" else None


class _Upload:
    """A streamed body. Keeps the browser's error, so that the upstream is not blamed."""

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
            self.error = DeadlineExceededError(f"Nothing came for {_STALLS_S:.0f} seconds in the middle of the upload.")
            raise self.error from None
        except (ClientDisconnect, ServiceError) as error:
            self.error = error
            raise


class _Passing(Response):
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
        self._passed_on = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        if isinstance(body, _Upload) and "content-length" in request.headers:
            self._passed_on["content-length"] = request.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As in ASGI. If the browser disconnects, the cancellation closes the request to the upstream."""
        try:
            async with self._upstream.exchange(
                self._method, self._target, self._ctx, headers=self._passed_on, body=self._body
            ) as answer:
                await self._pass_back(answer, send)
        except ServiceError:
            left = self._body.error if isinstance(self._body, _Upload) else None
            if left is None:
                raise
            if not isinstance(left, ClientDisconnect):
                raise left from None

    async def _pass_back(self, answer: RelayedResponse, send: Send) -> None:
        headers = [
            (name.encode(), answer.headers[name].encode("latin-1")) for name in _PASSED_BACK if name in answer.headers
        ]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        try:
            async for block in answer.blocks:
                await send({"type": "http.response.body", "body": block, "more_body": True})
        except ServiceError as error:
            if self._method == "GET" or not answer.is_event_stream:
                # Closes the connection, so that the browser notices; it resumes events with Last-Event-ID.
                raise
            last = encode_event(orjson.dumps(oip_error(error)))
            await send({"type": "http.response.body", "body": last, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
