"""Clients of servers with OpenAI's API: trtllm-serve, vLLM, TGI, llama.cpp, and hosted services.

`openai` sends rendered prompts to `/v1/completions`. `openai_chat` sends messages to `/v1/chat/completions`, where the
server applies the model's chat template.

Source: TensorRT-LLM `serve/openai_protocol.py`, vLLM `entrypoints/openai`, https://platform.openai.com/docs/api-reference.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ssl
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from chassis.context import CallContext
from chassis.errors import BadUpstreamError, ForbiddenError, NotReadyError, ServiceError, UnauthorizedError
from chassis.http import HttpUpstream
from chassis.secrets import Secret, SecretPath
from chassis.settings import SettingError
from predictor.servers.base import (
    PARAMETERS,
    AnswerState,
    Capabilities,
    Options,
    caller_error,
    failure,
    parse_event,
    sent_fields,
    server_settings,
    token_count,
)
from predictor.wire import GenerationChunk, GenerationRequest

_LAST_EVENT = "[DONE]"


def _certificates(path: Path) -> Path:
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:  # ssl.SSLError as well
        raise ValueError(f"{path} has no certificates that can be read: {error.strerror or error}") from None
    return path


class OpenAiSettings(BaseSettings):
    """Settings of OpenAI-compatible servers."""

    model_config = SettingsConfigDict(env_prefix="PREDICTOR_OPENAI_", extra="ignore")

    api_key: SecretStr | None = Field(
        None,
        description="API key, sent as a bearer token. Without it, the server gets the caller's Authorization header if "
        "the service forwards it.",
    )
    api_key_file: SecretPath | None = Field(
        None,
        description="File with the API key, such as a mounted Secret; read again when it changes. Takes precedence.",
    )
    chat_extensions: bool = Field(
        False,
        description="Whether the chat route accepts `top_k` and `repetition_penalty`, as in vLLM and trtllm-serve. "
        "OpenAI's own API rejects them.",
    )
    health_path: str = Field(
        "/health", description="Path of the server's health route. Empty: it has none. Azure has none."
    )
    model_is_listed: bool = Field(
        True,
        description="Whether the server's list of models has the model. `false` for Azure, which lists no deployments.",
    )
    organization: str | None = Field(None, description="Sent as OpenAI-Organization.")
    project: str | None = Field(None, description="Sent as OpenAI-Project.")
    ca_file: Annotated[Path, AfterValidator(_certificates)] | None = Field(
        None, description="File with the certificates of the authorities that may certify the server (PEM)."
    )
    azure_api_version: str | None = Field(
        None,
        description="Version of Azure OpenAI's API, such as 2024-10-21. The model is then the name of a deployment, "
        "the URL that of the resource, and the key is sent as `api-key`. Not set for Azure's /openai/v1.",
    )


@dataclass(frozen=True, slots=True)
class OpenAiApi:
    """Description of one of the two routes that generate text."""

    path: str
    prompt_field: str
    switches: Mapping[str, Any]
    """Fields of every request."""
    log_prob_switches: Mapping[str, Any]
    """Fields of requests that ask for log-probabilities."""
    greedy: Mapping[str, float]
    """Fields sent at temperature 0 instead of temperature, top_k and top_p."""
    capabilities: Capabilities

    def connect(self, base_url: str, model: str | None, options: Options | None = None) -> OpenAiServer:
        """A client of this route. The entry points refer to this method.

        Raises:
            SettingError: Azure's deployment is not named, or an option is invalid.
        """
        settings = server_settings(OpenAiSettings, options)
        if model is None and (settings.azure_api_version is not None or not settings.model_is_listed):
            raise SettingError("TRANSFORMER_PREDICTOR_MODEL: is missing. Set the name of Azure's deployment.")
        return OpenAiServer(base_url, model, self, settings)


_STREAM = {"stream": True, "stream_options": {"include_usage": True}}

COMPLETIONS = OpenAiApi(
    path="/v1/completions",
    prompt_field="prompt",
    # The chat template has already written the beginning-of-text token.
    switches=MappingProxyType({**_STREAM, "add_special_tokens": False}),
    log_prob_switches=MappingProxyType({"logprobs": 1}),
    # Early versions of TensorRT-LLM sample at temperature 0 unless top_k is 1.
    greedy=MappingProxyType({"temperature": 0, "top_k": 1}),
    capabilities=Capabilities(prompt="text", log_probs="tokens"),
)
CHAT = OpenAiApi(
    path="/v1/chat/completions",
    prompt_field="messages",
    switches=MappingProxyType(_STREAM),
    log_prob_switches=MappingProxyType({"logprobs": True}),
    greedy=MappingProxyType({"temperature": 0}),
    capabilities=Capabilities(
        prompt="messages",
        parameters=frozenset(PARAMETERS) - {"top_k", "repetition_penalty"},  # OpenAI's own API rejects them
        log_probs="tokens",
    ),
)


class OpenAiServer:
    """Client of one model on an OpenAI-compatible server. `base_url` is without `/v1`."""

    def __init__(self, base_url: str, model: str | None, api: OpenAiApi, settings: OpenAiSettings) -> None:
        self.capabilities = api.capabilities
        if settings.chat_extensions:
            self.capabilities = dataclasses.replace(api.capabilities, parameters=frozenset(PARAMETERS))
        self.model = model
        self._api = api
        self._settings = settings
        self._key = Secret(settings.api_key, settings.api_key_file)
        headers = {"openai-organization": settings.organization, "openai-project": settings.project}
        self._headers = {name: value for name, value in headers.items() if value is not None}
        self._path, self._models_path, self._health_path = api.path, "/v1/models", settings.health_path
        self._checks_model = settings.model_is_listed
        if settings.azure_api_version is not None:
            version = f"?api-version={quote(settings.azure_api_version)}"
            deployment = f"/openai/deployments/{quote(model or '', safe='')}"
            self._path = f"{deployment}{api.path.removeprefix('/v1')}{version}"
            self._models_path, self._health_path, self._checks_model = f"/openai/models{version}", "", False
        trusted = True if settings.ca_file is None else ssl.create_default_context(cafile=settings.ca_file)
        self._upstream = HttpUpstream(base_url, name="predictor", honours_sampling=False, verify=trusted)
        self._listed: str | None = None
        """The first model in the server's list, which is requested once if no model is set."""

    async def stream(self, request: GenerationRequest, ctx: CallContext) -> AsyncGenerator[GenerationChunk, None]:
        """See `LlmServer.stream`."""
        api, answer, ctx = self._api, AnswerState(request), self._authorized(ctx)
        body = {**api.switches, **sent_fields(request, PARAMETERS, greedy=api.greedy)}
        body[api.prompt_field] = request.prompt
        if request.log_probs:
            body.update(api.log_prob_switches)
        with self._translating():
            body["model"] = self.model or self._listed or await self._list_models(ctx)
            events = self._upstream.stream_events(self._path, body, ctx)
            async with contextlib.aclosing(events):
                async for event in events:
                    # After the last event the stream is read until it closes, so that the connection can be reused.
                    text = "" if event == _LAST_EVENT else _take(answer, parse_event(event))
                    if text:
                        yield GenerationChunk(text)
        yield answer.last_chunk()

    async def health(self, ctx: CallContext) -> None:
        """See `LlmServer.health`. The server must also list the model, unless the settings say that it does not."""
        ctx = self._authorized(ctx)
        with self._translating():
            if self._health_path:
                await self._upstream.get_bytes(self._health_path, ctx)
            await self._list_models(ctx)

    async def aclose(self) -> None:
        """Closes the pooled connections."""
        await self._upstream.aclose()

    @contextlib.contextmanager
    def _translating(self) -> Iterator[None]:
        """Raises errors as the caller should see them."""
        try:
            yield
        except ServiceError as error:
            self._listed = None  # the server may have been replaced by one with another model
            if self._key.known and isinstance(error, (UnauthorizedError, ForbiddenError)):
                raise BadUpstreamError(
                    "The predictor rejected this service's API key. The operator must correct PREDICTOR_OPENAI_API_KEY "
                    "or the file that holds it."
                ) from error
            names: dict[str, Sequence[str]] = {name: (name,) for name in PARAMETERS}
            raise caller_error(error, {**names, "prompt": (self._api.prompt_field,)}) from error

    def _authorized(self, ctx: CallContext) -> CallContext:
        key = self._key.read()
        if key is None:
            return dataclasses.replace(ctx, headers={**ctx.headers, **self._headers})
        azure = self._settings.azure_api_version is not None
        own = {"api-key": key} if azure else {"authorization": f"Bearer {key}"}
        others = ctx.without_authorization().headers
        return dataclasses.replace(ctx, headers={**others, **self._headers, **own})

    async def _list_models(self, ctx: CallContext) -> str:
        """The configured model, or the first one listed. Raises NotReadyError if it is not listed."""
        answer = await self._upstream.get_json(self._models_path, ctx)
        try:
            names = [str(each["id"]) for each in answer["data"]]
        except (KeyError, TypeError) as error:
            raise BadUpstreamError("The predictor's list of models does not follow OpenAI's API.") from error
        if not names:
            raise NotReadyError("The predictor lists no model.")
        if self._checks_model and self.model is not None and self.model not in names:
            raise NotReadyError(f"The predictor has no model {self.model!r}: it has {', '.join(names[:5])}.")
        self._listed = names[0]
        return self.model or names[0]


