"""Measures the reader by itself: do the sentences that it reads out of passages hold the known answer?

    python -m evaluation.reader ../shared/data/squad2-dev --vectorstore-url http://…

Two kinds of passages: `gold`, the documents that are judged to answer the question, and `served`, what the vectorstore
finds; it serves the index of the dataset, and without `--vectorstore-url` only `gold` is measured. Only answerable
questions count, and with `gold` those whose documents contain a known answer word for word, if most do.

- *Held*: a known answer stands in the sentences word for word.
- *Recall*: the share of a known answer's words that the sentences contain, the best of the known answers.
- *F1*: of the sentences' words with those of the answer, as in `evaluation.metrics`.

The constants of the reader were chosen with one half of the questions (`evaluation.datasets.held_out`); the report is
about the other half.
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
from evaluation.asking import Services
from evaluation.citations import k_precision
from evaluation.datasets import Question, held_out
from evaluation.errors import EvaluationError
from evaluation.retrieval import find, phrasings
from transformer.alignment import Evidence, PassageIndexes
from transformer.reader import MAX_UNITS, Reader

SHOWN = 3
"""Passages per question."""

Passages = list[tuple[str, str]]
"""Text and headings of each."""


@dataclass(frozen=True, slots=True)
class Case:
    """A question and the passages to read."""

    question: Question
    passages: Passages
    similarity: list[list[float]] = field(default_factory=list)
    """One list per passage: the similarity of its sentences, empty if the index has no multi-vectors."""


def gold(folder: Path, questions: Sequence[Question]) -> list[Case]:
    """Each question with the documents that answer it; without those that lack every known answer, if most have one."""
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
    queries = await phrasings(questions, services, _quiet)
    predictions = await find(
        queries, services, num_docs=SHOWN, sentence_similarity=True, on_progress=_quiet, task="reader"
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
    """Figures of the reader over the cases; milliseconds are processor time, and most passages are new to its cache."""
    by_number: dict[str, list[tuple[float, float, float]]] = {}
    units, milliseconds = [], []
    for case in cases:
        began = time.process_time()
        reading = reader.read(case.question.text, case.passages, case.similarity)
        milliseconds.append((time.process_time() - began) * 1000)
        units.append(len(reading.spans))
        ranked = reader.rank(case.question.text, case.passages, case.similarity, limit=MAX_UNITS)
        for name, spans in [("read", reading.spans), *((str(n), ranked[:n]) for n in range(1, MAX_UNITS + 1))]:
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
    """Held, recall, F1."""
    texts = [case.passages[span.passage][0][span.start : span.end] for span in spans]
    answers = case.question.answers
    recall = max(k_precision(answer, texts) for answer in answers)
    return float(_held(texts, case.question)), recall, metrics.f1("\n".join(texts), answers)


def _held(texts: Sequence[str], question: Question) -> bool:
    return bool(metrics.contains("\n".join(texts), question.answers))


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4) if values else 0.0


def _quiet(task: str, done: int, of: int) -> None:
    """No progress is shown."""


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
    """Report how often the sentences that the reader finds hold the known answer."""

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
