"""OpenAI's chat completions over the graph, at `/openai/v1` (KServe's path) and `/v1`.

In addition to OpenAI's fields, a response has an answer's fields (`sources`, `citations`, `timings` …); a stream has
them in the chunks that correspond to the events of `generate_stream`. OpenAI's clients keep them as extra fields.

Source: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from chassis.context import CallContext
from chassis.errors import InvalidRequestError, NotFoundError, NotReadyError, ServiceError
from chassis.routes import (
    BODY_ERRORS,
    UPSTREAM_ERRORS,
    JsonRoute,
    error_responses,
    event_responses,
    json_response,
    request_example,
)
from chassis.streaming import event_stream
from transformer.errors import PromptTooLongError
from transformer.question import Question
from transformer.server import READY_TIMEOUT_S, event_timing_headers, timing_headers
from transformer.service import Event, RagService
from transformer.wire import (
    Answer,
    ChatCompletion,
    ChatCompletionChunk,
    ChatEndChunk,
    ChatError,
    ChatRequest,
    ChatSourcesChunk,
    EndEvent,
    Message,
    ModelCard,
    ModelCardAndReadiness,
    ModelList,
    ModelListAndNames,
    OutcomeFields,
    RetrievalFields,
    SamplingParameters,
    SourceFields,
    SourcesEvent,
)

PREFIXES = ("/openai/v1", "/v1/chat")
"""Paths whose errors have OpenAI's shape."""

_EXTENSION = {*SourceFields.model_fields, *RetrievalFields.model_fields, *OutcomeFields.model_fields}
"""Fields of an answer that OpenAI's protocol lacks."""

_CREATED = int(time.time())


