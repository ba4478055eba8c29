"""Requests to an LLM server and the chunks of its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

FinishReason = Literal["stop", "length", "cancelled"]


class Message(TypedDict):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt and its parameters. None: the server's default applies."""

    prompt: str | Sequence[Message]
    """Text with the chat template applied, or messages without it."""
    max_tokens: int
    temperature: float | None = None
    """0 is greedy."""
    top_k: int | None = None
    """0 considers all tokens."""
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    log_probs: bool = False
    """Whether to return log-probabilities, which cost the server time."""


@dataclass(frozen=True, slots=True)
class GenerationChunk:
    """The text of an answer since the previous chunk. Only the last chunk has a finish reason."""

    text: str
    finish_reason: FinishReason | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cumulative_log_prob: float | None = None
    """Natural logarithm of the probability of the whole answer, in the last chunk. None: not requested."""
    output_log_probs: tuple[float, ...] = ()
    """One per token of the answer, in the last chunk. Empty: not requested, or the server sends only the sum."""
    cached_tokens: int | None = None
    """Tokens of the prompt that were in the prefix cache, in the last chunk. None: the server does not report them."""
