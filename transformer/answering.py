"""Answers questions from passages in one of the modes `quote`, `write` and `auto`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from chassis.context import CallContext
from chassis.errors import BadUpstreamError
from predictor.wire import GenerationChunk
from text_analysis.declining_words import declines
from transformer.checking import Checker
from transformer.citations import quotation
from transformer.generation import Generator
from transformer.loops import LoopDetector
from transformer.question import Question
from transformer.refusal import refusal_text
from transformer.retrieval import Retrieved
from transformer.telemetry import Stopwatch
from transformer.wire import (
    AnsweredBy,
    AnswerMode,
    Citations,
    FinishReason,
    PromptTokensDetails,
    Quote,
    Usage,
    Withheld,
)

_MIN_QUOTE_ANSWERABILITY = 0.15
"""Answerability from which a quote replaces an LLM's "I don't know": little more than
`answerability.DEFAULT_THRESHOLD`, because a small LLM is a weak judge of this."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The fields of an answer that are known after its text."""

    finish_reason: FinishReason = "stop"
    answered_by: AnsweredBy | None = None
    """None if there is no answer."""
    refused: bool = False
    usage: Usage = field(default_factory=Usage)
    citations: Citations | None = None


Pieces = AsyncGenerator[str | Outcome, None]
"""The text of an answer in pieces, then the outcome."""


class Answerer:
    """Answers questions from the passages found. Holds no state of a request."""

    def __init__(self, generator: Generator, checker: Checker, *, mode: AnswerMode, refusal: str | None) -> None:
        """An answerer.

        Args:
            generator: generates text with the LLM.
            checker: attributes the text, and quotes.
            mode: default answer mode.
            refusal: the text of a refusal; None: one in the question's language.
        """
        self._generator = generator
        self._checker = checker
        self._mode = mode
        self._refusal = refusal

    def mode(self, question: Question) -> AnswerMode:
        """The answer mode, if documents are found."""
        mode = question.grounding.answers or self._mode
        return "write" if mode == "auto" and not self._checker.checks(question) else mode

    def answer(
        self,
        question: Question,
        retrieved: Retrieved,
        ctx: CallContext,
        stopwatch: Stopwatch,
        *,
        max_tokens: int,
        mode: AnswerMode,
    ) -> Pieces:
        """The answer; without text if `max_tokens` is 0. Closing the iterator cancels the generation.

        Raises:
            ServiceError: the predictor failed; at any time.
        """
        if retrieved.refused:
            return self._refuse(question)
        if max_tokens == 0:
            return self._retrieve_only()
        if mode == "write" or not retrieved.prompt.sources:
            return self._write(question, retrieved, ctx, stopwatch)
        if mode == "quote":
            return self._quote(question, self._quotes(question, retrieved))
        return self._write_gated(question, retrieved, ctx, stopwatch)

    async def _refuse(self, question: Question, usage: Usage | None = None) -> Pieces:
        text = self._refusal
        if text is None:
            # In a thread, because the first refusal loads the language detector, which takes up to a second.
            text = await asyncio.to_thread(refusal_text, question.text)
        yield text
        yield Outcome(refused=True, usage=usage or Usage())

    async def _retrieve_only(self) -> Pieces:
        yield Outcome("length")

    async def _quote(
        self,
        question: Question,
        quotes: Sequence[Quote],
        *,
        usage: Usage | None = None,
        withheld: Sequence[Withheld] = (),
    ) -> Pieces:
        """The quotes as an answer, or a refusal if there are none. `withheld`: the LLM's text that they replace."""
        if not quotes:
            async for piece in self._refuse(question, usage):
                yield piece
            return
        citations = quotation(quotes, withheld)
        yield citations.text
        yield Outcome(answered_by="quote", usage=usage or Usage(), citations=citations)

    async def _write(self, question: Question, retrieved: Retrieved, ctx: CallContext, stopwatch: Stopwatch) -> Pieces:
        """The LLM's text, cut before a repetition, and its check."""
        sources = retrieved.prompt.sources
        generated = _GeneratedText(stopwatch)
        shown = 0
        async with contextlib.aclosing(generated.follow(self._chunks(question, retrieved, ctx))) as pieces:
            async for _ in pieces:
                if (safe := generated.loops.safe) > shown:
                    yield generated.text[shown:safe]
                    shown = safe
        if generated.finish_reason == "repetition":
            generated.text = generated.text[:shown]
        elif shown < len(generated.text):
            yield generated.text[shown:]
        stopwatch.lap("generation")
        refused = bool(sources) and declines(generated.text)
        citations = None if refused else await self._checker.check(question, generated.text, sources, ctx)
        answered_by: AnsweredBy | None = None if refused else "llm"
        yield Outcome(generated.finish_reason, answered_by, refused=refused, usage=generated.usage, citations=citations)

    async def _write_gated(
        self, question: Question, retrieved: Retrieved, ctx: CallContext, stopwatch: Stopwatch
    ) -> Pieces:
        """The LLM's supported sentences; if none of them answers, a quote or a refusal."""
        quotes = self._quotes(question, retrieved)
        gate = self._checker.gate(question, retrieved.prompt.sources, quotes)
        generated = _GeneratedText(stopwatch)
        async with contextlib.aclosing(generated.follow(self._chunks(question, retrieved, ctx))) as pieces:
            async for piece in pieces:
                if released := gate.feed(piece):
                    yield released
        if released := gate.close(looping=generated.finish_reason == "repetition"):
            yield released
        stopwatch.lap("generation")
        if gate.text:
            yield Outcome(generated.finish_reason, "llm", usage=generated.usage, citations=gate.citations())
            return
        if declines(generated.text) and (retrieved.answerability or 0.0) < _MIN_QUOTE_ANSWERABILITY:
            quotes = []
        async for last in self._quote(question, quotes, usage=generated.usage, withheld=gate.withheld):
            yield last

    def _quotes(self, question: Question, retrieved: Retrieved) -> list[Quote]:
        query = retrieved.query or question.text
        return self._checker.quotes(query, retrieved.prompt.sources, retrieved.similarity)

    def _chunks(
        self, question: Question, retrieved: Retrieved, ctx: CallContext
    ) -> AsyncGenerator[GenerationChunk, None]:
        prompt = retrieved.prompt
        return self._generator.stream(prompt.messages, question.sampling, ctx, stop=prompt.stop)


