"""A server on loopback that speaks the model hub's file route: redirects to storage, ETags, ranges, gated files."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class HubFile:
    content: bytes
    large: bool = True
    """Large files are redirected to storage and named by sha256; small ones are answered directly, by git's sha1."""
    gated: bool = False
    stated_digest: str | None = None
    """What the hub says in place of the truth."""

    @property
    def digest(self) -> str:
        if self.stated_digest is not None:
            return self.stated_digest
        if self.large:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content, usedforsecurity=False).hexdigest()


@dataclass
class Asked:
    path: str
    range: str | None
    authorization: str | None


@dataclass
class Hub:
    files: dict[str, HubFile] = field(default_factory=dict)
    """`owner/name/resolve/revision/file` → file."""
    asked: list[Asked] = field(default_factory=list)
    break_after: int | None = None
    """Bytes after which storage breaks off its next answer, once."""
    url: str = ""
    storage_url: str = ""

    def requests(self, prefix: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.path.startswith(prefix)]


@contextlib.contextmanager
def running_hub() -> Iterator[Hub]:
    """The hub on one port and its storage on another: another origin, as in life."""
    hub = Hub()

    class Quiet(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def noted(self) -> str:
            hub.asked.append(Asked(self.path, self.headers.get("range"), self.headers.get("authorization")))
            return self.path

        def answer(self, status: int, body: bytes = b"", *, break_after: int | None = None, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            if break_after is None:
                self.wfile.write(body)
            else:
                self.wfile.write(body[:break_after])
                self.wfile.flush()
                self.close_connection = True

    class HubHandler(Quiet):
        def do_GET(self) -> None:
            file = hub.files.get(self.noted().removeprefix("/"))
            if file is None:
                self.answer(404)
            elif file.gated and self.headers.get("authorization") != "Bearer hub-token":
                self.answer(401)
            elif file.large:
                location = f"{hub.storage_url}/{file.digest}?of={self.path}"
                self.answer(302, location=location, x_linked_etag=f'"{file.digest}"', x_linked_size="1")
            else:
                self.answer(200, file.content, etag=f'"{file.digest}"')

    class StorageHandler(Quiet):
        def do_GET(self) -> None:
            file = hub.files[self.noted().partition("?of=/")[2]]
            etag = f'"{hashlib.md5(file.content, usedforsecurity=False).hexdigest()}"'
            body, status, headers = file.content, 200, {"etag": etag}
            wanted = self.headers.get("range")
            if wanted and self.headers.get("if-range", etag) == etag:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                if start >= len(body):
                    self.answer(416)
                    return
                headers["content_range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
                body, status = body[start:], 206
            break_after, hub.break_after = hub.break_after, None
            self.answer(status, body, break_after=break_after, **headers)

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
