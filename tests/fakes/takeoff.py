"""TitanML Takeoff for tests, in its two editions. The answers come from `tests.fakes.scripted_llm`.

Source: https://github.com/titanml/takeoff-community `app/main.py` (bare text),
https://docs.titanml.co/docs/Docs/interfacing/generate (server-sent events). The Pro edition's official client reads its
stream in tests/predictor/test_takeoff.py.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web
from pydantic import BaseModel, ValidationError

from tests.fakes.loopback import ThreadedServer
from tests.fakes.scripted_llm import Reply, reply


class CommunityRequest(BaseModel):
    text: str
    generate_max_length: int = 128
    sampling_topk: int = 1
    sampling_topp: float = 1.0
    sampling_temperature: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0


class ProRequest(BaseModel):
    text: str
    max_new_tokens: int | None = 128
    sampling_topk: int | None = 1
    sampling_topp: float | None = 1.0
    sampling_temperature: float | None = 1.0
    repetition_penalty: float | None = 1.0
    no_repeat_ngram_size: int | None = 0
    consumer_group: str = "primary"


class Takeoff(ThreadedServer):
    def __init__(self, *, pro: bool = False) -> None:
        super().__init__()
        self._pro = pro
        self.requests: list[dict[str, Any]] = []

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/generate", self._generate)
        app.router.add_post("/generate_stream", self._stream)
        app.router.add_get("/healthz" if self._pro else "/openapi.json", self._health)
        return app

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({})

    async def _answer(self, request: web.Request) -> Reply | web.Response:
        body = await request.json()
        self.requests.append(body)
        kind = ProRequest if self._pro else CommunityRequest
        try:
            asked: Any = kind.model_validate(body)
        except ValidationError as error:
            return web.json_response({"detail": error.errors(include_url=False)}, status=422)
        if asked.sampling_temperature == 0:
            return web.Response(status=500, text="Internal Server Error")
        return reply(
            asked.text,
            max_tokens=(asked.max_new_tokens if self._pro else asked.generate_max_length) or 128,
            temperature=0 if asked.sampling_topk in (1, None) else 1,
        )

    async def _generate(self, request: web.Request) -> web.Response:
        answer = await self._answer(request)
        if isinstance(answer, web.Response):
            return answer
        return web.json_response({"text": answer.text} if self._pro else {"status": "success", "message": answer.text})

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        answer = await self._answer(request)
        if isinstance(answer, web.Response):
            return answer
        response = web.StreamResponse(headers={"content-type": "text/event-stream"} if self._pro else {})
        await response.prepare(request)
        for piece in answer.pieces:
            await response.write(f"data: {piece}\n\n".encode() if self._pro else piece.encode())
        return response