class _GeneratedText:
    """The text that the LLM has written so far."""

    def __init__(self, stopwatch: Stopwatch) -> None:
        self.text = ""
        self.loops = LoopDetector()
        self.finish_reason: FinishReason = "stop"
        self.usage = Usage()
        """If we cancelled the LLM, `completion_tokens` is the number of chunks, and `prompt_tokens` is 0."""
        self._stopwatch = stopwatch

    async def follow(self, chunks: AsyncGenerator[GenerationChunk, None]) -> AsyncGenerator[str, None]:
        """The text in pieces. Cancels the generation and ends when the LLM repeats itself.

        Raises:
            ServiceError: the predictor failed.
        """
        count = 0
        async with contextlib.aclosing(chunks):
            async for chunk in chunks:
                if not count:
                    self._stopwatch.lap("first_token")
                count += 1
                self.text += chunk.text
                if self.loops.feed(chunk.text):
                    self.finish_reason = "repetition"
                    self.usage = Usage(completion_tokens=count, total_tokens=count)
                    return
                if chunk.text:
                    yield chunk.text
                if chunk.finish_reason is not None:
                    prompt, completion, cached = (
                        chunk.prompt_tokens or 0,
                        chunk.completion_tokens or 0,
                        chunk.cached_tokens,
                    )
                    self.finish_reason = chunk.finish_reason
                    self.usage = Usage(
                        prompt_tokens=prompt,
                        completion_tokens=completion,
                        total_tokens=prompt + completion,
                        prompt_tokens_details=None if cached is None else PromptTokensDetails(cached_tokens=cached),
                    )
                    return
        raise BadUpstreamError("The predictor ended without finishing its answer.")
