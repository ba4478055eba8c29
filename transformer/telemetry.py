"""Spans and metrics of the transformer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Literal

from chassis import metrics, tracing
from chassis.context import CallContext
from transformer.wire import Citations, EndEvent

ANSWER = tracing.SpanType(
    "answer",
    "internal",
    "One question, from retrieval to the checked answer.",
    (
        "kserve_rag.question.chars",
        "kserve_rag.history.turns",
        "kserve_rag.outcome",
        "kserve_rag.sources",
        "kserve_rag.index.version",
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.output_tokens",
        "gen_ai.response.finish_reasons",
    ),
)
CONDENSE = tracing.SpanType(
    "condense",
    "internal",
    "Condensing a conversation into one query.",
    ("kserve_rag.history.turns", "kserve_rag.query.chars"),
)
CITATIONS = tracing.SpanType(
    "citations",
    "internal",
    "Checking an answer against its sources.",
    ("kserve_rag.statements", "kserve_rag.statements.unsupported"),
)

ANSWERS = metrics.Metric(
    "kserve_rag_answers_total",
    "counter",
    "answers",
    "Questions by outcome: answered; no_support: refused because no passage supports an answer; model_refused: the "
    "model said it does not know; failed; left: the client disconnected.",
    ("outcome",),
)
FIRST_TOKEN = metrics.Metric(
    "kserve_rag_first_token_seconds",
    "histogram",
    "seconds",
    "From a question's arrival to the first token of its answer, retrieval included.",
    buckets=(0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0),
)
OUTPUT_TOKEN = metrics.Metric(
    "kserve_rag_output_token_seconds",
    "histogram",
    "seconds",
    "Time per output token after the first: the mean of one answer.",
    buckets=(0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0),
)
TOKENS = metrics.Metric(
    "kserve_rag_tokens_total",
    "counter",
    "tokens",
    "Tokens of the LLM, as its server counts them: input (prompts) and output (answers).",
    ("type",),
)
RETRIEVAL_DURATION = metrics.Metric(
    "kserve_rag_retrieval_seconds",
    "histogram",
    "seconds",
    "Wait for the vectorstore's response to one question.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
STATEMENTS = metrics.Metric(
    "kserve_rag_statements_total",
    "counter",
    "sentences",
    "Sentences of answers by the result of the check against their sources: supported, unsupported, no_claim.",
    ("verdict",),
)

Outcome = Literal["answered", "no_support", "model_refused", "failed", "left"]

_ANSWERS = metrics.counter(ANSWERS)
_FIRST_TOKEN = metrics.histogram(FIRST_TOKEN)
_OUTPUT_TOKEN = metrics.histogram(OUTPUT_TOKEN)
_TOKENS = metrics.counter(TOKENS)
_INPUT_TOKENS, _OUTPUT_TOKENS = _TOKENS.labels("input"), _TOKENS.labels("output")
_RETRIEVAL = metrics.histogram(RETRIEVAL_DURATION)
_STATEMENTS = metrics.counter(STATEMENTS)

_UNTIL_FIRST_TOKEN = ("condense", "retrieval", "prompt", "first_token")
"""Consecutive laps from the question to the first token."""


class Stopwatch:
    """Milliseconds of each step of one answer."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self.timings: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Records the time since the last lap."""
        now = time.perf_counter()
        self.timings[name] = round((now - self._last) * 1000, 2)
        self._last = now

    def total(self) -> None:
        """Records the time since the start."""
        self.timings["total"] = round((time.perf_counter() - self._start) * 1000, 2)


class AnswerTelemetry:
    """Context manager that records the span and metrics of one answer, also if it fails or is cancelled."""

    def __init__(self, ctx: CallContext, timings: Mapping[str, float], *, question_chars: int, turns: int) -> None:
        """Starts the span.

        Args:
            ctx: the request's context.
            timings: `Stopwatch.timings`, read at the end.
            question_chars: length of the question.
            turns: number of earlier turns.
        """
        self._span = ctx.span(ANSWER)
        self._timings = timings
        self._sizes = (question_chars, turns)
        self._end: EndEvent | None = None
        self._index_version: str | None = None

    @property
    def ctx(self) -> CallContext:
        """The context within the span."""
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
            error = None  # The answer is complete: closing the generator early is not a failure.
        self._span.__exit__(kind if error is not None else None, error, trace)

    def found(self, index_version: str | None) -> None:
        """Record that retrieval is done."""
        self._index_version = index_version

    def ended(self, end: EndEvent) -> None:
        """Record that the answer is complete."""
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
    """Number of sentences that no source supports."""
    return sum(statement.verdict == "unsupported" for statement in citations.statements)
