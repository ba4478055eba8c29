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
    """One prompt and its parameters. None is not sent: the server's default applies."""

    prompt: str | Sequence[Message]
    """Text with the chat template applied, or messages without it."""
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
    """Whether to return log-probabilities, which take the server time."""


@dataclass(frozen=True, slots=True)
class GenerationChunk:
    """A piece of an answer: the text since the previous chunk. The last chunk, and only that, has a finish reason."""

    text: str
    finish_reason: FinishReason | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cumulative_log_prob: float | None = None
    """Natural logarithm, of the whole answer, in the last chunk. None: not requested."""
    output_log_probs: tuple[float, ...] = ()
    """One per token of the answer, in the last chunk. Empty: not requested, or the server sends only the sum."""
