"""The way from a browser to the graph: the routes that are passed on, and nothing else."""

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
from chassis.edge import CLIENT_LEFT, oip_error
from chassis.errors import DeadlineExceededError, NotFoundError, PayloadTooLargeError, ServiceError
from chassis.events import encode_event
from chassis.origin import check_origin
from chassis.relay import Relay, RelayedResponse

_PASSED_ON = ("accept", "content-type", "last-event-id")
"""Of a request, beside what every service forwards (chassis/context.py): no cookie, no header of one connection."""
_PASSED_BACK = (
    "cache-control",
    "content-type",
    "retry-after",
    "server-timing",
    "www-authenticate",
    "x-accel-buffering",
)

_MAX_JSON_BYTES = 8 * 1024 * 1024
"""Largest body that is held in memory, so that it can be sent again. What the transformer reads at most by default."""

_STALLS_S = 60.0
"""How long a browser may send nothing in the middle of an upload."""


class Route(NamedTuple):
    """What may be asked of an upstream."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    """Its template, the same here and there."""
    changes: bool = False
    """Whether it changes what others see."""
    streams: bool = False
    """Whether its body is passed on while it is read."""
    long: bool = False
    """Whether it takes as long as a transfer may, and not as long as an answer may."""


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
    """The routes under `prefix`, each passed on to the upstream's route of the same name."""
    router = APIRouter(prefix=prefix)

    def add(route: Route) -> None:
        async def passed_on(request: Request) -> Response:
            if route.method != "GET":
                check_origin(request.headers, evidence=route.changes)
            path: str = request.scope["path"]
            ways_up = not {".", ".."}.isdisjoint(path.split("/"))  # for which proxies behind this one might take them
            if ways_up or not request.scope["raw_path"].startswith(prefix.encode()):
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
    """Path and query as they were sent, quoted as they were."""
    path: bytes = scope["raw_path"]
    query: bytes = scope["query_string"]
    return path.decode("latin-1").removeprefix(prefix) + (f"?{query.decode('latin-1')}" if query else "")


async def _whole(request: Request) -> bytes | None:
    """The body. Read for a GET too: from its end on it is watched whether the browser is still there."""
    body = bytearray()
    async for block in request.stream():
        body += block
        if len(body) > _MAX_JSON_BYTES:
            raise PayloadTooLargeError(
                f"The body is larger than {_MAX_JSON_BYTES} bytes, the most that is read here. Send less at a time."
            )
    return bytes(body) if request.method == "POST" else None


class _Upload:
    """A body that is passed on while it is read. What goes wrong with the browser is kept: no upstream is to blame."""

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
    """The upstream's answer, passed back as it comes."""

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
        """ASGI's call. Cancelled where the browser leaves, which closes the call to the upstream."""
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
                # The connection is closed: a browser takes no half for the whole, and takes up events where it was.
                raise
            last = encode_event(orjson.dumps(oip_error(error)))
            await send({"type": "http.response.body", "body": last, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
