"""Clients of TitanML Takeoff's `/generate_stream`: the community edition, and the later Pro edition.

Source: https://github.com/titanml/takeoff-community `app/main.py`,
https://docs.titanml.co/docs/Docs/interfacing/generate
"""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from chassis.context import CallContext
from chassis.errors import BadUpstreamError, ServiceError
from chassis.http import HttpUpstream
from predictor.engines.text import StoppedText
from predictor.servers.base import AnswerState, Capabilities, Options, caller_error, sent_fields, server_settings
from predictor.wire import GenerationChunk, GenerationRequest


class TakeoffSettings(BaseSettings):
    """Settings of Takeoff."""

    model_config = SettingsConfigDict(env_prefix="PREDICTOR_TAKEOFF_", extra="ignore")

    health_path: str | None = Field(
        None,
        description="Path that a GET finds while the server runs. Default: /openapi.json; /healthz of the Pro edition.",
    )


@dataclass(frozen=True, slots=True)
class TakeoffApi:
    """Description of one edition's API."""

    max_tokens: str
    """Parameter with the maximum number of tokens."""
    events: bool
    """Whether a stream is server-sent events. Otherwise it is the bare text."""
    health_path: str
    model_field: str | None = None
    """Field with the name of the model; None: a server has one model."""

    def connect(self, base_url: str, model: str | None, options: Options | None = None) -> TakeoffServer:
        """A client of this API. The entry points refer to this method."""
        return TakeoffServer(base_url, model, self, server_settings(TakeoffSettings, options))


COMMUNITY = TakeoffApi(max_tokens="generate_max_length", events=False, health_path="/openapi.json")
PRO = TakeoffApi(max_tokens="max_new_tokens", events=True, health_path="/healthz", model_field="consumer_group")

_NAMES = {
    "prompt": "text",
    "temperature": "sampling_temperature",
    "top_k": "sampling_topk",
    "top_p": "sampling_topp",
    "repetition_penalty": "repetition_penalty",
}
"""Field of `GenerationRequest` → Takeoff's parameter."""


class TakeoffServer:
    """Client of one Takeoff server. Takeoff has no stop strings, so the client closes the stream at the first one."""

    capabilities = Capabilities(
        prompt="text", parameters=frozenset({*_NAMES, "max_tokens", "stop"} - {"prompt"}), counts_tokens=False
    )

    def __init__(self, base_url: str, model: str | None, api: TakeoffApi, settings: TakeoffSettings) -> None:
        self.model = model
        self._api = api
        self._names = {**_NAMES, "max_tokens": api.max_tokens}
        self._health_path = settings.health_path or api.health_path
        self._upstream = HttpUpstream(base_url, name="predictor", honours_sampling=False)

    async def stream(self, request: GenerationRequest, ctx: CallContext) -> AsyncGenerator[GenerationChunk, None]:
        """See `LlmServer.stream`."""
        answer, shown = AnswerState(request), StoppedText(request.stop)
        # Takeoff divides by the temperature.
        fields = sent_fields(request, self._names, greedy={"top_k": 1})
        body: dict[str, Any] = {self._names[name]: value for name, value in fields.items()}
        if self.model is not None and self._api.model_field is not None:
            body[self._api.model_field] = self.model
        try:
            async with contextlib.aclosing(self._texts(body, ctx)) as texts:
                async for text in texts:
                    before = len(shown.visible)
                    shown.append(text)
                    answer.add_text(shown.visible[before:])
                    if len(shown.visible) > before:
                        yield GenerationChunk(shown.visible[before:])
                    if shown.stopped_by is not None:
                        break
        except ServiceError as error:
            names: dict[str, Sequence[str]] = {field: (name,) for field, name in self._names.items()}
            raise caller_error(error, names) from error
        before = len(shown.visible)
        shown.finish()
        yield answer.last_chunk(shown.visible[before:])

    async def health(self, ctx: CallContext) -> None:
        """See `LlmServer.health`. Takeoff does not list its models at this address."""
        await self._upstream.get_bytes(self._health_path, ctx)

    async def aclose(self) -> None:
        """Closes the pooled connections."""
        await self._upstream.aclose()

    async def _texts(self, body: dict[str, Any], ctx: CallContext) -> AsyncGenerator[str, None]:
        if self._api.events:
            async with contextlib.aclosing(self._upstream.stream_events("/generate_stream", body, ctx)) as events:
                async for event in events:
                    yield event
            return
        decoder = codecs.getincrementaldecoder("utf-8")()
        async with contextlib.aclosing(self._upstream.stream_bytes("/generate_stream", body, ctx)) as blocks:
            try:
                async for block in blocks:
                    yield decoder.decode(block)
                decoder.decode(b"", final=True)
            except UnicodeDecodeError as error:
                raise BadUpstreamError("The predictor sent text that is not UTF-8.") from error
