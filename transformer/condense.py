"""Condenses a conversation into one search query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from chassis.context import CallContext
from predictor.client import EstimatedPromptFormat, PredictorClient, PromptFormat
from predictor.wire import GenerationRequest
from text_analysis.words import fold, words
from transformer.telemetry import CONDENSE
from transformer.wire import Message

CondenseMethod = Literal["llm", "concatenate"]

_TURNS = 3
"""Number of earlier questions, or exchanges, that are used."""
_MAX_QUERY_CHARS = 1000
_MAX_TURN_CHARS = 600
_REWRITE_TOKENS = 64

_SYSTEM = (
    "Rewrite the user's last message as one question that can be understood without the conversation. "
    "Replace words like it, they or there by what they stand for. Reply with the question only."
)


class Condenser:
    """Turns history and a question into one query.

    `concatenate` prepends the user's recent questions, which takes no time. `llm` has the predictor rewrite the
    question, and falls back to `concatenate` if the result has words that are not in the conversation: small models
    invent some.
    """

    def __init__(
        self,
        method: CondenseMethod,
        predictor: PredictorClient,
        prompt_format: PromptFormat | EstimatedPromptFormat,
    ) -> None:
        self._method = method
        self._predictor = predictor
        self._format = prompt_format

    async def condense(self, question: str, history: Sequence[Message], ctx: CallContext) -> str:
        """A query of at most 1,000 characters, or the question itself if it is longer.

        Raises:
            ServiceError: the predictor failed (method `llm`).
        """
        with ctx.span(CONDENSE) as span:
            query = await self._condense(question, history, span.ctx)
            span.set("kserve_rag.history.turns", len(history))
            span.set("kserve_rag.query.chars", len(query))
        return query

    async def _condense(self, question: str, history: Sequence[Message], ctx: CallContext) -> str:
        if all(turn.role != "user" for turn in history):
            return question
        if self._method == "llm" and len(question) <= _MAX_QUERY_CHARS:
            rewritten = await self._rewrite(question, history, ctx)
            known = {word for text in (question, *(turn.content for turn in history)) for word in words(fold(text))}
            if rewritten and set(words(fold(rewritten))) - known <= _FUNCTION_WORDS:
                return rewritten
        return concatenate(question, history)

    async def _rewrite(self, question: str, history: Sequence[Message], ctx: CallContext) -> str:
        turns = "\n".join(f"{turn.role}: {turn.content[:_MAX_TURN_CHARS]}" for turn in history[-2 * _TURNS :])
        asked = self._format.escape(f"{turns}\nuser: {question}\n\nThe last message as one question:")
        request = GenerationRequest(
            prompt=[{"role": "system", "content": _SYSTEM}, {"role": "user", "content": asked}],
            max_tokens=_REWRITE_TOKENS,
            temperature=0.0,
            stop=(*self._format.stop, "\n"),
        )
        rewritten = (await self._predictor.generate(request, ctx)).text.strip().strip('"')
        return rewritten if len(rewritten) <= _MAX_QUERY_CHARS else ""


# fmt: off
_FUNCTION_WORDS = frozenset((
    "a", "an", "and", "are", "as", "at", "be", "by", "can", "did", "do", "does", "for", "from", "had", "has",
    "have", "how", "in", "is", "it", "its", "of", "on", "or", "s", "that", "the", "their", "there", "these", "they",
    "this", "to", "was", "were", "what", "when", "where", "which", "who", "whom", "whose", "why", "will", "with",
    "would", "you", "your", "about",
))
# fmt: on
"""Words that a rewritten question may add to those of the conversation."""


def concatenate(question: str, history: Sequence[Message]) -> str:
    """The user's last three questions and this one, one per line; at most 1,000 characters.

    Older questions are left out first. A longer question is returned unchanged.
    """
    query = question
    for earlier in reversed([turn.content for turn in history if turn.role == "user"][-_TURNS:]):
        if len(earlier) + 1 + len(query) > _MAX_QUERY_CHARS:
            break
        query = f"{earlier}\n{query}"
    return query
