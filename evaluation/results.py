"""Results of an evaluation, as stored in results.json."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from evaluation.errors import BaselineError

FORMAT = 1


class Row(BaseModel):
    """Measures of one search mode."""

    means: dict[str, float]
    per_question: dict[str, list[float]]
    """In the order of `SetResult.judged`."""
    low: float
    high: float
    """95 % interval of nDCG@10."""


class Signal(BaseModel):
    """How well one score separates answerable from unanswerable questions."""

    auroc: float
    refused: dict[str, float]
    """Share of the answerable answered → share of the unanswerable refused at that threshold."""
    held_out_answered: float
    held_out_refused: float
    aurc: float
    best_aurc: float
    coverage: list[float]
    risk: list[float]
    """Risk–coverage curve, thinned; answering an unanswerable question has loss 1."""


class Citations(BaseModel):
    """Quotes of the answers compared with the documents judged relevant."""

    sentences: int
    cited: int
    """Number of quotes."""
    precision: float | None
    """Share of the quotes from a relevant document; None without quotes."""
    recall: float | None
    """Share of the answers to answerable questions with a quote of a relevant document."""
    recall_of_retrieved: float | None
    """The same, among answers with a relevant document in their sources."""
    dangling: int
    """Quotes that the stored document does not have at their span."""


class AnswersResult(BaseModel):
    """The transformer's answers to a sample of questions."""

    questions: list[str]
    answerable: int
    unanswerable: int
    exact_match: float
    f1: float
    contains: float
    """Share of answers that contain a gold one. These three are over the answerable; a refusal scores 0."""
    retrieved: float
    """Share of the answerable with a relevant document in their sources."""
    refused_unanswerable: float | None
    refused_answerable: float | None
    right: float
    """Share of right results: a refusal of an unanswerable question, a gold answer to an answerable one."""
    aurc: float
    best_aurc: float
    coverage: list[float]
    risk: list[float]
    citations: Citations | None
    seconds_p50: float
    texts: list[str]
    """The answers, in the order of the questions."""
    f1_per_question: list[float]


class SetResult(BaseModel):
    """Results of one dataset."""

    sha256: str
    documents: int | None
    questions: int
    judged: list[str]
    """Questions with a relevant document, in the order of the values below."""
    left_out: list[str]
    index: dict[str, Any]
    """Name, version, documents, chunks, embedder, and build settings."""
    rows: dict[str, Row]
    signals: dict[str, Signal] = Field(default_factory=dict)
    answers: AnswersResult | None = None
    known_answers: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Figures of evaluation/citations.py: half of the questions → name → value."""
    seconds: dict[str, float]


class Results(BaseModel):
    """Results of a run."""

    format: int = FORMAT
    created_at: datetime
    machine: str
    versions: dict[str, str]
    embedder: str
    llm: str
    settings: dict[str, Any]
    """Settings of the run: depth, seed, modes, sample size."""
    sets: dict[str, SetResult]


def read(path: Path) -> Results:
    """Read results.json, or the one in a folder.

    Raises:
        BaselineError: there is none, or another release wrote it.
    """
    file = path / "results.json" if path.is_dir() else path
    try:
        results = Results.model_validate_json(file.read_bytes())
    except OSError as error:
        raise BaselineError(
            f"{file} cannot be read: {error.strerror}. Give the results.json of an earlier run."
        ) from error
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise BaselineError(f"{file} holds no results of this release ({where}: {problem['msg']}).") from error
    if results.format != FORMAT:
        raise BaselineError(f"{file} has format {results.format}; this release compares format {FORMAT}: run it again.")
    return results


def write(path: Path, content: str) -> None:
    """Write a file atomically, and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        temporary.write_text(content, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
