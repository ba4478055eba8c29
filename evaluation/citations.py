"""Measures the transformer's check of citations with known answers: precision, recall, false support.

The known answer of each question is checked as if a model had written it, against the passages that the vectorstore
finds. The figures do not depend on a model.

- A quote is *right* if its document is judged to answer the question. If such a document contains a known answer word
  for word, the quote has to contain one too.
- *Precision*: right quotes among all quotes, also of questions for which the search found no right passage.
- *Recall*: answers with at least one right quote, among those with a right passage in the sources (`recall_of_shown`),
  and among those that these right passages support (`recall`). They support an answer if they contain at least half of
  its words: K-precision ≥ 0.5 (Adlakha et al., "Evaluating Correctness and Faithfulness of Instruction-Following Models
  for Question Answering", 2024). This measure shares no code with the check.
- *False support*: answers of unrelated questions, which no source answers, that get a quote nevertheless.
- *Dangling*: quotes that the stored document does not have at their span.

Answers that ask back ("Which one do you mean?") are left out: no document supports a question. The constants of the
check were chosen with one half of the questions, by a hash of their ids; `held_out` is the other half.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel

from evaluation import metrics
from evaluation.asking import OnProgress, Services
from evaluation.datasets import Dataset, Question
from evaluation.retrieval import search
from transformer.alignment import Aligner
from transformer.citations import Citer
from transformer.condense import concatenate
from transformer.wire import Citations, Quote, Source

SHOWN = 4
"""Number of passages used as sources."""
_SUPPORTED_FROM = 0.5


class CitationFigures(BaseModel):
    """Figures of one half of the questions, or of all of them; the module defines them."""

    answers: int
    shown: int
    """Answers with a right passage among their sources."""
    supported: int
    """Answers that these passages support."""
    quotes: int
    precision: float
    recall: float
    recall_of_shown: float
    false_support: float
    dangling: int
    supported_sentences: float
    """Share of the answers' claims that get a quote."""
    quote_share: float
    """Mean length of a quote relative to its passage: low values mean precise quotes."""
    ms_p50: float
    """Milliseconds of one check, with passages new to the cache."""
    ms_p99: float


