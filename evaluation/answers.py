"""Measures the transformer's answers: correctness, refusals, citations."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from chassis.errors import NotFoundError
from evaluation import metrics
from evaluation.datasets import Dataset, Question
from evaluation.metrics import mean
from evaluation.results import AnswersResult, Citations
from evaluation.retrieval import body
from evaluation.services import OnProgress, Services
from transformer import wire
from transformer.answerability import score
from transformer.loops import LoopDetector
from transformer.wire import Answer, AnswerMode, Quote, Source

MAX_TOKENS = 100
RIGHT_FROM = 0.5
"""An answer counts as right if it contains a gold answer or has at least this F1 (or recall) with one."""


async def measure(
    dataset: Dataset,
    services: Services,
    *,
    modes: Sequence[AnswerMode],
    sample: int,
    seed: int,
    on_progress: OnProgress,
) -> dict[AnswerMode, AnswersResult]:
    """Measures a sample of the questions in each answer mode; empty if no question has a known answer.

    Uses the transformer's settings, but temperature 0, so that runs can be compared.
    """
    questions = dataset.sample(sample, seed)
    if not any(question.answers for question in questions):
        return {}
    # The modes of a question follow each other, so that the LLM's server finds the prompt in its cache.
    bodies = [
        body(question, answers=mode, max_tokens=MAX_TOKENS, temperature=0.0, seed=seed)
        for question in questions
        for mode in modes
    ]
    answers = await services.generate(bodies, on_progress, "answers")
    return {
        mode: await _figures(dataset, services, questions, answers[place :: len(modes)])
        for place, mode in enumerate(modes)
    }


async def _figures(
    dataset: Dataset, services: Services, questions: Sequence[Question], answers: Sequence[Answer]
) -> AnswersResult:
    answerable = np.array([bool(question.answers) for question in questions], bool)
    texts = [final_text(answer) for answer in answers]
    pairs = list(zip(questions, answers, strict=True))
    refused = np.array([answer.refused for answer in answers], bool)
    exact, f1, held, recall = (
        np.array(
            [
                0.0 if one.refused else metric(text, question.answers)
                for question, one, text in zip(questions, answers, texts, strict=True)
            ]
        )
        for metric in (metrics.exact_match, metrics.f1, metrics.contains, metrics.recall)
    )
    holds_gold = (held > 0) | (f1 >= RIGHT_FROM)
    # A refusal has the lowest confidence.
    scores = [-1.0 if one.refused else score(question.text, one.sources).score for question, one in pairs]
    shown = np.array(
        [any(_is_relevant(dataset, question, one) for one in answer.sources) for question, answer in pairs]
    )
    return AnswersResult(
        questions=[question.id for question in questions],
        answerable=int(answerable.sum()),
        unanswerable=int((~answerable).sum()),
        exact_match=mean(exact[answerable]),
        f1=mean(f1[answerable]),
        contains=mean(held[answerable]),
        recall=mean(recall[answerable]),
        right_by_recall=mean(np.where(answerable, (held > 0) | (recall >= RIGHT_FROM), refused)),
        retrieved=mean(shown[answerable]),
        refused_unanswerable=None if answerable.all() else mean(refused[~answerable]),
        refused_answerable=mean(refused[answerable]),
        right=mean(np.where(answerable, holds_gold, refused)),
        words=mean([len(metrics.normalised(text).split()) for text in np.array(texts, object)[~refused]]),
        loops=sum(LoopDetector().feed(text) for text in texts),
        quoted=mean([_is_quote(answer) for answer in answers if not answer.refused]),
        citations=await _citations(dataset, pairs, services),
        seconds_p50=float(np.median([answer.timings.get("total", 0.0) for answer in answers])) / 1000,
        texts=texts,
        f1_per_question=f1.tolist(),
        **metrics.risk_coverage(scores, ~holds_gold).thinned(),
    )


def final_text(answer: Answer) -> str:
    """The answer as the user sees it, after its citations were checked."""
    return answer.citations.text if answer.citations is not None else answer.text_output


def _is_quote(answer: Answer) -> bool:
    return answer.citations is not None and answer.citations.kind == "quote"


def quotes_of(citations: wire.Citations | None) -> list[Quote]:
    """All quotes of an answer."""
    return [quote for statement in citations.statements for quote in statement.quotes] if citations else []


def is_dangling(quote: Quote, text: str) -> bool:
    """Whether `text`, the stored document, differs from the quote at its span."""
    stored = text[quote.span.start : quote.span.end]
    return stored != quote.text or hashlib.sha256(stored.encode()).hexdigest() != quote.sha256


async def _citations(
    dataset: Dataset, pairs: Sequence[tuple[Question, Answer]], services: Services
) -> Citations | None:
    if all(answer.citations is None for _, answer in pairs):
        return None
    relevant: list[bool] = []
    dangling = 0
    hits: list[bool] = []
    hits_of_shown: list[bool] = []
    for question, answer in pairs:
        quotes = quotes_of(answer.citations)
        dangling += sum([is_dangling(quote, await _stored(services, quote)) for quote in quotes])
        if not question.answers:
            continue
        right = {one.document_id for one in answer.sources if _is_relevant(dataset, question, one)}
        found = [quote.document_id in right for quote in quotes]
        relevant += found
        if not answer.refused:
            hits.append(any(found))
            if right:
                hits_of_shown.append(any(found))
    return Citations(
        sentences=sum(len(answer.citations.statements) for _, answer in pairs if answer.citations),
        cited=len(relevant),
        precision=mean(relevant) if relevant else None,
        recall=mean(hits) if hits else None,
        recall_of_retrieved=mean(hits_of_shown) if hits_of_shown else None,
        dangling=dangling,
    )


async def _stored(services: Services, quote: Quote) -> str:
    try:
        return await services.text(quote.document_id, quote.index_version)
    except NotFoundError:
        return ""


def _is_relevant(dataset: Dataset, question: Question, source: Source) -> bool:
    return any(question.relevant.get(name) for name in dataset.names_of(source, question))
