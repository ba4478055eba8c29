"""From a prompt to text: the LLM with a request's sampling parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Sequence

from chassis.context import CallContext
from predictor.client import PredictorClient
from predictor.wire import GenerationChunk, GenerationRequest, Message
from transformer.wire import SamplingParameters


class Generator:
    """Generates with one LLM. Holds no state of a request."""

    def __init__(self, predictor: PredictorClient, *, stop: tuple[str, ...], frequency_penalty: float | None) -> None:
        """A generator with the service's defaults.

        Args:
            predictor: the LLM's server.
            stop: texts that end every answer.
            frequency_penalty: of requests that set none.
        """
        self._predictor = predictor
        self._stop = stop
        self._frequency_penalty = frequency_penalty

    def stream(
        self, prompt: Sequence[Message], sampling: SamplingParameters, ctx: CallContext
    ) -> AsyncGenerator[GenerationChunk, None]:
        """The answer to a prompt, chunk by chunk. Closing the iterator cancels the generation.

        Raises:
            ServiceError: the predictor refused the request or failed.
        """
        # top_p 0 still leaves the likeliest token, but servers reject it.
        greedy = sampling.temperature == 0 or sampling.top_p == 0
        # The default top_k is left out for a server that has none; one that the request sets is refused there.
        top_k_applies = "top_k" in self._predictor.capabilities.parameters or "top_k" in sampling.model_fields_set
        request = GenerationRequest(
            prompt=prompt,
            max_tokens=sampling.max_tokens,
            temperature=0.0 if greedy else sampling.temperature,
            top_k=sampling.top_k if top_k_applies and not greedy else None,
            top_p=None if greedy else sampling.top_p,
            stop=(*self._stop, *sampling.stop),
            seed=sampling.seed,
            repetition_penalty=sampling.repetition_penalty,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=(
                self._frequency_penalty if sampling.frequency_penalty is None else sampling.frequency_penalty
            ),
        )
        return self._predictor.stream(request, ctx)

    async def complete(self, request: GenerationRequest, ctx: CallContext) -> GenerationChunk:
        """The LLM's whole answer to a finished prompt, without retrieval or chat template.

        Raises:
            ServiceError: the predictor refused the request or failed.
        """
        return await self._predictor.generate(dataclasses.replace(request, stop=(*self._stop, *request.stop)), ctx)
