"""What a generation is, and the layout of every LLM server's requests and answers, as data.

A layout says how a server names its inputs and outputs, and how it streams; one client then speaks to all of them.
To serve another server, add a row to `LAYOUTS`.

Source: TensorRT-LLM `triton_backend/all_models/llmapi` (llmapi) and, up to 1.2, `inflight_batcher_llm` (ensemble,
tensorrt_llm_bls); Triton's `vllm_backend` (vllm); OpenAI's completions as TensorRT-LLM's `serve/openai_protocol.py` and
vLLM's `entrypoints/openai` have them (openai).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

FinishReason = Literal["stop", "length", "cancelled"]
LayoutName = Literal["llmapi", "ensemble", "tensorrt_llm_bls", "vllm", "openai"]


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt and how to continue it. A parameter that is None is not sent: the server's own default holds."""

    prompt: str
    """As the model reads it: the chat template has been applied."""
    max_tokens: int
    temperature: float | None = None
    """0 is greedy."""
    top_k: int | None = None
    """0 considers every token."""
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    log_probs: bool = False
    """Whether log-probabilities are wanted, as far as the server has them. They cost it time."""


@dataclass(frozen=True, slots=True)
class GenerationChunk:
    """A piece of an answer. Text is what is new since the chunk before; the last chunk has a finish reason."""

    text: str
    finish_reason: FinishReason | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cumulative_log_prob: float | None = None
    """Of the whole answer, natural logarithm, with the last chunk. None: not asked for, or the server does not tell."""
    output_log_probs: tuple[float, ...] = ()
    """One for each token of the answer, with the last chunk. Empty as above."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How one server's tensors, or the fields of its JSON, are named and what its text means.

    Servers of one layout differ by version and configuration. So a row names everything that any of them knows, and a
    client sends of it what the model at hand declares.
    """

    name: LayoutName
    model: str | None
    """The model that takes text, unless a setting names another. None: the first that the server lists."""
    decoupled: bool
    """True: `generate_stream`, or OpenAI's stream, a response per step. False: plain `/infer`, one response."""
    cumulative: bool
    """Each streamed text holds all the text so far."""
    inputs: Mapping[str, tuple[str, ...]]
    """Field of `GenerationRequest` → its tensor; where versions name it differently, the newest name first."""
    protocol: Literal["triton", "openai"] = "triton"
    """Whose routes and JSON the server has."""
    switches: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Tensor → what it is set to in every request, where the model declares it."""
    sometimes: frozenset[str] = frozenset()
    """Fields that not every server of a decoupled layout knows. `generate_stream` drops unknown inputs in silence, so
    the model is asked before one of these is sent; plain `/infer` needs the model's declarations for everything."""
    greedy: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Fields that say "greedy" in place of temperature, top_k and top_p, where temperature 0 alone does not."""
    every_token: int = 0
    """What top_k is where every token is considered."""
    sampling_json: str | None = None
    """Tensor that takes all sampling parameters as one JSON text; `inputs` then holds their names inside it."""
    finish_reason: str | None = None
    """Output that says why the answer ended, where the server has one."""
    prompt_tokens: str | None = None
    """Output with the number of tokens in the prompt."""
    completion_tokens: str | None = None
    """Output with the number of tokens in the answer."""
    counts_deltas: bool = False
    """True: each response counts its own tokens. False: all so far."""
    log_probs: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Tensor → what it is set to where log-probabilities are wanted, as in `switches`."""
    cumulative_log_prob: str | None = None
    """Output with the log-probability of all the text so far."""
    output_log_probs: str | None = None
    """Output with the log-probabilities of the response's tokens."""


_LEGACY_INPUTS = MappingProxyType(
    {
        "prompt": ("text_input",),
        "max_tokens": ("max_tokens",),
        "temperature": ("temperature",),
        "top_k": ("top_k",),
        "top_p": ("top_p",),
        "stop": ("stop_words",),
        "seed": ("seed", "random_seed"),
        "repetition_penalty": ("repetition_penalty",),
        "presence_penalty": ("presence_penalty",),
        "frequency_penalty": ("frequency_penalty",),
    }
)
_LEGACY_SWITCHES = MappingProxyType(
    {"exclude_input_in_output": True, "return_num_input_tokens": True, "return_num_output_tokens": True}
)


