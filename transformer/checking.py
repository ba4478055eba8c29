"""Attribution of answers: citations, quotes, and the gate of the mode `auto`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from chassis.context import CallContext
from transformer.citations import Citer, RankedSources
from transformer.gate import Gate
from transformer.question import Question
from transformer.reader import Reader
from transformer.telemetry import CITATIONS, unsupported
from transformer.wire import CitationMode, Citations, Quote, Source

_LONG_ANSWER_CHARS = 20_000
"""Longer answers are checked in a thread, so that they do not delay other requests."""
_NEARLY_BEST = 0.9
"""Support, relative to the best quote's, from which the LLM's answer may be what a quote says."""


class Checker:
    """Checks answers against their sources and finds quotes. Keeps no state between calls."""

    def __init__(self, citer: Citer, reader: Reader, *, mode: CitationMode) -> None:
        """`mode`: default citation mode."""
        self._citer = citer
        self._reader = reader
        self._mode = mode

    def checks(self, question: Question) -> bool:
        """Whether the answer to a question is checked."""
        return (question.grounding.citations or self._mode) != "off"

    async def check(
        self, question: Question, text: str, sources: Sequence[Source], ctx: CallContext
    ) -> Citations | None:
        """The citations of an answer; None without sources, or if the question disables the check."""
        if not self.checks(question) or not sources:
            return None
        with ctx.span(CITATIONS) as span:
            if len(text) < _LONG_ANSWER_CHARS:
                citations = self._citer.cite(text, question.text, sources)
            else:
                citations = await asyncio.to_thread(self._citer.cite, text, question.text, sources)
            span.set("kserve_rag.statements", len(citations.statements))
            span.set("kserve_rag.statements.unsupported", unsupported(citations))
        return citations

    def gate(self, question: Question, sources: Sequence[Source], answering: Sequence[Quote]) -> Gate:
        """A gate for the answer to a question.

        `answering`: quotes that answer it. The LLM must say what the best of them say.
        """
        best = max((quote.support for quote in answering), default=0.0)
        near = [quote.text for quote in answering if quote.support >= _NEARLY_BEST * best]
        return Gate(self._citer, question.text, sources, near)

    def quotes(self, query: str, sources: Sequence[Source], similarity: Mapping[str, Sequence[float]]) -> list[Quote]:
        """The sentences of the sources that answer, in the order of the sources; empty if none does.

        Args:
            query: the question, or in a conversation the standalone question.
            sources: the passages to read.
            similarity: see `vectorstore.wire.Prediction.sentence_similarity`.
        """
        ranked = RankedSources(sources)
        similar = [similarity.get(chunk_id, ()) for chunk_id in ranked.chunk_ids]
        spans = self._reader.read(query, ranked.passages, similar)
        return sorted(ranked.quotes(spans), key=lambda quote: (quote.number, quote.span.start))
