"""Measures the citation check of the transformer on known answers: precision, recall, false support.

The known answer of each question is checked as if an LLM had written it, against the passages that the vectorstore
finds. The figures do not depend on an LLM.

- A quote is *right* if its document is judged to answer the question. If such a document contains a known answer word
  for word, the quote has to contain one too.
- *Precision*: right quotes among all quotes, including questions for which the search found no right passage.
- *Recall*: answers with at least one right quote, among answers with a right passage in the sources
  (`recall_of_shown`), and among answers that these right passages support (`recall`). They support an answer if they
  contain at least half of its words: K-precision ≥ 0.5 (Adlakha et al., "Evaluating Correctness and Faithfulness of
  Instruction-Following Models for Question Answering", 2024). This measure shares no code with the citation check.
- *False support*: answers of unrelated questions, which no source answers, that still get a quote.
- *Dangling*: quotes that differ from the stored document at their span.

Answers that are questions ("Which one do you mean?") are left out: no document supports a question. The constants of
the check were chosen with one half of the questions; `held_out` is the other half.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel

from evaluation import metrics
from evaluation.answers import is_dangling, quotes_of
from evaluation.datasets import Dataset, Question, held_out
from evaluation.metrics import mean
from evaluation.results import Rounded
from evaluation.retrieval import search
from evaluation.services import OnProgress, Services
from transformer.alignment import Aligner
from transformer.citations import Citer
from transformer.condense import concatenate
from transformer.wire import Source

SHOWN = 4
"""Number of passages used as sources."""
SUPPORTED_FROM = 0.5


class CitationFigures(BaseModel):
    """Figures of all questions or of one half. The module's docstring defines them."""

    answers: int
    shown: int
    """Answers with a right passage among their sources."""
    supported: int
    """Answers that these passages support."""
    quotes: int
    precision: Rounded
    recall: Rounded
    recall_of_shown: Rounded
    false_support: Rounded
    dangling: int
    supported_sentences: Rounded
    """Share of the answers' claims that get a quote."""
    quote_share: Rounded
    """Mean length of a quote relative to its passage: low values mean precise quotes."""
    ms_p50: Rounded
    """Milliseconds of one check, with an empty cache."""
    ms_p99: Rounded


@dataclass(frozen=True, slots=True)
class Case:
    """A question with its known answer and the sources that were found."""

    question: Question
    sources: list[Source]
    names: dict[str, tuple[str, ...]]
    """Document id → names (as in `Question.relevant`) of all documents with the same text."""

    def relevant(self, document_id: str) -> bool:
        """Whether a document is judged to answer the question."""
        return any(self.question.relevant.get(name) for name in self.names[document_id])


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of checking one case."""

    held_out: bool
    shown: bool
    supported: bool
    right: list[bool]
    """Whether each quote is right."""
    dangling: int
    quoted: list[bool]
    """Whether each claim of the answer gets a quote."""
    shares: list[float]
    false_support: bool
    milliseconds: float


def cases(dataset: Dataset) -> list[Question]:
    """Questions whose known answer is a statement."""
    return [q for q in dataset.judged if q.answers and not q.answers[0].rstrip().endswith("?")]


async def measure(
    dataset: Dataset, services: Services, *, seed: int, on_progress: OnProgress, citer: Citer | None = None
) -> dict[str, CitationFigures]:
    """Figures of the questions `all` and `held_out`; empty if no question has a known answer.

    Raises:
        ServiceError: the vectorstore fails.
        WrongIndexError: the vectorstore serves another dataset's documents.
    """
    questions = cases(dataset)
    queries = [tuple(dict.fromkeys((concatenate(q.text, q.history), q.text))) for q in questions]
    predictions, _ = await search(
        dataset, questions, queries, services, mode="served", depth=SHOWN, on_progress=on_progress, task="citations"
    )
    found: list[Case] = []
    for question, prediction in zip(questions, predictions, strict=True):
        sources = [Source(**dict(passage), number=number) for number, passage in enumerate(prediction.passages, 1)]
        names = {source.document_id: dataset.names_of(source, question) for source in sources}
        found.append(Case(question, sources, names))
    texts = {(source.document_id, source.index_version): "" for case in found for source in case.sources}
    for done, (document_id, version) in enumerate(texts, 1):
        texts[document_id, version] = await services.text(document_id, version)
        on_progress("stored documents", done, len(texts))
    outcomes = outcomes_of(found, texts, seed=seed, citer=citer)
    parts = {"all": outcomes, "held_out": [outcome for outcome in outcomes if outcome.held_out]}
    return {name: _figures(part) for name, part in parts.items() if part}


def outcomes_of(
    found: Sequence[Case], texts: Mapping[tuple[str, str], str], *, seed: int, citer: Citer | None = None
) -> list[Outcome]:
    """Check each case. `texts` has the stored documents by id and version; `seed` draws the unrelated questions."""
    citer = citer or Citer(Aligner())
    draw = random.Random(seed)  # noqa: S311 - a sample, no secret
    outcomes = []
    for case in found:
        question, sources = case.question, case.sources
        began = time.perf_counter()
        citations = citer.cite(question.answers[0], question.text, sources)
        milliseconds = (time.perf_counter() - began) * 1000
        relevant = [source for source in sources if case.relevant(source.document_id)]
        documents = [texts.get((source.document_id, source.index_version), "") for source in relevant]
        # If a document contains a known answer word for word, a right text contains one too.
        gold = question.answers if any(metrics.contains(text, question.answers) for text in documents) else None
        right_sources = [one.text for one in relevant if gold is None or metrics.contains(one.text, gold)]
        quotes = quotes_of(citations)
        lengths = {source.chunk_id: len(source.text) for source in sources}
        other = _unrelated(case, found, draw)
        outcomes.append(
            Outcome(
                held_out=held_out(question),
                shown=bool(right_sources),
                supported=k_precision(question.answers[0], right_sources) >= SUPPORTED_FROM,
                right=[
                    case.relevant(quote.document_id) and (gold is None or bool(metrics.contains(quote.text, gold)))
                    for quote in quotes
                ],
                dangling=sum(is_dangling(q, texts.get((q.document_id, q.index_version), "")) for q in quotes),
                quoted=[one.verdict == "supported" for one in citations.statements if one.verdict != "no_claim"],
                shares=[len(quote.text) / lengths[quote.chunk_id] for quote in quotes],
                false_support=bool(other and quotes_of(citer.cite(other.answers[0], question.text, sources))),
                milliseconds=milliseconds,
            )
        )
    return outcomes


def k_precision(answer: str, texts: Sequence[str]) -> float:
    """Share of the answer's normalised words that the texts contain; 0 if either is empty."""
    known = set(metrics.normalised(" ".join(texts)).split())
    return mean([word in known for word in metrics.normalised(answer).split()])


def _unrelated(case: Case, found: Sequence[Case], draw: random.Random) -> Question | None:
    """A random other question that none of the sources answers; None if there is none."""
    shown = {name for names in case.names.values() for name in names}
    for _ in range(20):
        other = draw.choice(found).question
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
        precision=mean(right),
        recall=mean([any(outcome.right) for outcome in supported]),
        recall_of_shown=mean([any(outcome.right) for outcome in shown]),
        false_support=mean([outcome.false_support for outcome in outcomes]),
        dangling=sum(outcome.dangling for outcome in outcomes),
        supported_sentences=mean([one for outcome in outcomes for one in outcome.quoted]),
        quote_share=mean([share for outcome in outcomes for share in outcome.shares]),
        ms_p50=float(np.percentile(milliseconds, 50)),
        ms_p99=float(np.percentile(milliseconds, 99)),
    )
