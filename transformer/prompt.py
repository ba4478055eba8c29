"""Builds the prompt: documents quoted as data, in a stable order, within a token budget."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from predictor.client import EstimatedPromptFormat, PromptFormat
from predictor.wire import Message as LlmMessage
from transformer.conversations import PassageKey, ShownPassage, Turn, key_of, shown
from transformer.errors import PromptTooLongError
from transformer.templates import PromptTemplate
from transformer.wire import CutPassage, Replayed, Source
from vectorstore.wire import Passage

ResultT = TypeVar("ResultT")

_MARGIN_TOKENS = 8
"""Reserve, because the tokens of the parts of a prompt are counted separately."""

_CACHED_CHARS = 8_000
"""Maximum length of a text whose result is cached. Passages recur; long texts from callers rarely do."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Messages to the LLM, and the passages in them."""

    messages: Sequence[LlmMessage]
    sources: list[Source]
    """Passages shown for this question, in the order of their numbers."""
    cut: list[CutPassage]
    """Passages that did not fit, most relevant first."""
    turns: Sequence[Turn] = ()
    """Earlier turns that remain part of the conversation, oldest first."""
    replayed: Replayed | None = None
    """None if there are no messages or no earlier turns."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """A prompt with some of the earlier turns. All sizes are in tokens."""

    earlier: list[LlmMessage]
    numbers: dict[PassageKey, int]
    """Source numbers of the earlier turns' passages."""
    needed: list[int]
    """Size of each passage found for the question."""
    fixed: int
    """Size of the system message, the instructions, the caller's context and the question."""
    history: int
    """Size of the earlier turns."""
    history_budget: int


class PromptBuilder:
    """Builds prompts for one model.

    Passages are ordered by document, not by score: prompts with the same passages then begin with the same text, which
    the server's prefix cache can reuse. For the same reason the prompt of a conversation is append-only: it repeats
    each earlier turn with its passages. A passage that is already in the prompt keeps its number and is not repeated.
    """

    def __init__(
        self,
        prompt_format: PromptFormat | EstimatedPromptFormat,
        *,
        window: int,
        max_prompt_tokens: int,
        max_history_tokens: int,
        template: PromptTemplate,
        plain_system_prompt: str,
    ) -> None:
        """A builder for one model.

        Args:
            prompt_format: counts tokens and breaks up control tokens.
            window: context length of the model in tokens, prompt and answer together.
            max_prompt_tokens: maximum number of tokens of a prompt with passages, without the earlier turns.
            max_history_tokens: maximum number of tokens of the earlier turns.
            template: the texts around documents and question, if a question has no template of its own.
            plain_system_prompt: instructions if there are no documents, and the template has none for this case.
        """
        self._format = prompt_format
        self._window = window
        self._max_prompt_tokens = max_prompt_tokens
        self._max_history_tokens = max_history_tokens
        self._template = template
        self._plain_system_prompt = plain_system_prompt
        self._count = _cached(prompt_format.count, 8192)
        self._bare_frame = _cached(lambda system: prompt_format.count_messages(_messages(system, (), "?")), 64)
        self._escape = _cached(prompt_format.escape, 8192)

    @property
    def stop(self) -> tuple[str, ...]:
        """Stop strings: those of the model's chat template, and of the prompt template."""
        return (*self._format.stop, *self._template.stop_texts)

    def build(
        self,
        question: str,
        *,
        passages: Sequence[Passage] = (),
        context: str | None = None,
        turns: Sequence[Turn] = (),
        instructions: str | None = None,
        template: PromptTemplate | None = None,
        max_tokens: int,
    ) -> Prompt:
        """The prompt for a question.

        If it does not fit, the oldest turns of the conversation are left out first, then the least relevant passages.

        Args:
            question: the user's question, unchanged.
            passages: most relevant first.
            context: a text from the caller that replaces the passages.
            turns: the conversation so far, oldest first. Only passages with a text are repeated.
            instructions: the caller's instructions, added to the service's.
            template: the texts around documents and question. Default: the builder's.
            max_tokens: tokens reserved for the answer.

        Raises:
            PromptTooLongError: the question (with the context) and the answer do not fit the window.
        """
        grounded = bool(passages) or context is not None
        template = template or self._template
        plain_system = self._plain_system_prompt if template.plain_system is None else template.plain_system
        system = template.system if grounded else plain_system
        if instructions:
            system = f"{system}\n\n{self._escape(instructions)}"
        asked = self._escape(question)
        fence = template.bare_block(self._escape(context)) if context is not None else ""
        frame_of_question = template.question("", "") if grounded else ""
        own = self._count(fence) + self._count(frame_of_question) + self._count(asked) + _MARGIN_TOKENS
        room = self._window - max_tokens
        offered = [shown(passage, 0) for passage in passages]

        @functools.cache
        def layout(first: int) -> _Layout:
            kept = turns[first:]
            earlier = self._replay(kept, template)
            numbers, above = numbers_of(kept), _shown_by(kept)
            after = max(numbers.values(), default=0) + len(passages)
            blocks = [self._block(one, numbers.get(one.key, after), above, template) for one in offered]
            needed = [self._count(block) + 1 for block in blocks]
            frame = self._bare_frame(system)
            history = self._format.count_messages(_messages(system, earlier, "?")) - frame if earlier else 0
            fixed = frame + own
            wanted = max(fixed, min(fixed + sum(needed), self._max_prompt_tokens))
            return _Layout(earlier, numbers, needed, fixed, history, min(self._max_history_tokens, room - wanted))

        first = _first_turn(len(turns), layout)
        chosen = layout(first)
        if chosen.fixed > room:
            raise PromptTooLongError(
                f"The question{' and its context' if context is not None else ''} take {chosen.fixed} tokens of the "
                f"prompt and max_tokens reserves {max_tokens}: together more than the model's window of {self._window} "
                "tokens. Shorten the text or lower max_tokens.",
                field="context" if context is not None else "input",
            )
        budget = min(room - chosen.history, self._max_prompt_tokens) - chosen.fixed
        fitting, cut = self._fit(passages, chosen.needed, budget)
        sources = numbered(fitting, chosen.numbers)
        kept = turns[first:]
        above = _shown_by(kept)
        documents = "\n".join(
            self._block(shown(source, source.number), source.number, above, template) for source in sources
        )
        replayed = Replayed(turns=len(kept), left_out=first, incomplete=sum(not turn.complete for turn in kept))
        return Prompt(
            _messages(system, chosen.earlier, template.question(documents or fence, asked) if grounded else asked),
            sources,
            cut,
            kept,
            replayed if turns else None,
            (*self._format.stop, *template.stop_texts),
        )

    def _replay(self, turns: Sequence[Turn], template: PromptTemplate) -> list[LlmMessage]:
        """The messages of earlier turns, as the LLM first read them."""
        messages: list[LlmMessage] = []
        above: set[PassageKey] = set()
        for turn in turns:
            if turn.question is not None:
                known = [passage for passage in turn.passages if passage.text]
                documents = "\n".join(self._block(one, one.number, above, template) for one in known)
                above.update(one.key for one in known)
                asked = self._escape(turn.question)
                content = template.question(documents, asked) if known else asked
                messages.append(LlmMessage(role="user", content=content))
            if turn.answer is not None:
                # White space at the ends could merge with the template's white space into one token.
                messages.append(LlmMessage(role="assistant", content=self._escape(turn.answer.strip())))
        return messages

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

    def _block(
        self, passage: ShownPassage, number: int, above: Collection[PassageKey], template: PromptTemplate
    ) -> str:
        """A passage in the prompt. If an earlier turn contains it, only its number and label."""
        title = self._escape(passage.label)
        if passage.key in above:
            return template.reference(number, title)
        return template.block(number, title, self._escape(passage.text))