def _take(answer: AnswerState, event: Mapping[str, Any]) -> str:
    """Reads one event; returns the text that it adds."""
    if "error" in event or event.get("object") == "error":
        error = event.get("error", event)
        raise failure(str(error.get("message", "") if isinstance(error, dict) else error))
    try:
        choices, usage = event["choices"], event.get("usage") or {}
        if usage.get("prompt_tokens") is not None:
            answer.prompt_tokens = token_count(usage["prompt_tokens"])
        if usage.get("completion_tokens") is not None:
            answer.completion_tokens = token_count(usage["completion_tokens"])
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        if cached is not None:
            answer.cached_tokens = token_count(cached)
        if choices == []:  # the last event has only token counts
            return ""
        first = choices[0]
        answer.set_finish_reason(first.get("finish_reason"))
        answer.add_log_probs(_log_probs(first.get("logprobs") or {}))
        # A chat event without content has a role or a tool call.
        text = (first["delta"].get("content") or "") if "delta" in first else first["text"]
    except (KeyError, TypeError, AttributeError) as error:
        raise BadUpstreamError("The predictor sent an event that does not follow OpenAI's API.") from error
    return answer.add_text(text)


def _log_probs(log_probs: Mapping[str, Any]) -> Sequence[Any]:
    """The log-probabilities of an event's tokens, for either route."""
    return log_probs.get("token_logprobs") or [each["logprob"] for each in log_probs.get("content") or ()]
