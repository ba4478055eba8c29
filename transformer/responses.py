"""OpenAI's Responses API over the graph, at `/openai/v1` and `/v1`. Responses are not stored.

In addition to OpenAI's fields, a response has an answer's fields (`sources`, `citations`, `turns` …). The sources of
supported sentences are also annotations of the text.

Source: https://platform.openai.com/docs/api-reference/responses
"""

from __future__ import annotations

import itertools
import time
from typing import Any

from fastapi import APIRouter, Request, Response

from chassis.context import CallContext
from chassis.errors import NotFoundError, ServiceError
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
from transformer.openai import extension, input_error, question_of
from transformer.question import Question
from transformer.server import event_timing_headers, timing_headers
from transformer.service import Event, RagService
from transformer.wire import (
    Answer,
    ChatError,
    ChatMessage,
    Defaults,
    EndEvent,
    ResponsesEvents,
    ResponsesRequest,
    ResponsesResult,
    SourcesEvent,
    Usage,
)


def responses_routes(service: RagService, *, timeout_s: float) -> APIRouter:
    """Routes of the Responses API."""
    router = APIRouter(tags=["openai"], route_class=JsonRoute)
    route: dict[str, Any] = {
        "summary": "Ask with OpenAI's Responses API",
        "response_model": ResponsesResult,
        "response_description": "The answer, or its stream.",
        "responses": {
            **event_responses(ResponsesEvents),
            **error_responses(*UPSTREAM_ERRORS, *BODY_ERRORS, NotFoundError, body=ChatError),
        },
        "openapi_extra": request_example(
            {"model": "rag", "input": "How long is the warranty?", "max_output_tokens": 100}
        ),
    }

    @router.post("/openai/v1/responses", **route)
    @router.post("/v1/responses", **route)
    async def responses(request: Request, body: ResponsesRequest) -> Response:
        """An answer to the last message; earlier messages are its history. With `stream`, server-sent events."""
        ctx = CallContext.start(timeout_s, request.headers)
        model = service.model(body.model)
        messages = [message.as_chat() for message in body.input]
        if body.instructions:
            messages.insert(0, ChatMessage.model_construct(role="system", content=body.instructions))
        question = question_of(messages, body, body.max_output_tokens, field="input", model=model.name)
        writer = _Writer(body, question, model.name, model.defaults)
        if body.stream:
            events = service.stream(question, ctx)
            return await event_stream(events, writer.events, event_timing_headers, writer.error, named=True)
        answer = await service.answer(question, ctx)
        return json_response(writer.whole(answer), timing_headers([answer.timings]))

    return router


class _Writer:
    """Converts one answer to a response, as a whole or as events."""

    def __init__(self, request: ResponsesRequest, question: Question, model_name: str, defaults: Defaults) -> None:
        self._numbers = itertools.count()
        self._item_id = f"msg_{question.id}"
        self._text = ""
        self._start: dict[str, Any] = {
            "id": f"resp_{question.id}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "model": model_name,
            "output": [],
            "usage": None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "temperature": defaults.temperature if request.temperature is None else request.temperature,
            "top_p": defaults.top_p if request.top_p is None else request.top_p,
            "metadata": request.metadata or {},
            "background": False,
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "text": {"format": {"type": "text"}},
            "tool_choice": request.tool_choice or "auto",
            "tools": [],
            "truncation": request.truncation or "disabled",
        }

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The response with a whole answer."""
        return self._result(answer, answer.text_output)

    def events(self, event: Event) -> list[dict[str, Any]]:
        """OpenAI's events for an event of the stream."""
        if isinstance(event, SourcesEvent):
            self._start |= extension(event)
            return [
                self._event("response.created", response=self._start),
                self._event("response.in_progress", response=self._start),
                self._event("response.output_item.added", output_index=0, item=self._item("in_progress", [])),
                self._text_event("response.content_part.added", part=_part("", [])),
            ]
        if isinstance(event, EndEvent):
            return self._end(event)
        self._text += event.text_output
        return [self._text_event("response.output_text.delta", delta=event.text_output, logprobs=[])]

    def error(self, error: ServiceError) -> dict[str, Any]:
        """The event that reports an error."""
        detail = input_error(error)["error"]
        return self._event("error", code=detail["code"], message=detail["message"], param=detail["param"])

    def _end(self, end: EndEvent) -> list[dict[str, Any]]:
        response = self._result(end, self._text if end.citations is None else end.citations.text)
        (item,) = response["output"]
        (part,) = item["content"]
        return [
            *(
                self._text_event("response.output_text.annotation.added", annotation_index=index, annotation=annotation)
                for index, annotation in enumerate(part["annotations"])
            ),
            self._text_event("response.output_text.done", text=part["text"], logprobs=[]),
            self._text_event("response.content_part.done", part=part),
            self._event("response.output_item.done", output_index=0, item=item),
            self._event(f"response.{response['status']}", response=response),
        ]

    def _result(self, outcome: Answer | EndEvent, text: str) -> dict[str, Any]:
        cut_off = outcome.finish_reason == "length"
        status = "incomplete" if cut_off else "completed"
        return {
            **self._start,
            "status": status,
            "incomplete_details": {"reason": "max_output_tokens"} if cut_off else None,
            "output": [self._item(status, [_part(text, _annotations(outcome))])],
            "usage": _usage(outcome.usage),
            "finish_reason": outcome.finish_reason,
            **extension(outcome),
        }

    def _item(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._item_id, "type": "message", "role": "assistant", "status": status, "content": content}

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        return {"type": kind, "sequence_number": next(self._numbers), **fields}

    def _text_event(self, kind: str, **fields: Any) -> dict[str, Any]:
        return self._event(kind, item_id=self._item_id, output_index=0, content_index=0, **fields)


def _part(text: str, annotations: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": annotations, "logprobs": []}


def _annotations(outcome: Answer | EndEvent) -> list[dict[str, Any]]:
    """One citation for each source of a supported sentence, in the order of the text."""
    if outcome.citations is None:
        return []
    sources = {source.number: source for source in outcome.sources}
    found: list[dict[str, Any]] = []
    for statement in outcome.citations.statements:
        for number in dict.fromkeys(quote.number for quote in statement.quotes):
            source, span = sources[number], statement.span
            if source.url:
                place = {"start_index": span.start, "end_index": span.end}
                found.append({"type": "url_citation", "url": source.url, "title": source.title, **place})
            else:
                file = {"file_id": source.document_id, "filename": source.title}
                found.append({"type": "file_citation", **file, "index": span.end})
    return found


def _usage(usage: Usage) -> dict[str, Any]:
    details = usage.prompt_tokens_details
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": details.cached_tokens if details else 0, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.total_tokens,
    }
