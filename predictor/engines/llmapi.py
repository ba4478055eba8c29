"""TensorRT-LLM's `llmapi` tensors: parses requests and builds responses.

Source: TensorRT-LLM `triton_backend/all_models/llmapi/tensorrt_llm` (config.pbtxt, model.py, helpers.py) and the
defaults of its `SamplingParams`. `sampling_param_repetition_penalty`, `num_input_tokens` and `num_output_tokens` are
our additions, named like the rest and like the earlier layout's.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from predictor.engines.batch import SamplingParams, Update
from predictor.errors import InvalidInputError
from predictor.tokenizer import TextTokenizer

Tensor = npt.NDArray[np.generic]
"""As Triton passes it: BYTES tensors have dtype object."""

DEFAULT_MAX_TOKENS = 32
"""Source: TensorRT-LLM `SamplingParams.max_tokens`."""

MAX_STOP_STRINGS = 32


@dataclass(frozen=True, slots=True)
class LlmapiRequest:
    """The parsed tensors of a valid request."""

    prompt: str
    ids: list[int]
    sampling: SamplingParams
    streaming: bool
    echo: bool
    """Whether every response begins with the prompt."""
    finish_reason: bool
    stop_reason: bool
    cumulative_logprob: bool
    perf_metrics: bool


def is_stop_request(inputs: Mapping[str, Tensor]) -> bool:
    """Whether this request stops the one with the same id."""
    return _flag(inputs, "stop")


def parse(inputs: Mapping[str, Tensor], tokenizer: TextTokenizer, context_tokens: int) -> LlmapiRequest:
    """Reads the tensors of one request.

    Args:
        inputs: tensors by name.
        tokenizer: the model's tokenizer.
        context_tokens: maximum number of tokens of prompt and answer together.

    Raises:
        InvalidInputError: a tensor is missing, not a scalar, or out of range; or the prompt is too long.
    """
    prompt = _prompt(inputs)
    ids = tokenizer.encode(prompt)
    if not ids:
        raise InvalidInputError("text_input is empty: send a prompt.")
    if len(ids) >= context_tokens:
        raise InvalidInputError(
            f"The prompt in text_input has {len(ids)} tokens, but prompt and answer together must fit into "
            f"{context_tokens}, the model's window. Send a shorter one."
        )
    _integer(inputs, "sampling_param_best_of", 1, 1)
    cumulative_logprob = _flag(inputs, "return_cumulative_logprob")
    max_tokens = _integer(inputs, "sampling_param_max_tokens", 1, 2**31 - 1) or DEFAULT_MAX_TOKENS
    return LlmapiRequest(
        prompt=prompt,
        ids=ids,
        sampling=_sampling(inputs, min(max_tokens, context_tokens - len(ids)), cumulative_logprob),
        streaming=_flag(inputs, "streaming"),
        echo=not _flag(inputs, "sampling_param_exclude_input_from_output"),
        finish_reason=_flag(inputs, "return_finish_reason"),
        stop_reason=_flag(inputs, "return_stop_reason"),
        cumulative_logprob=cumulative_logprob,
        perf_metrics=_flag(inputs, "sampling_param_return_perf_metrics"),
    )


def timeout_s(parameters: Mapping[str, object], default_s: float) -> float:
    """Seconds that the client gives this request: the parameter `timeout_ms`, or the default.

    Raises:
        InvalidInputError: it is not a positive whole number.
    """
    sent = parameters.get("timeout_ms")
    if sent is None:
        return default_s
    if isinstance(sent, bool) or not isinstance(sent, int) or sent <= 0:
        raise InvalidInputError(f"timeout_ms is {str(sent)[:40]}; it must be a positive whole number.")
    return sent / 1000


def respond(request: LlmapiRequest, update: Update) -> dict[str, Tensor]:
    """The tensors of one response, by name."""
    text = request.prompt + update.text if request.echo else update.text
    outputs: dict[str, Tensor] = {"text_output": _texts(text)}
    if request.finish_reason:
        outputs["finish_reason"] = _texts(str(update.finish_reason))
    if request.stop_reason:
        outputs["stop_reason"] = _texts(str(update.stop_reason))
    if request.cumulative_logprob:
        outputs["cumulative_logprob"] = np.array([update.log_prob], dtype=np.float32)
    if update.finish_reason is not None:
        outputs["num_input_tokens"] = np.array([update.prompt_tokens], dtype=np.int32)
        outputs["num_output_tokens"] = np.array([update.completion_tokens], dtype=np.int32)
        if request.perf_metrics:
            for name in ("arrival", "first_scheduled", "first_token", "last_token"):
                outputs[f"{name}_time_ns"] = np.array([getattr(update.timings, name)], dtype=np.int64)
    return outputs


def _sampling(inputs: Mapping[str, Tensor], max_tokens: int, log_probs: bool) -> SamplingParams:
    temperature = _number(inputs, "sampling_param_temperature", 0, 100)
    top_k = _integer(inputs, "sampling_param_top_k", 0, 2**31 - 1)
    top_p = _number(inputs, "sampling_param_top_p", 0, 1)
    seed = _integer(inputs, "sampling_param_seed", 0, 2**64 - 1)
    return SamplingParams(
        max_tokens=max_tokens,
        # Like TensorRT-LLM: greedy without sampling parameters, or if they leave only one token to choose.
        greedy=(temperature is None and top_k is None and top_p is None)
        or temperature == 0
        or top_k == 1
        or top_p == 0,
        temperature=1.0 if temperature is None else temperature,
        top_k=top_k or 0,
        top_p=1.0 if top_p is None else top_p,
        seed=secrets.randbits(32) if seed is None else seed,
        stop=_stop(inputs),
        repetition_penalty=_number(inputs, "sampling_param_repetition_penalty", 0.01, 10) or 1.0,
        presence_penalty=_number(inputs, "sampling_param_presence_penalty", -2, 2) or 0.0,
        frequency_penalty=_number(inputs, "sampling_param_frequency_penalty", -2, 2) or 0.0,
        log_probs=log_probs,
    )


def _prompt(inputs: Mapping[str, Tensor]) -> str:
    tensor = inputs.get("text_input")
    if tensor is None:
        raise InvalidInputError("text_input is missing: send a prompt.")
    if tensor.size != 1:
        raise InvalidInputError(f"text_input has {tensor.size} elements: send one prompt per request.")
    return _text("text_input", tensor.item())


def _stop(inputs: Mapping[str, Tensor]) -> tuple[str, ...]:
    tensor = inputs.get("sampling_param_stop")
    if tensor is None:
        return ()
    if tensor.size > MAX_STOP_STRINGS:
        raise InvalidInputError(
            f"sampling_param_stop has {tensor.size} elements; at most {MAX_STOP_STRINGS} are allowed."
        )
    stop = tuple(_text("sampling_param_stop", value) for value in tensor.ravel())
    if "" in stop:
        raise InvalidInputError("sampling_param_stop has an empty string: leave it out.")
    return stop


def _text(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    try:
        return bytes(value).decode("utf-8")  # type: ignore[call-overload, no-any-return]
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{name} is not valid UTF-8 at byte {error.start}.") from error


def _flag(inputs: Mapping[str, Tensor], name: str) -> bool:
    return bool(_scalar(inputs, name))


def _integer(inputs: Mapping[str, Tensor], name: str, low: int, high: int) -> int | None:
    value = _scalar(inputs, name)
    if value is None:
        return None
    if not low <= value <= high:
        raise InvalidInputError(f"{name} is {value}; it must be from {low} to {high}.")
    return int(value)


def _number(inputs: Mapping[str, Tensor], name: str, low: float, high: float) -> float | None:
    sent = _scalar(inputs, name)
    if sent is None:
        return None
    value = round(sent, 6)  # FP32 does not hold 0.01 exactly
    if not (math.isfinite(value) and low <= value <= high):
        raise InvalidInputError(f"{name} is {value:g}; it must be from {low:g} to {high:g}.")
    return float(value)


def _scalar(inputs: Mapping[str, Tensor], name: str) -> float | None:
    tensor = inputs.get(name)
    if tensor is None:
        return None
    if tensor.size != 1:
        raise InvalidInputError(f"{name} has {tensor.size} elements: send one.")
    return tensor.item()  # type: ignore[no-any-return]


def _texts(text: str) -> Tensor:
    return np.array([text.encode("utf-8")], dtype=np.object_)
