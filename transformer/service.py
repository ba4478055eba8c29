"""Answers questions: retrieves, then generates with attribution. Independent of HTTP and of the environment."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

from chassis.context import CallContext
from chassis.errors import BadUpstreamError, InvalidRequestError, NotFoundError
from predictor.client import PredictorClient
from predictor.wire import GenerationChunk, GenerationRequest
from transformer.answering import Answerer
from transformer.conversations import Conversations, Turn, TurnKind, shown
from transformer.generation import Generator
from transformer.question import Question
from transformer.refusal import topics
from transformer.retrieval import Retrieved, Retriever
from transformer.telemetry import AnswerTelemetry, Stopwatch
from transformer.wire import Answer, Defaults, EndEvent, Index, Indexes, SourcesEvent, TemplateCard, TextEvent
from vectorstore.client import VectorstoreClient

Event = SourcesEvent | TextEvent | EndEvent


@dataclass(frozen=True, slots=True)
class Model:
    """A model that answers: an LLM, its prompts and its parameters."""

    name: str
    """Value of `model` in requests."""
    display_name: str
    """Name for people."""
    predictor: PredictorClient
    retriever: Retriever
    """Finds passages and builds prompts."""
    generator: Generator
    """Completes finished prompts."""
    answerer: Answerer
    """Answers from the passages found."""
    defaults: Defaults
    """Parameters of questions that set none."""
    max_tokens: int | None = None
    """Maximum of `max_tokens` in requests."""

    def answer_tokens(self, given: int | None) -> int:
        """Maximum number of tokens of an answer. Raises InvalidRequestError if more than the limit are requested."""
        if given is None:
            return self.defaults.max_tokens
        if self.max_tokens is not None and given > self.max_tokens:
            raise InvalidRequestError(
                f"max_tokens is {given}, but the model {self.name!r} writes at most {self.max_tokens}.",
                field="max_tokens",
            )
        return given


class RagService:
    """Answers questions. Keeps no state between requests, except `Conversations` of callers that send only messages."""

    def __init__(
        self,
        *,
        vectorstore: VectorstoreClient,
        models: Sequence[Model],
        templates: Sequence[TemplateCard],
        conversations: Conversations,
    ) -> None:
        """Takes ownership of the upstreams: `aclose` closes them.

        Args:
            vectorstore: for readiness, indexes and documents.
            models: the models that answer. The first is the service's own: its name is the service's on every protocol,
                and it answers questions that name no model.
            templates: the prompt templates that a question may name.
            conversations: finds the earlier turns of a question.
        """
        self.models = models
        self.templates = templates
        self._vectorstore = vectorstore
        self._conversations = conversations
        self._by_name = {model.name: model for model in models}

    async def aclose(self) -> None:
        """Closes the connections to the upstreams."""
        await asyncio.gather(self._vectorstore.aclose(), *(model.predictor.aclose() for model in self.models))

    @property
    def model_name(self) -> str:
        """Name of the service on every protocol: that of its own model."""
        return self.models[0].name

    def model(self, name: str | None) -> Model:
        """The model of this name; None: the service's own. Raises NotFoundError, with all names, if there is none."""
        if name is None:
            return self.models[0]
        if name not in self._by_name:
            known = ", ".join(map(repr, self._by_name))
            raise NotFoundError(f"model: there is no {name!r}. This service has {known}.", field="model")
        return self._by_name[name]

    async def not_ready_reason(self, ctx: CallContext, name: str | None = None) -> str | None:
        """Why a model cannot answer now; None if it can. Raises what `model` raises."""
        predictor = self.model(name).predictor
        reasons = await asyncio.gather(self._vectorstore.not_ready_reason(ctx), predictor.not_ready_reason(ctx))
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
        """The answer of the service's own model to a finished prompt. Raises what `Generator.complete` raises."""
        self.models[0].answer_tokens(request.max_tokens)
        return await self.models[0].generator.complete(request, ctx)

    def stream_completion(self, request: GenerationRequest, ctx: CallContext) -> AsyncGenerator[GenerationChunk, None]:
        """Like `complete`, chunk by chunk."""
        self.models[0].answer_tokens(request.max_tokens)
        return self.models[0].generator.stream_completion(request, ctx)

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
            NotFoundError: there is no such model.
            ServiceError: the request is invalid or an upstream failed; before the first event or later.
        """
        stopwatch = Stopwatch()
        model = self.model(question.model)
        turns = self._conversations.recall(question, ctx)
        max_tokens = model.answer_tokens(question.sampling.max_tokens)
        mode = model.answerer.mode(question)
        with AnswerTelemetry(ctx, stopwatch.timings, question_chars=len(question.text), turns=len(turns)) as telemetry:
            retrieved = await model.retriever.retrieve(
                question, turns, telemetry.ctx, stopwatch, max_tokens=max_tokens, mode=mode
            )
            telemetry.found(retrieved.index_version)
            yield SourcesEvent.construct_unchecked(
                id=question.id,
                model_name=model.name,
                sources=retrieved.prompt.sources,
                index_version=retrieved.index_version,
                cut=retrieved.prompt.cut,
                query=retrieved.query,
                timings=stopwatch.timings,
                answerability=retrieved.answerability,
                replayed=retrieved.prompt.replayed,
            )
            text = ""
            answer = model.answerer.answer(
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
