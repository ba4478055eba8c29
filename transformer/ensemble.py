"""The earlier graph's wire format: v1 answers in the shape of v2, and `/infer` of its LLM, the model `ensemble`.

The earlier transformer forwarded the LLM's response, so questions and finished prompts have the same outputs:
`OUTPUTS`, in this order, because clients read the text by position.

Source: TensorRT-LLM 0.7 `inflight_batcher_llm/ensemble/config.pbtxt`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from kserve import InferRequest, InferResponse

from chassis.context import CallContext
from chassis.errors import InvalidRequestError
from chassis.tensors import metadata, per_row, read_columns, respond
from predictor.wire import GenerationChunk, GenerationRequest
from transformer.question import Question
from transformer.server import TransformerModel, gather
from transformer.wire import INPUT_TENSORS, MAX_INSTANCES, OUTPUT_TENSORS, Answer, Instance

ECHO = "[INST][/INST] "
"""Prefix of every v1 answer. Existing clients remove the text between the two tags, and show nothing if they are
missing."""

PROMPT = "text_input"
INPUTS = {
    PROMPT: ("BYTES", [-1, 1]),
    "max_tokens": ("INT32", [-1, 1]),
    "stop_words": ("BYTES", [-1, -1]),
    "top_k": ("INT32", [-1, 1]),
    "top_p": ("FP32", [-1, 1]),
    "temperature": ("FP32", [-1, 1]),
    "repetition_penalty": ("FP32", [-1, 1]),
    "presence_penalty": ("FP32", [-1, 1]),
    "frequency_penalty": ("FP32", [-1, 1]),
    "random_seed": ("UINT64", [-1, 1]),
    "return_log_probs": ("BOOL", [-1, 1]),
    "exclude_input_in_output": ("BOOL", [-1, 1]),
}
OUTPUTS = {
    "cum_log_probs": ("FP32", [-1, 1]),
    "output_log_probs": ("FP32", [-1, 1, -1]),
    "text_output": ("BYTES", [-1, 1]),
}
_FIELDS = {"random_seed": "seed", "return_log_probs": "log_probs"}
"""Tensor → field of `GenerationRequest`, if the names differ."""


_DEFAULTS = {"answers": "write", "num_docs": 2, "max_tokens": 100, "temperature": 0.1, "top_k": 4, "top_p": 0.4}
"""Defaults of the earlier graph."""


class EnsembleModel(TransformerModel):
    """The transformer with the defaults and responses of the earlier graph."""

    def question(self, instance: Instance) -> Question:
        """The question of an instance, with the earlier graph's defaults."""
        absent = {name: value for name, value in _DEFAULTS.items() if getattr(instance, name) is None}
        return super().question(instance.model_copy(update=absent))

    def get_input_types(self) -> list[dict[str, Any]]:
        """Input tensors of v2: of a question, or of a finished prompt."""
        return metadata({**INPUT_TENSORS, **INPUTS})

    def get_output_types(self) -> list[dict[str, Any]]:
        """Output tensors of v2."""
        return metadata({**OUTPUT_TENSORS, **OUTPUTS})

    async def predict(
        self,
        payload: Any,
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> bytes | InferResponse:
        """Answers every question, or completes every finished prompt, in order."""
        if isinstance(payload, InferRequest) and any(tensor.name == PROMPT for tensor in payload.inputs):
            return await self._complete(payload, CallContext.start(self._timeout_s, headers))
        return await super().predict(payload, headers, response_headers)

    def _v1_response(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The response; log-probabilities are zeros, as in the earlier graph if they were not requested."""
        rows = len(answers)
        return {
            "id": answers[0].id,
            "model_name": self.name,
            "model_version": "1",
            "outputs": [
                {"name": "cum_log_probs", "datatype": "FP32", "shape": [rows, 1], "data": [0.0] * rows},
                {"name": "output_log_probs", "datatype": "FP32", "shape": [rows, 1, 1], "data": [0.0] * rows},
                {
                    "name": "text_output",
                    "datatype": "BYTES",
                    "shape": [rows, 1],
                    "data": [ECHO + answer.text_output for answer in answers],
                },
            ],
        }

    async def _complete(self, payload: InferRequest, ctx: CallContext) -> InferResponse:
        requests, with_prompt = _prompts(payload)
        chunks = await gather([self._service.complete(request, ctx) for request in requests])
        texts = [
            f"{request.prompt}{chunk.text}" if echoed else chunk.text
            for request, chunk, echoed in zip(requests, chunks, with_prompt, strict=True)
        ]
        return respond(payload, self.name, _tensors(texts, chunks))


def _prompts(payload: InferRequest) -> tuple[list[GenerationRequest], list[bool]]:
    """The prompts of a request, and whether to prepend each to its answer.

    Raises:
        InvalidRequestError: a tensor is missing, unknown, of another datatype, or does not match the number of prompts.
    """
    columns = read_columns(payload, {name: datatype for name, (datatype, _) in INPUTS.items()})
    prompts = columns.pop(PROMPT)
    rows = len(prompts)
    if not 0 < rows <= MAX_INSTANCES:
        raise InvalidRequestError(f"{PROMPT}: {rows} prompts, from 1 to {MAX_INSTANCES} at a time.", field=PROMPT)
    if "max_tokens" not in columns:
        raise InvalidRequestError("max_tokens: is missing. Send a tensor of datatype INT32.", field="max_tokens")
    words = columns.pop("stop_words", [])
    if len(words) % rows:
        raise InvalidRequestError(f"stop_words: {len(words)} values for {rows} prompts.", field="stop_words")
    each = len(words) // rows
    fields = {_FIELDS.get(name, name): per_row(columns, name, rows) or [] for name in columns}
    excluded = fields.pop("exclude_input_in_output", [False] * rows)
    requests = [
        GenerationRequest(
            prompt,
            stop=tuple(word for word in words[row * each : (row + 1) * each] if word),
            **{name: values[row] for name, values in fields.items()},
        )
        for row, prompt in enumerate(prompts)
    ]
    return requests, [not value for value in excluded]


def _tensors(texts: Sequence[str], chunks: Sequence[GenerationChunk]) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of `OUTPUTS`. Missing log-probabilities are zeros, as in the earlier graph."""
    rows = len(texts)
    tokens = max(1, *(len(chunk.output_log_probs) for chunk in chunks))
    cumulative, each = np.zeros((rows, 1), np.float32), np.zeros((rows, 1, tokens), np.float32)
    written = np.empty((rows, 1), object)
    for row, (text, chunk) in enumerate(zip(texts, chunks, strict=True)):
        cumulative[row, 0] = chunk.cumulative_log_prob or 0.0
        each[row, 0, : len(chunk.output_log_probs)] = chunk.output_log_probs
        written[row, 0] = text.encode()
    return {"cum_log_probs": cumulative, "output_log_probs": each, "text_output": written}
