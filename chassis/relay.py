"""An upstream whose answers are passed on as they come, whatever they are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass

import aiohttp

from chassis.context import TIMEOUT_HEADER, CallContext
from chassis.errors import BadUpstreamError
from chassis.http import MAX_EVENT_BYTES, HttpUpstream, free

_TOLD_WITHIN_S = 1.0
"""Who heeds the deadline says itself that it has passed: that is waited for."""


@dataclass(frozen=True)
class Answer:
    """An answer that is being received."""

    status: int
    headers: Mapping[str, str]
    """Case-insensitive."""
    is_event_stream: bool
    blocks: AsyncIterator[bytes]
    """The body as it arrives. Server-sent events are whole: one that breaks off is left out. Raises as `exchange`."""


class Relay(HttpUpstream):
    """Passes requests on, and gives the answers to be passed back."""

    @contextlib.asynccontextmanager
    async def exchange(
        self,
        method: str,
        path: str,
        ctx: CallContext,
        *,
        headers: Mapping[str, str],
        body: bytes | AsyncIterable[bytes] | None = None,
    ) -> AsyncIterator[Answer]:
        """An answer of any status below 300, or of an error that is told in JSON; its body is read within the block.

        Leaving the block early closes the connection, which is how an upstream learns that nobody listens any more.
        The upstream gets the context's deadline; it is given up a second later.

        Args:
            method: of HTTP.
            path: and query, quoted already.
            ctx: deadline and forwarded headers.
            headers: further ones.
            body: bytes are sent again where a connection turns out to be stale; what is iterated is streamed.

        Raises:
            ServiceError: it cannot be reached, breaks off (also while the body is read), redirects, takes too long, or
                tells an error otherwise.

        """
        timeout = {TIMEOUT_HEADER: ctx.outgoing_headers()[TIMEOUT_HEADER]}
        later = CallContext(ctx.deadline + _TOLD_WITHIN_S, ctx.headers)
        with self._span(method, later) as span:
            response = await self._connect(method, path, body, {**headers, **timeout}, span)
            try:
                if 300 <= response.status < 400:
                    raise BadUpstreamError(f"The {self.name} redirects to somewhere else: its URL has to be its own.")
                if response.status >= 400 and response.content_type != "application/json":
                    raise await self._rejection(response)
                is_event_stream = response.content_type == "text/event-stream"
                blocks = self._events(response) if is_event_stream else self._blocks(response)
                yield Answer(response.status, response.headers, is_event_stream, blocks)
            finally:
                free(response)

    async def _blocks(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
        try:
            async for block in response.content.iter_any():
                yield block
        except (aiohttp.ClientError, ConnectionError) as error:
            raise BadUpstreamError(f"The {self.name} broke off its answer.") from error
        except asyncio.TimeoutError as error:
            raise self._late() from error

    async def _events(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
        rest = b""
        async for block in self._blocks(response):
            rest += block
            end = max((rest.rfind(line) + len(line) for line in (b"\n\n", b"\r\n\r\n") if line in rest), default=0)
            if end:
                yield rest[:end]
                rest = rest[end:]
            if len(rest) > MAX_EVENT_BYTES:
                raise BadUpstreamError(f"The {self.name} sent an event larger than {MAX_EVENT_BYTES} bytes.")
        if rest.strip():
            raise BadUpstreamError(f"The {self.name} broke off its answer.")
