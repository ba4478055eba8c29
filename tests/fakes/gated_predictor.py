"""An LLM server for tests, in the `llmapi` layout, that stops after its first word while its gate is shut."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading

from aiohttp import web

from tests.fakes.loopback import ThreadedServer

WORDS = ("Pots", " are", " glazed", " twice.")
MODEL = "tensorrt_llm"


class GatedPredictor(ThreadedServer):
    """Serves on loopback from its own thread."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: set[int] = set()
        """Client ports of the answers that wait at the gate."""
        self.loaded = True
        """Whether it says that its model is there."""
        self.left = threading.Event()
        """Set when a client has broken off an answer."""
        self._open = asyncio.Event()
        self._open.set()

    def shut(self) -> None:
        """Answers begun from now on wait after their first word."""
        self.left.clear()
        self.call(self._open.clear)

    def open(self) -> None:
        """Lets all go."""
        self.call(self._open.set)

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get(f"/v2/models/{MODEL}", self._describe)
        app.router.add_post(f"/v2/models/{MODEL}/generate_stream", self._generate)
        return app

    async def _describe(self, _: web.Request) -> web.StreamResponse:
        if not self.loaded:
            return web.json_response({"error": "model is loading"}, status=503)
        return web.json_response({"name": MODEL, "inputs": [], "outputs": []})

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        assert request.transport is not None
        port = request.transport.get_extra_info("peername")[1]
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        try:
            for number in range(len(WORDS)):
                await self._send(response, {"text_output": "".join(WORDS[: number + 1])})
                if not self._open.is_set():
                    self.waiting.add(port)
                    await self._open.wait()
        except (ConnectionError, asyncio.CancelledError):
            self.left.set()
            raise
        finally:
            self.waiting.discard(port)
        end = {"text_output": "".join(WORDS), "finish_reason": "stop", "num_input_tokens": 50, "num_output_tokens": 4}
        with contextlib.suppress(ConnectionError):
            await self._send(response, end)
        return response

    @staticmethod
    async def _send(response: web.StreamResponse, event: dict[str, object]) -> None:
        await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
