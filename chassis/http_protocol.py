"""The HTTP/1 protocol of a service: uvicorn's, with deadlines for requests and responses that HTTP/1.0 can read."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

_MIN_BYTES_PER_S = 500
"""Every 500 bytes of a body give its client a second more.

Source: Apache's default, `RequestReadTimeout body=20,MinRate=500`.
"""

_BODY = b'{"error":"The request arrives too slowly: send it faster, or less at a time.","code":"request_timeout"}'
_LATE = b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\nconnection: close\r\n"
_LATE += b"content-length: %d\r\n\r\n%s" % (len(_BODY), _BODY)


class HttpProtocol(HttpToolsProtocol):
    """A connection, which is closed if a request does not arrive in time."""

    receive_timeout_s = 20.0
    """Maximum time from the first byte of a request to the end of its headers, and then to the end of its body."""

    _timer: asyncio.TimerHandle | None = None
    _body_began = 0.0
    _body_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by the event loop. A client that sends nothing has the time of an idle connection."""
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        if self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._timer = self.loop.call_later(self.receive_timeout_s, self._refuse)
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._stop_timer()
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._stop_timer()
        super().on_headers_complete()
        if self.cycle is not None and self.cycle.scope["http_version"] == "1.0":
            self.cycle.__class__ = _UndelimitedResponse  # uvicorn chooses the class itself
        self._body_began, self._body_bytes = self.loop.time(), 0
        self._timer = self.loop.call_later(self.receive_timeout_s, self._check_body)

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._stop_timer()
        super().on_message_complete()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check_body(self) -> None:
        now = self.loop.time()
        if self.flow.read_paused:  # the service is slow, not the client
            self._body_began = now
        left = self._body_began + self.receive_timeout_s + self._body_bytes / _MIN_BYTES_PER_S - now
        if left > 0:
            self._timer = self.loop.call_later(left, self._check_body)
        elif self.cycle.response_started:
            self.transport.close()
        else:
            self.cycle.disconnected = True  # ends the request as if the client had left
            self.cycle.message_event.set()
            self._refuse()

    def _refuse(self) -> None:
        self.transport.write(_LATE)
        self.transport.close()


class _UndelimitedResponse(RequestResponseCycle):
    """A response over HTTP/1.0, which has no chunked encoding: the end of the connection ends the body.

    Source: https://www.rfc-editor.org/rfc/rfc9112#section-6.1
    """

    async def send(self, message: Any) -> None:
        self.chunked_encoding = False
        self.expected_content_length = len(message.get("body", b""))
        await super().send(message)
