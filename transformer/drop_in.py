"""Routes of earlier LLM servers, for their clients: TitanML Takeoff's, and Cloudera's model endpoint.

Source: https://github.com/titanml/takeoff-community `app/main.py`,
https://docs.titanml.co/docs/Docs/interfacing/generate,
https://docs.cloudera.com/machine-learning/cloud/models/topics/ml-calling-a-model.html
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from chassis.context import CallContext
from chassis.error_mapping import ErrorShape
from chassis.errors import InvalidRequestError, ServiceError
from chassis.routes import BODY_ERRORS, UPSTREAM_ERRORS, JsonRoute, error_responses, json_response, request_example
from predictor.wire import GenerationRequest
from transformer.question import Question
from transformer.server import gather
from transformer.service import RagService
from transformer.wire import (
    CmlRequest,
    CmlResponse,
    DropIn,
    DropInInput,
    GroundingParameters,
    SamplingParameters,
    TakeoffRequest,
    TextEvent,
)

_LAB_OFFSET = 6
"""Characters of the prompt that the lab's client expects to be missing from the echo: control tokens of its model."""


def takeoff_error(error: ServiceError) -> dict[str, Any]:
    """Takeoff's error body."""
    return {"detail": error.message}


ERROR_SHAPES: Mapping[str, ErrorShape] = {"/generate": takeoff_error}
"""Path prefix → error body. Cloudera's route has KServe's."""


def drop_in_routes(
    service: RagService, servers: Collection[DropIn], kind: DropInInput, *, timeout_s: float
) -> APIRouter:
    """The routes of these servers. `kind`: whether clients send finished prompts or questions to the documents."""
    router = APIRouter(tags=["ask"], route_class=JsonRoute, responses=error_responses(*UPSTREAM_ERRORS, *BODY_ERRORS))
    llm = _Llm(service, kind)
    if "takeoff" in servers:
        _add_takeoff(router, llm, timeout_s)
    if "cml" in servers:
        _add_cml(router, llm, timeout_s)
    return router


class _Llm:
    """Answers texts: finished prompts by the LLM alone, questions from the documents."""

    def __init__(self, service: RagService, kind: DropInInput) -> None:
        self._service = service
        self._kind = kind

    async def stream(self, text: str, sampling: SamplingParameters, ctx: CallContext) -> AsyncGenerator[str, None]:
        if self._kind == "question":
            question = Question(text, sampling=sampling, grounding=GroundingParameters())
            async with contextlib.aclosing(self._service.stream(question, ctx)) as events:
                async for event in events:
                    if isinstance(event, TextEvent):
                        yield event.text_output
            return
        fields = sampling.model_dump(exclude_none=True, exclude={"stop"})
        request = GenerationRequest(text, **{"max_tokens": self._service.models[0].defaults.max_tokens, **fields})
        async with contextlib.aclosing(self._service.stream_completion(request, ctx)) as chunks:
            async for chunk in chunks:
                yield chunk.text

    async def answer(self, text: str, sampling: SamplingParameters, ctx: CallContext) -> str:
        if self._kind == "question":
            question = Question(text, sampling=sampling, grounding=GroundingParameters())
            return (await self._service.answer(question, ctx)).text_output
        async with contextlib.aclosing(self.stream(text, sampling, ctx)) as texts:
            return "".join([text async for text in texts])


def _add_takeoff(router: APIRouter, llm: _Llm, timeout_s: float) -> None:
    example = request_example({"text": "How long is the warranty?", "generate_max_length": 100})

    @router.post("/generate", summary="Ask as Takeoff's clients do", openapi_extra=example)
    async def generate(request: Request, body: TakeoffRequest) -> Response:
        """The answer, or the answers to several texts, at once."""
        ctx = CallContext.start(timeout_s, request.headers)
        texts = [body.text] if isinstance(body.text, str) else body.text
        answers = await gather([llm.answer(text, body.sampling(), ctx) for text in texts])
        answer = answers[0] if isinstance(body.text, str) else answers
        return json_response({"text": answer} if body.pro else {"status": "success", "message": answer})

    @router.post(
        "/generate_stream", summary="Ask as Takeoff's clients do, and stream the answer", openapi_extra=example
    )
    async def generate_stream(request: Request, body: TakeoffRequest) -> Response:
        """Bare text; server-sent events for the Pro edition's clients, which send `max_new_tokens` or `consumer_group`.

        An error in the middle closes the connection, because neither form has errors.
        """
        if not isinstance(body.text, str):
            raise InvalidRequestError("text: a stream answers one text. Send one at a time.", field="text")
        texts = llm.stream(body.text, body.sampling(), CallContext.start(timeout_s, request.headers))
        if body.pro:
            return await _text_stream(texts, _event, "text/event-stream")
        return await _text_stream(texts, str.encode, "text/plain")


def _add_cml(router: APIRouter, llm: _Llm, timeout_s: float) -> None:
    @router.post(
        "/model",
        summary="Ask as clients of Cloudera's model endpoint do",
        response_model=CmlResponse,
        openapi_extra=request_example({"request": {"prompt": "How long is the warranty?", "max_new_tokens": 100}}),
    )
    async def model(request: Request, body: CmlRequest) -> Response:
        """The prompt and its answer."""
        asked = body.request
        sampling = SamplingParameters(
            max_tokens=asked.max_new_tokens,
            temperature=asked.temperature,
            repetition_penalty=asked.repetition_penalty,
        )
        text = await llm.answer(asked.prompt, sampling, CallContext.start(timeout_s, request.headers))
        echo = asked.prompt[: max(0, len(asked.prompt) - _LAB_OFFSET)]
        return json_response({"success": True, "response": {"prediction": {"response": f"{echo}{text}"}}})


async def _text_stream(
    texts: AsyncGenerator[str, None], encode: Callable[[str], bytes], media_type: str
) -> StreamingResponse:
    """The texts as a response. An error before the first text has its own status."""
    first = await anext(texts, "")

    async def body() -> AsyncIterator[bytes]:
        async with contextlib.aclosing(texts):
            if first:
                yield encode(first)
            async for text in texts:
                if text:
                    yield encode(text)

    return StreamingResponse(body(), media_type=media_type)


def _event(text: str) -> bytes:
    return "".join(f"data: {line}\n" for line in re.split(r"\r\n|\r|\n", text)).encode() + b"\n"
