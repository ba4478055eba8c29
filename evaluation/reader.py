"""Measures `transformer.reader`: do the sentences that it selects from passages contain the known answer?

    python -m evaluation.reader ../shared/data/squad2-dev --vectorstore-url http://…

It reads two kinds of passages: `gold`, the documents judged to answer the question, and `served`, the passages that a
vectorstore with the dataset's index finds (only with `--vectorstore-url`). Only answerable questions count. With
`gold`, questions whose documents do not contain a known answer word for word are left out, if they are a minority.

- *Held*: the sentences contain a known answer word for word.
- *Recall*: share of a known answer's words that the sentences contain; the best over the known answers.
- *F1*: between the words of the sentences and of the answer, as in `evaluation.metrics`.

The reader's constants were chosen with one half of the questions; the report covers the other half
(`evaluation.datasets.held_out`).
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from chassis.errors import ServiceError
from evaluation import datasets, metrics
from evaluation.citations import k_precision
from evaluation.datasets import Question, held_out
from evaluation.errors import EvaluationError
from evaluation.retrieval import find, phrasings
from evaluation.services import Services, no_progress
from transformer.alignment import Evidence, PassageIndexes
from transformer.reader import MAX_UNITS, Reader

SHOWN = 3
"""Passages per question."""

Passages = list[tuple[str, str]]
"""Text and headings of each passage."""


@dataclass(frozen=True, slots=True)
class Case:
    """A question and the passages to read."""

    question: Question
    passages: Passages
    similarity: list[list[float]] = field(default_factory=list)
    """For each passage the similarities of its sentences; empty if the index has no multi-vectors."""


def gold(folder: Path, questions: Sequence[Question]) -> list[Case]:
    """Each question with the documents that answer it.

    Questions whose documents contain no known answer are left out, if they are a minority.
    """
    corpus: dict[str, tuple[str, str]] = {}
    for _, line in datasets.lines_of(folder / "corpus.jsonl", []):
        record = json.loads(line)
        corpus[str(record["_id"])] = (str(record["text"]), str(record.get("title") or ""))
    cases = [
        Case(question, [corpus[name] for name, grade in question.relevant.items() if grade and name in corpus])
        for question in questions
    ]
    extractive = [case for case in cases if _held([text for text, _ in case.passages], case.question)]
    return extractive if 2 * len(extractive) >= len(cases) else cases


async def served(questions: Sequence[Question], services: Services) -> list[Case]:
    """Each question with the passages that the vectorstore finds.

    Raises:
        ServiceError: the vectorstore fails.
    """
    queries = await phrasings(questions, services, no_progress)
    predictions = await find(
        queries, services, num_docs=SHOWN, sentence_similarity=True, on_progress=no_progress, task="reader"
    )
    return [
        Case(
            question,
            [(p.text, " ".join(dict.fromkeys((p.title, *p.heading_path)))) for p in prediction.passages],
            [prediction.sentence_similarity.get(p.chunk_id, []) for p in prediction.passages],
        )
        for question, prediction in zip(questions, predictions, strict=True)
    ]


def report(cases: Sequence[Case], reader: Reader) -> dict[str, Any]:
    """Figures of the reader over the cases. Milliseconds are CPU time; most passages are not in its cache."""
    by_number: dict[str, list[tuple[float, float, float]]] = {}
    units, milliseconds = [], []
    for case in cases:
        began = time.process_time()
        reading = reader.read(case.question.text, case.passages, case.similarity)
        milliseconds.append((time.process_time() - began) * 1000)
        units.append(len(reading))
        ranked = reader.rank(case.question.text, case.passages, case.similarity, limit=MAX_UNITS)
        for name, spans in [("read", reading), *((str(n), ranked[:n]) for n in range(1, MAX_UNITS + 1))]:
            by_number.setdefault(name, []).append(_judged(case, spans))
    return {
        "questions": len(cases),
        "held": {name: _mean([held for held, _, _ in found]) for name, found in by_number.items()},
        "recall": {name: _mean([recall for _, recall, _ in found]) for name, found in by_number.items()},
        "f1": {name: _mean([f1 for _, _, f1 in found]) for name, found in by_number.items()},
        "units_read": _mean(units),
        "ms_p50": round(float(np.percentile(milliseconds, 50)), 2),
        "ms_p99": round(float(np.percentile(milliseconds, 99)), 2),
    }


def _judged(case: Case, spans: Sequence[Evidence]) -> tuple[float, float, float]:
    """The case's held, recall and F1."""
    texts = [case.passages[span.passage][0][span.start : span.end] for span in spans]
    answers = case.question.answers
    recall = max(k_precision(answer, texts) for answer in answers)
    return float(_held(texts, case.question)), recall, metrics.f1("\n".join(texts), answers)


def _held(texts: Sequence[str], question: Question) -> bool:
    return bool(metrics.contains("\n".join(texts), question.answers))


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4) if values else 0.0


def main(
    dataset: Annotated[Path, typer.Argument(help="Folder of the dataset.")],
    vectorstore_url: Annotated[
        str | None, typer.Option(help="Base URL of a vectorstore that serves the dataset's index.")
    ] = None,
    transformer_url: Annotated[
        str | None, typer.Option(help="Base URL of the transformer, to condense conversations.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--every", help="Report on all questions, not only on the held-out half.")
    ] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out invalid records of the dataset.")] = False,
) -> None:
    """Report how often the sentences that the reader selects contain the known answer."""

    async def ask(questions: Sequence[Question], url: str) -> list[Case]:
        async with Services(url, transformer_url) as services:
            return await served(questions, services)

    try:
        with tempfile.TemporaryDirectory() as copies:
            loaded = datasets.load(dataset, skip_bad=Path(copies) if skip_bad else None)
        questions = [q for q in loaded.judged if q.answers and (every or held_out(q))]
        cases = {"gold": gold(dataset, questions)}
        if vectorstore_url is not None:
            cases["served"] = asyncio.run(ask(questions, vectorstore_url))
    except (EvaluationError, ServiceError) as problem:
        typer.echo(str(problem), err=True)
        raise typer.Exit(1) from problem
    if any(case.similarity for case in cases.get("served", ())):
        cases["served, words only"] = [Case(case.question, case.passages) for case in cases["served"]]
    found = {name: report(some, Reader(PassageIndexes())) for name, some in cases.items()}
    typer.echo(json.dumps(found, indent=2))


if __name__ == "__main__":
    typer.run(main)
