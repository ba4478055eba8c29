"""A stub transformer that sends events at fixed intervals, with the time of each.

    python -m benchmarks.event_stub PORT EVERY_MS

An answer has as many events as the request's `max_tokens`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse


def application(every_s: float) -> FastAPI:
    app = FastAPI(openapi_url=None)

    async def events(count: int) -> AsyncIterator[bytes]:
        for number in range(count):
            if number:
                await asyncio.sleep(every_s)
            # Wall clock: another process reads it.
            yield b'data: {"text_output": "token", "sent_ns": %d}\n\n' % time.clock_gettime_ns(time.CLOCK_MONOTONIC)

    @app.get("/ready")
    async def ready() -> Response:
        return Response()

    @app.post("/v2/models/rag/generate_stream")
    async def generate_stream(request: Request) -> Response:
        return StreamingResponse(events((await request.json())["max_tokens"]), media_type="text/event-stream")

    return app


if __name__ == "__main__":
    uvicorn.run(
        application(float(sys.argv[2]) / 1000), port=int(sys.argv[1]), log_level="warning", timeout_keep_alive=65
    )
