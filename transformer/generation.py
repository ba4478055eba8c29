"""Generates text with the LLM, with a request's sampling parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from chassis.context import CallContext
from predictor.client import PredictorClient
from predictor.wire import GenerationChunk, GenerationRequest, Message
from transformer.wire import Defaults, SamplingParameters

_SAMPLED = {*Defaults.model_fields} & {*SamplingParameters.model_fields}


class Generator:
    """Generates with one LLM. Keeps no state between calls."""

    def __init__(self, predictor: PredictorClient, *, stop: tuple[str, ...], defaults: Defaults) -> None:
        """Create a generator.

        Args:
            predictor: client of the LLM server.
            stop: texts that end the answer to a finished prompt.
            defaults: default parameters.
        """
        self._predictor = predictor
        self._stop = stop
        self._defaults = defaults

    def stream(
        self, prompt: Sequence[Message], sampling: SamplingParameters, ctx: CallContext, *, stop: tuple[str, ...]
    ) -> AsyncGenerator[GenerationChunk, None]:
        """The answer to a prompt, chunk by chunk, up to a text of `stop`. Closing the iterator cancels the generation.

        Raises:
            ServiceError: the predictor refused the request or failed.
        """
        # A default that the server does not support is omitted; the server's client refuses one that the request sets.
        supported = self._predictor.capabilities.parameters
        parameters: dict[str, Any] = {}
        for name in _SAMPLED:
            value = getattr(sampling, name)
            if value is None and name in supported:
                value = getattr(self._defaults, name)
            parameters[name] = value
        # top_p 0 means the most likely token, but servers reject it.
        if parameters["temperature"] == 0 or parameters["top_p"] == 0:
            parameters |= {"temperature": 0.0, "top_k": None, "top_p": None}
        request = GenerationRequest(prompt, stop=(*stop, *sampling.stop), seed=sampling.seed, **parameters)
        return self._predictor.stream(request, ctx)

    def stream_completion(self, request: GenerationRequest, ctx: CallContext) -> AsyncGenerator[GenerationChunk, None]:
        """Like `complete`, chunk by chunk. A server that takes messages gets the prompt as a user's message."""
        if isinstance(request.prompt, str) and self._predictor.capabilities.prompt == "messages":
            request = dataclasses.replace(request, prompt=[{"role": "user", "content": request.prompt}])
        return self._predictor.stream(dataclasses.replace(request, stop=(*self._stop, *request.stop)), ctx)

    async def complete(self, request: GenerationRequest, ctx: CallContext) -> GenerationChunk:
        """The LLM's whole answer to a finished prompt, without retrieval or chat template.

        Raises:
            ServiceError: the predictor refused the request or failed.
        """
        return await self._predictor.generate(dataclasses.replace(request, stop=(*self._stop, *request.stop)), ctx)