def numbered(passages: Sequence[Passage], numbers: Mapping[PassageKey, int]) -> list[Source]:
    """The passages as sources, in the order of their numbers.

    Args:
        passages: in any order. New ones are numbered by document and position.
        numbers: source numbers of passages of earlier turns.
    """
    known = {numbers[key]: one for one in passages if (key := key_of(one)) in numbers}
    new = sorted((one for one in passages if key_of(one) not in numbers), key=_reading_order)
    all_numbers = known | dict(enumerate(new, max(numbers.values(), default=0) + 1))
    return [Source.construct_unchecked(number=number, **one.__dict__) for number, one in sorted(all_numbers.items())]


def numbers_of(turns: Sequence[Turn]) -> dict[PassageKey, int]:
    """Source numbers of the passages of the turns."""
    return {passage.key: passage.number for turn in turns for passage in turn.passages}


def _shown_by(turns: Sequence[Turn]) -> set[PassageKey]:
    return {passage.key for turn in turns for passage in turn.passages if passage.text}


def _first_turn(count: int, layout: Callable[[int], _Layout]) -> int:
    """Index of the first turn to keep: 0 if all `count` turns fit, else the rest takes at most half of the budget.

    Dropping one turn per question would change the beginning of every prompt and defeat the prefix cache. Bisection,
    because each attempt counts the tokens of a whole prompt.
    """
    if count == 0 or (whole := layout(0)).history <= whole.history_budget:
        return 0
    return 1 + bisect.bisect_left(
        range(1, count), True, key=lambda first: (tried := layout(first)).history <= tried.history_budget / 2
    )


def _messages(system: str, turns: Sequence[LlmMessage], last: str) -> list[LlmMessage]:
    return [LlmMessage(role="system", content=system), *turns, LlmMessage(role="user", content=last)]


def _cached(function: Callable[[str], ResultT], size: int) -> Callable[[str], ResultT]:
    """`function` with a cache for `size` short texts."""
    cached = lru_cache(maxsize=size)(function)
    return lambda text: cached(text) if len(text) <= _CACHED_CHARS else function(text)


def _reading_order(passage: Passage) -> tuple[str, int, str]:
    return passage.document_id, passage.span.start, passage.chunk_id
