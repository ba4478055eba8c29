"""Pooled HTTP client of an upstream: deadlines, one retry on a stale connection, forwarded headers."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import orjson
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
from chassis.events import EventBuffer, EventStreamError, event_data
from chassis.principal import PRINCIPAL_HEADER

if TYPE_CHECKING:
    from chassis.identity import Signer

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
"""Errors of a keep-alive connection that the server has closed in the meantime."""

_CONNECT_TIMEOUT_S = 2.0
_CONNECTIONS = 512
"""Maximum number of connections to an upstream."""
_MAX_REASON_BYTES = 64 * 1024
"""At least this much of an error's body is read."""


@dataclass
class _Pool:
    """Connections opened in one period."""

    session: aiohttp.ClientSession
    opened: float
    busy_until: float = 0.0
    """Latest deadline of its requests."""


class HttpUpstream:
    """Base of the services' clients. Create one per upstream and process.

    It opens connections in the running event loop at the first call, so it can be created anywhere. Safe for any number
    of concurrent requests; requests share no state.
    """

    def __init__(
        self,
        base_url: str,
        *,
        name: str,
        verify: bool | ssl.SSLContext = True,
        honours_sampling: bool = True,
        max_connection_age_s: float = 10,
        forward_authorization: bool = True,
        signer: Signer | None = None,
        max_response_bytes: int = 256 * 1024**2,
    ) -> None:
        """A client of the service at `base_url`.

        Args:
            base_url: scheme, host, port, and the prefix of all paths if there is one.
            name: the upstream's name in errors and spans.
            verify: whether to verify TLS certificates, or the context that does.
            honours_sampling: whether the upstream honours the sampled flag of a trace. Triton records every trace whose
                header it gets, so the header is omitted if the trace is not sampled.
            max_connection_age_s: maximum age of a connection, so that load rebalances when replicas change.
            forward_authorization: whether the upstream gets the Authorization header of the context.
            signer: signs the context's principal for the upstream. None: the upstream does not learn who calls.
            max_response_bytes: maximum size of a response that is read whole.
        """
        self.base_url = base_url.rstrip("/")
        self._root = str(URL(self.base_url)).rstrip("/")
        self.name = name
        self._verify = verify
        self._honours_sampling = honours_sampling
        self._forward_authorization = forward_authorization
        self._signer = signer
        self._max_response_bytes = max_response_bytes
        parts = urlsplit(self.base_url)
        self._host, self._port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        self._max_connection_age_s = max_connection_age_s
        self._pools: list[_Pool] = []

    async def aclose(self) -> None:
        """Closes all connections. The next call opens new ones."""
        pools, self._pools = self._pools, []
        for pool in pools:
            await pool.session.close()

    async def get_json(self, path: str, ctx: CallContext) -> Any:
        """The parsed JSON body of a GET. Here and below, `path` is percent-encoded by the caller."""
        body, _ = await self._fetch("GET", path, None, {}, ctx)
        return self._parse(body)

    async def get_bytes(self, path: str, ctx: CallContext) -> bytes:
        """The body of a GET, of any content type."""
        body, _ = await self._fetch("GET", path, None, {}, ctx)
        return body

    async def status(self, path: str, ctx: CallContext) -> int:
        """The status of the response to a GET, whatever it is."""
        with self._span("GET", ctx) as span:
            response = await self._connect("GET", path, None, {}, span)
            response.close()
            return response.status

    async def post_json(self, path: str, payload: Any, ctx: CallContext) -> Any:
        """Posts `payload` as JSON and returns the parsed JSON body."""
        body, _ = await self._fetch("POST", path, orjson.dumps(payload), {"content-type": "application/json"}, ctx)
        return self._parse(body)

    async def post_bytes(
        self, path: str, body: bytes, headers: Mapping[str, str], ctx: CallContext
    ) -> tuple[bytes, Mapping[str, str]]:
        """Posts `body` unchanged and returns the response's body and headers (case-insensitive)."""
        return await self._fetch("POST", path, body, headers, ctx)

    async def stream_events(self, path: str, payload: Any, ctx: CallContext) -> AsyncGenerator[str, None]:
        """Posts JSON and yields the `data` of each server-sent event as it arrives.

        Closing the iterator closes the connection, so that the upstream notices that the client has left.
        """
        headers = {"content-type": "application/json", "accept": "text/event-stream"}
        with self._span("POST", ctx) as span:
            response = await self._send("POST", path, orjson.dumps(payload), headers, span)
            try:
                async with contextlib.aclosing(self._events(response)) as received:
                    async for events in received:
                        for data in event_data(events):
                            yield data
            finally:
                free(response)

    async def stream_bytes(self, path: str, payload: Any, ctx: CallContext) -> AsyncGenerator[bytes, None]:
        """Posts JSON and yields the response's body as it arrives. Closing the iterator closes the connection."""
        with self._span("POST", ctx) as span:
            response = await self._send("POST", path, orjson.dumps(payload), {"content-type": "application/json"}, span)
            try:
                async with contextlib.aclosing(self._blocks(response)) as blocks:
                    async for block in blocks:
                        yield block
            finally:
                free(response)

    async def _fetch(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], ctx: CallContext
    ) -> tuple[bytes, Mapping[str, str]]:
        with self._span(method, ctx) as span:
            response = await self._send(method, path, body, headers, span)
            try:
                return await self._whole(response), response.headers
            finally:
                free(response)

    async def _whole(self, response: aiohttp.ClientResponse) -> bytes:
        """The body. Raises BadUpstreamError if it is larger than the limit."""
        blocks: list[bytes] = []
        size = response.content_length or 0
        if size <= self._max_response_bytes:
            size = 0
            async for block in self._blocks(response):
                blocks.append(block)
                size += len(block)
                if size > self._max_response_bytes:
                    break
        if size > self._max_response_bytes:
            raise BadUpstreamError(f"The {self.name} sent more than {self._max_response_bytes} bytes.")
        return b"".join(blocks)

    async def _blocks(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
        """The body as it arrives."""
        with self._read_errors():
            async for block in response.content.iter_any():
                yield block

    async def _events(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
        """Complete events of the body, as they arrive."""
        buffer = EventBuffer()
        with self._read_errors():
            async for block in response.content.iter_any():
                events = buffer.feed(block)
                if events:
                    yield events
            buffer.close()

    @contextlib.contextmanager
    def _read_errors(self) -> Iterator[None]:
        """Maps the errors of reading a response."""
        try:
            yield
        except EventStreamError as error:
            raise BadUpstreamError(f"The {self.name} {error}.") from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise NotReadyError(f"The {self.name} ended its response early.") from error
        except asyncio.TimeoutError as error:
            raise self._late() from error

    def _span(self, method: str, ctx: CallContext) -> CallSpan:
        return ctx.span(UPSTREAM, f"{method} {self.name}")

    async def _send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], span: CallSpan
    ) -> aiohttp.ClientResponse:
        """A successful response. The caller reads its body and calls `free`."""
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
        """A response of any status."""
        ctx = span.ctx
        if span.recording:
            span.set("http.request.method", method)
            span.set("server.address", self._host)
            span.set("server.port", self._port)
            span.set("peer.service", self.name)
            span.set("http.request.body.size", None if isinstance(body, AsyncIterable) else len(body or b""))
        for attempt in (1, 2):
            left = ctx.check(f"the {self.name} was called")
            session = await self._session(ctx.deadline)
            try:
                response = await session.request(
                    method,
                    # Encoded by the caller: yarl would resolve a segment `..`, which may be part of a document's name.
                    URL(self._root + path, encoded=True),
                    data=body,
                    headers={**self._outgoing(ctx), **headers, "accept-encoding": "identity"},
                    timeout=aiohttp.ClientTimeout(total=left, sock_connect=min(_CONNECT_TIMEOUT_S, left)),
                    allow_redirects=False,
                )
                span.set("http.response.status_code", response.status)
                if response.headers.get("content-encoding", "identity") != "identity":
                    response.close()
                    raise BadUpstreamError(f"The {self.name} sent a compressed response, which was not asked for.")
                return response
            except aiohttp.ClientConnectorError as error:
                raise self._unreachable() from error
            except aiohttp.ConnectionTimeoutError as error:  # a lost packet, or this process stood still meanwhile
                if attempt == 2:
                    raise self._unreachable() from error
                span.set("http.request.resend_count", attempt)
            except _STALE as error:
                if attempt == 2 or isinstance(body, AsyncIterable):  # a streamed body can be read only once
                    # Triton does this for seconds while it exits, a killed server once.
                    raise NotReadyError(f"The {self.name} closed the connection without a response.") from error
                span.set("http.request.resend_count", attempt)
            except asyncio.TimeoutError as error:
                raise self._late() from error
            except aiohttp.ClientError as error:
                raise BadUpstreamError(f"The {self.name} sent a response that is not valid HTTP.") from error
        raise AssertionError("unreachable")

    def _unreachable(self) -> NotReadyError:
        return NotReadyError(f"The {self.name} cannot be reached. Try again shortly.")

    async def _session(self, deadline: float) -> aiohttp.ClientSession:
        """The session for a request with this deadline; a new one when the connections have reached their maximum age.

        A retired session finishes its requests and is closed after their last deadline.
        """
        now = time.monotonic()
        if not self._pools or now > self._pools[-1].opened + self._max_connection_age_s:
            finished = [pool for pool in self._pools if pool.busy_until < now]
            self._pools = [*(pool for pool in self._pools if pool.busy_until >= now), _Pool(self._open_session(), now)]
            for pool in finished:
                await pool.session.close()
        pool = self._pools[-1]
        pool.busy_until = max(pool.busy_until, deadline)
        return pool.session

    def _open_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=_CONNECTIONS,
                ssl=self._verify,
                keepalive_timeout=self._max_connection_age_s,
                ttl_dns_cache=30,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # a few bytes can unpack to gigabytes
        )

    def _outgoing(self, ctx: CallContext) -> dict[str, str]:
        headers = ctx.outgoing_headers()
        if not self._forward_authorization:
            headers.pop("authorization", None)
        if self._signer is not None and ctx.principal is not None:
            headers[PRINCIPAL_HEADER] = self._signer.sign(ctx.principal, ctx.remaining_s())
        if not self._honours_sampling and tracing.ids(headers) is not None and not tracing.sampled(headers):
            headers.pop("traceparent", None)
            headers.pop("tracestate", None)
        return headers

    async def _rejection(self, response: aiohttp.ClientResponse) -> ServiceError:
        """The error for a response with a status of 400 or more."""
        body = b""
        with contextlib.suppress(aiohttp.ClientError, ConnectionError, asyncio.TimeoutError):
            async for block in response.content.iter_any():
                body += block
                if len(body) > _MAX_REASON_BYTES:
                    break
        reason, field, code = _error_body(body)
        status = response.status
        if status in (400, 413, 422):
            message = f"The {self.name} refused the request: {reason or f'status {status}'}"
            refusal = InvalidRequestError(message, field=field)
            refusal.upstream_reason = reason
            return refusal
        if status == 401 and field == PRINCIPAL_HEADER:
            return NotReadyError(f"The {self.name} does not accept our principals: set the same PRINCIPAL_SECRET.")
        if status == 401:
            advice = "send an Authorization header"
            if not self._forward_authorization:
                advice = "the operator must have it forwarded (setting FORWARD_AUTHORIZATION)"
            return UnauthorizedError(f"The {self.name} requires valid credentials: {advice}.")
        if status == 403:
            return ForbiddenError(f"The {self.name} rejected these credentials.")
        if status == 429:
            return BusyError(f"The {self.name} is busy. Try again shortly.", retry_after_s=_retry_after(response, 1))
        if status == 404 and code == NotFoundError.code and field not in (None, "model"):
            return NotFoundError(reason, field=field)
        if status in (404, 503):
            # Our settings choose model and route, not the caller. If the upstream lacks them, it is not ready.
            detail = f": {reason}" if reason else ""
            not_ready = NotReadyError(f"The {self.name} is not ready{detail}", retry_after_s=_retry_after(response, 2))
            not_ready.upstream_reason = reason
            return not_ready
        if status == 504:
            return self._late()
        failure = BadUpstreamError(f"The {self.name} failed with status {status}.")
        failure.upstream_reason = reason
        return failure

    def _parse(self, body: bytes) -> Any:
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise BadUpstreamError(f"The {self.name} sent a response that is not valid JSON.") from error

    def _late(self) -> DeadlineExceededError:
        return DeadlineExceededError(f"The {self.name} did not respond in time.")


