"""The HTTP/1 protocol of a service: uvicorn's, with responses that clients of HTTP/1.0 can read."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle


class HttpProtocol(HttpToolsProtocol):
    """A connection of a client."""

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        super().on_headers_complete()
        if self.cycle is not None and self.cycle.scope["http_version"] == "1.0":
            self.cycle.__class__ = _UndelimitedResponse  # uvicorn chooses the class itself


class _UndelimitedResponse(RequestResponseCycle):
    """A response over HTTP/1.0, which has no chunked encoding: the end of the connection ends the body.

    Source: https://www.rfc-editor.org/rfc/rfc9112#section-6.1
    """

    async def send(self, message: Any) -> None:
        self.chunked_encoding = False
        self.expected_content_length = len(message.get("body", b""))
        await super().send(message)
