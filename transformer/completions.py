"""OpenAI's text completions over the graph, at `/openai/v1` and `/v1`: every prompt is a question.

Source: https://platform.openai.com/docs/api-reference/completions
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from chassis.context import CallContext
from chassis.errors import InvalidRequestError, NotFoundError
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
from transformer.openai import completion_error, extension, sampling_of
from transformer.question import Question
from transformer.server import event_timing_headers, gather, timing_headers
from transformer.service import Event, RagService
from transformer.wire import (
    Answer,
    ChatError,
    Completion,
    CompletionChunk,
    CompletionRequest,
    EndEvent,
    TextEvent,
    Usage,
)


def completion_routes(service: RagService, *, timeout_s: float) -> APIRouter:
    """Routes of the text completions."""
    router = APIRouter(tags=["openai"], route_class=JsonRoute)
    route: dict[str, Any] = {
        "summary": "Ask as OpenAI's older clients do",
        "response_model": Completion,
        "response_description": "The answers, or the stream of one.",
        "responses": {
            **event_responses(CompletionChunk),
            **error_responses(*UPSTREAM_ERRORS, *BODY_ERRORS, NotFoundError, body=ChatError),
        },
        "openapi_extra": request_example(
            {"model": "rag", "prompt": "How long is the warranty?", "max_tokens": 100},
        ),
    }

    @router.post("/openai/v1/completions", **route)
    @router.post("/v1/completions", **route)
    async def completions(request: Request, body: CompletionRequest) -> Response:
        """An answer to each prompt. With `stream`, server-sent events.

        The fields of an answer, such as `sources`, are in the answer's choice.
        """
        ctx = CallContext.start(timeout_s, request.headers)
        model = service.model(body.model)
        sampling = sampling_of(body, body.max_tokens)
        questions = [Question(prompt, sampling=sampling, grounding=body, model=model.name) for prompt in body.prompt]
        if not body.stream:
            answers = await gather([service.answer(question, ctx) for question in questions])
            return json_response(_completion(answers), timing_headers([answer.timings for answer in answers]))
        if len(questions) > 1:
            raise InvalidRequestError("prompt: a stream answers one prompt. Send one at a time.", field="prompt")
        with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        encode = _chunk_encoder(questions[0].id, model.name, with_usage)
        events = service.stream(questions[0], ctx)
        return await event_stream(events, encode, event_timing_headers, completion_error, end=b"data: [DONE]\n\n")

    return router


def _envelope(answer_id: str, model_name: str) -> dict[str, Any]:
    return {"id": f"cmpl-{answer_id}", "object": "text_completion", "created": int(time.time()), "model": model_name}


def _choice(index: int, text: str, finish_reason: str | None, fields: Answer | Event) -> dict[str, Any]:
    return {"index": index, "text": text, "finish_reason": finish_reason, "logprobs": None, **extension(fields)}


def _completion(answers: Sequence[Answer]) -> dict[str, Any]:
    first = answers[0]
    return {
        **_envelope(first.id, first.model_name),
        "choices": [_choice(i, answer.text_output, answer.finish_reason, answer) for i, answer in enumerate(answers)],
        "usage": first.usage if len(answers) == 1 else _sum([answer.usage for answer in answers]),
    }


def _sum(usages: Sequence[Usage]) -> Usage:
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return Usage(**{name: sum(getattr(usage, name) for usage in usages) for name in names})


def _chunk_encoder(question_id: str, model_name: str, with_usage: bool) -> Callable[[Event], list[dict[str, Any]]]:
    envelope = _envelope(question_id, model_name)

    def encode(event: Event) -> list[dict[str, Any]]:
        text = event.text_output if isinstance(event, TextEvent) else ""
        finish_reason = event.finish_reason if isinstance(event, EndEvent) else None
        chunk = {**envelope, "choices": [_choice(0, text, finish_reason, event)]}
        if not with_usage:
            return [chunk]
        chunk["usage"] = None
        return [chunk, {**envelope, "choices": [], "usage": event.usage}] if isinstance(event, EndEvent) else [chunk]

    return encode