def free(response: aiohttp.ClientResponse) -> None:
    """Returns the connection to the pool if the body was read completely, else closes it."""
    if response.content.at_eof():
        response.release()
    else:
        response.close()


class _ErrorBody(NamedTuple):
    reason: str = ""
    field: str | None = None
    code: str | None = None
    """`ServiceError.code`, if one of our services responded."""


def _error_body(body: bytes) -> _ErrorBody:
    """Parses an error body of KServe, Triton, FastAPI or OpenAI; empty if it is none of these.

    OpenAI sends an object under `error`; trtllm-serve and older vLLM send its fields at the top level. Triton sends an
    event if a stream was requested.
    """
    try:
        parsed = orjson.loads(body.removeprefix(b"data:"))
    except ValueError:
        return _ErrorBody()
    if not isinstance(parsed, dict):
        return _ErrorBody()
    if parsed.get("object") == "error":
        parsed = {"error": parsed}
    reason, field, code = parsed.get("error", parsed.get("detail", "")), parsed.get("field"), parsed.get("code")
    if isinstance(reason, dict):
        reason, field, code = reason.get("message", ""), reason.get("param"), None
    return _ErrorBody(
        reason[:500] if isinstance(reason, str) else "",
        field if isinstance(field, str) else None,
        code if isinstance(code, str) else None,
    )


def _retry_after(response: aiohttp.ClientResponse, default_s: int) -> int:
    value = response.headers.get("retry-after", "")
    return int(value) if value.isascii() and value.isdigit() else default_s
