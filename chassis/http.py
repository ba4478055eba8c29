"""One pooled HTTP client per upstream and process: deadlines, one retry on a stale connection, forwarded headers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import orjson
from aiohttp.connector import Connection
from yarl import URL

from chassis import tracing
from chassis.context import CallContext, CallSpan
from chassis.errors import (
    BadUpstreamError,
    BusyError,
    DeadlineExceededError,
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    NotReadyError,
    ServiceError,
    UnauthorizedError,
)

UPSTREAM = tracing.SpanType(
    "{http.request.method} {peer.service}",
    "client",
    "A request to another service, until its response is complete.",
    (
        "http.request.method",
        "http.request.body.size",
        "http.request.resend_count",
        "http.response.status_code",
        "server.address",
        "server.port",
        "peer.service",
    ),
)

_STALE = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionResetError)
"""How a keep-alive connection that the server has closed in the meantime shows itself."""

MAX_EVENT_BYTES = 8 * 1024 * 1024
"""Largest server-sent event that is read."""

_MAX_REASON_BYTES = 64 * 1024
"""What is read, at least, of the body of an error."""


class HttpUpstream:
    """The client base that every room's `client` is built on.

    Create it anywhere; it opens its connections inside the running event loop at the first call. Safe for any number
    of concurrent requests; nothing of one request is kept for another.
    """

    def __init__(
        self,
        base_url: str,
        *,
        name: str,
        connect_timeout_s: float = 2.0,
        connections: int = 512,
        verify: bool = True,
        honours_sampling: bool = True,
        max_connection_age_s: float = 10,
    ) -> None:
        """A client of the service at `base_url`.

        Args:
            base_url: scheme, host and port, and a path if there is one before all others.
            name: what callers and spans are told that it is.
            connect_timeout_s: longest time for a connection to be made.
            connections: most at a time.
            verify: whether a certificate has to be valid.
            honours_sampling: whether the upstream honours the sampled flag of a trace. Triton records every trace whose
                header it gets, so it gets none for a trace that is not sampled.
            max_connection_age_s: how long connections are kept for further requests. Behind one address may be several
                processes: one that joins gets its share, and one that leaves is left, within this time.
        """
        self.base_url = base_url.rstrip("/")
        self._root = str(URL(self.base_url)).rstrip("/")
        self.name = name
        self._connect_timeout_s = connect_timeout_s
        self._connections = connections
        self._verify = verify
        self._honours_sampling = honours_sampling
        parts = urlsplit(self.base_url)
        self._host, self._port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        self._max_connection_age_s = max_connection_age_s
        self._session: aiohttp.ClientSession | None = None
        self._session_until = 0.0
        self._given_up: set[aiohttp.ClientSession] = set()
        self._closing: set[asyncio.Task[None]] = set()

    async def aclose(self) -> None:
        """Closes the pooled connections. The next call opens new ones."""
        sessions = [*self._given_up, *filter(None, [self._session])]
        self._session = None
        self._given_up.clear()
        for session in sessions:
            await session.close()

    async def get_json(self, path: str, ctx: CallContext) -> Any:
        """The parsed JSON body of a GET. The path, as everywhere here, is quoted already."""
        body, _ = await self._fetch("GET", path, None, {}, ctx)
        return self._parse(body)

    async def get_bytes(self, path: str, ctx: CallContext) -> bytes:
        """The body of a GET, whatever it is."""
        body, _ = await self._fetch("GET", path, None, {}, ctx)
        return body

    async def post_json(self, path: str, payload: Any, ctx: CallContext) -> Any:
        """Posts `payload` as JSON and returns the parsed JSON body."""
        body, _ = await self._fetch("POST", path, orjson.dumps(payload), {"content-type": "application/json"}, ctx)
        return self._parse(body)

    async def post_bytes(
        self, path: str, body: bytes, headers: Mapping[str, str], ctx: CallContext
    ) -> tuple[bytes, Mapping[str, str]]:
        """Posts `body` as it is and returns the answer's bytes and headers (case-insensitive)."""
        return await self._fetch("POST", path, body, headers, ctx)

    async def stream_events(self, path: str, payload: Any, ctx: CallContext) -> AsyncGenerator[str, None]:
        """Posts JSON and yields the `data` of each server-sent event as it arrives.

        Closing the iterator closes the connection, which is how an upstream learns that nobody listens any more.
        """
        headers = {"content-type": "application/json", "accept": "text/event-stream"}
        with self._span("POST", ctx) as span:
            response = await self._send("POST", path, orjson.dumps(payload), headers, span)
            buffer = b""
            try:
                async for block in response.content.iter_any():
                    buffer += block
                    if len(buffer) > MAX_EVENT_BYTES:
                        raise BadUpstreamError(f"The {self.name} sent an event larger than {MAX_EVENT_BYTES} bytes.")
                    buffer = buffer.replace(b"\r\n", b"\n")
                    *events, buffer = buffer.split(b"\n\n")
                    for event in events:
                        data = _event_data(event)
                        if data is not None:
                            yield data
            except (aiohttp.ClientError, ConnectionError) as error:
                raise BadUpstreamError(f"The {self.name} broke off its answer.") from error
            except asyncio.TimeoutError as error:
                raise self._late() from error
            finally:
                free(response)
            if buffer.strip():
                raise BadUpstreamError(f"The {self.name} broke off its answer.")

    async def _fetch(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], ctx: CallContext
    ) -> tuple[bytes, Mapping[str, str]]:
        with self._span(method, ctx) as span:
            response = await self._send(method, path, body, headers, span)
            try:
                return await response.read(), response.headers
            except (aiohttp.ClientError, ConnectionError) as error:
                raise BadUpstreamError(f"The {self.name} broke off its answer.") from error
            except asyncio.TimeoutError as error:
                raise self._late() from error
            finally:
                free(response)

    def _span(self, method: str, ctx: CallContext) -> CallSpan:
        return ctx.span(UPSTREAM, f"{method} {self.name}")

    async def _send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], span: CallSpan
    ) -> aiohttp.ClientResponse:
        """An answer that is no refusal; its body is still to be read, and `free` to be called."""
        response = await self._connect(method, path, body, headers, span)
        if response.status >= 400:
            try:
                raise await self._rejection(response)
            finally:
                free(response)
        return response

    async def _connect(
        self,
        method: str,
        path: str,
        body: bytes | AsyncIterable[bytes] | None,
        headers: Mapping[str, str],
        span: CallSpan,
    ) -> aiohttp.ClientResponse:
        ctx = span.ctx
        if span.recording:
            span.set("http.request.method", method)
            span.set("server.address", self._host)
            span.set("server.port", self._port)
            span.set("peer.service", self.name)
            span.set("http.request.body.size", None if isinstance(body, AsyncIterable) else len(body or b""))
        for attempt in (1, 2):
            left = ctx.check(f"the {self.name} was asked")
            try:
                response = await self._open_session().request(
                    method,
                    # As it is: a segment that says ".." is somebody's name for something, not a way up.
                    URL(self._root + path, encoded=True),
                    data=body,
                    headers={**self._outgoing(ctx), **headers},
                    timeout=aiohttp.ClientTimeout(total=left, sock_connect=min(self._connect_timeout_s, left)),
                    allow_redirects=False,
                )
                span.set("http.response.status_code", response.status)
                return response
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                raise NotReadyError(f"The {self.name} cannot be reached. Try again shortly.") from error
            except _STALE as error:
                if attempt == 2 or isinstance(body, AsyncIterable):  # what is streamed is read once
                    raise BadUpstreamError(f"The {self.name} closed the connection without an answer.") from error
                span.set("http.request.resend_count", attempt)
            except asyncio.TimeoutError as error:
                raise self._late() from error
            except aiohttp.ClientError as error:
                raise BadUpstreamError(f"The {self.name} answered something that is not HTTP.") from error
        raise AssertionError("unreachable")

    def _outgoing(self, ctx: CallContext) -> dict[str, str]:
        headers = ctx.outgoing_headers()
        if not self._honours_sampling and tracing.ids(headers) is not None and not tracing.sampled(headers):
            headers.pop("traceparent", None)
            headers.pop("tracestate", None)
        return headers

    async def _rejection(self, response: aiohttp.ClientResponse) -> ServiceError:
        body = b""
        with contextlib.suppress(aiohttp.ClientError, ConnectionError, asyncio.TimeoutError):
            async for block in response.content.iter_any():
                body += block
                if len(body) > _MAX_REASON_BYTES:
                    break
        reason, field, code = _told(body)
        status = response.status
        if status in (400, 413, 422):
            told = f"The {self.name} refused the request: {reason or f'status {status}'}"
            refusal = InvalidRequestError(told, field=field)
            refusal.upstream_reason = reason
            return refusal
        if status == 401:
            return UnauthorizedError(f"The {self.name} wants valid credentials: send an Authorization header.")
        if status == 403:
            return ForbiddenError(f"The {self.name} does not admit these credentials.")
        if status == 429:
            return BusyError(f"The {self.name} is busy. Try again shortly.", retry_after_s=_retry_after(response, 1))
        if status == 404 and code == NotFoundError.code and field not in (None, _MODEL):
            return NotFoundError(reason, field=field)
        if status in (404, 503):
            detail = f": {reason}" if reason else ""
            return NotReadyError(f"The {self.name} is not ready{detail}", retry_after_s=_retry_after(response, 2))
        if status == 504:
            return self._late()
        failure = BadUpstreamError(f"The {self.name} failed with status {status}.")
        failure.upstream_reason = reason
        return failure

    def _open_session(self) -> aiohttp.ClientSession:
        now = time.monotonic()
        if self._session is None or now > self._session_until:
            if self._session is not None:
                self._retire_session(self._session)
            self._session = aiohttp.ClientSession(
                connector=_Connector(
                    limit=self._connections,
                    ssl=self._verify,
                    keepalive_timeout=self._max_connection_age_s,
                    ttl_dns_cache=30,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=True,
                skip_auto_headers=("accept-encoding",),
            )
            self._session_until = now + self._max_connection_age_s
        return self._session

    def _retire_session(self, session: aiohttp.ClientSession) -> None:
        """Closes a session when its requests have ended."""

        def close() -> None:
            self._given_up.discard(session)
            task = asyncio.create_task(session.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

        self._given_up.add(session)
        if isinstance(session.connector, _Connector):
            session.connector.when_unused(close)

    def _parse(self, body: bytes) -> Any:
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise BadUpstreamError(f"The {self.name} answered something that is not JSON.") from error

    def _late(self) -> DeadlineExceededError:
        return DeadlineExceededError(f"The {self.name} did not answer within the request's deadline.")


class _Connector(aiohttp.TCPConnector):
    """A pool of connections that tells when none is in use."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._in_use = 0
        self._then: Callable[[], None] | None = None

    async def connect(self, *arguments: Any, **options: Any) -> Connection:
        """As its own."""
        self._in_use += 1
        try:
            connection = await super().connect(*arguments, **options)
        except BaseException:
            self._freed()
            raise
        connection.add_callback(self._freed)
        return connection

    def when_unused(self, then: Callable[[], None]) -> None:
        """Has `then` called once no connection is in use: at once, or when the last is freed."""
        self._then = then
        self._tell()

    def _freed(self) -> None:
        self._in_use -= 1
        self._tell()

    def _tell(self) -> None:
        if not self._in_use and self._then is not None:
            then, self._then = self._then, None
            then()


def free(response: aiohttp.ClientResponse) -> None:
    """Gives the connection back if the body was read to its end, and closes it otherwise."""
    if response.content.at_eof():
        response.release()
    else:
        response.close()


def _event_data(event: bytes) -> str | None:
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines).decode("utf-8", "replace") if lines else None


_MODEL = "model"
"""Field of a 404 for want of a model. Which model and which route are asked is a client's own doing, never its
caller's: where they are not there, they are not there yet. Every other field of a service's 404 is the caller's."""


class _Told(NamedTuple):
    reason: str = ""
    field: str | None = None
    code: str | None = None
    """The kind of error, as the services of this project tell it."""


def _told(body: bytes) -> _Told:
    """What an error body in the shape of KServe, Triton, FastAPI or OpenAI says; nothing if it is none of these.

    OpenAI has an object under `error`; trtllm-serve and earlier vLLM have what would be in it at the top.

    Triton sends it as an event where a stream was asked for.
    """
    try:
        parsed = json.loads(body.removeprefix(b"data:"))
    except ValueError:
        return _Told()
    if not isinstance(parsed, dict):
        return _Told()
    if parsed.get("object") == "error":
        parsed = {"error": parsed}
    reason, field, code = parsed.get("error", parsed.get("detail", "")), parsed.get("field"), parsed.get("code")
    if isinstance(reason, dict):
        reason, field, code = reason.get("message", ""), reason.get("param"), None
    return _Told(
        reason[:500] if isinstance(reason, str) else "",
        field if isinstance(field, str) else None,
        code if isinstance(code, str) else None,
    )


def _retry_after(response: aiohttp.ClientResponse, default_s: int) -> int:
    sent = response.headers.get("retry-after", "")
    return int(sent) if sent.isascii() and sent.isdigit() else default_s
