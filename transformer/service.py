"""Question in, attributed answer out: retrieval, prompt, generation. No HTTP and no environment."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from chassis.context import CallContext
from chassis.errors import BadUpstreamError
from predictor.client import PredictorClient
from predictor.wire import GenerationChunk, GenerationRequest
from transformer.answerability import PASSAGES, score, topics
from transformer.citations import Citer, Reading, StoredTexts
from transformer.condense import Condenser
from transformer.errors import PromptTooLongError
from transformer.prompt import Prompt, PromptBuilder
from transformer.refusing import RefusalPolicy
from transformer.telemetry import CITATIONS, AnswerTelemetry, unsupported
from transformer.wire import (
    Answer,
    CitationMode,
    Citations,
    CutPassage,
    EndEvent,
    Grounding,
    Index,
    Indexes,
    Message,
    Sampling,
    Source,
    SourcesEvent,
    TextEvent,
    Topic,
    Usage,
)
from vectorstore.client import VectorstoreClient, merged
from vectorstore.wire import Passage, SearchInstance

_LONG_ANSWER_CHARS = 20_000
"""An answer from this length on is checked in a thread, so that others need not wait for it."""

_DONT_KNOW = re.compile(r"\W*i\s+(do\s+not|don['’]?t)\s+know\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Question:
    """One question with all that says how to answer it. `transformer.wire` tells each field."""

    text: str
    sampling: Sampling
    grounding: Grounding
    history: tuple[Message, ...] = ()
    instructions: str | None = None
    id: str = field(default_factory=lambda: secrets.token_hex(16))


Event = SourcesEvent | TextEvent | EndEvent


@dataclass(slots=True)
class _Retrieved:
    prompt: Prompt
    query: str | None = None
    index_version: str | None = None
    answerability: float | None = None
    refused: bool = False
    passages: Sequence[Passage] = ()
    """All that were found, best first."""


class _Clock:
    """Milliseconds per hop of one answer."""

    def __init__(self) -> None:
        self._began = self._last = time.perf_counter()
        self.timings: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.timings[name] = round((now - self._last) * 1000, 2)
        self._last = now

    def total(self) -> None:
        self.timings["total"] = round((time.perf_counter() - self._began) * 1000, 2)


class RagService:
    """The graph's conductor. Holds clients, nothing of a request."""

    def __init__(
        self,
        *,
        model_name: str,
        vectorstore: VectorstoreClient,
        predictor: PredictorClient,
        prompts: PromptBuilder,
        condenser: Condenser,
        num_docs: int,
        min_support: float,
        refuse: bool,
        refusal_threshold: float | None,
        refusal: str,
        frequency_penalty: float | None,
        citer: Citer,
        citations: CitationMode,
    ) -> None:
        self.model_name = model_name
        self._vectorstore = vectorstore
        self._predictor = predictor
        self._prompts = prompts
        self._condenser = condenser
        self._num_docs = num_docs
        self._min_support = min_support
        self._refuse = refuse
        self._decisions = RefusalPolicy(vectorstore, threshold=refusal_threshold)
        self._refusal = refusal
        self._frequency_penalty = frequency_penalty
        self._citer = citer
        self._citations = citations
        self._stored = StoredTexts(vectorstore)

    async def aclose(self) -> None:
        """Closes the connections to the upstreams."""
        await asyncio.gather(self._vectorstore.aclose(), self._predictor.aclose())

    async def not_ready_reason(self, ctx: CallContext) -> str | None:
        """What an upstream says of why it is not ready; None when both are."""
        reasons = await asyncio.gather(self._vectorstore.not_ready_reason(ctx), self._predictor.not_ready_reason(ctx))
        return " ".join(filter(None, reasons)) or None

    async def indexes(self, ctx: CallContext) -> Indexes:
        """What can be asked.

        Raises:
            ServiceError: what the vectorstore did wrong.
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
            ServiceError: what the vectorstore did wrong.
        """
        return await self._vectorstore.document(document_id, ctx, version=version, collection=collection)

    async def answer(self, question: Question, ctx: CallContext) -> Answer:
        """The whole answer.

        Raises:
            ServiceError: what the caller or an upstream did wrong.
        """
        sources: SourcesEvent | None = None
        texts: list[str] = []
        async with contextlib.aclosing(self.stream(question, ctx)) as events:
            async for event in events:
                if isinstance(event, TextEvent):
                    texts.append(event.text_output)
                elif isinstance(event, SourcesEvent):
                    sources = event
                elif sources is not None:
                    return Answer.construct_unchecked(
                        id=sources.id,
                        model_name=sources.model_name,
                        text_output="".join(texts) if event.citations is None else event.citations.text,
                        sources=event.sources,
                        finish_reason=event.finish_reason,
                        refused=event.refused,
                        usage=event.usage,
                        index_version=sources.index_version,
                        cut=sources.cut,
                        query=sources.query,
                        timings=event.timings,
                        answerability=sources.answerability,
                        topics=event.topics,
                        citations=event.citations,
                    )
        raise BadUpstreamError("The predictor ended without finishing its answer.")

    async def complete(self, request: GenerationRequest, ctx: CallContext) -> GenerationChunk:
        """What the LLM makes of a finished prompt: nothing is retrieved, and no template put around it.

        Raises:
            ServiceError: what the caller or the predictor did wrong.
        """
        stop = (*self._prompts.stop, *request.stop)
        return await self._predictor.generate(dataclasses.replace(request, stop=stop), ctx)

    async def stream(self, question: Question, ctx: CallContext) -> AsyncGenerator[Event, None]:
        """The answer as it is made: sources, then pieces of text, then the end.

        Closing the iterator cancels the generation.

        Raises:
            ServiceError: what the caller or an upstream did wrong, before the first event or between two.
        """
        clock = _Clock()
        length, turns = len(question.text), len(question.history)
        with AnswerTelemetry(ctx, clock.timings, question_chars=length, turns=turns) as told:
            found = await self._retrieve(question, told.ctx, clock)
            told.found(found.index_version)
            begun = SourcesEvent.construct_unchecked(
                id=question.id,
                model_name=self.model_name,
                sources=found.prompt.sources,
                index_version=found.index_version,
                cut=found.prompt.cut,
                query=found.query,
                timings=clock.timings,
                answerability=found.answerability,
            )
            if found.refused or question.sampling.max_tokens == 0:
                clock.total()
                yield begun
                if found.refused:
                    yield TextEvent.construct_unchecked(text_output=self._refusal)
                reason: Literal["stop", "length"] = "stop" if found.refused else "length"
                end = _end(clock, reason, found, Usage(), refused=found.refused)
                told.ended(end)
                yield end
                return
            # The stored documents are read while the answer is made, so that checking it waits for nothing.
            checked = found.prompt.sources if self._mode(question) != "off" else []
            reading = self._stored.begin(checked, told.ctx)
            try:
                made = self._generate(question, found, begun, reading, told.ctx, clock)
                async with contextlib.aclosing(made) as events:
                    async for event in events:
                        if isinstance(event, EndEvent):
                            told.ended(event)
                        yield event
            finally:
                reading.close()

    async def _generate(
        self,
        question: Question,
        found: _Retrieved,
        begun: SourcesEvent,
        reading: Reading,
        ctx: CallContext,
        clock: _Clock,
    ) -> AsyncGenerator[Event, None]:
        prompt = found.prompt
        request = self._generation_request(prompt.text, question.sampling)
        async with contextlib.aclosing(self._predictor.stream(request, ctx)) as chunks:
            yield begun
            chunk = await anext(chunks, None)
            clock.lap("first_token")
            texts: list[str] = []
            while chunk is not None:
                if chunk.text:
                    texts.append(chunk.text)
                    yield TextEvent.construct_unchecked(text_output=chunk.text)
                if chunk.finish_reason is not None:
                    text = "".join(texts)
                    refused = bool(prompt.sources) and _DONT_KNOW.match(text) is not None
                    usage = _usage(chunk.prompt_tokens, chunk.completion_tokens)
                    clock.lap("generation")
                    citations = None if refused else await self._check(question, text, prompt.sources, reading, ctx)
                    if citations is not None:
                        clock.lap("citations")
                    clock.total()
                    yield _end(clock, chunk.finish_reason, found, usage, refused=refused, citations=citations)
                    return
                chunk = await anext(chunks, None)
        raise BadUpstreamError("The predictor ended without finishing its answer.")

    def _mode(self, question: Question) -> CitationMode:
        return question.grounding.citations or self._citations

    async def _check(
        self, question: Question, text: str, sources: Sequence[Source], reading: Reading, ctx: CallContext
    ) -> Citations | None:
        """The answer, checked against what it was made from; None where that is nothing, or not wanted."""
        mode = self._mode(question)
        if mode == "off" or not sources:
            return None
        with ctx.span(CITATIONS) as span:
            stored = await reading.finish()
            if len(text) < _LONG_ANSWER_CHARS:
                citations = self._citer.cite(text, question.text, sources, stored, mode)
            else:
                citations = await asyncio.to_thread(self._citer.cite, text, question.text, sources, stored, mode)
            span.set("kserve_rag.statements", len(citations.statements))
            span.set("kserve_rag.statements.unsupported", unsupported(citations))
            span.set("kserve_rag.quotes.dropped", len(citations.dropped))
        return citations

    def _generation_request(self, prompt: str, sampling: Sampling) -> GenerationRequest:
        # A nucleus of no probability mass still holds the likeliest token; servers refuse to be told so in these words.
        greedy = sampling.temperature == 0 or sampling.top_p == 0
        frequency_penalty = sampling.frequency_penalty
        return GenerationRequest(
            prompt=prompt,
            max_tokens=sampling.max_tokens,
            temperature=0.0 if greedy else sampling.temperature,
            top_k=None if greedy else sampling.top_k,
            top_p=None if greedy else sampling.top_p,
            stop=(*self._prompts.stop, *sampling.stop),
            seed=sampling.seed,
            repetition_penalty=sampling.repetition_penalty,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=self._frequency_penalty if frequency_penalty is None else frequency_penalty,
        )

    async def _retrieve(self, question: Question, ctx: CallContext, clock: _Clock) -> _Retrieved:
        """The prompt, with the passages that support an answer, or the finding that none does."""
        asks = question.grounding
        wanted = self._num_docs if asks.num_docs is None else asks.num_docs
        if asks.context:
            context = asks.context if asks.context.strip() else None
            return _Retrieved(self._build(question, context=context))
        if not asks.retrieval or wanted == 0:
            return _Retrieved(self._build(question))
        query = question.text
        if question.history:
            query = await self._condenser.condense(question.text, question.history, ctx)
            clock.lap("condense")
        # What answers a question is told by a few passages, also where the model is shown fewer.
        num_docs = max(wanted, PASSAGES)
        instances = [
            SearchInstance.model_construct(
                input=phrasing,
                num_docs=num_docs,
                filters=asks.filters,
                collections=asks.collections,
                neighbours=asks.neighbours,
                diversity=asks.diversity,
            )
            # A question may stand alone or not: both phrasings find more than either (docs/evaluation.md).
            for phrasing in dict.fromkeys((query, question.text))
        ]
        prediction = merged(await self._vectorstore.search(instances, ctx), num_docs)
        clock.lap("retrieval")
        clock.timings.update(prediction.timings_ms)
        passages, version = prediction.passages, prediction.index_version
        shown = passages[:wanted]
        refuse = self._refuse if asks.refuse is None else asks.refuse
        # Of a conversation the question as it was asked: names of earlier turns are no part of it.
        decision = await self._decisions.of(version, ctx)
        answerability = score(question.text, passages, decision.model).score
        threshold = decision.threshold if asks.min_score is None else asks.min_score
        if not passages or (refuse and answerability < threshold):
            cut = [_cut(passage, "not_answered") for passage in shown]
            prompt = Prompt("", [], cut)
            return _Retrieved(prompt, query, version, answerability, refused=True, passages=passages)
        supported = [passage for passage in shown if passage.support >= self._min_support]
        if not supported or not refuse:
            supported = shown
        prompt = self._build(question, passages=supported)
        if not prompt.sources:
            raise PromptTooLongError(
                "No passage fits the prompt beside this question. Shorten the question or its history, or lower "
                "max_tokens.",
                field="input",
            )
        if supported is not shown:
            prompt.cut.extend(_cut(one, "no_support") for one in shown if one.support < self._min_support)
        clock.lap("prompt")
        return _Retrieved(prompt, query, version, answerability, passages=passages)

    def _build(self, question: Question, *, passages: Sequence[Passage] = (), context: str | None = None) -> Prompt:
        return self._prompts.build(
            question.text,
            passages=passages,
            context=context,
            history=question.history,
            instructions=question.instructions,
            max_tokens=question.sampling.max_tokens,
        )


def _usage(prompt_tokens: int | None, completion_tokens: int | None) -> Usage:
    prompt, completion = prompt_tokens or 0, completion_tokens or 0
    return Usage.construct_unchecked(
        prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion
    )


def _cut(passage: Passage, reason: Literal["no_support", "not_answered"]) -> CutPassage:
    return CutPassage(chunk_id=passage.chunk_id, document_id=passage.document_id, reason=reason)


def _end(
    clock: _Clock,
    finish_reason: Literal["stop", "length", "cancelled"],
    found: _Retrieved,
    usage: Usage,
    *,
    refused: bool,
    citations: Citations | None = None,
) -> EndEvent:
    nearest: list[Topic] = topics(found.passages) if refused else []
    return EndEvent.construct_unchecked(
        text_output="",
        finish_reason=finish_reason,
        refused=refused,
        sources=[] if refused else found.prompt.sources,
        usage=usage,
        timings=clock.timings,
        topics=nearest,
        citations=citations,
    )
