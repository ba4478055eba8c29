"""The prompt: documents quoted as data, in a stable order, within a token budget."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from predictor.client import EstimatedPromptFormat, PromptFormat
from predictor.wire import Message as LlmMessage
from transformer.errors import PromptTooLongError
from transformer.wire import CutPassage, Message, Source
from vectorstore.wire import Passage

ResultT = TypeVar("ResultT")

_QUESTION = "\nQuestion:"
"""Precedes the question, and ends an answer: small models go on with another question."""

_MARGIN_TOKENS = 8
"""Tolerance, in tokens, because the parts of a prompt are counted separately."""

_CACHED_CHARS = 8_000
"""Maximum length of texts whose results are cached. Passages recur, long texts from callers rarely do."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Messages to the LLM, and the passages in them."""

    messages: Sequence[LlmMessage]
    sources: list[Source]
    """Passages shown, in the order of their numbers."""
    cut: list[CutPassage]
    """Passages that did not fit, most relevant first."""


class PromptBuilder:
    """Builds prompts for one model.

    Passages are ordered by document, not by score, so that questions that find the same passages share
    the beginning of their prompts, which the server's prefix cache can reuse.
    """

    def __init__(
        self,
        prompt_format: PromptFormat | EstimatedPromptFormat,
        *,
        window: int,
        max_prompt_tokens: int,
        system_prompt: str,
        instruction: str,
        plain_system_prompt: str,
    ) -> None:
        """A builder for one model.

        Args:
            prompt_format: counts tokens and breaks up control tokens: with the model's tokenizer, or estimated.
            window: tokens that the model reads and writes together.
            max_prompt_tokens: most tokens of a prompt that holds passages.
            system_prompt: instructions before the documents.
            instruction: instructions after them, before the question.
            plain_system_prompt: instructions if there are no documents.
        """
        self._format = prompt_format
        self._window = window
        self._max_prompt_tokens = max_prompt_tokens
        self._system_prompt = system_prompt
        self._instruction = instruction
        self._plain_system_prompt = plain_system_prompt
        self._count = _cached(prompt_format.count, 8192)
        self._bare_frame = _cached(lambda system: prompt_format.count_messages(_messages(system, (), "?")), 64)
        self._escape = _cached(prompt_format.escape, 8192)

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end an answer: stop strings of the model's template, and the beginning of another question."""
        return (*self._format.stop, _QUESTION)

    def build(
        self,
        question: str,
        *,
        passages: Sequence[Passage] = (),
        context: str | None = None,
        history: Sequence[Message] = (),
        instructions: str | None = None,
        max_tokens: int,
    ) -> Prompt:
        """The prompt for a question.

        If it does not fit, the oldest turns of the conversation are left out first, then the least relevant passages.

        Args:
            question: the user's own words.
            passages: most relevant first.
            context: the caller's own text, instead of passages.
            history: earlier turns, oldest first.
            instructions: the caller's own, added to the service's.
            max_tokens: tokens reserved for the answer.

        Raises:
            PromptTooLongError: the question (with the context) and the answer do not fit the window.
        """
        grounded = bool(passages) or context is not None
        system = self._system_prompt if grounded else self._plain_system_prompt
        if instructions:
            system = f"{system}\n\n{self._escape(instructions)}"
        turns = [LlmMessage(role=turn.role, content=self._escape(turn.content)) for turn in history]
        asked = self._escape(question)
        fence = _document(None, "", self._escape(context)) if context is not None else ""

        lead = f"\n\n{self._instruction}{_QUESTION} " if grounded else ""
        told = self._count(fence) + self._count(lead) + self._count(asked) + _MARGIN_TOKENS

        room = self._window - max_tokens
        needed = [self._count(self._block(passage, len(passages))) + 1 for passage in passages]
        left = min(room, self._max_prompt_tokens) - told - sum(needed)
        turns = turns[self._first_turn(system, turns, left) :]
        fixed = told + self._frame(system, turns)
        if fixed > room:
            raise PromptTooLongError(
                f"The question{' and its context' if context is not None else ''} take {fixed} tokens of the prompt "
                f"and max_tokens reserves {max_tokens}: together more than the model's window of {self._window} "
                "tokens. Shorten the text or lower max_tokens.",
                field="context" if context is not None else "input",
            )
        if not passages:
            return Prompt(_messages(system, turns, f"{fence}{lead}{asked}"), [], [])
        kept, cut = self._fit(passages, needed, min(room, self._max_prompt_tokens) - fixed)
        sources = numbered(kept)
        documents = "\n".join(self._block(source, source.number) for source in sources)
        return Prompt(_messages(system, turns, f"{documents}{lead}{asked}"), sources, cut)

    def _frame(self, system: str, turns: Sequence[LlmMessage]) -> int:
        """Tokens of a prompt without its last message. Cached if there is no history."""
        return self._format.count_messages(_messages(system, turns, "?")) if turns else self._bare_frame(system)

    def _first_turn(self, system: str, turns: Sequence[LlmMessage], left: int) -> int:
        """The first turn to keep, so that a prompt without its last message takes at most `left` tokens.

        By bisection, because each attempt counts a whole prompt.
        """
        if not turns or self._frame(system, turns) <= left:
            return 0
        beginnings = range(2, len(turns), 2)
        first = bisect.bisect_left(beginnings, True, key=lambda begin: self._frame(system, turns[begin:]) <= left)
        return beginnings[first] if first < len(beginnings) else len(turns)

    @staticmethod
    def _fit(passages: Sequence[Passage], needed: Sequence[int], budget: int) -> tuple[list[Passage], list[CutPassage]]:
        kept: list[Passage] = []
        cut: list[CutPassage] = []
        for passage, tokens in zip(passages, needed, strict=True):
            if not cut and tokens <= budget:
                budget -= tokens
                kept.append(passage)
            else:
                cut.append(
                    CutPassage(chunk_id=passage.chunk_id, document_id=passage.document_id, reason="token_budget")
                )
        return kept, cut

    def _block(self, passage: Passage, number: int) -> str:
        title = " — ".join(dict.fromkeys(filter(None, [passage.title, *passage.heading_path])))
        return _document(number, self._escape(title), self._escape(passage.text))


def numbered(passages: Sequence[Passage]) -> list[Source]:
    """The passages as sources, in the order of their documents."""
    return [
        Source.construct_unchecked(number=number, **passage.__dict__)
        for number, passage in enumerate(sorted(passages, key=_reading_order), 1)
    ]


def _messages(system: str, turns: Sequence[LlmMessage], last: str) -> list[LlmMessage]:
    return [LlmMessage(role="system", content=system), *turns, LlmMessage(role="user", content=last)]


def _cached(function: Callable[[str], ResultT], size: int) -> Callable[[str], ResultT]:
    """`function` with a cache of `size` short texts."""
    cached = lru_cache(maxsize=size)(function)
    return lambda text: cached(text) if len(text) <= _CACHED_CHARS else function(text)


def _reading_order(passage: Passage) -> tuple[str, int, str]:
    return passage.document_id, passage.span.start, passage.chunk_id


def _document(number: int | None, title: str, text: str) -> str:
    """Text in triple quotes, as data. Triple quotes inside it are replaced."""
    label = f"[{number}] " if number is not None else ""
    head = _unquoted(f"{label}{' '.join(title.split())}".strip())
    quoted = f'"""\n{_unquoted(text)}\n"""'
    return f"{head}\n{quoted}" if head else quoted


def _unquoted(text: str) -> str:
    return text.replace('"""', "'''")
