"""From text to an attributed answer: citations, for the requests that want them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from chassis.context import CallContext
from transformer.citations import Citer
from transformer.question import Question
from transformer.telemetry import CITATIONS, unsupported
from transformer.wire import CitationMode, Citations, Source

_LONG_ANSWER_CHARS = 20_000
"""Answers of this length or more are checked in a thread, so that they do not delay other requests."""


class Checker:
    """Checks answers against their sources. Holds no state of a request."""

    def __init__(self, citer: Citer, *, mode: CitationMode) -> None:
        """`mode` applies to questions that set none."""
        self._citer = citer
        self._mode = mode

    async def check(
        self, question: Question, text: str, sources: Sequence[Source], ctx: CallContext
    ) -> Citations | None:
        """The citations of an answer; None if it has no sources or the question wants no check."""
        mode = question.grounding.citations or self._mode
        if mode == "off" or not sources:
            return None
        with ctx.span(CITATIONS) as span:
            if len(text) < _LONG_ANSWER_CHARS:
                citations = self._citer.cite(text, question.text, sources, mode)
            else:
                citations = await asyncio.to_thread(self._citer.cite, text, question.text, sources, mode)
            span.set("kserve_rag.statements", len(citations.statements))
            span.set("kserve_rag.statements.unsupported", unsupported(citations))
        return citations
