"""What a generation is, and the tensor layout of every LLM server that Triton carries, as data.

A layout says how a server names its inputs and outputs, and how it streams; one client then speaks to all of them.

Source: TensorRT-LLM `triton_backend/all_models/llmapi` (llmapi) and, up to 1.2, `inflight_batcher_llm` (ensemble,
tensorrt_llm_bls); Triton's `vllm_backend` (vllm).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

FinishReason = Literal["stop", "length", "cancelled"]
LayoutName = Literal["llmapi", "ensemble", "tensorrt_llm_bls", "vllm"]


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


@dataclass(frozen=True, slots=True)
class GenerationChunk:
    """A piece of an answer. Text is what is new since the chunk before; the last chunk has a finish reason."""

    text: str
    finish_reason: FinishReason | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """How one server's tensors are named and what its text means."""

    name: LayoutName
    model: str
    """The Triton model that takes text, unless a setting names another."""
    decoupled: bool
    """True: `generate_stream`, a response per step. False: plain `/infer`, one response."""
    cumulative: bool
    """Each streamed text holds all the text so far."""
    inputs: MappingProxyType[str, tuple[str, str]] = field(repr=False)
    """Field of `GenerationRequest` → (tensor, Triton datatype). A field that is absent is not supported."""
    constants: MappingProxyType[str, tuple[str, bool]] = field(repr=False)
    """Tensor → (datatype, value) that is sent with every request."""
    sampling_json: str | None = None
    """Tensor that takes all sampling parameters as one JSON text (vLLM)."""
    echo_tensor: str | None = None
    """Tensor that keeps the prompt out of the output; None where the server knows none."""
    finish_reason: str | None = None
    prompt_tokens: str | None = None
    completion_tokens: str | None = None
