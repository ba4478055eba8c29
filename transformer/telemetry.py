"""What operators are told of an answer: one span, and the metrics of `chassis.signals` that the transformer owns."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Literal

from chassis import metrics, signals
from chassis.context import CallContext
from transformer.wire import Citations, EndEvent

Outcome = Literal["answered", "no_support", "model_refused", "failed", "left"]

_ANSWERS = metrics.counter(signals.ANSWERS)
_FIRST_TOKEN = metrics.histogram(signals.FIRST_TOKEN)
_OUTPUT_TOKEN = metrics.histogram(signals.OUTPUT_TOKEN)
_TOKENS = metrics.counter(signals.TOKENS)
_INPUT_TOKENS, _OUTPUT_TOKENS = _TOKENS.labels("input"), _TOKENS.labels("output")
_RETRIEVAL = metrics.histogram(signals.RETRIEVAL_DURATION)
_STATEMENTS = metrics.counter(signals.STATEMENTS)

_UNTIL_FIRST_TOKEN = ("condense", "retrieval", "prompt", "first_token")
"""Laps of an answer's clock that follow each other from the question to the first token."""


class AnswerTelemetry:
    """Around the making of one answer, however it ends."""

    def __init__(self, ctx: CallContext, timings: Mapping[str, float], *, question_chars: int, turns: int) -> None:
        """Begins.

        Args:
            ctx: of the request.
            timings: the answer's own, in milliseconds; read at the end.
            question_chars: length of the question.
            turns: messages before it.
        """
        self._span = ctx.span(signals.ANSWER)
        self._timings = timings
        self._sizes = (question_chars, turns)
        self._end: EndEvent | None = None
        self._index_version: str | None = None

    @property
    def ctx(self) -> CallContext:
        """For what the answer is made of."""
        return self._span.ctx

    def __enter__(self) -> AnswerTelemetry:
        self._span.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        outcome = self._outcome(error)
        _ANSWERS.labels(outcome).inc()
        self._observe()
        if not self._span.recording:
            return
        self._span.set("kserve_rag.question.chars", self._sizes[0])
        self._span.set("kserve_rag.history.turns", self._sizes[1])
        self._span.set("kserve_rag.outcome", outcome)
        self._span.set("kserve_rag.index.version", self._index_version)
        if self._end is not None:
            self._span.set("kserve_rag.sources", len(self._end.sources))
            self._span.set("gen_ai.response.finish_reasons", (self._end.finish_reason,))
            self._span.set("gen_ai.usage.input_tokens", self._end.usage.prompt_tokens)
            self._span.set("gen_ai.usage.output_tokens", self._end.usage.completion_tokens)
            error = None  # whoever has the end needs no more
        self._span.__exit__(kind if error is not None else None, error, trace)

    def found(self, index_version: str | None) -> None:
        """Retrieval is done."""
        self._index_version = index_version

    def ended(self, end: EndEvent) -> None:
        """The answer has come to its end."""
        self._end = end

    def _outcome(self, error: BaseException | None) -> Outcome:
        if self._end is not None:
            if not self._end.refused:
                return "answered"
            return "model_refused" if self._end.usage.completion_tokens else "no_support"
        return "left" if error is None or isinstance(error, (GeneratorExit, asyncio.CancelledError)) else "failed"

    def _observe(self) -> None:
        timings, end = self._timings, self._end
        if "retrieval" in timings:
            _RETRIEVAL.observe(timings["retrieval"] / 1000)
        if "first_token" in timings:
            _FIRST_TOKEN.observe(sum(timings.get(lap, 0.0) for lap in _UNTIL_FIRST_TOKEN) / 1000)
        if end is None:
            return
        _INPUT_TOKENS.inc(end.usage.prompt_tokens)
        _OUTPUT_TOKENS.inc(end.usage.completion_tokens)
        if "generation" in timings and end.usage.completion_tokens > 1:
            _OUTPUT_TOKEN.observe(timings["generation"] / 1000 / (end.usage.completion_tokens - 1))
        for statement in () if end.citations is None else end.citations.statements:
            _STATEMENTS.labels(statement.verdict).inc()


def unsupported(citations: Citations) -> int:
    """Sentences that no source supports."""
    return sum(statement.verdict == "unsupported" for statement in citations.statements)