def openai_error(error: ServiceError) -> dict[str, Any]:
    """OpenAI's error body."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    param = "messages" if error.field == "input" else error.field
    # Clients shorten the history, or choose another model, when they see OpenAI's own code.
    code = "context_length_exceeded" if isinstance(error, PromptTooLongError) else error.code
    return {"error": {"message": error.message, "type": kind, "param": param, "code": code}}


def openai_routes(service: RagService, *, timeout_s: float) -> APIRouter:
    """Chat completions and the list of models."""
    router = APIRouter(tags=["openai"], route_class=JsonRoute)
    card = {
        "id": service.model_name,
        "object": "model",
        "created": _CREATED,
        "owned_by": "kserve-rag",
        "defaults": service.defaults,
    }

    def no_model(name: str) -> NotFoundError:
        known = f"This service has the model {service.model_name!r}."
        return NotFoundError(f"model: there is no {name!r}. {known}", field="model")

    chunks = ChatSourcesChunk | ChatEndChunk | ChatCompletionChunk
    chat_route: dict[str, Any] = {
        "summary": "Ask as OpenAI's clients do",
        "response_model": ChatCompletion,
        "response_description": "The answer, or its stream.",
        "responses": {
            **event_responses(chunks),
            **error_responses(*UPSTREAM_ERRORS, *BODY_ERRORS, NotFoundError, body=ChatError),
        },
        "openapi_extra": request_example(
            {
                "model": "rag",
                "messages": [{"role": "user", "content": "How long is the warranty?"}],
                "max_tokens": 100,
            }
        ),
    }

    @router.post("/openai/v1/chat/completions", **chat_route)
    @router.post("/v1/chat/completions", **chat_route)
    async def chat_completions(request: Request, body: ChatRequest) -> Response:
        """An answer to the last message; earlier messages are its history. With `stream`, server-sent events."""
        ctx = CallContext.start(timeout_s, request.headers)
        if body.model != service.model_name:
            raise no_model(body.model)
        question = _question(body)
        if body.stream:
            with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
            encode = _chunk_encoder(question.id, service.model_name, with_usage)
            events = service.stream(question, ctx)
            return await event_stream(events, encode, event_timing_headers, openai_error, end=b"data: [DONE]\n\n")
        answer = await service.answer(question, ctx)
        return json_response(_completion(answer), timing_headers([answer.timings]))

    @router.get(
        "/openai/v1/models", summary="The models, as OpenAI lists them", response_model=ModelList, description=""
    )
    async def models() -> Response:
        return json_response({"object": "list", "data": [card]})

    @router.get("/v1/models", summary="The models, as KServe and OpenAI list them", response_model=ModelListAndNames)
    async def models_and_names() -> Response:
        """KServe's v1 list and OpenAI's, at the path that both use."""
        return json_response({"models": [service.model_name], "object": "list", "data": [card]})

    @router.get(
        "/v1/models/{model_name}",
        summary="A model and its readiness, as KServe and OpenAI give them",
        response_model=ModelCardAndReadiness,
        responses=error_responses(NotFoundError, NotReadyError),
    )
    async def model_and_readiness(
        model_name: Annotated[str, Path(description="Name of the model.", examples=["rag"])],
    ) -> Response:
        """KServe's readiness and OpenAI's card of the model, at the path that both use."""
        if model_name != service.model_name:
            raise no_model(model_name)
        reason = await service.not_ready_reason(CallContext.start(READY_TIMEOUT_S))
        if reason is not None:
            raise NotReadyError(reason)
        return json_response({"name": model_name, "ready": True, **card})

    @router.get(
        "/openai/v1/models/{model_name}",
        summary="A model",
        response_model=ModelCard,
        responses=error_responses(NotFoundError, body=ChatError),
    )
    async def model(model_name: Annotated[str, Path(description="Name of the model.", examples=["rag"])]) -> Response:
        if model_name != service.model_name:
            raise no_model(model_name)
        return json_response(card)

    return router


def _question(chat: ChatRequest) -> Question:
    *earlier, last = chat.messages
    if last.role != "user":
        raise InvalidRequestError(
            f"messages: the last message has the role {last.role!r}. Send the user's question last.", field="messages"
        )
    text = last.text()
    if not text.strip():
        raise InvalidRequestError("messages: the last message is empty. Send a question.", field="messages")
    if None not in (chat.max_tokens, chat.max_completion_tokens) and chat.max_tokens != chat.max_completion_tokens:
        raise InvalidRequestError("max_tokens and max_completion_tokens differ. Send one.", field="max_tokens")
    given = {name: getattr(chat, name, None) for name in SamplingParameters.model_fields}
    if given["max_tokens"] is None:
        given["max_tokens"] = chat.max_completion_tokens
    if isinstance(chat.stop, str):
        given["stop"] = [chat.stop]
    instructions = "\n\n".join(m.text() for m in earlier if m.role in ("system", "developer"))
    return Question(
        text,
        sampling=SamplingParameters.model_validate({k: v for k, v in given.items() if v is not None}),
        history=tuple(
            Message.model_construct(role=m.role, content=m.text()) for m in earlier if m.role in ("user", "assistant")
        ),
        instructions=instructions or None,
        grounding=chat,
    )


def _extension(fields: Answer | Event) -> dict[str, Any]:
    return {name: value for name, value in vars(fields).items() if name in _EXTENSION}


def _completion(answer: Answer) -> dict[str, Any]:
    message = {"role": "assistant", "content": answer.text_output, "refusal": None}
    return {
        "id": f"chatcmpl-{answer.id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": answer.model_name,
        "choices": [{"index": 0, "message": message, "finish_reason": answer.finish_reason, "logprobs": None}],
        "usage": answer.usage,
        **_extension(answer),
    }


def _chunk_encoder(question_id: str, model_name: str, with_usage: bool) -> Callable[[Event], list[dict[str, Any]]]:
    envelope = {
        "id": f"chatcmpl-{question_id}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": model_name,
    }

    def encode(event: Event) -> list[dict[str, Any]]:
        delta: dict[str, Any] = {}
        finish_reason = None
        if isinstance(event, SourcesEvent):
            delta = {"role": "assistant", "content": ""}
        elif isinstance(event, EndEvent):
            finish_reason = event.finish_reason
        else:
            delta = {"content": event.text_output}
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        chunk = {**envelope, **_extension(event), "choices": [choice]}
        if not with_usage:
            return [chunk]
        chunk["usage"] = None
        if isinstance(event, EndEvent):
            return [chunk, {**envelope, "choices": [], "usage": event.usage}]
        return [chunk]

    return encode
