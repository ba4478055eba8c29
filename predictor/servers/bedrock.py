"""Clients of Amazon Bedrock: the Converse API of all chat models, and the text completions of Claude 2.

aiobotocore, botocore on aiohttp, signs, finds credentials, retries and parses event streams.

Source: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html,
https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-anthropic-claude-text-completion.html
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import aiohttp
import orjson
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore import eventstream, exceptions, parsers
from pydantic import AliasChoices, BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from chassis.context import CallContext
from chassis.errors import (
    BadUpstreamError,
    BusyError,
    DeadlineExceededError,
    InvalidRequestError,
    NotReadyError,
    ServiceError,
)
from chassis.settings import SettingError, split
from predictor.servers.base import (
    AnswerState,
    Capabilities,
    Options,
    caller_error,
    failure,
    sent_fields,
    server_settings,
    token_count,
)
from predictor.wire import GenerationChunk, GenerationRequest, Message

ResultT = TypeVar("ResultT")

_CONNECTIONS = 512
"""Maximum number of connections."""

_MODEL = re.compile(r"model identifier|model id\b|on-demand throughput", re.IGNORECASE)
"""Bedrock's words for a model that it lacks or that needs an inference profile."""

_CREDENTIAL_ERRORS = (
    exceptions.NoCredentialsError,
    exceptions.PartialCredentialsError,
    exceptions.CredentialRetrievalError,
    exceptions.TokenRetrievalError,
    exceptions.NoAuthTokenError,
    exceptions.UnauthorizedSSOTokenError,
)
_BROKEN = (aiohttp.ClientPayloadError, ConnectionError, exceptions.ConnectionClosedError, exceptions.ReadTimeoutError)
_UNREADABLE = (
    eventstream.ParserError,
    parsers.ResponseParserError,
    exceptions.HTTPClientError,
    aiohttp.ClientError,
    orjson.JSONDecodeError,
    UnicodeDecodeError,
)


class BedrockSettings(BaseSettings):
    """Settings of Amazon Bedrock. Credentials come from AWS's standard chain: IRSA, variables, profiles, instance."""

    model_config = SettingsConfigDict(env_prefix="PREDICTOR_BEDROCK_", extra="ignore")

    region: str | None = Field(
        None,
        validation_alias=AliasChoices("PREDICTOR_BEDROCK_REGION", "AWS_REGION"),
        description="Region that requests are signed for. Default: AWS_REGION, AWS_DEFAULT_REGION, or the profile's.",
    )
    guardrail_id: str | None = Field(None, description="Id or ARN of a guardrail that checks prompts and answers.")
    guardrail_version: str = Field("DRAFT", description="Version of the guardrail.")
    parameters: Annotated[
        frozenset[Literal["temperature", "top_p", "top_k"]],
        NoDecode,
        BeforeValidator(split),
    ] = Field(
        frozenset({"temperature", "top_p"}),
        description="Parameters that the model accepts, separated by commas: temperature, top_p, top_k. Claude models "
        "from 4.5 on accept one of temperature and top_p. top_k is sent as Claude's.",
    )
    streams: bool = Field(
        True, description="Whether answers are streamed. `false` for models and roles that are not allowed to."
    )
    max_attempts: int = Field(
        4, ge=1, le=10, description="Attempts of a request that AWS throttles or fails, with botocore's adaptive mode."
    )


@dataclass(frozen=True, slots=True)
class BedrockApi:
    """Description of one of Bedrock's two APIs."""

    operations: tuple[str, str]
    """The operation that streams, and the one that does not."""
    body: Callable[[GenerationRequest, BedrockSettings], dict[str, Any]]
    probe: Mapping[str, Any]
    """A request that the API refuses before a model runs, which costs nothing."""
    whole: Callable[[Mapping[str, Any]], Awaitable[Sequence[Mapping[str, Any]]]]
    """The events of a response that was not streamed."""
    take: Callable[[AnswerState, Mapping[str, Any]], str]
    """Reads one event; returns the text that it adds."""
    parameters: frozenset[str]
    """Further parameters, besides those that the settings name."""
    default_model: str | None = None

    def connect(self, base_url: str, model: str | None, options: Options | None = None) -> BedrockServer:
        """A client of this API. The entry points refer to this method.

        Raises:
            SettingError: no model or region is set, or the AWS configuration is unusable.
        """
        model = model or self.default_model
        if model is None:
            raise SettingError(
                "TRANSFORMER_PREDICTOR_MODEL: is missing. Set the id of a Bedrock model, or of an inference profile."
            )
        settings = server_settings(BedrockSettings, options)
        session = AioSession()
        try:
            region = session.get_config_variable("region")
        except exceptions.BotoCoreError as error:
            raise SettingError(f"AWS_PROFILE: {error}") from error
        region = settings.region or region or os.environ.get("AWS_REGION")
        if not region:
            raise SettingError("PREDICTOR_BEDROCK_REGION: is missing. Set it, or AWS_REGION, to the model's region.")
        return BedrockServer(base_url, model, self, settings, session, region)


