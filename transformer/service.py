"""Answers questions: retrieves, then generates with attribution. Independent of HTTP and of the environment."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from chassis.context import CallContext
from chassis.errors import BadUpstreamError
from predictor.client import PredictorClient
from predictor.wire import GenerationChunk, GenerationRequest
from transformer.answering import Answerer
from transformer.conversations import Conversations, Turn, TurnKind, shown
from transformer.generation import Generator
from transformer.question import Question
from transformer.refusal import topics
from transformer.retrieval import Retrieved, Retriever
from transformer.telemetry import AnswerTelemetry, Stopwatch
from transformer.wire import Answer, Defaults, EndEvent, Index, Indexes, SourcesEvent, TextEvent
from vectorstore.client import VectorstoreClient

Event = SourcesEvent | TextEvent | EndEvent


class RagService:
    """Answers questions. Keeps no state between requests, except `Conversations` of callers that send only messages."""

    def __init__(
        self,
        *,
        model_name: str,
        vectorstore: VectorstoreClient,
        predictor: PredictorClient,
        retriever: Retriever,
        generator: Generator,
        answerer: Answerer,
        conversations: Conversations,
        defaults: Defaults,
    ) -> None:
        """Takes ownership of the two upstreams: `aclose` closes them.

        Args:
            model_name: its name on every protocol.
            vectorstore: for readiness, indexes and documents.
            predictor: for readiness.
            retriever: finds passages and builds prompts.
            generator: completes finished prompts.
            answerer: answers from the passages found.
            conversations: finds the earlier turns of a question.
            defaults: parameters of questions that set none.
        """
        self.model_name = model_name
        self._vectorstore = vectorstore
        self._predictor = predictor
        self._retriever = retriever
        self._generator = generator
        self._answerer = answerer
        self._conversations = conversations
        self.defaults = defaults

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

    def stream_completion(self, request: GenerationRequest, ctx: CallContext) -> AsyncGenerator[GenerationChunk, None]:
        """The LLM's answer to a finished prompt, chunk by chunk. Raises what `Generator.complete` raises."""
        return self._generator.stream_completion(request, ctx)

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
            ServiceError: the request is invalid or an upstream failed; before the first event or later.
        """
        stopwatch = Stopwatch()
        turns = self._conversations.recall(question, ctx)
        given = question.sampling.max_tokens
        max_tokens = self.defaults.max_tokens if given is None else given
        mode = self._answerer.mode(question)
        with AnswerTelemetry(ctx, stopwatch.timings, question_chars=len(question.text), turns=len(turns)) as telemetry:
            retrieved = await self._retriever.retrieve(
                question, turns, telemetry.ctx, stopwatch, max_tokens=max_tokens, mode=mode
            )
            telemetry.found(retrieved.index_version)
            yield SourcesEvent.construct_unchecked(
                id=question.id,
                model_name=self.model_name,
                sources=retrieved.prompt.sources,
                index_version=retrieved.index_version,
                cut=retrieved.prompt.cut,
                query=retrieved.query,
                timings=stopwatch.timings,
                answerability=retrieved.answerability,
                replayed=retrieved.prompt.replayed,
            )
            text = ""
            answer = self._answerer.answer(
                question, retrieved, telemetry.ctx, stopwatch, max_tokens=max_tokens, mode=mode
            )
            async with contextlib.aclosing(answer) as pieces:
                async for piece in pieces:
                    if isinstance(piece, str):
                        text += piece
                        yield TextEvent.construct_unchecked(text_output=piece)
                        continue
                    if piece.citations is not None:
                        text = piece.citations.text
                        stopwatch.lap("citations")
                    turn = _turn(question, retrieved, text, refused=piece.refused)
                    stopwatch.total()
                    end = EndEvent.construct_unchecked(
                        text_output="",
                        finish_reason=piece.finish_reason,
                        refused=piece.refused,
                        answered_by=piece.answered_by,
                        sources=[] if piece.refused else retrieved.prompt.sources,
                        usage=piece.usage,
                        timings=stopwatch.timings,
                        topics=topics(retrieved.passages) if piece.refused else [],
                        citations=piece.citations,
                        turns=self._conversations.remember(question, [*retrieved.prompt.turns, turn], ctx)
                        if text.strip()
                        else None,
                    )
                    telemetry.ended(end)
                    yield end


def _turn(question: Question, retrieved: Retrieved, answer: str, *, refused: bool) -> Turn:
    """A question with its answer and the passages that the LLM read or that were quoted."""
    if refused and not retrieved.prompt.messages:
        return Turn(question.text, answer, "refused")
    sources = retrieved.prompt.sources
    kind: TurnKind = "documents" if sources else "context" if (question.grounding.context or "").strip() else "plain"
    return Turn(question.text, answer, kind, tuple(shown(source, source.number) for source in sources))
