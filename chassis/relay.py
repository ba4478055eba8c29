"""HTTP client that passes requests on and returns the responses as they arrive."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass, replace

from chassis.context import TIMEOUT_HEADER, CallContext
from chassis.errors import BadUpstreamError
from chassis.http import HttpUpstream, free

_GRACE_S = 1.0
"""Time to wait after the deadline for the upstream's own error, which is more specific."""


@dataclass(frozen=True)
class RelayedResponse:
    """A response that is being received."""

    status: int
    headers: Mapping[str, str]
    """Case-insensitive."""
    is_event_stream: bool
    blocks: AsyncIterator[bytes]
    """The body as it arrives; an event stream in complete events. Raises the same errors as `exchange`."""


class Relay(HttpUpstream):
    """Passes requests on and returns the responses."""

    @contextlib.asynccontextmanager
    async def exchange(
        self,
        method: str,
        path: str,
        ctx: CallContext,
        *,
        headers: Mapping[str, str],
        body: bytes | AsyncIterable[bytes] | None = None,
    ) -> AsyncIterator[RelayedResponse]:
        """Yields a response with a status below 300, or an error with a JSON body. Read the body within the block.

        Leaving the block early closes the connection, so that the upstream notices that the client has left. The
        upstream gets the context's deadline; the relay waits a second longer. `path` includes the percent-encoded
        query. A `body` of bytes is sent again if the connection is stale; an iterable is streamed.

        Raises:
            ServiceError: the upstream cannot be reached, ends its response early, redirects, misses the deadline, or
                responds with an error that is not JSON.
        """
        timeout = {TIMEOUT_HEADER: ctx.outgoing_headers()[TIMEOUT_HEADER]}
        later = replace(ctx, deadline=ctx.deadline + _GRACE_S)
        with self._span(method, later) as span:
            response = await self._connect(method, path, body, {**headers, **timeout}, span)
            try:
                if 300 <= response.status < 400:
                    raise BadUpstreamError(f"The {self.name} sent a redirect: set its URL to the redirect's target.")
                if response.status >= 400 and response.content_type != "application/json":
                    raise await self._rejection(response)
                is_event_stream = response.content_type == "text/event-stream"
                blocks = self._events(response) if is_event_stream else self._blocks(response)
                yield RelayedResponse(response.status, response.headers, is_event_stream, blocks)
            finally:
                free(response)