class BedrockServer:
    """Client of one model on Bedrock. `base_url` is the endpoint: AWS's own for a region, or a VPC's."""

    def __init__(
        self, base_url: str, model: str, api: BedrockApi, settings: BedrockSettings, session: AioSession, region: str
    ) -> None:
        self.capabilities = Capabilities(
            prompt="messages",
            parameters=api.parameters | {"max_tokens", "stop"} | settings.parameters,
            streams=settings.streams,
        )
        self.model = model
        self._api = api
        self._settings = settings
        self._clients: Any = contextlib.AsyncExitStack()
        self._client: Any = None
        self._opening = asyncio.Lock()
        self._open: Callable[[], Any] = lambda: session.create_client(
            "bedrock-runtime",
            region_name=region,
            endpoint_url=base_url,
            config=AioConfig(
                retries={"mode": "adaptive", "total_max_attempts": settings.max_attempts},
                connect_timeout=2,
                read_timeout=3600,  # a request's deadline is earlier
                max_pool_connections=_CONNECTIONS,
                warm_up_loader_caches=True,
            ),
        )

    async def stream(self, request: GenerationRequest, ctx: CallContext) -> AsyncGenerator[GenerationChunk, None]:
        """See `LlmServer.stream`. One chunk if the settings say that the model does not stream."""
        answer = AnswerState(request)
        with self._translating():
            async with contextlib.aclosing(self._events(request, ctx)) as events:
                async for event in events:
                    try:
                        text = self._api.take(answer, event)
                    except (KeyError, TypeError, AttributeError) as error:
                        raise BadUpstreamError(
                            "The predictor sent an event that does not follow Bedrock's API."
                        ) from error
                    if text:
                        yield GenerationChunk(text)
        yield answer.last_chunk()

    async def health(self, ctx: CallContext) -> None:
        """See `LlmServer.health`. Sends a request that Bedrock refuses before a model runs."""
        with self._translating(), contextlib.suppress(_ProbeRefusedError):
            await self._call(self._api.operations[1], self._api.probe, ctx, probing=True)

    async def aclose(self) -> None:
        """Closes the pooled connections."""
        self._client = None
        await self._clients.aclose()

    async def _events(self, request: GenerationRequest, ctx: CallContext) -> AsyncGenerator[Mapping[str, Any], None]:
        body = self._api.body(request, self._settings)
        if not self._settings.streams:
            response = await self._call(self._api.operations[1], body, ctx)
            for each in await _before(ctx, self._api.whole(response)):
                yield each
            return
        response = await self._call(self._api.operations[0], body, ctx)
        stream = response.get("stream") or response["body"]
        try:
            events: Any = aiter(stream)
            while (event := await _before(ctx, anext(events, None))) is not None:
                yield event
        finally:
            stream.close()

    async def _call(self, operation: str, body: Mapping[str, Any], ctx: CallContext, *, probing: bool = False) -> Any:
        """The response of an operation. Raises _ProbeRefusedError if a probe was refused as a probe should be."""
        ctx.check("the predictor was called")
        async with self._opening:
            if self._client is None:
                self._client = await _before(ctx, self._clients.enter_async_context(self._open()))
        try:
            return await _before(ctx, getattr(self._client, operation)(modelId=self.model, **body))
        except exceptions.ClientError as error:
            # A service that is throttled stays ready: other replicas share its account.
            if probing and isinstance(self._rejection(error), (InvalidRequestError, BusyError)):
                raise _ProbeRefusedError from error
            raise

    @contextlib.contextmanager
    def _translating(self) -> Iterator[None]:
        """Raises errors as the caller should see them."""
        try:
            yield
        except exceptions.ClientError as error:
            rejection = self._rejection(error)
            raise (
                caller_error(rejection, _NAMES) if isinstance(rejection, InvalidRequestError) else rejection
            ) from error
        except _CREDENTIAL_ERRORS as error:
            raise BadUpstreamError(
                "This service has no AWS credentials. The operator must give it a role (IRSA), AWS_PROFILE or "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            ) from error
        except asyncio.TimeoutError as error:
            raise DeadlineExceededError("The predictor did not respond before the request's deadline.") from error
        except _BROKEN as error:
            raise NotReadyError("The predictor ended its response early.") from error
        except (exceptions.EndpointConnectionError, exceptions.ConnectTimeoutError, exceptions.SSLError) as error:
            raise NotReadyError("The predictor cannot be reached. Try again shortly.") from error
        except exceptions.ProxyConnectionError as error:
            raise NotReadyError("The predictor cannot be reached through the proxy in HTTPS_PROXY.") from error
        except _UNREADABLE as error:
            raise BadUpstreamError("The predictor sent a response that does not follow Bedrock's API.") from error

    def _rejection(self, error: exceptions.ClientError) -> ServiceError:
        """The error for a response that is an exception, or for an exception in the middle of a stream."""
        code, reason = error.response["Error"].get("Code", ""), error.response["Error"].get("Message", "")
        # Codes begin with a small letter in a stream, where the status is the stream's.
        code = code[:1].upper() + code[1:]
        status = _STREAM_STATUS.get(code) or error.response["ResponseMetadata"].get("HTTPStatusCode", 500)
        rejection: ServiceError
        if code == "AccessDeniedException":
            rejection = BadUpstreamError(
                f"AWS denied this service the model {self.model!r}. The operator must allow its role "
                "bedrock:InvokeModel and bedrock:InvokeModelWithResponseStream, and request access to the model."
            )
        elif status in (401, 403):
            rejection = BadUpstreamError(
                f"AWS rejected this service's credentials{f' ({code})' if code else ''}. The operator must renew them."
            )
        elif status == 429:
            rejection = BusyError(
                "The predictor is busy: AWS throttles this account. Try again shortly.", retry_after_s=1
            )
        elif status == 404 or (status == 400 and _MODEL.search(reason)):
            rejection = NotReadyError(
                f"Bedrock has no model {self.model!r} in this region and account. The operator must set "
                "TRANSFORMER_PREDICTOR_MODEL to a model id, or to an inference profile where the model needs one."
            )
        elif status == 400 and "guardrail" in reason.lower():
            rejection = NotReadyError(
                "Bedrock refused the guardrail. The operator must correct PREDICTOR_BEDROCK_GUARDRAIL_ID and _VERSION."
            )
        elif status == 400:
            rejection = InvalidRequestError(f"The predictor refused the request: {reason}")
        elif status == 503:
            rejection = NotReadyError("The predictor is not ready. Try again shortly.")
        elif status in (408, 504):
            rejection = DeadlineExceededError("The model did not respond in Bedrock's own time limit.")
        else:
            rejection = failure(reason)
        rejection.upstream_reason = reason[:500]
        return rejection


