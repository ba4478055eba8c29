"""OpenAI's chat completions over the graph, at `/openai/v1` (where KServe has it) and `/v1`.

Beside OpenAI's fields an answer carries `sources`, `citations`, `index_version`, `cut`, `query`, `answerability`,
`refused`, `topics` and `timings`; a stream has them in the chunks that stand for the events of `generate_stream`.
OpenAI's clients keep them as extra fields.

Source: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request, Response

from chassis.context import CallContext
from chassis.errors import InvalidRequestError, NotFoundError, ServiceError
from transformer.generate import event_stream, json_response, read_json
from transformer.server import timing_headers
from transformer.service import Event, Question, RagService
from transformer.wire import Answer, ChatMessage, ChatRequest, EndEvent, Message, Sampling, SourcesEvent

PREFIXES = ("/openai/v1", "/v1/chat")
"""Paths whose errors have OpenAI's shape."""

_SAMPLING = ("temperature", "top_k", "top_p", "seed", "repetition_penalty", "presence_penalty", "frequency_penalty")
_CREATED = int(time.time())


def openai_error(error: ServiceError) -> dict[str, Any]:
    """OpenAI's error body."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    return {"error": {"message": error.message, "type": kind, "param": error.field, "code": error.code}}


def openai_routes(service: RagService, *, timeout_s: float, default_max_tokens: int) -> APIRouter:
    """Chat completions and the list of models."""
    router = APIRouter(tags=["openai"])
    card = {"id": service.model_name, "object": "model", "created": _CREATED, "owned_by": "kserve-rag"}

    @router.post("/openai/v1/chat/completions", response_model=None)
    @router.post("/v1/chat/completions", response_model=None)
    async def chat_completions(request: Request) -> Response:
        """An answer to the last message; the messages before it are its history."""
        ctx = CallContext.start(timeout_s, request.headers)
        chat = await read_json(request, ChatRequest)
        if chat.model != service.model_name:
            raise NotFoundError(
                f"model: there is no {chat.model!r}. This service has the model {service.model_name!r}.", field="model"
            )
        question = _question(chat, default_max_tokens)
        if chat.stream:
            with_usage = chat.stream_options is not None and chat.stream_options.include_usage
            encode = _chunk_encoder(question.id, service.model_name, with_usage)
            return await event_stream(service.stream(question, ctx), encode, openai_error, end=b"data: [DONE]\n\n")
        answer = await service.answer(question, ctx)
        return json_response(_completion(answer), timing_headers([answer.timings]))

    @router.get("/openai/v1/models")
    async def models() -> dict[str, Any]:
        """The models of this service."""
        return {"object": "list", "data": [card]}

    @router.get("/v1/models")
    async def models_for_both() -> dict[str, Any]:
        """KServe's v1 list and OpenAI's, at the path that both of them use."""
        return {"models": [service.model_name], "object": "list", "data": [card]}

    @router.get("/openai/v1/models/{model_name}")
    async def model(model_name: str) -> dict[str, Any]:
        """One model."""
        if model_name != service.model_name:
            raise NotFoundError(f"model: there is no {model_name!r}.", field="model")
        return card

    return router


def _question(chat: ChatRequest, default_max_tokens: int) -> Question:
    *earlier, last = chat.messages
    if last.role != "user":
        raise InvalidRequestError(
            f"messages: the last message has the role {last.role!r}. Send the user's question last.", field="messages"
        )
    text = last.text()
    if not text.strip():
        raise InvalidRequestError("messages: the last message is empty. Send a question.", field="messages")
    if chat.max_tokens is not None and chat.max_completion_tokens is not None:
        raise InvalidRequestError("max_tokens and max_completion_tokens are both there. Send one.", field="max_tokens")
    chosen: dict[str, Any] = {name: value for name in _SAMPLING if (value := getattr(chat, name)) is not None}
    max_tokens = chat.max_completion_tokens if chat.max_tokens is None else chat.max_tokens
    chosen["max_tokens"] = default_max_tokens if max_tokens is None else max_tokens
    if chat.stop is not None:
        chosen["stop"] = [chat.stop] if isinstance(chat.stop, str) else chat.stop
    instructions = "\n\n".join(m.text() for m in earlier if m.role in ("system", "developer"))
    return Question(
        text=text,
        sampling=Sampling.model_validate(chosen),
        history=tuple(_turn(m) for m in earlier if m.role in ("user", "assistant")),
        instructions=instructions or None,
        grounding=chat,
    )


def _turn(message: ChatMessage) -> Message:
    return Message.model_construct(role=message.role, content=message.text())


def _completion(answer: Answer) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{answer.id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": answer.model_name,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answer.text_output, "refusal": None},
                "finish_reason": answer.finish_reason,
                "logprobs": None,
            }
        ],
        "usage": answer.usage,
        "sources": answer.sources,
        "index_version": answer.index_version,
        "cut": answer.cut,
        "refused": answer.refused,
        "query": answer.query,
        "timings": answer.timings,
        "answerability": answer.answerability,
        "topics": answer.topics,
        "citations": answer.citations,
    }


def _chunk_encoder(question_id: str, model_name: str, with_usage: bool) -> Callable[[Event], list[dict[str, Any]]]:
    created = int(time.time())

    def encode(event: Event) -> list[dict[str, Any]]:
        chunk: dict[str, Any] = {
            "id": f"chatcmpl-{question_id}",
            "object": "chat.completion.chunk",
            "created": created,
            "model": model_name,
        }
        delta: dict[str, Any] = {}
        finish_reason = None
        if isinstance(event, SourcesEvent):
            delta = {"role": "assistant", "content": ""}
            chunk["sources"] = event.sources
            chunk["index_version"] = event.index_version
            chunk["cut"] = event.cut
            chunk["query"] = event.query
            chunk["timings"] = event.timings
            chunk["answerability"] = event.answerability
        elif isinstance(event, EndEvent):
            finish_reason = event.finish_reason
            chunk["sources"] = event.sources
            chunk["refused"] = event.refused
            chunk["timings"] = event.timings
            chunk["topics"] = event.topics
            chunk["citations"] = event.citations
        else:
            delta = {"content": event.text_output}
        chunk["choices"] = [{"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}]
        if with_usage and isinstance(event, EndEvent):
            bare = {name: chunk[name] for name in ("id", "object", "created", "model")}
            return [chunk, {**bare, "choices": [], "usage": event.usage}]
        return [chunk]

    return encode
