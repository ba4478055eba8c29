"""Measures the transformer's answers: correctness, refusals, citations."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from chassis.errors import NotFoundError
from evaluation import metrics
from evaluation.asking import OnProgress, Services
from evaluation.datasets import Dataset, Question
from evaluation.results import AnswersResult, Citations
from evaluation.retrieval import body, thinned
from transformer.answerability import score
from transformer.wire import Answer, Quote, Source

MAX_TOKENS = 100
RIGHT_FROM_F1 = 0.5
"""An answer counts as right if it contains a gold answer or has at least this F1 with one."""


async def measure(
    dataset: Dataset, services: Services, *, sample: int, seed: int, on_progress: OnProgress
) -> AnswersResult | None:
    """Figures of a sample of the questions; None if no question has a known answer.

    Uses the transformer's own settings, but temperature 0, so that runs can be compared.

    Raises:
        ServiceError: the transformer or an upstream fails.
    """
    questions = dataset.sample(sample, seed)
    if not any(question.answers for question in questions):
        return None
    bodies = [body(question, max_tokens=MAX_TOKENS, temperature=0.0, seed=seed) for question in questions]
    answers = await services.generate(bodies, on_progress, "answers")
    easy = [place for place, question in enumerate(questions) if question.answers]
    hard = [place for place, question in enumerate(questions) if not question.answers]
    texts = ["" if answer.refused else final_text(answer) for answer in answers]
    exact = [metrics.exact_match(text, question.answers) for text, question in zip(texts, questions, strict=True)]
    f1 = [metrics.f1(text, question.answers) for text, question in zip(texts, questions, strict=True)]
    held = [metrics.contains(text, question.answers) for text, question in zip(texts, questions, strict=True)]
    right = [
        bool(held[place] or f1[place] >= RIGHT_FROM_F1) if question.answers else answers[place].refused
        for place, question in enumerate(questions)
    ]
    answered_wrong = [float(not (held[place] or f1[place] >= RIGHT_FROM_F1)) for place in range(len(questions))]
    scores = [_score(question, answer) for question, answer in zip(questions, answers, strict=True)]
    curve = metrics.risk_coverage(scores, answered_wrong)
    coverage, risk = thinned(curve)
    shown = [_relevant_shown(dataset, question, answer) for question, answer in zip(questions, answers, strict=True)]
    return AnswersResult(
        questions=[question.id for question in questions],
        answerable=len(easy),
        unanswerable=len(hard),
        exact_match=_mean([exact[place] for place in easy]),
        f1=_mean([f1[place] for place in easy]),
        contains=_mean([held[place] for place in easy]),
        retrieved=_mean([float(shown[place]) for place in easy]),
        refused_unanswerable=_mean([float(answers[place].refused) for place in hard]) if hard else None,
        refused_answerable=_mean([float(answers[place].refused) for place in easy]) if easy else None,
        right=_mean([float(one) for one in right]),
        aurc=round(curve.aurc, 5),
        best_aurc=round(curve.best_aurc, 5),
        coverage=coverage,
        risk=risk,
        citations=await _citations(dataset, questions, answers, shown, services),
        seconds_p50=round(float(np.median([answer.timings.get("total", 0.0) for answer in answers])) / 1000, 3),
        texts=[final_text(answer) for answer in answers],
        f1_per_question=[round(one, 5) for one in f1],
    )


def final_text(answer: Answer) -> str:
    """The answer as the user sees it, after the check of its citations."""
    return answer.citations.text if answer.citations is not None else answer.text_output


def quotes(answer: Answer) -> list[Quote]:
    """All quotes of an answer."""
    if answer.citations is None:
        return []
    return [quote for statement in answer.citations.statements for quote in statement.quotes]


async def _citations(
    dataset: Dataset,
    questions: Sequence[Question],
    answers: Sequence[Answer],
    shown: Sequence[bool],
    services: Services,
) -> Citations | None:
    if all(answer.citations is None for answer in answers):
        return None
    cited = relevant_cited = dangling = sentences = 0
    hits: list[float] = []
    hits_of_shown: list[float] = []
    for question, answer, had_one in zip(questions, answers, shown, strict=True):
        if answer.citations is not None:
            sentences += len(answer.citations.statements)
        names = {source.document_id: _names(dataset, question, source) for source in answer.sources}
        found = False
        for quote in quotes(answer):
            dangling += not await _holds(services, quote)
            if question.answers:
                good = any(question.relevant.get(name) for name in names.get(quote.document_id, ()))
                cited += 1
                relevant_cited += good
                found = found or good
        if question.answers and not answer.refused:
            hits.append(float(found))
            if had_one:
                hits_of_shown.append(float(found))
    return Citations(
        sentences=sentences,
        cited=cited,
        precision=round(relevant_cited / cited, 5) if cited else None,
        recall=_mean(hits) if hits else None,
        recall_of_retrieved=_mean(hits_of_shown) if hits_of_shown else None,
        dangling=dangling,
    )


async def _holds(services: Services, quote: Quote) -> bool:
    """Whether the stored document has the quote at its span."""
    try:
        text = await services.text(quote.document_id, quote.index_version)
    except NotFoundError:
        return False
    stored = text[quote.span.start : quote.span.end]
    return stored == quote.text and hashlib.sha256(stored.encode()).hexdigest() == quote.sha256


def _relevant_shown(dataset: Dataset, question: Question, answer: Answer) -> bool:
    return any(question.relevant.get(name) for source in answer.sources for name in _names(dataset, question, source))


def _names(dataset: Dataset, question: Question, source: Source) -> tuple[str, ...]:
    name = dataset.name_of(source, question)
    return dataset.twins.get(name, (name,))


def _score(question: Question, answer: Answer) -> float:
    """Confidence of an answer, by the answerability of its sources; -1 for a refusal."""
    return -1.0 if answer.refused else score(question.text, answer.sources).score


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 5) if values else 0.0
