"""A Hugging Face hub on loopback: metadata on HEAD, redirects to storage, ranges, gated files, error codes.

Source: https://huggingface.co/docs/hub/api and the requests of huggingface_hub 2.4.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c0ffee" * 6 + "c0de"
TOKEN = "hub-token"  # noqa: S105


@dataclass
class HubFile:
    content: bytes
    large: bool = True
    """Large files are redirected to storage and have a sha256. Small ones are served directly and have a Git id."""
    gated: bool = False
    stated_digest: str | None = None
    """A wrong digest to state."""

    @property
    def digest(self) -> str:
        if self.stated_digest is not None:
            return self.stated_digest
        if self.large:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content, usedforsecurity=False).hexdigest()


@dataclass
class Received:
    """A request."""

    method: str
    path: str
    range: str | None
    authorization: str | None


@dataclass
class Hub:
    files: dict[str, HubFile] = field(default_factory=dict)
    """`owner/name/resolve/revision/file` → file."""
    received: list[Received] = field(default_factory=list)
    break_after: int | None = None
    """Number of bytes after which storage closes the connection of the next response, once."""
    names_commit: bool = True
    """Whether responses have the header by which a hub is recognised."""
    url: str = ""
    storage_url: str = ""

    def requests(self, method: str, prefix: str = "/") -> list[Received]:
        return [each for each in self.received if each.method == method and each.path.startswith(prefix)]


@contextlib.contextmanager
def running_hub() -> Iterator[Hub]:
    """The hub and, on another port and so another origin, its storage."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            # Clients that are interrupted reset the connection.
            with contextlib.suppress(ConnectionError):
                super().handle()

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            headers = self.headers
            hub.received.append(Received(self.command, self.path, headers.get("range"), headers.get("authorization")))
            self.reply()

        def reply(self) -> None:
            raise NotImplementedError

        def send(self, status: int, body: bytes = b"", *, break_after: int | None = None, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"content-length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[:break_after])
                self.close_connection = break_after is not None

    class HubHandler(Handler):
        def reply(self) -> None:
            file = hub.files.get(self.path.removeprefix("/"))
            named = {"x_repo_commit": COMMIT} if hub.names_commit else {}
            if file is None:
                self.send(404, x_error_code="EntryNotFound", **named)
            elif file.gated and self.headers.get("authorization") != f"Bearer {TOKEN}":
                self.send(401, x_error_code="GatedRepo", **named)
            elif file.large:
                linked = {"x_linked_etag": f'"{file.digest}"', "x_linked_size": str(len(file.content))}
                self.send(302, location=f"{hub.storage_url}/{file.digest}?of={self.path}", **linked, **named)
            else:
                self.send(200, file.content, etag=f'"{file.digest}"', **named)

    class StorageHandler(Handler):
        def reply(self) -> None:
            content = hub.files[self.path.partition("?of=/")[2]].content
            start = int(self.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
            break_after, hub.break_after = hub.break_after, None
            if start:
                ranged = {"content_range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
                self.send(206, content[start:], break_after=break_after, **ranged)
            else:
                self.send(200, content, break_after=break_after)

    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for handler in (HubHandler, StorageHandler)]
    threads = [threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}) for server in servers]
    for thread in threads:
        thread.start()
    hub.url, hub.storage_url = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
        for thread in threads:
            thread.join()
