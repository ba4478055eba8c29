"""The transformer as a KServe model: v1 and v2 REST, gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from kserve import InferRequest, InferResponse
from pydantic import ValidationError

from chassis.context import CallContext
from chassis.errors import InvalidRequestError
from chassis.openapi import InferenceRouteDocs, ServiceApi
from chassis.routes import encode
from chassis.server import ServiceModel
from chassis.tensors import metadata, respond
from chassis.validation import invalid_request
from transformer.question import Question
from transformer.service import Event, RagService
from transformer.tensors import answer_tensors, read_instances
from transformer.wire import (
    INPUT_TENSORS,
    OUTPUT_TENSORS,
    Answer,
    Instance,
    PredictRequest,
    PredictResponse,
    SourcesEvent,
)

READY_TIMEOUT_S = 5.0
"""Timeout of a readiness probe."""

API = ServiceApi(
    title="kserve-rag: the transformer",
    text=(
        "Answers questions from private documents, with sources, over KServe's v1 and v2 protocols, Triton's generate "
        "extension and OpenAI's chat, completions and responses. Embeds and reranks texts.\n\n"
        "Every route takes `Authorization`, for the services that are set to get it, `x-request-id`, which every "
        "response repeats, `traceparent`, and `x-request-timeout-ms`, the milliseconds that the client waits. A "
        "503 has `Retry-After`. gRPC, the same as v2, has its own port."
    ),
    tags={
        "ask": "Questions, one or many, in any of the protocols.",
        "openai": "For OpenAI's clients.",
        "documents": "The indexes, and the documents that answers quote.",
    },
    predict=InferenceRouteDocs(
        summary="Ask (v1)",
        text="Answers all questions concurrently. The answers keep the order of the questions.",
        request=PredictRequest,
        response=PredictResponse,
        example={"instances": [{"input": "How long is the warranty?", "max_tokens": 100, "num_docs": 3}]},
    ),
    infer=InferenceRouteDocs(
        summary="Ask with tensors, KServe's v2",
        text=(
            "The tensor `input`, BYTES [n, 1], has the questions. Parameters are tensors of [1] for all questions, or "
            "[n, 1]. `GET /v2/models/{model_name}` lists the tensors. Tensors may be JSON or binary."
        ),
        example={
            "inputs": [
                {"name": "input", "datatype": "BYTES", "shape": [1, 1], "data": ["How long is the warranty?"]},
                {"name": "max_tokens", "datatype": "INT32", "shape": [1], "data": [100]},
            ]
        },
    ),
)

ResultT = TypeVar("ResultT")


class TransformerModel(ServiceModel):
    """Adapts KServe's payloads to `RagService`."""

    def __init__(self, service: RagService, *, timeout_s: float) -> None:
        super().__init__(service.model_name)
        self._service = service
        self._timeout_s = timeout_s

    async def not_ready_reason(self) -> str | None:
        """Why an upstream is not ready; None if both are."""
        return await self._service.not_ready_reason(CallContext.start(READY_TIMEOUT_S))

    def get_input_types(self) -> list[dict[str, Any]]:
        """Input tensors of v2."""
        return metadata(INPUT_TENSORS)

    def get_output_types(self) -> list[dict[str, Any]]:
        """Output tensors of v2."""
        return metadata(OUTPUT_TENSORS)

    async def predict(
        self,
        payload: Any,
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> bytes | InferResponse:
        """Answers every question of the payload, concurrently. The answers keep the order of the questions."""
        ctx = CallContext.start(self._timeout_s, headers)
        is_v2 = isinstance(payload, InferRequest)
        instances = read_instances(payload) if is_v2 else _v1_instances(payload)
        answers = await gather([self._service.answer(self.question(instance), ctx) for instance in instances])
        if response_headers is not None:
            response_headers.update(timing_headers([answer.timings for answer in answers]))
        if is_v2:
            return respond(payload, self.name, answer_tensors(answers))
        if response_headers is not None:
            response_headers["content-type"] = "application/json"
        return encode(self._v1_response(answers))

    def question(self, instance: Instance) -> Question:
        """The question of an instance."""
        return Question(instance.input, sampling=instance, grounding=instance, model=instance.model)

    def _v1_response(self, answers: Sequence[Answer]) -> dict[str, Any]:
        return {"predictions": answers}


async def gather(calls: Sequence[Coroutine[Any, Any, ResultT]]) -> list[ResultT]:
    """The results of concurrent calls, in order. An exception or a cancellation cancels the other calls."""
    if len(calls) == 1:
        return [await calls[0]]
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def timing_headers(timings: Sequence[Mapping[str, float]]) -> dict[str, str]:
    """The header `Server-Timing` of one answer; for several answers, only the longest total.

    Source: https://www.w3.org/TR/server-timing/
    """
    shown = timings[0] if len(timings) == 1 else {"total": max(t.get("total", 0.0) for t in timings)}
    return {"server-timing": ", ".join(f"{name};dur={ms}" for name, ms in shown.items())}


def event_timing_headers(first: Event) -> dict[str, str]:
    """The header `Server-Timing` of a stream, from its first event."""
    return timing_headers([first.timings if isinstance(first, SourcesEvent) else {}])


def _v1_instances(payload: Any) -> list[Instance]:
    if not isinstance(payload, dict):
        raise InvalidRequestError(
            'The body is not a JSON object. Send {"instances": [{"input": "…"}]} with content-type application/json.'
        )
    try:
        return PredictRequest.model_validate(payload).instances
    except ValidationError as error:
        raise invalid_request(error, PredictRequest) from None