class _ProbeRefusedError(Exception):
    """Bedrock refused the request of a probe: it is ready."""


_STREAM_STATUS = {
    "InternalServerException": 500,
    "ModelStreamErrorException": 424,
    "ModelTimeoutException": 408,
    "ServiceUnavailableException": 503,
    "ThrottlingException": 429,
    "ValidationException": 400,
}
"""Exception in a stream → its HTTP status. Source: botocore's model of bedrock-runtime."""

_NAMES: Mapping[str, Sequence[str]] = {
    "prompt": ("prompt",),
    "max_tokens": ("maxTokens", "max_tokens", "max_tokens_to_sample"),
    "temperature": ("temperature",),
    "top_p": ("topP", "top_p"),
    "top_k": ("top_k",),
    "stop": ("stopSequences", "stop_sequences"),
}
"""Field of `GenerationRequest` → Bedrock's names."""


async def _before(ctx: CallContext, awaitable: Awaitable[ResultT]) -> ResultT:
    """The result, if it comes before the deadline. Else raises asyncio.TimeoutError."""
    return await asyncio.wait_for(awaitable, max(0, ctx.remaining_s()))


def _converse_body(request: GenerationRequest, settings: BedrockSettings) -> dict[str, Any]:
    messages: Sequence[Message] = [] if isinstance(request.prompt, str) else request.prompt
    fields = sent_fields(request, ("max_tokens", "temperature", "top_p"))
    sent = {"max_tokens": "maxTokens", "temperature": "temperature", "top_p": "topP"}
    inference: dict[str, Any] = {sent[name]: value for name, value in fields.items()}
    if request.stop:
        inference["stopSequences"] = list(request.stop)
    body: dict[str, Any] = {
        "messages": [
            {"role": message["role"], "content": [{"text": message["content"]}]}
            for message in messages
            if message["role"] != "system"
        ],
        "inferenceConfig": inference,
    }
    system = [{"text": message["content"]} for message in messages if message["role"] == "system"]
    if system:
        body["system"] = system
    if request.top_k:
        body["additionalModelRequestFields"] = {"top_k": request.top_k}
    if settings.guardrail_id:
        body["guardrailConfig"] = {
            "guardrailIdentifier": settings.guardrail_id,
            "guardrailVersion": settings.guardrail_version,
        }
    return body


