"""Client of LLM servers: checks a request, sends it to the configured server, and streams the answer."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator

from chassis import tracing
from chassis.context import CallContext, CallSpan
from chassis.errors import BadUpstreamError, InvalidRequestError, ServiceError
from chassis.registry import Registry
from predictor.prompt import EstimatedPromptFormat, PromptFormat
from predictor.servers.base import NEUTRAL, PARAMETERS, Capabilities, Connect, Options
from predictor.wire import GenerationChunk, GenerationRequest, Message

__all__ = ["LLM_SERVERS", "EstimatedPromptFormat", "LlmServerName", "PredictorClient", "PromptFormat"]

_RECORDED = ("max_tokens", "temperature", "top_k", "top_p", "seed")
"""Parameters that are span attributes."""

GENERATION = tracing.SpanType(
    "text_completion {gen_ai.request.model}",
    "client",
    "A prompt sent to the LLM server. The event `first_token` marks the first token.",
    (
        "gen_ai.operation.name",
        "gen_ai.request.model",
        *(f"gen_ai.request.{name}" for name in _RECORDED),
        "gen_ai.request.stream",
        "gen_ai.response.finish_reasons",
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.output_tokens",
        "kserve_rag.prompt.chars",
    ),
)

LLM_SERVERS: Registry[Connect] = Registry("kserve_rag.llm_servers", "LLM server")

LlmServerName = Annotated[str, AfterValidator(LLM_SERVERS.check)]
"""Type of settings that choose an LLM server."""

_RANGES: Mapping[str, tuple[float, float]] = {
    "max_tokens": (1, 2**31 - 1),
    "temperature": (0, 100),
    "top_k": (0, 2**31 - 1),
    "top_p": (0, 1),
    "seed": (0, 2**64 - 1),
    "repetition_penalty": (0.01, 10),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
}
"""Values that all servers accept. Some servers fail on others."""


class PredictorClient:
    """Client of one model on one LLM server. Safe for any number of concurrent requests.

    Args:
        base_url: base URL of the server, or of the InferenceService in front of it.
        server: name of an entry point in the group `kserve_rag.llm_servers`.
        model: name of the model; None: the server's default.
        prompt_format: renders messages for servers that take text. Without it, requests to them must have text.
        forward_authorization: whether the server gets the callers' Authorization header.
        options: values of the server's settings. None: the environment's.
        label: name of the model in messages about failures of the server. None: the messages say "the predictor".

    Raises:
        RegistryError: there is no such server, or its libraries are not installed.
        SettingError: an option is unknown or invalid, or a setting of the server is missing.
    """

    def __init__(
        self,
        base_url: str,
        *,
        server: str = "llmapi",
        model: str | None = None,
        prompt_format: PromptFormat | None = None,
        forward_authorization: bool = False,
        options: Options | None = None,
        label: str | None = None,
    ) -> None:
        self._name = server
        self._forward_authorization = forward_authorization
        self._server = LLM_SERVERS.get(server)(base_url, model, options)
        self._prompt_format = prompt_format
        self._label = label

    @property
    def capabilities(self) -> Capabilities:
        """The prompts and parameters that the server accepts, and what it returns."""
        return self._server.capabilities

    async def aclose(self) -> None:
        """Closes the pooled connections."""
        await self._server.aclose()

    async def not_ready_reason(self, ctx: CallContext) -> str | None:
        """Why the server is not ready; None if it is."""
        try:
            with self._labelling():
                await self._server.health(self._for_server(ctx))
        except ServiceError as error:
            return error.message
        return None

    @contextlib.contextmanager
    def _labelling(self) -> Iterator[None]:
        """Names the model in the messages of its server's failures."""
        try:
            yield
        except ServiceError as error:
            if self._label is not None and error.status >= 429:
                error.message = f"Model {self._label!r}: {error.message}"
            raise

    def _for_server(self, ctx: CallContext) -> CallContext:
        return ctx if self._forward_authorization else ctx.without_authorization()

    def stream(self, request: GenerationRequest, ctx: CallContext) -> AsyncGenerator[GenerationChunk, None]:
        """Yields the answer as it is generated. Only the last chunk has a finish reason.

        Closing the generator closes the connection, which ends the generation. A server that cannot stream yields one
        chunk.

        Raises:
            InvalidRequestError: a parameter is out of range or unknown to this server, or the prompt is too long.
            NotReadyError: the model is not loaded, or the connection to the server fails.
            BusyError: its queue is full, or too long for the deadline.
            BadUpstreamError: the server failed, sent something malformed, or ended the answer without a finish reason.
            DeadlineExceededError: the deadline passed.
        """
        return self._stream(request, ctx, streamed=self.capabilities.streams)

    async def _stream(
        self, request: GenerationRequest, ctx: CallContext, *, streamed: bool
    ) -> AsyncGenerator[GenerationChunk, None]:
        request = self._checked(request)
        last: GenerationChunk | None = None
        with self._labelling(), self._span(ctx) as span:
            streaming = False
            async with contextlib.aclosing(self._server.stream(request, self._for_server(span.ctx))) as chunks:
                async for chunk in chunks:
                    if chunk.finish_reason is not None:
                        last = chunk
                        continue
                    if not streaming:
                        streaming = True
                        span.event("first_token")
                    yield chunk
            if last is None:
                raise BadUpstreamError("The predictor ended its response early.")
            self._record(span, request, last, streamed=streamed)
        yield last

    async def generate(self, request: GenerationRequest, ctx: CallContext) -> GenerationChunk:
        """The whole answer as one chunk. Cancelling the call ends the generation. Raises what `stream` raises.

        The server streams anyway: Triton notices that a client has disconnected only when it writes to it.
        """
        async with contextlib.aclosing(self._stream(request, ctx, streamed=False)) as chunks:
            received = [chunk async for chunk in chunks]
        return dataclasses.replace(received[-1], text="".join(chunk.text for chunk in received))

    def _span(self, ctx: CallContext) -> CallSpan:
        model = self._server.model
        return ctx.span(GENERATION, f"text_completion {model}" if model else "text_completion")

    def _record(self, span: CallSpan, request: GenerationRequest, last: GenerationChunk, *, streamed: bool) -> None:
        if not span.recording:
            return
        for name, value in {
            "gen_ai.operation.name": "text_completion",
            "gen_ai.request.model": self._server.model,
            **{f"gen_ai.request.{name}": getattr(request, name) for name in _RECORDED},
            "gen_ai.request.stream": streamed,
            "gen_ai.response.finish_reasons": (last.finish_reason,) if last.finish_reason else None,
            "gen_ai.usage.input_tokens": last.prompt_tokens,
            "gen_ai.usage.output_tokens": last.completion_tokens,
            "kserve_rag.prompt.chars": sum(map(len, _texts(request.prompt))),
        }.items():
            span.set(name, value)

    def _checked(self, request: GenerationRequest) -> GenerationRequest:
        """Checks a request and brings its prompt into the server's form. Raises InvalidRequestError."""
        texts = _texts(request.prompt)
        if not any(texts):
            raise InvalidRequestError("The prompt is empty.", field="prompt")
        _check_unicode("prompt", texts)
        _check_unicode("stop", request.stop)
        if "" in request.stop:
            raise InvalidRequestError("A stop string is empty: leave it out.", field="stop")
        for name, (low, high) in _RANGES.items():
            value = getattr(request, name)
            if value is not None and not low <= value <= high:
                raise InvalidRequestError(f"{name} is {value}; it must be from {low} to {high}.", field=name)
        if request.log_probs and self.capabilities.log_probs == "none":
            raise self._unsupported("log_probs", True)
        changes: dict[str, Any] = {"prompt": self._prompt(request.prompt)}
        for name in set(PARAMETERS) - self.capabilities.parameters:
            value = getattr(request, name)
            if value is not None and value != ():
                if value != NEUTRAL.get(name):
                    raise self._unsupported(name, value)
                changes[name] = None
        return dataclasses.replace(request, **changes)

    def _prompt(self, prompt: str | Sequence[Message]) -> str | Sequence[Message]:
        if self.capabilities.prompt == "messages":
            if isinstance(prompt, str):
                raise InvalidRequestError(
                    f"The LLM server {self._name!r} applies the chat template itself: send messages.", field="prompt"
                )
            return prompt
        if isinstance(prompt, str):
            return prompt
        if self._prompt_format is None:
            raise InvalidRequestError(
                f"The LLM server {self._name!r} takes text: apply the chat template.",
                field="prompt",
            )
        return self._prompt_format.render(prompt)

    def _unsupported(self, name: str, value: object) -> InvalidRequestError:
        return InvalidRequestError(
            f"{name} is {value}, but the LLM server {self._name!r} does not support it. Leave it out.", field=name
        )


def _texts(prompt: str | Sequence[Message]) -> list[str]:
    return [prompt] if isinstance(prompt, str) else [message["content"] for message in prompt]


def _check_unicode(field: str, texts: Sequence[str]) -> None:
    try:
        "".join(texts).encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequestError(f"{field} is not valid Unicode: it has a lone surrogate.", field=field) from error
