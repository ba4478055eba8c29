"""Question in, attributed answer out: retrieve, generate, check. No HTTP and no environment."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator
from typing import Any, Literal

from chassis.context import CallContext
from chassis.errors import BadUpstreamError
from predictor.client import PredictorClient
from predictor.wire import GenerationChunk, GenerationRequest
from transformer.checking import Checker
from transformer.generation import Generator
from transformer.question import Question
from transformer.refusal import topics
from transformer.retrieval import Retrieved, Retriever
from transformer.telemetry import AnswerTelemetry, Stopwatch
from transformer.wire import (
    Answer,
    Citations,
    EndEvent,
    FinishReason,
    Index,
    Indexes,
    SourcesEvent,
    TextEvent,
    Usage,
)
from vectorstore.client import VectorstoreClient

_DONT_KNOW = re.compile(r"\W*i\s+(do\s+not|don['’]?t)\s+know\b", re.IGNORECASE)

Event = SourcesEvent | TextEvent | EndEvent


class RagService:
    """Answers questions. Holds no state of a request."""

    def __init__(
        self,
        *,
        model_name: str,
        vectorstore: VectorstoreClient,
        predictor: PredictorClient,
        retriever: Retriever,
        generator: Generator,
        checker: Checker,
        refusal: str,
    ) -> None:
        """A service over its two upstreams, which it closes.

        Args:
            model_name: its name on every protocol.
            vectorstore: for readiness, indexes and documents.
            predictor: for readiness.
            retriever: finds passages and builds prompts.
            generator: has the LLM write.
            checker: attributes what it wrote.
            refusal: the text of a refusal.
        """
        self.model_name = model_name
        self._vectorstore = vectorstore
        self._predictor = predictor
        self._retriever = retriever
        self._generator = generator
        self._checker = checker
        self._refusal = refusal

    async def aclose(self) -> None:
        """Closes the connections to the upstreams."""
        await asyncio.gather(self._vectorstore.aclose(), self._predictor.aclose())

    async def not_ready_reason(self, ctx: CallContext) -> str | None:
        """Why an upstream is not ready; None if both are."""
        reasons = await asyncio.gather(self._vectorstore.not_ready_reason(ctx), self._predictor.not_ready_reason(ctx))
        return " ".join(filter(None, reasons)) or None

    async def indexes(self, ctx: CallContext) -> Indexes:
        """The indexes that can be asked.

        Raises:
            ServiceError: the vectorstore failed.
        """
        served = await self._vectorstore.indexes(ctx)
        return Indexes(
            default=served.default,
            indexes=[
                Index.model_validate({**one.index.model_dump(), "reason": one.reason})
                for one in served.collections.values()
                if one.index is not None
            ],
            reason=served.reason if served.index is None else None,
        )

    async def document(
        self, document_id: str, ctx: CallContext, *, version: str | None = None, collection: str | None = None
    ) -> dict[str, Any]:
        """The content of a `vectorstore.wire.StoredDocument`.

        Raises:
            NotFoundError: there is no such document, version or collection.
            ServiceError: the vectorstore failed.
        """
        return await self._vectorstore.document(document_id, ctx, version=version, collection=collection)

    async def complete(self, request: GenerationRequest, ctx: CallContext) -> GenerationChunk:
        """The LLM's answer to a finished prompt. Raises what `Generator.complete` raises."""
        return await self._generator.complete(request, ctx)

    async def answer(self, question: Question, ctx: CallContext) -> Answer:
        """The whole answer. Raises what `stream` raises."""
        texts: list[str] = []
        start: SourcesEvent | None = None
        end: EndEvent | None = None
        async with contextlib.aclosing(self.stream(question, ctx)) as events:
            async for event in events:
                if isinstance(event, TextEvent):
                    texts.append(event.text_output)
                elif isinstance(event, SourcesEvent):
                    start = event
                else:
                    end = event
        if start is None or end is None:
            raise BadUpstreamError("The predictor ended without finishing its answer.")
        fields = {"id": start.id, "model_name": start.model_name, "text_output": "", **vars(start), **vars(end)}
        fields["text_output"] = "".join(texts) if end.citations is None else end.citations.text
        return Answer.construct_unchecked(**fields)

    async def stream(self, question: Question, ctx: CallContext) -> AsyncGenerator[Event, None]:
        """The answer as it is generated: sources, then pieces of text, then the end.

        Closing the iterator cancels the generation.

        Raises:
            ServiceError: the request or an upstream is at fault; before the first event or between two.
        """
        stopwatch = Stopwatch()
        length, turns = len(question.text), len(question.history)
        with AnswerTelemetry(ctx, stopwatch.timings, question_chars=length, turns=turns) as telemetry:
            retrieved = await self._retriever.retrieve(question, telemetry.ctx, stopwatch)
            telemetry.found(retrieved.index_version)
            prompt = retrieved.prompt
            start = SourcesEvent.construct_unchecked(
                id=question.id,
                model_name=self.model_name,
                sources=prompt.sources,
                index_version=retrieved.index_version,
                cut=prompt.cut,
                query=retrieved.query,
                timings=stopwatch.timings,
                answerability=retrieved.answerability,
            )
            if retrieved.refused or question.sampling.max_tokens == 0:
                stopwatch.total()
                yield start
                if retrieved.refused:
                    yield TextEvent.construct_unchecked(text_output=self._refusal)
                reason: Literal["stop", "length"] = "stop" if retrieved.refused else "length"
                end = _end(stopwatch, reason, retrieved, Usage(), refused=retrieved.refused)
                telemetry.ended(end)
                yield end
                return
            chunks = self._generator.stream(prompt.messages, question.sampling, telemetry.ctx)
            async with contextlib.aclosing(chunks):
                yield start
                chunk = await anext(chunks, None)
                stopwatch.lap("first_token")
                texts: list[str] = []
                while chunk is not None:
                    if chunk.text:
                        texts.append(chunk.text)
                        yield TextEvent.construct_unchecked(text_output=chunk.text)
                    if chunk.finish_reason is not None:
                        stopwatch.lap("generation")
                        text = "".join(texts)
                        refused = bool(prompt.sources) and _DONT_KNOW.match(text) is not None
                        citations = None
                        if not refused:
                            citations = await self._checker.check(question, text, prompt.sources, telemetry.ctx)
                        if citations is not None:
                            stopwatch.lap("citations")
                        stopwatch.total()
                        usage = _usage(chunk.prompt_tokens, chunk.completion_tokens)
                        end = _end(
                            stopwatch, chunk.finish_reason, retrieved, usage, refused=refused, citations=citations
                        )
                        telemetry.ended(end)
                        yield end
                        return
                    chunk = await anext(chunks, None)
            raise BadUpstreamError("The predictor ended without finishing its answer.")


def _usage(prompt_tokens: int | None, completion_tokens: int | None) -> Usage:
    prompt, completion = prompt_tokens or 0, completion_tokens or 0
    return Usage.construct_unchecked(
        prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion
    )


def _end(
    stopwatch: Stopwatch,
    finish_reason: FinishReason,
    retrieved: Retrieved,
    usage: Usage,
    *,
    refused: bool,
    citations: Citations | None = None,
) -> EndEvent:
    return EndEvent.construct_unchecked(
        text_output="",
        finish_reason=finish_reason,
        refused=refused,
        sources=[] if refused else retrieved.prompt.sources,
        usage=usage,
        timings=stopwatch.timings,
        topics=topics(retrieved.passages) if refused else [],
        citations=citations,
    )