async def _converse_whole(response: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    parts = [{"contentBlockDelta": {"delta": part}} for part in response["output"]["message"]["content"]]
    return [*parts, {"messageStop": {"stopReason": response["stopReason"]}}, {"metadata": {"usage": response["usage"]}}]


def _take_converse(answer: AnswerState, event: Mapping[str, Any]) -> str:
    if "messageStop" in event:
        answer.set_finish_reason(event["messageStop"]["stopReason"])
    elif "metadata" in event:
        usage = event["metadata"]["usage"]
        answer.prompt_tokens = token_count(usage["inputTokens"])
        answer.completion_tokens = token_count(usage["outputTokens"])
        if "cacheReadInputTokens" in usage:
            answer.cached_tokens = token_count(usage["cacheReadInputTokens"])
    elif "contentBlockDelta" in event:
        answer.set_finish_reason(None)
        # A delta without text has the model's reasoning.
        return answer.add_text(event["contentBlockDelta"]["delta"].get("text", ""))
    return ""


_TURN = re.compile(r"\n\n(?=(Human|Assistant):)")


def _claude_body(request: GenerationRequest, settings: BedrockSettings) -> dict[str, Any]:
    turns = {"system": "", "user": "\n\nHuman: ", "assistant": "\n\nAssistant: "}
    messages: Sequence[Message] = [] if isinstance(request.prompt, str) else request.prompt
    # Claude reads two line breaks and a name as a new turn, so a document must not have them.
    prompt = "".join(turns[message["role"]] + _TURN.sub("\n", message["content"]) for message in messages)
    fields = sent_fields(request, ("temperature", "top_p", "top_k"))
    if fields.get("top_k") == 0:
        del fields["top_k"]  # Claude's default considers all tokens
    body = {
        **fields,
        "prompt": f"{prompt}\n\nAssistant:",
        "max_tokens_to_sample": request.max_tokens,
        "stop_sequences": list(request.stop),
    }
    guardrail = {"guardrailIdentifier": settings.guardrail_id, "guardrailVersion": settings.guardrail_version}
    return {
        "body": orjson.dumps(body),
        "contentType": "application/json",
        **(guardrail if settings.guardrail_id else {}),
    }


async def _claude_whole(response: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    headers = response["ResponseMetadata"]["HTTPHeaders"]
    counts = {
        f"{name}TokenCount": headers.get(f"x-amzn-bedrock-{name}-token-count", "") for name in ("input", "output")
    }
    counted = {name: int(count) for name, count in counts.items() if count.isdigit()}
    event = orjson.loads(await response["body"].read()) | {"amazon-bedrock-invocationMetrics": counted}
    return [{"chunk": {"bytes": orjson.dumps(event)}}]


def _take_claude(answer: AnswerState, event: Mapping[str, Any]) -> str:
    completion = orjson.loads(event["chunk"]["bytes"])
    answer.set_finish_reason(completion["stop_reason"])
    metrics = completion.get("amazon-bedrock-invocationMetrics") or {}
    if "outputTokenCount" in metrics:
        answer.prompt_tokens = token_count(metrics["inputTokenCount"])
        answer.completion_tokens = token_count(metrics["outputTokenCount"])
    text = completion["completion"]
    return answer.add_text(text if answer.text else text.lstrip())  # Claude begins with a space


CONVERSE = BedrockApi(
    operations=("converse_stream", "converse"),
    body=_converse_body,
    probe={"messages": []},
    whole=_converse_whole,
    take=_take_converse,
    parameters=frozenset(),
)
CLAUDE_TEXT = BedrockApi(
    operations=("invoke_model_with_response_stream", "invoke_model"),
    body=_claude_body,
    probe={"body": b"{}", "contentType": "application/json"},
    whole=_claude_whole,
    take=_take_claude,
    parameters=frozenset({"temperature", "top_p", "top_k"}),
    default_model="anthropic.claude-v2:1",
)
