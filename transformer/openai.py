"""OpenAI's chat completions and models over the graph, at `/openai/v1` (KServe's path) and `/v1`.

In addition to OpenAI's fields, a response has an answer's fields (`sources`, `citations`, `timings` …); a stream has
them in the chunks that correspond to the events of `generate_stream`. OpenAI's clients keep them as extra fields.

Source: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel

from chassis.context import CallContext
from chassis.error_mapping import ErrorShape
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
    ChatMessage,
    ChatRequest,
    ChatSourcesChunk,
    EndEvent,
    GroundingParameters,
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

_EXTENSION = {*SourceFields.model_fields, *RetrievalFields.model_fields, *OutcomeFields.model_fields}
"""Fields of an answer that OpenAI's protocol lacks."""

_CREATED = int(time.time())


def _shape(question: str) -> ErrorShape:
    """OpenAI's error body, for a route whose question is in the field `question`."""

    def shape(error: ServiceError) -> dict[str, Any]:
        kind = "invalid_request_error" if error.status < 500 else "server_error"
        param = question if error.field == "input" else error.field
        # Clients shorten the history, or choose another model, when they see OpenAI's own code.
        code = "context_length_exceeded" if isinstance(error, PromptTooLongError) else error.code
        return {"error": {"message": error.message, "type": kind, "param": param, "code": code}}

    return shape


chat_error = _shape("messages")
completion_error = _shape("prompt")
input_error = _shape("input")

ERROR_SHAPES: Mapping[str, ErrorShape] = {
    **dict.fromkeys(("/openai/v1/completions", "/v1/completions"), completion_error),
    **dict.fromkeys(("/openai/v1/responses", "/v1/responses", "/openai/v1/embeddings", "/v1/embeddings"), input_error),
    **dict.fromkeys(("/openai/v1", "/v1/chat", "/v1/rerank", "/v2/rerank"), chat_error),
}
"""Path prefix → error body. The first prefix that fits counts."""


def openai_routes(service: RagService, *, timeout_s: float) -> APIRouter:
    """Chat completions and the list of models."""
    router = APIRouter(tags=["openai"], route_class=JsonRoute)
    cards = {
        model.name: {
            "id": model.name,
            "object": "model",
            "created": _CREATED,
            "owned_by": "kserve-rag",
            "display_name": model.display_name,
            "defaults": model.defaults,
        }
        for model in service.models
    }

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
        question = _question(body, service.model(body.model).name)
        if body.stream:
            with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
            encode = _chunk_encoder(question.id, body.model, with_usage)
            events = service.stream(question, ctx)
            return await event_stream(events, encode, event_timing_headers, chat_error, end=b"data: [DONE]\n\n")
        answer = await service.answer(question, ctx)
        return json_response(_completion(answer), timing_headers([answer.timings]))

    @router.get(
        "/openai/v1/models", summary="The models, as OpenAI lists them", response_model=ModelList, description=""
    )
    async def models() -> Response:
        return json_response({"object": "list", "data": list(cards.values())})

    @router.get("/v1/models", summary="The models, as KServe and OpenAI list them", response_model=ModelListAndNames)
    async def models_and_names() -> Response:
        """KServe's v1 list and OpenAI's, at the path that both use. The first model is the service's own."""
        return json_response({"models": [service.model_name], "object": "list", "data": list(cards.values())})

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
        reason = await service.not_ready_reason(CallContext.start(READY_TIMEOUT_S), model_name)
        if reason is not None:
            raise NotReadyError(reason)
        return json_response({"name": model_name, "ready": True, **cards[model_name]})

    @router.get(
        "/openai/v1/models/{model_name}",
        summary="A model",
        response_model=ModelCard,
        responses=error_responses(NotFoundError, body=ChatError),
    )
    async def model(model_name: Annotated[str, Path(description="Name of the model.", examples=["rag"])]) -> Response:
        return json_response(cards[service.model(model_name).name])

    return router


def _question(chat: ChatRequest, model: str) -> Question:
    if None not in (chat.max_tokens, chat.max_completion_tokens) and chat.max_tokens != chat.max_completion_tokens:
        raise InvalidRequestError("max_tokens and max_completion_tokens differ. Send one.", field="max_tokens")
    max_tokens = chat.max_completion_tokens if chat.max_tokens is None else chat.max_tokens
    return question_of(chat.messages, chat, max_tokens, field="messages", model=model)


def question_of(
    messages: Sequence[ChatMessage], request: GroundingParameters, max_tokens: int | None, *, field: str, model: str
) -> Question:
    """The question to a model in a conversation's last message. `field`: the request's field that holds the messages.

    Raises:
        InvalidRequestError: the last message is not the user's, or is empty.
    """
    *earlier, last = messages
    if last.role != "user":
        raise InvalidRequestError(
            f"{field}: the last message has the role {last.role!r}. Send the user's question last.", field=field
        )
    text = last.text()
    if not text.strip():
        raise InvalidRequestError(f"{field}: the last message is empty. Send a question.", field=field)
    instructions = "\n\n".join(m.text() for m in earlier if m.role in ("system", "developer"))
    return Question(
        text,
        sampling=sampling_of(request, max_tokens),
        history=tuple(
            Message.model_construct(role=m.role, content=m.text()) for m in earlier if m.role in ("user", "assistant")
        ),
        instructions=instructions or None,
        grounding=request,
        model=model,
    )


def sampling_of(request: BaseModel, max_tokens: int | None) -> SamplingParameters:
    """The sampling parameters of a request in OpenAI's shape."""
    given = {name: getattr(request, name, None) for name in SamplingParameters.model_fields}
    given["max_tokens"] = max_tokens
    if isinstance(given["stop"], str):
        given["stop"] = [given["stop"]]
    return SamplingParameters.model_validate({k: v for k, v in given.items() if v is not None})


def extension(fields: Answer | Event) -> dict[str, Any]:
    """The fields of an answer or event that OpenAI's protocol lacks."""
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
        **extension(answer),
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
        chunk = {**envelope, **extension(event), "choices": [choice]}
        if not with_usage:
            return [chunk]
        chunk["usage"] = None
        if isinstance(event, EndEvent):
            return [chunk, {**envelope, "choices": [], "usage": event.usage}]
        return [chunk]

    return encode
