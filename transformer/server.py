"""The transformer as a KServe model: v1 and v2 REST, gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import orjson
from kserve import InferRequest, InferResponse
from kserve.protocol.infer_type import to_http_parameters
from pydantic import ValidationError

from chassis.context import CallContext
from chassis.errors import InvalidRequestError
from chassis.server import ServiceModel
from chassis.tensors import metadata, per_row, read_columns, respond
from chassis.validation import invalid_request
from transformer.service import Question, RagService
from transformer.wire import INPUT_TENSORS, MAX_INSTANCES, OUTPUT_TENSORS, Answer, Instance, PredictRequest

_READY_TIMEOUT_S = 5.0

ResultT = TypeVar("ResultT")


class TransformerModel(ServiceModel):
    """Adapts KServe's payloads to `RagService`."""

    def __init__(self, service: RagService, *, timeout_s: float) -> None:
        super().__init__(service.model_name)
        self._service = service
        self._timeout_s = timeout_s

    async def not_ready_reason(self) -> str | None:
        """Which upstream is missing."""
        return await self._service.not_ready_reason(CallContext.start(_READY_TIMEOUT_S))

    def get_input_types(self) -> list[dict[str, Any]]:
        """Tensors taken on v2."""
        return metadata(INPUT_TENSORS)

    def get_output_types(self) -> list[dict[str, Any]]:
        """Tensors given on v2."""
        return metadata(OUTPUT_TENSORS)

    async def predict(
        self,
        payload: Any,
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> bytes | InferResponse:
        """Answers every question of the payload, all at once, in their order."""
        ctx = CallContext.start(self._timeout_s, headers)
        is_v2 = isinstance(payload, InferRequest)
        instances = _tensor_instances(payload) if is_v2 else _v1_instances(payload)
        answers = await together([self._service.answer(question_of(instance), ctx) for instance in instances])
        if response_headers is not None:
            response_headers.update(timing_headers([answer.timings for answer in answers]))
        if is_v2:
            return respond(payload, self.name, _tensors(answers))
        if response_headers is not None:
            response_headers["content-type"] = "application/json"
        return encode(self._v1_answer(answers))

    def _v1_answer(self, answers: Sequence[Answer]) -> dict[str, Any]:
        return {"predictions": answers}


async def together(calls: Sequence[Coroutine[Any, Any, ResultT]]) -> list[ResultT]:
    """The results of all calls at once, in their order. One that fails, or a caller that leaves, ends the others."""
    if len(calls) == 1:
        return [await calls[0]]
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def question_of(instance: Instance) -> Question:
    """The question that a v1 instance, or a row of tensors, asks."""
    return Question(
        text=instance.input,
        sampling=instance,
        grounding=instance,
    )


def encode(content: Any) -> bytes:
    """JSON of wire objects, and of what holds them, their fields in the order they were set."""
    return orjson.dumps(content, default=_fields)


def _fields(value: object) -> dict[str, Any]:
    # Of types that orjson does not know there are only pydantic's models here.
    return value.__dict__


def timing_headers(timings: Sequence[Mapping[str, float]]) -> dict[str, str]:
    """`Server-Timing` of one answer; of several only the longest total.

    Source: https://www.w3.org/TR/server-timing/
    """
    shown = timings[0] if len(timings) == 1 else {"total": max(t.get("total", 0.0) for t in timings)}
    return {"server-timing": ", ".join(f"{name};dur={ms}" for name, ms in shown.items())}


def _v1_instances(payload: Any) -> list[Instance]:
    if not isinstance(payload, dict):
        raise InvalidRequestError(
            'The body is not a JSON object. Send {"instances": [{"input": "…"}]} with content-type application/json.'
        )
    try:
        return PredictRequest.model_validate(payload).instances
    except ValidationError as error:
        raise invalid_request(error, PredictRequest) from None


def _tensor_instances(request: InferRequest) -> list[Instance]:
    if not request.inputs:
        raise InvalidRequestError("inputs: is empty. Send a tensor 'input' of datatype BYTES.", field="inputs")
    columns = read_columns(request, {name: datatype for name, (datatype, _) in INPUT_TENSORS.items()})
    for name, value in to_http_parameters(request.parameters or {}).items():
        if name in INPUT_TENSORS and name != "input":
            columns.setdefault(name, [value])
    questions = columns.pop("input", [])
    if not questions:
        raise InvalidRequestError("input: is missing. Send a tensor 'input' of datatype BYTES.", field="input")
    rows = len(questions)
    if rows > MAX_INSTANCES:
        raise InvalidRequestError(f"input: {rows} questions, at most {MAX_INSTANCES} at a time.", field="input")
    parameters = {name: per_row(columns, name, rows) or [] for name in columns}
    instances = []
    for row, question in enumerate(questions):
        fields = {name: values[row] for name, values in parameters.items()}
        # An empty text stands for nothing: a tensor cannot leave a row out.
        for name, kind, example in (("filters", dict, '{"lang": "en"}'), ("collections", list, '["default"]')):
            if name in fields:
                fields[name] = _json(name, fields[name], kind, example)
        fields["citations"] = fields.get("citations") or None
        try:
            instances.append(Instance.model_validate({"input": question, **fields}))
        except ValidationError as error:
            raise invalid_request(error, Instance) from None
    return instances


def _json(name: str, text: str, kind: type, example: str) -> Any:
    try:
        value = orjson.loads(text) if text else None
    except orjson.JSONDecodeError:
        value = text
    if value is not None and not isinstance(value, kind):
        wanted = "object" if kind is dict else "array"
        raise InvalidRequestError(f"{name}: is not a JSON {wanted}. Send for example {example}.", field=name)
    return value


def _tensors(answers: Sequence[Answer]) -> dict[str, np.ndarray[Any, Any]]:
    def column(values: list[Any], dtype: Any) -> np.ndarray[Any, Any]:
        array = np.empty((len(values), 1), dtype)
        array[:, 0] = values
        return array

    return {
        "text_output": column([answer.text_output.encode() for answer in answers], object),
        "sources": column([encode(answer.sources) for answer in answers], object),
        "finish_reason": column([answer.finish_reason.encode() for answer in answers], object),
        "refused": column([answer.refused for answer in answers], np.bool_),
        "prompt_tokens": column([answer.usage.prompt_tokens for answer in answers], np.int32),
        "completion_tokens": column([answer.usage.completion_tokens for answer in answers], np.int32),
        "index_version": column([(answer.index_version or "").encode() for answer in answers], object),
        "timings": column([orjson.dumps(answer.timings) for answer in answers], object),
        "answerability": column(
            [-1.0 if answer.answerability is None else answer.answerability for answer in answers], np.float32
        ),
        "topics": column([encode(answer.topics) for answer in answers], object),
        "citations": column([encode(answer.citations) for answer in answers], object),
    }