def _legacy(name: LayoutName) -> Layout:
    """TensorRT-LLM up to 1.2: its two models that take text differ in name only."""
    return Layout(
        name=name,
        model=name,
        decoupled=False,
        cumulative=True,
        inputs=_LEGACY_INPUTS,
        switches=_LEGACY_SWITCHES,
        # Says the same in every version, whatever one makes of a temperature of 0.
        greedy=MappingProxyType({"top_k": 1}),
        prompt_tokens="num_input_tokens",
        completion_tokens="num_output_tokens",
        log_probs=MappingProxyType({"return_log_probs": True}),
        cumulative_log_prob="cum_log_probs",
        output_log_probs="output_log_probs",
    )


LAYOUTS: Mapping[LayoutName, Layout] = MappingProxyType(
    {
        "llmapi": Layout(
            name="llmapi",
            model="tensorrt_llm",
            decoupled=True,
            cumulative=True,
            inputs=MappingProxyType(
                {
                    "prompt": ("text_input",),
                    "max_tokens": ("sampling_param_max_tokens",),
                    "temperature": ("sampling_param_temperature",),
                    "top_k": ("sampling_param_top_k",),
                    "top_p": ("sampling_param_top_p",),
                    "stop": ("sampling_param_stop",),
                    "seed": ("sampling_param_seed",),
                    "repetition_penalty": ("sampling_param_repetition_penalty",),
                    "presence_penalty": ("sampling_param_presence_penalty",),
                    "frequency_penalty": ("sampling_param_frequency_penalty",),
                }
            ),
            switches=MappingProxyType(
                {"streaming": True, "sampling_param_exclude_input_from_output": True, "return_finish_reason": True}
            ),
            # Our CPU model has an input for it, TensorRT-LLM's has not.
            sometimes=frozenset({"repetition_penalty"}),
            finish_reason="finish_reason",
            prompt_tokens="num_input_tokens",
            completion_tokens="num_output_tokens",
            log_probs=MappingProxyType({"return_cumulative_logprob": True}),
            cumulative_log_prob="cumulative_logprob",
        ),
        "ensemble": _legacy("ensemble"),
        "tensorrt_llm_bls": _legacy("tensorrt_llm_bls"),
        "vllm": Layout(
            name="vllm",
            model="vllm_model",
            decoupled=True,
            cumulative=False,
            inputs=MappingProxyType(
                {
                    "prompt": ("text_input",),
                    "max_tokens": ("max_tokens",),
                    "temperature": ("temperature",),
                    "top_k": ("top_k",),
                    "top_p": ("top_p",),
                    "stop": ("stop",),
                    "seed": ("seed",),
                    "repetition_penalty": ("repetition_penalty",),
                    "presence_penalty": ("presence_penalty",),
                    "frequency_penalty": ("frequency_penalty",),
                }
            ),
            switches=MappingProxyType(
                {
                    "stream": True,
                    "exclude_input_in_output": True,
                    "return_finish_reason": True,
                    "return_num_input_tokens": True,
                    "return_num_output_tokens": True,
                }
            ),
            # Early versions refuse 0.
            every_token=-1,
            sampling_json="sampling_parameters",
            finish_reason="finish_reason",
            prompt_tokens="num_input_tokens",
            completion_tokens="num_output_tokens",
            counts_deltas=True,
            log_probs=MappingProxyType({"return_cumulative_logprob": True}),
            cumulative_log_prob="cumulative_logprob",
        ),
        "openai": Layout(
            name="openai",
            model=None,
            decoupled=True,
            cumulative=False,
            inputs=MappingProxyType(
                {name: (name,) for name in GenerationRequest.__dataclass_fields__ if name != "log_probs"}
            ),
            protocol="openai",
            switches=MappingProxyType(
                {
                    "stream": True,
                    "stream_options": {"include_usage": True},
                    # The chat template has written the token that begins a text.
                    "add_special_tokens": False,
                }
            ),
            # Early versions of TensorRT-LLM sample at temperature 0 where top_k is not 1.
            greedy=MappingProxyType({"temperature": 0, "top_k": 1}),
            finish_reason="finish_reason",
            prompt_tokens="prompt_tokens",
            completion_tokens="completion_tokens",
            log_probs=MappingProxyType({"logprobs": 1}),
            output_log_probs="token_logprobs",
        ),
    }
)
