"""Client of a model endpoint of Cloudera Machine Learning whose function takes a prompt, as the hands-on lab's does.

Source: https://docs.cloudera.com/machine-learning/cloud/models/topics/ml-calling-a-model.html, and the lab's
`{"request": {"prompt", "temperature", "max_new_tokens", "repetition_penalty"}}`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from chassis.context import CallContext
from chassis.errors import BadUpstreamError, ForbiddenError, NotReadyError, ServiceError, UnauthorizedError
from chassis.http import HttpUpstream
from chassis.secrets import Secret, SecretPath
from predictor.servers.base import (
    AnswerState,
    Capabilities,
    Options,
    caller_error,
    failure,
    sent_fields,
    server_settings,
    whole_answer,
)
from predictor.wire import GenerationChunk, GenerationRequest

_NAMES = {
    "prompt": "prompt",
    "max_tokens": "max_new_tokens",
    "temperature": "temperature",
    "repetition_penalty": "repetition_penalty",
}
"""Field of `GenerationRequest` → the function's argument."""


_NEARLY_GREEDY = 0.01
"""The lowest temperature of the lab's page."""


class CmlSettings(BaseSettings):
    """Settings of a Cloudera model endpoint."""

    model_config = SettingsConfigDict(env_prefix="PREDICTOR_CML_", extra="ignore")

    access_key: SecretStr | None = Field(None, description="Access key of the model, sent in the body.")
    access_key_file: SecretPath | None = Field(None, description="File with the access key. Takes precedence.")
    api_key: SecretStr | None = Field(
        None, description="API key, sent as a bearer token, if the model's authentication is on."
    )
    api_key_file: SecretPath | None = Field(None, description="File with the API key. Takes precedence.")


class CmlServer:
    """Client of one model. `base_url` is the model service's, without `/model`. Answers are not streamed."""

    capabilities = Capabilities(
        prompt="text",
        parameters=frozenset({*_NAMES, "stop"} - {"prompt"}),
        streams=False,
        counts_tokens=False,
    )

    def __init__(self, base_url: str, model: str | None, options: Options | None = None) -> None:
        self.model = model
        settings = server_settings(CmlSettings, options)
        self._access_key = Secret(settings.access_key, settings.access_key_file)
        self._api_key = Secret(settings.api_key, settings.api_key_file)
        self._upstream = HttpUpstream(base_url, name="predictor", honours_sampling=False)

    async def stream(self, request: GenerationRequest, ctx: CallContext) -> AsyncGenerator[GenerationChunk, None]:
        """See `LlmServer.stream`. Yields one chunk, cut at the first stop string."""
        answer = AnswerState(request)
        # The model's function rejects temperature 0.
        fields = sent_fields(request, _NAMES, greedy={"temperature": _NEARLY_GREEDY})
        body: dict[str, Any] = {"request": {_NAMES[name]: value for name, value in fields.items()}}
        if (access_key := self._access_key.read()) is not None:
            body["accessKey"] = access_key
        try:
            response = await self._upstream.post_json("/model", body, self._own(ctx))
        except (UnauthorizedError, ForbiddenError) as error:
            raise BadUpstreamError(
                "The model endpoint rejected this service's keys. The operator must correct PREDICTOR_CML_ACCESS_KEY "
                "or PREDICTOR_CML_API_KEY."
            ) from error
        except ServiceError as error:
            names: dict[str, Sequence[str]] = {field: (name,) for field, name in _NAMES.items()}
            raise caller_error(error, names) from error
        answer.add_text(_prediction(response))
        yield whole_answer(answer, request)

    async def health(self, ctx: CallContext) -> None:
        """See `LlmServer.health`. Calls no function, because a model that answers one call at a time would be busy."""
        status = await self._upstream.status("/model", self._own(ctx))
        if status >= 500:
            raise NotReadyError(f"The model endpoint is not ready: it responds with status {status}.")

    async def aclose(self) -> None:
        """Closes the pooled connections."""
        await self._upstream.aclose()

    def _own(self, ctx: CallContext) -> CallContext:
        """The context with this service's credentials instead of the caller's."""
        key = self._api_key.read()
        if key is None:
            return ctx.without_authorization()
        return dataclasses.replace(ctx, headers={**ctx.headers, "authorization": f"Bearer {key}"})


def _prediction(response: Any) -> Any:
    """The text that the model's function returned."""
    try:
        if not response["success"]:
            raise failure(str(response.get("errors")))
        return response["response"]["prediction"]["response"]
    except (KeyError, TypeError, AttributeError) as error:
        raise BadUpstreamError("The predictor's response does not follow Cloudera's model endpoint.") from error
