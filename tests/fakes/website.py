"""A website on loopback whose pages a test changes while it runs."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field

from aiohttp import web

from tests.fakes.loopback import ThreadedServer


@dataclass
class Page:
    """The response to requests of one path."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    endless: bool = False
    """Sends the body again and again, slowly, and never ends."""


class Website(ThreadedServer):
    """Serves `pages` with ETags, and 404 for all other paths."""

    def __init__(self) -> None:
        super().__init__()
        self.pages: dict[str, Page] = {}
        """Path with query → page."""
        self.requests: list[tuple[str, int]] = []
        """Path and status of each response."""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def put(self, path: str, body: bytes | str, content_type: str = "", **headers: str) -> str:
        """Serves a page and returns its URL."""
        content = body if isinstance(body, bytes) else body.encode()
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if content_type:
            given["Content-Type"] = content_type
        self.pages[path] = Page(content, headers=given)
        return f"{self.url}{path}"

    def answer(self, path: str, status: int, **headers: str) -> str:
        """Serves a status without content and returns the URL."""
        self.pages[path] = Page(status=status, headers=headers)
        return f"{self.url}{path}"

    def asked(self) -> list[tuple[str, int]]:
        """Path and status of the responses since the previous call, without those for robots.txt."""
        requests, self.requests = self.requests, []
        return [each for each in requests if each[0] != "/robots.txt"]

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._respond)
        return app

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        page = self.pages.get(request.path_qs, Page(status=404))
        etag = f'"{hashlib.sha256(page.body).hexdigest()}"'
        status = page.status
        if status == 200 and request.headers.get("If-None-Match") == etag:
            status = 304
        self.requests.append((request.path_qs, status))
        if page.endless:
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(page.body)
                await asyncio.sleep(0.05)
        headers = {"ETag": etag, **page.headers} if page.status == 200 else page.headers
        return web.Response(body=page.body if status == 200 else b"", status=status, headers=headers)
