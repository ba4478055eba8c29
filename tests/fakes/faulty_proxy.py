"""A proxy in front of a real server that spoils its answers, whatever protocol they have on top of HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["none", "status", "silent", "not_http", "html", "garbage", "reset", "stall", "bytewise"]
"""Faults of responses to POST requests. `reset` and `stall` begin in the middle of the body: after two events, or
512 bytes, of a stream."""


class FaultyProxy:
    """Forwards requests to `url`. GET requests, for health and metadata, always pass unchanged."""

    def __init__(self, url: str) -> None:
        self._upstream = urlsplit(url)
        self.url = ""
        self.fault: Fault = "none"
        self.status = 500
        self.reason = "CUDA out of memory"
        """Message in the body of a `status`."""
        self.left = asyncio.Event()
        """Set when a client closes its connection before the answer ends."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[FaultyProxy]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        tasks: set[asyncio.Task[None] | None] = set()
        self._tasks = tasks
        try:
            yield self
        finally:
            server.close()
            for task in filter(None, tasks):
                task.cancel()
            await asyncio.gather(*filter(None, tasks), return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.split(b"\r\n")
            lengths = [line.split(b":")[1] for line in lines if line.lower().startswith(b"content-length:")]
            body = await reader.readexactly(int(lengths[0]) if lengths else 0)
            fault = self.fault if head.startswith(b"POST") else "none"
            if fault == "status":
                reason = self.reason.encode()  # AWS has it under "message"
                await self._send(writer, str(self.status), b'{"error": "%b", "message": "%b"}' % (reason, reason))
            elif fault == "html":
                await self._send(writer, "200", b"<html>Please log in</html>")
            elif fault == "garbage":
                await self._send(writer, "200", b"data: {not json\n\n")
            elif fault == "not_http":
                writer.write(b"220 mail ready\r\n")
                await writer.drain()
            elif fault == "silent":
                await reader.read()
            else:
                kept = [line for line in lines[:-2] if not line.lower().startswith((b"connection:", b"host:"))]
                request = b"\r\n".join([*kept, b"Host: localhost", b"Connection: close", b"", b""]) + body
                try:
                    await self._relay(request, fault, reader, writer)
                except ConnectionError:  # a write to a client that has closed
                    self.left.set()

    async def _send(self, writer: asyncio.StreamWriter, status: str, body: bytes) -> None:
        writer.write(f"HTTP/1.1 {status} -\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()

    async def _relay(
        self, request: bytes, fault: Fault, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        answers, upstream = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
        left = asyncio.create_task(_closed(reader))
        with contextlib.closing(upstream):
            upstream.write(request)
            head = await answers.readuntil(b"\r\n\r\n")
            writer.write(head)
            events = 2 if b"text/event-stream" in head.lower() else 0  # the first of OpenAI's chat has no text
            passing = 512 if not events and b"chunked" in head.lower() else 0  # bytes of another stream
            while True:
                block = asyncio.create_task(answers.read(65536))
                await asyncio.wait({block, left}, return_when=asyncio.FIRST_COMPLETED)
                if left.done() and not block.done():
                    block.cancel()
                    self.left.set()
                    return
                content = await block
                if not content:
                    break
                if fault in ("reset", "stall"):
                    if len(content) < passing:
                        passing -= len(content)
                        writer.write(content)
                        await writer.drain()
                        continue
                    *complete, rest = content.split(b"\n\n", events) if events else [content]
                    events -= len(complete)
                    if events:
                        writer.write(content)
                        await writer.drain()
                        continue
                    writer.write(content[: len(content) - len(rest) if complete else len(content) // 2])
                    await writer.drain()
                    if fault == "reset":
                        writer.transport.abort()
                    await left
                    self.left.set()
                    return
                for piece in [content[i : i + 1] for i in range(len(content))] if fault == "bytewise" else [content]:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
            left.cancel()


async def _closed(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):  # a client that closes with unread bytes resets the connection
        await reader.read()
