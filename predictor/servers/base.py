"""The interface of LLM servers, and code that their clients share.

An implementation is a class or a function that takes a base URL and a model name and returns an `LlmServer`. To add
one, write a module and declare an entry point: see CONTRIBUTING.md, "Add an LLM server".
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeVar

import orjson
from pydantic_settings import BaseSettings

from chassis.context import CallContext
from chassis.errors import BadUpstreamError, BusyError, InvalidRequestError, NotReadyError, ServiceError
from chassis.settings import SettingError, load_settings, settings_of
from predictor.wire import FinishReason, GenerationChunk, GenerationRequest

SettingsT = TypeVar("SettingsT", bound=BaseSettings)
Options = Mapping[str, Any]
"""Values of a server's settings, by the names of their fields, instead of its environment variables."""

PARAMETERS = (
    "max_tokens",
    "temperature",
    "top_k",
    "top_p",
    "stop",
    "seed",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)
"""Fields of `GenerationRequest` that control the generation."""

NEUTRAL: Mapping[str, float] = {
    "top_k": 0,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""Values without effect. They are omitted for a server that does not support the parameter."""

_FLOATS = frozenset({"temperature", "top_p", "repetition_penalty", "presence_penalty", "frequency_penalty"})


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Prompts and parameters that an LLM server accepts, and what it returns. Requests that need more are rejected."""

    prompt: Literal["text", "messages"]
    """`text`: finished prompts. `messages`: the server applies the model's chat template itself."""
    parameters: frozenset[str] = frozenset(PARAMETERS)
    """The names in `PARAMETERS` that it accepts."""
    streams: bool = True
    """Whether it sends text while it generates. Otherwise there is one chunk."""
    log_probs: Literal["none", "answer", "tokens"] = "none"
    """`answer`: their sum over the whole answer. `tokens`: each token's, and their sum."""
    counts_tokens: bool = True
    """Whether the last chunk holds the numbers of tokens."""


class LlmServer(Protocol):
    """Client of one model on one LLM server. Safe for any number of concurrent requests."""

    capabilities: Capabilities
    model: str | None
    """Name of the model, for traces. None: the server chooses."""

    def stream(self, request: GenerationRequest, ctx: CallContext) -> AsyncGenerator[GenerationChunk, None]:
        """Yields the answer as it is generated. Only the last chunk has a finish reason; its text may be empty.

        The request has been checked: values are in range, and `capabilities` covers them. Closing the generator must
        close the connection, which ends the generation.

        Raises:
            InvalidRequestError: the server or the model rejects the request; `field` names the parameter.
            NotReadyError: the model is not loaded, or the connection to the server fails.
            BusyError: its queue is full, or too long for the deadline.
            BadUpstreamError: the server failed, sent something malformed, or ended the answer without a finish reason.
            DeadlineExceededError: the deadline passed.
        """

    async def health(self, ctx: CallContext) -> None:
        """Raises the errors of `stream` if the model cannot answer now."""

    async def aclose(self) -> None:
        """Closes the pooled connections."""


class Connect(Protocol):
    """An entry point's object."""

    def __call__(self, base_url: str, model: str | None, options: Options | None = None) -> LlmServer:
        """A client of the server. It connects at the first call.

        Args:
            base_url: base URL of the server.
            model: name of the model; None: the server's default.
            options: values of the server's settings, or None for the environment's: see `server_settings`.

        Raises:
            SettingError: an option is unknown or invalid.
        """


def server_settings(kind: type[SettingsT], options: Options | None) -> SettingsT:
    """The settings of a server: of the environment, or of one model alone.

    Raises:
        SettingError: an option is unknown or invalid.
    """
    return load_settings(kind) if options is None else settings_of(kind, options, prefix="options.")


def refuse_options(options: Options | None) -> None:
    """For a server without settings. Raises SettingError if there are options."""
    if options:
        raise SettingError(f"options.{next(iter(options))}: is unknown. This LLM server has no options.")


_FINISH_REASONS: Mapping[str, FinishReason | None] = {
    "None": None,
    "": None,
    "length": "length",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "cancelled": "cancelled",
    "timeout": "cancelled",
    "abort": "cancelled",
}
"""Servers' words for why an answer ended. All others mean "stop"."""

_TOO_LONG = re.compile(
    r"\b(prompt|input|sequence)\b.*\b(exceed|longer|too long|larger|greater)"
    r"|\bexceeds?\b.*\b(max_\w+|context|window)"
    r"|\bmaximum (context|sequence|model) length"
    r"|\btokens\b.*\bmust be <= \d",
    re.IGNORECASE | re.DOTALL,
)
_BUSY = re.compile(r"maximum queue size|generations are (running|waiting|ahead)", re.IGNORECASE)
_NOT_READY = re.compile(r"unknown model|not ready|not healthy|try again|is stopping|has stopped", re.IGNORECASE)
_RETRY_AFTER = re.compile(r"try again in (\d{1,3}) s\b", re.IGNORECASE)

_CONTROL_TOKEN = re.compile(r"<[^<>\s]{1,40}>")


class AnswerState:
    """Collects the text, counts and log-probabilities of one answer from a server's responses.

    Its methods raise BadUpstreamError for values of the wrong type. Log-probabilities are ignored unless the request
    asked for them.
    """

    def __init__(self, request: GenerationRequest) -> None:
        self._max_tokens = request.max_tokens
        self._log_probs_requested = request.log_probs
        self._responses = 0
        self._sends_reasons = False
        self.text = ""
        """The whole text so far."""
        self.finish_reason: FinishReason | None = None
        self.prompt_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.completion_tokens: int | None = None
        self.cumulative_log_prob: float | None = None
        self.output_log_probs: list[float] = []

    def add_text(self, text: Any) -> str:
        """Appends the text of a response and returns it."""
        self._responses += 1
        if not isinstance(text, str):
            raise BadUpstreamError("The predictor's answer has no text.")
        self.text += text
        return text

    def add_text_so_far(self, text: Any) -> str:
        """Replaces the text with a response that repeats it from the beginning; returns the new part."""
        if not isinstance(text, str):
            return self.add_text(text)
        if self.finish_reason is None:
            text = text.rstrip("\ufffd")  # an incomplete character, which the next response completes
        if not self.text.startswith(text) and not text.startswith(self.text):
            raise BadUpstreamError("The predictor changed text that it had sent before.")
        return self.add_text(text[len(self.text) :])

    def set_finish_reason(self, word: Any) -> None:
        """Sets the finish reason from the server's word for it; null or "None": the answer continues."""
        self._sends_reasons = True
        if word == "error":
            raise BadUpstreamError("The predictor failed while it answered.")
        self.finish_reason = _FINISH_REASONS.get(word, "stop") if isinstance(word, str) else None

    def add_log_probs(self, log_probs: Sequence[Any]) -> None:
        """Appends the log-probabilities of a response's tokens. null, OpenAI's value for a first token, counts as 0."""
        if self._log_probs_requested:
            self.output_log_probs += [_log_prob(each or 0) for each in log_probs]

    def set_cumulative_log_prob(self, log_prob: Any) -> None:
        """Sets the log-probability of the whole text so far."""
        if self._log_probs_requested:
            self.cumulative_log_prob = _log_prob(log_prob)

    def last_chunk(self, text: str = "") -> GenerationChunk:
        """The last chunk. Raises BadUpstreamError if the server stopped before the answer ended."""
        reason, log_probs = self.finish_reason, tuple(self.output_log_probs)
        if reason is None:
            if self._responses == 0 or self._sends_reasons:
                raise BadUpstreamError("The predictor ended its response early.")
            # This server never sends reasons.
            reason = "length" if (self.completion_tokens or 0) >= self._max_tokens else "stop"
        total = sum(log_probs) if self.cumulative_log_prob is None and log_probs else self.cumulative_log_prob
        return GenerationChunk(
            text, reason, self.prompt_tokens, self.completion_tokens, total, log_probs, self.cached_tokens
        )


def _log_prob(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise BadUpstreamError("The predictor sent a log-probability that is not a number.") from error


def without_echo(text: str, prompt: str) -> str:
    """Removes `prompt` from the beginning of `text`: some servers always echo it.

    The echo has been tokenized and decoded, which loses control tokens and changes spaces. Text that does not begin
    with the prompt is returned unchanged.
    """
    if text.startswith(prompt):
        return text[len(prompt) :]
    at = there = 0
    while there < len(prompt):
        if prompt[there].isspace():
            there += 1
        elif at < len(text) and text[at].isspace():
            at += 1
        elif at < len(text) and text[at] == prompt[there]:
            at, there = at + 1, there + 1
        elif marker := _CONTROL_TOKEN.match(prompt, there):
            there = marker.end()
        else:
            return text
    return text[at:]


def whole_answer(answer: AnswerState, request: GenerationRequest) -> GenerationChunk:
    """The chunk of an answer that is not streamed, without the prompt and cut at the first stop string."""
    text = without_echo(answer.text, str(request.prompt))
    cuts = [at for stop in request.stop if (at := text.find(stop)) >= 0]
    if not cuts:
        return answer.last_chunk(text)
    return dataclasses.replace(answer.last_chunk(text[: min(cuts)]), finish_reason="stop")


def sent_fields(
    request: GenerationRequest, names: Collection[str], *, greedy: Mapping[str, float] = MappingProxyType({})
) -> dict[str, Any]:
    """The parameters of a request that are set, as the server expects them.

    Args:
        request: the checked request.
        names: fields that the server accepts.
        greedy: fields to send at temperature 0 instead of temperature, top_k and top_p; empty: no change.
    """
    values = {name: getattr(request, name) for name in names}
    fields = {name: value for name, value in values.items() if value is not None and value != ()}
    if greedy and fields.get("temperature") == 0:
        fields = {name: fields[name] for name in fields if name not in ("temperature", "top_k", "top_p")} | dict(greedy)
    return {name: float(value) if name in _FLOATS else value for name, value in fields.items()}


def parse_event(event: str) -> dict[str, Any]:
    """The JSON object in a server-sent event. Raises BadUpstreamError if it is not one."""
    try:
        response = orjson.loads(event)
    except orjson.JSONDecodeError as error:
        raise BadUpstreamError("The predictor sent an event that is not JSON.") from error
    if not isinstance(response, dict):
        raise BadUpstreamError("The predictor sent an event that is not a JSON object.")
    return response


def token_count(value: Any) -> int:
    """Checks a number of tokens in a response. Raises BadUpstreamError if it is not a natural number."""
    if not isinstance(value, int) or value < 0:
        raise BadUpstreamError(f"The predictor sent {str(value)[:40]!r} as a number of tokens.")
    return value


def failure(reason: str) -> BadUpstreamError:
    """The error for a failure in the middle of an answer. `reason` is logged, not sent to the caller."""
    return _internal("The predictor failed while it answered.", reason)


def _internal(message: str, reason: str) -> BadUpstreamError:
    error = BadUpstreamError(message)
    error.upstream_reason = reason
    return error


def caller_error(error: ServiceError, names: Mapping[str, Sequence[str]]) -> ServiceError:
    """Translates a server's error for the caller, by its message rather than its status.

    LLM servers respond to prompts that are too long with status 500, and to a lack of GPU memory with 400. Values were
    checked before, so a message about neither the length, nor readiness, nor a parameter is a failure of the server.

    Args:
        error: the error from `HttpUpstream`.
        names: field of `GenerationRequest` → the server's names for it.
    """
    reason = error.upstream_reason
    if reason and _BUSY.search(reason):
        sent = _RETRY_AFTER.search(reason)
        return BusyError(f"The predictor is busy: {reason}", retry_after_s=int(sent[1]) if sent else 1)
    if not reason or not isinstance(error, (InvalidRequestError, BadUpstreamError)):
        return error
    first_line = reason.splitlines()[0][:300]
    if _NOT_READY.search(reason):
        return NotReadyError(f"The predictor cannot answer now: {first_line}")
    if _TOO_LONG.search(reason):
        field: str | None = "prompt"
    elif error.field in names:
        field = error.field
    else:
        # "prompt" is too common a word to identify the parameter.
        words = ((field, word) for field, words in names.items() for word in words if word != "prompt")
        field = next((field for field, word in words if re.search(rf"\b{word}\b", reason)), None)
    if field is not None:
        return InvalidRequestError(f"The predictor refused the request: {first_line}", field=field)
    return _internal("The predictor failed. Try again; if that does not help, its log has the reason.", reason)
