"""trtllm-serve's `/v1/completions`, `/v1/models` and `/health`, field by field, without a GPU and without a model.

It answers with the request as JSON. An answer to a prompt with "aborts" ends as cancelled.

Source: TensorRT-LLM 1.2 `tensorrt_llm/serve/openai_protocol.py` (the fields that we use, with their types; it refuses
unknown ones), `openai_server.py` (routes, errors) and `postprocess_handlers.py` (events of a stream).
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any, Literal

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from tests.fakes.loopback import serving

MODEL = "Llama-3.1-8B-Instruct"
PIECE = 7
"""Characters of an event's text."""


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    include_usage: bool | None = True
    continuous_usage_stats: bool | None = False


class CompletionRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: str
    prompt: list[int] | list[list[int]] | str | list[str]
    frequency_penalty: float | None = 0.0
    logprobs: int | None = None
    max_tokens: int | None = None
    presence_penalty: float | None = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int = 0
    repetition_penalty: float = 1.0
    add_special_tokens: bool = True

    @model_validator(mode="before")
    @classmethod
    def _options_of_streams_only(cls, data: Any) -> Any:
        if data.get("stream_options") and not data.get("stream"):
            raise ValueError("Stream options can only be defined when stream is true.")
        return data


class TrtllmServe:
    """One server on loopback."""

    def __init__(self, *, health_path: str = "/health") -> None:
        self.url = ""
        self.healthy = True
        self.api_key: str | None = None
        """The only key that is accepted. None: any, and none."""
        self.health_path = health_path
        self.authorizations: list[tuple[str, str | None]] = []
        """Path and Authorization of every request."""
        self.listed = 0
        """Times that the list of models was asked for."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[TrtllmServe]:
        app = web.Application(middlewares=[self._authorize])
        app.router.add_get(self.health_path, self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/completions", self._completions)
        async with serving(app) as self.url:
            yield self

    @web.middleware
    async def _authorize(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        sent = request.headers.get("authorization")
        self.authorizations.append((request.path, sent))
        if self.api_key is not None and sent != f"Bearer {self.api_key}":
            return web.json_response({"error": {"message": f"Incorrect API key provided: {sent}"}}, status=401)
        return await handler(request)

    async def _health(self, _: web.Request) -> web.StreamResponse:
        return web.Response(status=200 if self.healthy else 503)

    async def _models(self, _: web.Request) -> web.StreamResponse:
        self.listed += 1
        card = {"id": MODEL, "object": "model", "created": int(time.time()), "owned_by": "tensorrt_llm"}
        return web.json_response({"object": "list", "data": [card]})

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        sent = await request.json()
        try:
            asked = CompletionRequest.model_validate(sent)
        except ValidationError as error:
            return web.json_response({"error": str(error)}, status=400)
        assert isinstance(asked.prompt, str)
        assert asked.stream, "only streams are asked for"
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        await self._stream(response, asked, json.dumps(sent))
        return response

    async def _stream(self, response: web.StreamResponse, asked: CompletionRequest, text: str) -> None:
        prompt = str(asked.prompt)
        reason: Literal["stop", "length", "cancelled"] = "cancelled" if "aborts" in prompt else "length"
        pieces = [text[i : i + PIECE] for i in range(0, len(text), PIECE)]
        for number, piece in enumerate(pieces):
            log_probs = {
                "text_offset": [0],
                "token_logprobs": [-0.5],
                "tokens": [piece],
                "top_logprobs": [{piece: -0.5}],
            }
            event_reason = reason if number == len(pieces) - 1 else None
            await send(response, event(piece, event_reason, log_probs if asked.logprobs else None))
        if asked.stream_options is not None and asked.stream_options.include_usage:
            usage = {
                "prompt_tokens": len(prompt.split()),
                "total_tokens": len(prompt.split()) + len(pieces),
                "completion_tokens": len(pieces),
                "prompt_tokens_details": {"cached_tokens": 0},
            }
            await send(response, event(None, usage=usage) | {"object": "chat.completion.chunk"})
        await response.write(b"data: [DONE]\n\n")


def event(
    text: str | None,
    reason: str | None = None,
    log_probs: dict[str, Any] | None = None,
    usage: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """An event of a stream; it has no choices if it has no text."""
    choice = {
        "index": 0,
        "text": text,
        "token_ids": None,
        "logprobs": log_probs,
        "context_logits": None,
        "finish_reason": reason,
        "stop_reason": None,
        "disaggregated_params": None,
        "avg_decoded_tokens_per_iter": None,
    }
    return {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1,
        "model": MODEL,
        "choices": [] if text is None else [choice],
        "usage": usage,
    }


async def send(response: web.StreamResponse, content: dict[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(content).encode() + b"\n\n")