@dataclass(frozen=True, slots=True)
class Case:
    """A question with its known answer and the sources found."""

    question: Question
    sources: list[Source]
    names: dict[str, tuple[str, ...]]
    """Document id → names, as in `Question.relevant`, of all documents with the same text."""

    def right(self, document_id: str, text: str, *, extractive: bool) -> bool:
        """Whether a text from a document is right for this question."""
        relevant = any(self.question.relevant.get(name) for name in self.names[document_id])
        return relevant and (not extractive or bool(metrics.contains(text, self.question.answers)))


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of the check of one case."""

    held_out: bool
    shown: bool
    supported: bool
    right: list[bool]
    """Whether each quote is right."""
    dangling: int
    sentences: int
    quoted: int
    shares: list[float]
    false_support: bool
    milliseconds: float


def held_out(question: Question) -> bool:
    """Whether the question is in the half that was not used to choose constants."""
    return bool(hashlib.sha256(question.id.encode()).digest()[-1] & 1)


def cases(dataset: Dataset) -> list[Question]:
    """Questions whose known answer is a statement."""
    return [q for q in dataset.judged if q.answers and not q.answers[0].rstrip().endswith("?")]


async def measure(
    dataset: Dataset, services: Services, *, seed: int, on_progress: OnProgress, citer: Citer | None = None
) -> dict[str, CitationFigures] | None:
    """Figures of `all` questions and of the half `held_out`; None if no question has a known answer.

    Raises:
        ServiceError: the vectorstore fails.
        WrongIndexError: it serves another dataset's documents.
    """
    questions = cases(dataset)
    if not questions:
        return None
    queries = [tuple(dict.fromkeys((concatenate(q.text, q.history), q.text))) for q in questions]
    predictions, _ = await search(
        dataset, questions, queries, services, mode="served", depth=SHOWN, on_progress=on_progress, task="citations"
    )
    made: list[Case] = []
    for question, prediction in zip(questions, predictions, strict=True):
        sources = [Source(**dict(passage), number=number) for number, passage in enumerate(prediction.passages, 1)]
        names = {}
        for source in sources:
            name = dataset.name_of(source, question)
            names[source.document_id] = dataset.twins.get(name, (name,))
        made.append(Case(question, sources, names))
    texts = {(source.document_id, source.index_version): "" for case in made for source in case.sources}
    for done, (document_id, version) in enumerate(texts, 1):
        texts[document_id, version] = await services.text(document_id, version)
        on_progress("stored documents", done, len(texts))
    outcomes = outcomes_of(made, texts, seed=seed, citer=citer)
    figures = {"all": _figures(outcomes)}
    other = [outcome for outcome in outcomes if outcome.held_out]
    if other:
        figures["held_out"] = _figures(other)
    return figures


def outcomes_of(
    made: Sequence[Case], texts: dict[tuple[str, str], str], *, seed: int, citer: Citer | None = None
) -> list[Outcome]:
    """Check each case.

    Args:
        made: the cases.
        texts: stored documents by id and version of the index.
        seed: of the choice of unrelated questions.
        citer: defaults to one with the transformer's defaults.
    """
    citer = citer or Citer(Aligner(), quote_lead="")
    draw = random.Random(seed)  # noqa: S311 - a sample, no secret

    def stored(source: Source) -> str | None:
        return texts.get((source.document_id, source.index_version))

    outcomes = []
    for case in made:
        question = case.question
        began = time.perf_counter()
        citations = citer.cite(question.answers[0], question.text, case.sources)
        milliseconds = (time.perf_counter() - began) * 1000
        relevant = [s for s in case.sources if case.right(s.document_id, "", extractive=False)]
        extractive = any(metrics.contains(stored(source) or "", question.answers) for source in relevant)
        right_sources = [s for s in relevant if case.right(s.document_id, s.text, extractive=extractive)]
        quotes = quotes_of(citations)
        lengths = {source.chunk_id: len(source.text) for source in case.sources}
        claims = [statement for statement in citations.statements if statement.verdict != "no_claim"]
        other = _unrelated(case, made, draw)
        outcomes.append(
            Outcome(
                held_out=held_out(question),
                shown=bool(right_sources),
                supported=k_precision(question.answers[0], [source.text for source in right_sources])
                >= _SUPPORTED_FROM,
                right=[case.right(quote.document_id, quote.text, extractive=extractive) for quote in quotes],
                dangling=sum(
                    texts.get((q.document_id, q.index_version), "")[q.span.start : q.span.end] != q.text
                    or hashlib.sha256(q.text.encode()).hexdigest() != q.sha256
                    for q in quotes
                ),
                sentences=len(claims),
                quoted=sum(statement.verdict == "supported" for statement in claims),
                shares=[len(quote.text) / lengths[quote.chunk_id] for quote in quotes],
                false_support=bool(other and quotes_of(citer.cite(other.answers[0], question.text, case.sources))),
                milliseconds=milliseconds,
            )
        )
    return outcomes


def k_precision(answer: str, texts: Sequence[str]) -> float:
    """Share of the answer's normalised words that the texts contain; 0 if either is empty."""
    words = metrics.normalised(answer).split()
    held = set(metrics.normalised(" ".join(texts)).split())
    return sum(word in held for word in words) / len(words) if words else 0.0


def quotes_of(citations: Citations) -> list[Quote]:
    """All quotes of an answer."""
    return [quote for statement in citations.statements for quote in statement.quotes]


def _unrelated(case: Case, made: Sequence[Case], draw: random.Random) -> Question | None:
    """Another question, which no document among the sources answers."""
    shown = {name for names in case.names.values() for name in names}
    for _ in range(20):
        other = draw.choice(made).question
        if other.id != case.question.id and not shown & {name for name, grade in other.relevant.items() if grade}:
            return other
    return None


def _figures(outcomes: Sequence[Outcome]) -> CitationFigures:
    shown = [outcome for outcome in outcomes if outcome.shown]
    supported = [outcome for outcome in shown if outcome.supported]
    right = [one for outcome in outcomes for one in outcome.right]
    milliseconds = [outcome.milliseconds for outcome in outcomes]
    return CitationFigures(
        answers=len(outcomes),
        shown=len(shown),
        supported=len(supported),
        quotes=len(right),
        precision=_mean(right),
        recall=_mean([any(outcome.right) for outcome in supported]),
        recall_of_shown=_mean([any(outcome.right) for outcome in shown]),
        false_support=_mean([outcome.false_support for outcome in outcomes]),
        dangling=sum(outcome.dangling for outcome in outcomes),
        supported_sentences=_mean(
            [place < outcome.quoted for outcome in outcomes for place in range(outcome.sentences)]
        ),
        quote_share=_mean([share for outcome in outcomes for share in outcome.shares]),
        ms_p50=round(float(np.percentile(milliseconds, 50)), 2),
        ms_p99=round(float(np.percentile(milliseconds, 99)), 2),
    )


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4) if values else 0.0
