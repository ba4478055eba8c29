"""Retrieval: searches for a question, decides whether to refuse it, and builds the prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from chassis.context import CallContext
from chassis.errors import ForbiddenError, NotFoundError
from text_analysis.question_words import asking
from transformer.answerability import PASSAGES, score
from transformer.condense import Condenser
from transformer.conversations import Turn, with_texts
from transformer.errors import PromptTooLongError
from transformer.prompt import Prompt, PromptBuilder, numbered, numbers_of
from transformer.question import Question
from transformer.refusal import RefusalPolicy
from transformer.telemetry import Stopwatch
from transformer.templates import Templates
from transformer.wire import AnswerMode, CutPassage
from vectorstore.client import VectorstoreClient, merged
from vectorstore.wire import Passage, Prediction, SearchInstance


@dataclass(frozen=True, slots=True)
class Retrieved:
    """The prompt for a question, or the decision to refuse it."""

    prompt: Prompt
    """Has no messages and sources if the question is refused."""
    query: str | None = None
    """The search query; None if nothing was searched."""
    index_version: str | None = None
    answerability: float | None = None
    refused: bool = False
    passages: Sequence[Passage] = ()
    """All passages found, best first."""
    similarity: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """As `vectorstore.wire.Prediction.sentence_similarity`."""


class Retriever:
    """Searches, refuses or builds the prompt. Keeps no state between calls."""

    def __init__(
        self,
        vectorstore: VectorstoreClient,
        prompts: PromptBuilder,
        templates: Templates,
        condenser: Condenser,
        policy: RefusalPolicy,
        *,
        num_docs: int,
        min_support: float,
        refuse: bool,
        timeout_s: float,
    ) -> None:
        """A retriever with the service's defaults.

        Args:
            vectorstore: searched once per question.
            prompts: builds the prompt.
            templates: the prompt templates that a question may name.
            condenser: turns a conversation into a query.
            policy: decides which questions to refuse.
            num_docs: default number of passages.
            min_support: passages with less support are left out if there are better ones.
            refuse: default of whether unanswerable questions are refused.
            timeout_s: maximum time for the vectorstore.
        """
        self._vectorstore = vectorstore
        self._prompts = prompts
        self._templates = templates
        self._condenser = condenser
        self._policy = policy
        self._num_docs = num_docs
        self._min_support = min_support
        self._refuse = refuse
        self._timeout_s = timeout_s

    async def retrieve(
        self,
        question: Question,
        turns: Sequence[Turn],
        ctx: CallContext,
        stopwatch: Stopwatch,
        *,
        max_tokens: int,
        mode: AnswerMode,
    ) -> Retrieved:
        """The prompt with the passages that support an answer, or a refusal if none do.

        Args:
            question: the question.
            turns: earlier turns, without the texts of their passages.
            ctx: the request's context.
            stopwatch: records the time of each step.
            max_tokens: number of tokens to reserve for the answer.
            mode: the answer mode. In the mode `quote` the prompt has no messages.

        Raises:
            NotFoundError: there is no such template.
            PromptTooLongError: the question leaves no room for a passage.
            ServiceError: the vectorstore, or the predictor that condenses, failed.
        """
        grounding = question.grounding
        if grounding.template is not None:
            self._templates.get(grounding.template)  # an error even if no prompt is built
        # Without retrieval, the passages of earlier turns are neither read nor repeated.
        wanted = self._num_docs if grounding.num_docs is None else grounding.num_docs
        if grounding.context:
            context = grounding.context if grounding.context.strip() else None
            return Retrieved(self._build(question, turns, max_tokens, context=context))
        if not grounding.retrieval or wanted == 0:
            return Retrieved(self._build(question, turns, max_tokens))
        query = question.text
        if turns:
            messages = [message for turn in turns for message in turn.messages()]
            query = await self._condenser.condense(question.text, messages, ctx)
            stopwatch.lap("condense")
        share = ctx.share(at_most_s=self._timeout_s)
        search = self._search(question, query, wanted, share, quotable=mode != "write")
        if turns and mode != "quote":
            prediction, turns = await asyncio.gather(search, self._read(turns, share))
        else:
            prediction = await search
        stopwatch.lap("retrieval")
        stopwatch.timings.update(prediction.timings_ms)

        passages, version = prediction.passages, prediction.index_version
        shown = passages[:wanted]
        refuse = self._refuse if grounding.refuse is None else grounding.refuse
        rule = self._policy.rule(prediction.calibration)
        # Only the last question is scored: names from earlier turns are not part of it.
        answerability = score(question.text, passages, rule.model).score
        threshold = rule.threshold if grounding.min_score is None else grounding.min_score
        if not passages or (refuse and answerability < threshold):
            prompt = Prompt([], [], _cut(shown, "not_answered"), turns)
            return Retrieved(prompt, query, version, answerability, refused=True, passages=passages)
        prompt = self._grounded(question, turns, shown, None if mode == "quote" else max_tokens, refuse=refuse)
        stopwatch.lap("prompt")
        return Retrieved(
            prompt, query, version, answerability, passages=passages, similarity=prediction.sentence_similarity
        )

    async def _search(
        self, question: Question, query: str, wanted: int, ctx: CallContext, *, quotable: bool
    ) -> Prediction:
        # The answerability model needs a few passages, even if the prompt has fewer.
        num_docs = max(wanted, PASSAGES)
        grounding = question.grounding
        instances = [
            SearchInstance.model_construct(
                input=phrasing,
                num_docs=num_docs,
                filters=grounding.filters,
                collections=grounding.collections,
                neighbours=grounding.neighbours,
                diversity=grounding.diversity,
                sentence_similarity=quotable,
            )
            # Search for the condensed and for the original question: both find more than one (docs/evaluation.md).
            for phrasing in dict.fromkeys((query, question.text, *asking(question.text)))
        ]
        return merged(await self._vectorstore.search(instances, ctx), num_docs)

    async def _read(self, turns: Sequence[Turn], ctx: CallContext) -> Sequence[Turn]:
        """The turns with the texts of those passages that are still stored and that the caller may read."""
        documents = list(dict.fromkeys(passage.key[:3] for turn in turns for passage in turn.passages))
        texts = await asyncio.gather(*(self._text(*document, ctx) for document in documents))
        return with_texts(turns, dict(zip(documents, texts, strict=True)))

    async def _text(self, collection: str, version: str, document_id: str, ctx: CallContext) -> str:
        try:
            stored = await self._vectorstore.document(document_id, ctx, version=version, collection=collection or None)
        except (NotFoundError, ForbiddenError):
            return ""
        return str(stored["text"])

    def _grounded(
        self,
        question: Question,
        turns: Sequence[Turn],
        shown: Sequence[Passage],
        max_tokens: int | None,
        *,
        refuse: bool,
    ) -> Prompt:
        """The prompt with the passages that have enough support, or with all if none has.

        `max_tokens`: None for a prompt without messages.
        """
        supported = [passage for passage in shown if passage.support >= self._min_support]
        if not supported or not refuse:
            supported = list(shown)
        if max_tokens is None:
            prompt = Prompt([], numbered(supported, numbers_of(turns)), [], turns)
        else:
            prompt = self._build(question, turns, max_tokens, passages=supported)
        if not prompt.sources:
            raise PromptTooLongError(
                "No passage fits the prompt beside this question. Shorten the question or its history, or lower "
                "max_tokens.",
                field="input",
            )
        if len(supported) < len(shown):
            weak = [passage for passage in shown if passage.support < self._min_support]
            prompt.cut.extend(_cut(weak, "no_support"))
        return prompt

    def _build(
        self,
        question: Question,
        turns: Sequence[Turn],
        max_tokens: int,
        *,
        passages: Sequence[Passage] = (),
        context: str | None = None,
    ) -> Prompt:
        return self._prompts.build(
            question.text,
            passages=passages,
            context=context,
            turns=turns,
            instructions=question.instructions,
            template=self._templates.get(question.grounding.template) if question.grounding.template else None,
            max_tokens=max_tokens,
        )


def _cut(passages: Sequence[Passage], reason: Literal["no_support", "not_answered"]) -> list[CutPassage]:
    return [
        CutPassage.construct_unchecked(chunk_id=passage.chunk_id, document_id=passage.document_id, reason=reason)
        for passage in passages
    ]
